"""A job that blocks the loop is noticed, and nobody else is blamed."""

from __future__ import annotations

import asyncio
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import work
from patience import until

from ipy_bgtasks.context import job_of
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner, Watchdog, contain_exits
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.waits import is_waiting

BOUND = 20.0
LIMIT = 0.1


class Watched:
    """A loop in a thread, with a watchdog whose notices come into a queue."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)
        self.notices: queue.Queue[tuple[Record, str]] = queue.Queue()
        self.thread.start()
        service = ServiceLoop()
        self.runner = LoopRunner(self.loop, self.thread.ident)
        threads = ThreadRunner(self.runner, service=service)
        self.registry = Registry({"loop": self.runner, "thread": threads}, service)
        self.dog = Watchdog(self.runner, threads, service, self.tell, limit=LIMIT)
        self.runner.on_active = threads.on_begin = self.dog.wake

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        contain_exits(Installation(), self.loop)
        self.loop.run_forever()

    def tell(self, job: Record, line: str) -> None:
        """A notice came."""
        self.notices.put((job, line))

    def launch(self, call: Any) -> Record:
        """A coroutine job."""
        return self.registry.launch(work(call, is_async=True))

    def close(self) -> None:
        """End the loop."""
        for job in self.registry.alive():
            job.cancel()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(BOUND)
        self.loop.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A watched loop."""
    watched = Watched()
    yield watched
    watched.close()


def test_a_job_that_blocks_is_named_with_its_line(watched: Watched) -> None:
    """Once, while it blocks; and again when it blocks again."""
    gates = [threading.Event(), threading.Event()]

    async def blocks() -> None:
        gates[0].wait(BOUND)
        await asyncio.sleep(0)
        gates[1].wait(BOUND)

    job = watched.launch(blocks)
    who, line = watched.notices.get(timeout=BOUND)
    assert who is job
    number = blocks.__code__.co_firstlineno + 1
    pattern = (
        r"job 1 \(f\(\)\) has blocked the event loop for \d\.\d s in gates\[0\]\.wait "
        rf"\(test_watchdog\.py:{number}\): nothing else on the loop can go on. %bg --thread"
    )
    assert re.match(pattern, line)
    gates[0].set()
    _, line = watched.notices.get(timeout=BOUND)
    assert f"(test_watchdog.py:{number + 2})" in line
    gates[1].set()
    job.result(BOUND)
    assert watched.notices.empty()


def test_a_task_that_a_job_started_is_the_jobs(watched: Watched) -> None:
    """However deep."""
    gate = threading.Event()

    async def child() -> None:
        gate.wait(BOUND)

    async def parent() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    job = watched.launch(parent)
    who, line = watched.notices.get(timeout=BOUND)
    assert who is job
    assert "in gate.wait" in line
    gate.set()
    job.result(BOUND)


def test_the_foregrounds_own_blocking_is_blamed_on_nobody(watched: Watched) -> None:
    """Also not where jobs wait meanwhile, nor on a callback of the loop."""
    waits = watched.launch(lambda: asyncio.sleep(1000))
    looked = threading.Event()
    checks: list[float] = []
    check = watched.dog._check

    def count(now: float, stalled: float) -> None:
        check(now, stalled)
        checks.append(now)
        if len(checks) > 20:
            looked.set()

    watched.dog._check = count  # type: ignore[method-assign]

    async def foreground() -> None:
        looked.wait(BOUND)

    asyncio.run_coroutine_threadsafe(foreground(), watched.loop).result(BOUND)
    assert checks[-1] - checks[0] > LIMIT
    assert watched.notices.empty()
    assert not waits.done()


def test_a_busy_job_that_lets_others_go_on_is_not_blamed(watched: Watched) -> None:
    """Not every task that is found in the middle of a step blocks."""
    watched.dog.limit = 0.5  # a busy machine may well stop a thread for less
    deadline = time.monotonic() + 3 * watched.dog.limit

    async def busy() -> None:
        while time.monotonic() < deadline:
            end = time.monotonic() + 0.01
            while time.monotonic() < end:
                pass
            await asyncio.sleep(0)

    watched.launch(busy).result(BOUND)
    assert watched.notices.empty()


def test_zero_turns_it_off_at_once(watched: Watched) -> None:
    """And any other limit on again."""
    watched.dog.limit = 0

    async def blocks() -> None:
        time.sleep(3 * LIMIT)  # it blocks: what the watchdog looks for

    watched.launch(blocks).result(BOUND)
    assert watched.notices.empty()
    watched.dog.limit = LIMIT
    gate = threading.Event()

    async def blocks_again() -> None:
        gate.wait(BOUND)

    watched.launch(blocks_again)
    assert watched.notices.get(timeout=BOUND)
    gate.set()


def test_it_does_not_look_while_no_job_is_on_the_loop(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends a while after the last one, and begins with the next."""
    monkeypatch.setattr("ipy_bgtasks.runners.loop._IDLE_LOOKS", 1)
    watched.launch(lambda: asyncio.sleep(0)).result(BOUND)
    until(lambda: not watched.dog._looking)
    waits = watched.launch(lambda: asyncio.sleep(1000))
    until(lambda: waits.started)
    assert watched.dog._looking


@pytest.mark.parametrize("more", [False, True], ids=["at its end", "in its middle"])
def test_a_thread_that_holds_the_interpreter_is_named(watched: Watched, more: bool) -> None:
    """Once, and afterwards: meanwhile nobody could. One C call is one step for the interpreter.

    A thread that has gone on by then is not said to be where it is now.
    """
    gate = threading.Event()

    def holds() -> None:
        for _ in range(2):
            sum(range(7 * 10**7))
        if more:
            gate.wait(BOUND)

    job = watched.registry.launch(work(holds))
    who, line = watched.notices.get(timeout=BOUND)
    assert who is job
    assert re.match(r"job 1 \(f\(\)\) held the interpreter for \d+\.\d s", line)
    assert line.endswith(": all else had to wait. %bg -p would avoid that")
    number = holds.__code__.co_firstlineno + 2
    assert f" in sum (test_watchdog.py:{number}): " in line or " in " not in line
    gate.set()
    job.result(BOUND)
    assert watched.notices.empty()


def test_a_thread_that_waits_by_now_is_named_without_a_line(watched: Watched) -> None:
    """Where it waits is not where it held the interpreter."""
    watched.dog._looking = True  # this test looks itself
    gate, idents = threading.Event(), queue.Queue[int]()

    def held() -> None:
        while time.thread_time() < 0.5:
            pass
        idents.put(threading.get_ident())
        gate.wait(BOUND)

    job = watched.registry.launch(work(held))
    ident = idents.get(timeout=BOUND)
    until(lambda: is_waiting(sys._current_frames()[ident]))
    assert watched.dog._held(2.0)
    who, line = watched.notices.get_nowait()
    gate.set()
    assert who is job
    assert line.startswith("job 1 (f()) held the interpreter for 2.0 s: all else had to wait")


def test_a_thread_that_computes_in_python_is_not_blamed(watched: Watched) -> None:
    """Others take turns with it."""
    watched.dog.limit = 0.5
    deadline = time.monotonic() + 3 * watched.dog.limit

    def busy() -> None:
        while time.monotonic() < deadline:
            pass

    watched.registry.launch(work(busy)).result(BOUND)
    assert watched.notices.empty()


async def test_a_task_of_no_job_has_none() -> None:
    """The foreground's own, for one."""
    task = asyncio.current_task()
    assert task is not None
    assert job_of(task) is None
