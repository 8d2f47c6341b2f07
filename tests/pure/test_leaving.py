"""The end of a session, on a plain loop with places that do nothing by themselves."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeRunner, launch_job, work

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.session.leaving import Leaving


@pytest.fixture(autouse=True)
def _turns() -> Iterator[None]:
    """Leaving is for good, so that it does not put back the length of a thread's turn."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run yet."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class House:
    """A registry with a loop and a fake place, and its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float = 30.0) -> None:
        self.loop = loop
        self.fake = FakeRunner(capacity=1)
        self.registry = Registry({"loop": LoopRunner(loop), "fake": self.fake}, ServiceLoop())
        self.leaving = Leaving(self.registry, loop, lambda: grace)

    def launch(self, call: Any = lambda: None, **options: Any) -> Record:
        """Launch at the fake place."""
        return launch_job(self.registry, work(call), where="fake", **options)

    def run(self, coro_function: Any) -> Record:
        """Launch on the loop and let it begin."""
        job = self.registry.launch(work(coro_function, is_async=True))
        self.loop.run_until_complete(asyncio.sleep(0))
        return job


def test_what_has_not_started_never_does(loop: asyncio.AbstractEventLoop) -> None:
    """Neither what is queued, nor what waits for others, nor anything new."""
    house = House(loop)
    running, queued = house.launch(), house.launch()
    waiting = house.launch(after=[running])
    house.leaving.begin()
    assert running.state is JobState.CANCELLING
    assert queued.state is waiting.state is JobState.CANCELLED
    with pytest.raises(BadInput, match="the session is ending"):
        house.launch()


def test_everybody_is_told_once(loop: asyncio.AbstractEventLoop) -> None:
    """And not again who was cancelled before, and may be cleaning up."""
    house = House(loop)
    job = house.launch()
    job.cancel()
    house.leaving.begin()
    house.leaving.begin()
    assert house.fake.stopped == [(job, False)]


def test_it_ends_with_the_last_job(loop: asyncio.AbstractEventLoop) -> None:
    """Coroutines clean up, and nobody waits for the rest of the grace."""
    house, done = House(loop), []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # a clean-up that needs the loop again
            done.append("tidy")

    house.run(tidy)
    began = loop.time()
    house.leaving.finish()
    assert done == ["tidy"]
    assert loop.time() - began < 10


def test_it_ends_when_the_time_is_over(loop: asyncio.AbstractEventLoop) -> None:
    """Whatever goes on; and asyncio does not complain about it."""
    house, complaints = House(loop, grace=0.05), []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                complaints.append("caught")

    job = house.run(stubborn)
    house.leaving.finish()
    assert job.state is JobState.CANCELLING
    assert complaints == ["caught"]
    loop.call_exception_handler({"message": "not shown"})


def test_a_job_cleans_up_with_the_help_of_its_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """They are cancelled after it, those that it left behind before."""
    house, order = House(loop), []

    async def helper(queue: asyncio.Queue[str]) -> None:
        while (item := await queue.get()) != "end":
            order.append(item)

    async def parent() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()
        task = asyncio.create_task(helper(queue))
        try:
            await asyncio.Event().wait()
        finally:
            await queue.put("last words")
            await queue.put("end")
            await task

    begun = asyncio.Event()

    async def left_behind() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("left behind")

    async def leaves() -> None:
        house.tasks = [asyncio.create_task(left_behind())]  # type: ignore[attr-defined]

    house.run(parent)
    job = house.run(leaves)
    loop.run_until_complete(begun.wait())
    assert job.done()
    house.leaving.finish()
    assert sorted(order) == ["last words", "left behind"]


def test_the_foreground_s_tasks_are_left_alone(loop: asyncio.AbstractEventLoop) -> None:
    """Only what runs for jobs is stopped."""
    house = House(loop)
    task = loop.create_task(asyncio.sleep(0.01, "mine"))  # it has to outlast the end
    house.leaving.finish()
    assert loop.run_until_complete(task) == "mine"


def test_a_thread_can_tell_and_wait(loop: asyncio.AbstractEventLoop) -> None:
    """While the loop runs in another."""
    house = House(loop)
    job = house.run(asyncio.Event().wait)

    def leave() -> None:
        house.leaving.begin()
        house.leaving.wait()
        states.append(job.state)
        loop.call_soon_threadsafe(loop.stop)

    states: list[JobState] = []
    thread = threading.Thread(target=leave)
    thread.start()
    loop.run_forever()
    thread.join()
    assert states == [JobState.CANCELLED]


def test_a_closed_loop_is_no_hindrance() -> None:
    """There is nothing to clean up on it."""
    loop = asyncio.new_event_loop()
    house = House(loop)
    loop.close()
    job = house.launch()
    house.leaving.begin()
    house.fake.obey(job)
    house.leaving.finish()
    assert job.state is JobState.CANCELLED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_alone(loop: asyncio.AbstractEventLoop) -> None:
    """Its exit hooks do nothing: the jobs are its parent's."""
    house = House(loop)
    job = house.launch()
    if (pid := os.fork()) == 0:
        house.leaving.finish()
        os._exit(0 if not house.fake.stopped and not job.done() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
