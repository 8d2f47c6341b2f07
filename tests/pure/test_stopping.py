"""What `%cancel` says became of each job, and what asyncio's own rules make of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes import launch_job, work

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.session.foreground import Stopping


class Screen:
    """Notes whose end is reported."""

    def __init__(self) -> None:
        self.known: dict[int, bool] = {}

    def mark_reported(self, job: Record, yes: bool = True) -> None:
        """Somebody tells the user of its end."""
        self.known[job.number] = yes


@pytest.fixture
async def registry() -> Registry:
    """Jobs on the test's own loop and in threads."""
    service = ServiceLoop()
    loop = LoopRunner(asyncio.get_running_loop())
    threads = ThreadRunner(loop, max_threads=1, service=service)
    return Registry({"loop": loop, "thread": threads}, service)


@pytest.fixture
def screen() -> Screen:
    """Where ends are reported."""
    return Screen()


def coroutine(registry: Registry, call: Callable[[], Any], **options: Any) -> Record:
    """A job on the loop."""
    return launch_job(registry, work(call, is_async=True), **options)


async def stop(
    screen: Any, *jobs: Record, force: bool = False, seconds: float = 10, running: Any = tuple
) -> list[str]:
    """Ask, wait, report."""
    stopping = Stopping(jobs, screen, force=force, cells=lambda name: 7, running=running)
    await stopping.wait(seconds)
    return stopping.report()


async def running(job: Record) -> None:
    """Let its code begin."""
    while job.started is None:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_coroutine_is_cancelled_in_one_turn_of_the_loop(registry: Registry) -> None:
    """Its clean-up included, if that does not wait."""
    seen = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned")

    job = coroutine(registry, wait)
    await running(job)
    job.cancel()
    await asyncio.sleep(0)  # CancelledError is raised
    await asyncio.sleep(0)  # the loop says that the task has ended
    assert job.state is JobState.CANCELLED
    assert seen == ["cleaned"]


async def test_what_never_started_and_what_had_ended_say_so(
    registry: Registry, screen: Screen
) -> None:
    """A queued job is dropped; what had ended before is left as it was."""
    gate = threading.Event()
    done = coroutine(registry, lambda: asyncio.sleep(0))
    await done
    busy = registry.launch(work(gate.wait, label="gate.wait()"))
    queued = registry.launch(work(gate.wait, label="g()"))
    lines = await stop(screen, done, queued)
    assert lines == [
        "job 1 (f()) had finished before",
        "job 3 (g()) cancelled; it never started",
    ]
    gate.set()
    await busy


async def test_a_coroutine_that_suppresses_the_request_goes_on(
    registry: Registry, screen: Screen
) -> None:
    """The report says where it waits, and its end will be news; -f asks again."""

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    job = coroutine(registry, stubborn)
    await running(job)
    (line,) = await stop(screen, job, seconds=0.05)
    assert job.state is JobState.CANCELLING
    assert line.startswith("job 1 was told to stop and is still in asyncio.Event().wait (cell 7")
    assert screen.known == {1: False}
    (line,) = await stop(screen, job, force=True)
    assert line == "job 1 (f()) cancelled"


async def test_force_asks_a_coroutine_again_and_again(registry: Registry, screen: Screen) -> None:
    """Until it lets itself be cancelled."""
    caught = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                caught.append(1)
                if len(caught) == 2:
                    raise

    job = coroutine(registry, stubborn)
    await running(job)
    assert await stop(screen, job, force=True) == ["job 1 (f()) cancelled"]
    assert len(caught) == 2


async def test_a_thread_in_c_is_named_with_its_call(registry: Registry, screen: Screen) -> None:
    """With the cell and line of the user's code, and what would work instead."""
    lock, inside = threading.Lock(), threading.Event()
    lock.acquire()

    def wait() -> None:
        inside.set()
        lock.acquire()

    job = registry.launch(work(wait))
    inside.wait(10)
    (line,) = await stop(screen, job, seconds=0.05)
    number = wait.__code__.co_firstlineno + 2
    assert line == (
        f"job 1 is still in lock.acquire (cell 7, line {number}); it stops when that returns. "
        "Started with %bg -p it could be killed."
    )
    lock.release()
    with pytest.raises(Exception, match="was cancelled"):
        await job


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("explicit", [False, True], ids=["with", "acquire"])
async def test_the_job_that_holds_the_lock_is_named(
    registry: Registry, screen: Screen, kind: Any, explicit: bool
) -> None:
    """With the line at which it took it, where the source tells."""
    registry.runners["thread"].max_threads = 2  # type: ignore[attr-defined]
    holder, gate, inside = kind(), threading.Event(), threading.Event()

    def holds() -> None:
        with holder:
            inside.set()
            gate.wait()

    def acquires() -> None:
        holder.acquire()
        try:
            inside.set()
            gate.wait()
        finally:
            holder.release()

    def wants() -> None:
        with holder:
            raise AssertionError("not stopped")

    first = registry.launch(work(acquires if explicit else holds))
    inside.wait(10)
    second = registry.launch(work(wants))
    (line,) = await stop(screen, second, seconds=0.05, running=registry.alive)
    number = (acquires if explicit else holds).__code__.co_firstlineno + 1
    assert line == f"job 2 waits for a lock that job 1 holds (cell 7, line {number})"
    gate.set()
    await first
    with pytest.raises(Exception, match="was cancelled"):
        await second


async def test_a_job_that_waits_for_itself_is_told_so(registry: Registry, screen: Screen) -> None:
    """Nobody else will release the lock."""
    lock, inside = threading.Lock(), threading.Event()

    def waits() -> None:
        with lock:
            inside.set()
            lock.acquire()

    job = registry.launch(work(waits))
    inside.wait(10)
    (line,) = await stop(screen, job, seconds=0.05, running=registry.alive)
    number = waits.__code__.co_firstlineno + 1
    assert line == f"job 1 waits for a lock that it holds itself (cell 7, line {number})"
    lock.release()


async def test_a_library_that_computes_is_named(registry: Registry, screen: Screen) -> None:
    """It can be stopped only between two of its calls."""
    import numpy as np

    matrix, begun = np.ones((2000, 2000)), threading.Event()

    def multiplies() -> None:
        begun.set()
        np.linalg.matrix_power(matrix, 1 << 8)

    job = registry.launch(work(multiplies))
    begun.wait(10)
    (line,) = await stop(screen, job, seconds=0.05)
    assert re.fullmatch(
        r"job 1 is still in np\.linalg\.matrix_power \(cell 7, line \d+\) and computes in numpy; "
        r"it stops when that returns\. Started with %bg -p it could be killed\.",
        line,
    )
    with pytest.raises(Exception, match="was cancelled"):
        await job


async def test_force_advises_no_force(registry: Registry, screen: Screen) -> None:
    """A thread that catches every request ends with the session; it is said where it is."""
    gate, begun = threading.Event(), threading.Event()

    def swallows() -> None:
        while not gate.is_set():
            with contextlib.suppress(KeyboardInterrupt):
                begun.set()
                threading.Event().wait(1000)

    job = registry.launch(work(swallows))
    begun.wait(10)
    (line,) = await stop(screen, job, force=True, seconds=0.2)
    number = swallows.__code__.co_firstlineno + 4
    assert line == (
        "job 1 catches each request and is in threading.Event().wait "
        f"(cell 7, line {number}): no thread can be killed, it ends with the session. "
        "Started with %bg -p it could be killed."
    )
    gate.set()
    await job


async def test_what_ends_because_it_was_asked_to_says_so(registry: Registry, screen: Any) -> None:
    """With its value or its error; it had not finished before, and was not simply cancelled."""
    begun = threading.Event()

    def saves() -> str:
        try:
            begun.set()
            threading.Event().wait()
        except KeyboardInterrupt:
            return "saved"
        return "unreachable"

    def wraps() -> None:
        try:
            begun.set()
            threading.Event().wait()
        except KeyboardInterrupt:
            raise ValueError("interrupted") from None

    said = []
    for call in (saves, wraps):
        begun.clear()
        job = registry.launch(work(call))
        begun.wait(10)
        said += await stop(screen, job)
    assert said == [
        "job 1 (f()) was asked to stop and finished: 'saved'",
        "job 2 (f()) was asked to stop and failed: ValueError: interrupted",
    ]


async def test_a_report_without_waiting_promises_nothing(registry: Registry, screen: Any) -> None:
    """In a plain function nobody can wait for the end."""
    job = coroutine(registry, lambda: asyncio.sleep(1000))
    await running(job)
    stopping = Stopping([job], screen)
    assert stopping.report() == ["job 1 is cancelling: it has been asked to stop"]
    assert await stop(screen, job) == ["job 1 (f()) cancelled"]


async def test_nested_tasks_and_groups_end_as_asyncio_says(registry: Registry) -> None:
    """A group's tasks are cancelled with it, and those that clean up are waited for."""
    ended = []

    async def child(n: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(n)

    async def parent() -> None:
        async with asyncio.TaskGroup() as tasks:
            for n in range(3):
                tasks.create_task(child(n))

    job = coroutine(registry, parent)
    await running(job)
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        await job
    assert sorted(ended) == [0, 1, 2]


async def test_what_is_shielded_goes_on(registry: Registry) -> None:
    """The job is cancelled, the shielded task is not."""
    gate = asyncio.Event()
    inner: list[asyncio.Task[Any]] = []

    async def shields() -> None:
        inner.append(asyncio.create_task(gate.wait()))
        await asyncio.shield(inner[0])

    job = coroutine(registry, shields)
    await running(job)
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        await job
    assert not inner[0].done()
    gate.set()
    assert await inner[0] is True


async def test_an_async_with_cleans_up_before_the_job_is_called_cancelled(
    registry: Registry,
) -> None:
    """It is cancelling for as long as the clean-up takes."""
    gate, cleaning = asyncio.Event(), asyncio.Event()

    class Manager:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None:
            cleaning.set()
            await gate.wait()

    async def inside() -> None:
        async with Manager():
            await asyncio.Event().wait()

    job = coroutine(registry, inside)
    await running(job)
    job.cancel()
    await cleaning.wait()
    assert job.state is JobState.CANCELLING
    assert [frame.name for frame in job.stack()][:2] == ["inside", "__aexit__"]
    gate.set()
    with pytest.raises(Exception, match="was cancelled"):
        await job
