"""What a job is, whoever runs it: its state, its outcome and those who wait for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
import traceback
import types
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeRunner, work

from ipy_bgtasks.errors import ExitInTask, WouldBlock
from ipy_bgtasks.job.handle import Job, current_job
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner

BOUND = 10.0


@pytest.fixture
async def loop_runner() -> LoopRunner:
    """The loop of the test as a place."""
    return LoopRunner(asyncio.get_running_loop())


@pytest.fixture
async def threads(loop_runner: LoopRunner) -> AsyncIterator[ThreadRunner]:
    """A pool of threads; what is left in it is told to end."""
    runner = ThreadRunner(loop_runner)
    yield runner
    runner.shutdown()


def launched(runner: Any, call: Any, number: int = 1, **options: Any) -> Record:
    """A job that was handed to a real runner."""
    job = Record(number, work(call, **options), runner)
    runner.start(job)
    return job


def in_thread(call: Any) -> concurrent.futures.Future[Any]:
    """Call it in a thread that nobody owns."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


# State


def test_a_job_goes_from_queued_to_running_to_finished(fake: FakeRunner) -> None:
    """Times and outcome come with the states."""
    job = Record(1, work(label="train()"), fake)
    assert (job.state, job.started, job.elapsed, job.done()) == ("queued", None, 0.0, False)
    before = time.time()
    fake.start(job)
    assert job.state is JobState.RUNNING
    assert job.started is not None
    assert before - 1 <= job.started <= time.time() + 1
    fake.finish(job, 42)
    assert (job.state, job.done(), job.result()) == ("finished", True, 42)
    elapsed = job.elapsed
    assert elapsed == job.elapsed >= 0
    assert str(job) == "<Record 1: train(), finished (fake)>"


@pytest.mark.parametrize("end", ["finish", "fail", "obey"])
def test_cancelling_is_over_only_when_the_code_has_ended(fake: FakeRunner, end: str) -> None:
    """And it may end in any way; what is reported is the outcome."""
    job = Record(1, work(), fake)
    fake.start(job)
    assert job.cancel(force=True)
    assert fake.stopped == [(job, True)]
    assert job.state is JobState.CANCELLING
    assert not job.done()
    if end == "finish":
        fake.finish(job, 1)
    elif end == "fail":
        fake.fail(job, ValueError())
    else:
        fake.obey(job)
    assert job.state == {"finish": "finished", "fail": "failed", "obey": "cancelled"}[end]


def test_an_ended_job_cannot_be_cancelled_nor_end_again(fake: FakeRunner) -> None:
    """What happened first remains."""
    job = Record(1, work(), fake)
    fake.start(job)
    fake.finish(job, 1)
    assert not job.cancel()
    job.fail(ValueError())
    job.end_cancelled()
    job.stop_for(TimeoutError("job 1 took longer than 1 s"))
    assert not job.begin()
    assert job.result() == 1
    assert fake.stopped == []


def test_a_queued_job_that_is_cancelled_never_begins(fake: FakeRunner) -> None:
    """It is cancelled at once."""
    job = Record(1, work(), fake)
    job.cancel()
    assert job.state is JobState.CANCELLED
    assert job.begin() is False
    assert job.elapsed == 0.0


def test_a_job_whose_time_is_up_fails_with_timeout_error(fake: FakeRunner) -> None:
    """Until its code has ended it is cancelling."""
    job = Record(7, work(), fake)
    fake.start(job)
    job.stop_for(TimeoutError("job 7 took longer than 2.5 s"))
    assert job.state is JobState.CANCELLING
    fake.obey(job)
    assert job.state is JobState.FAILED
    with pytest.raises(TimeoutError, match=r"job 7 took longer than 2\.5 s"):
        job.result()


def test_a_job_that_was_being_cancelled_ends_cancelled_though_its_time_is_up(
    fake: FakeRunner,
) -> None:
    """It ends because of whoever asked first."""
    job = Record(1, work(), fake)
    fake.start(job)
    job.cancel()
    job.stop_for(TimeoutError("job 1 took longer than 1 s"))
    fake.obey(job)
    assert job.state is JobState.CANCELLED


def test_storing_the_value_is_part_of_the_job(fake: FakeRunner) -> None:
    """The job fails where the assignment does, and nobody else is hit, not even by an exit."""
    stored: list[Any] = []
    job = Record(1, work(store=stored.append), fake)
    fake.start(job)
    fake.finish(job, 3)
    assert (stored, job.state) == ([3], "finished")

    def refuse(_: object) -> None:
        raise SystemExit(4)

    job = Record(2, work(store=refuse), fake)
    fake.start(job)
    fake.finish(job, 3)
    assert job.state == "failed"
    assert isinstance(job.exception(), SystemExit)


def test_an_ended_job_holds_its_result_only(fake: FakeRunner) -> None:
    """Neither work nor runner nor whatever the runner noted."""
    job = Record(1, work(), fake)
    job.run = object()
    fake.start(job)
    fake.finish(job)
    assert (job.work, job.run, job.runner) == (None, None, None)


# Outcome


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration()]
)
def test_result_raises_the_jobs_own_exception(fake: FakeRunner, error: BaseException) -> None:
    """Whatever it is; `exception` returns it."""
    job = Record(1, work(), fake)
    fake.start(job)
    fake.fail(job, error)
    assert job.exception() is error
    with pytest.raises(type(error)) as caught:
        job.result()
    assert caught.value is error


async def test_a_failed_jobs_traceback_is_the_users_and_stays_as_it_was(
    threads: ThreadRunner,
) -> None:
    """Raised ten times each way, it neither grows nor shows this package."""

    def fails() -> None:
        raise ValueError("mine")

    job = launched(threads, fails)
    await asyncio.wait_for(_ended(job), BOUND)

    async def awaits() -> None:
        await job

    lengths = set()
    for _ in range(10):
        with pytest.raises(ValueError, match="mine") as asked:
            job.result()
        lengths.add(("result", len(traceback.extract_tb(asked.value.__traceback__))))
        with pytest.raises(ValueError, match="mine") as awaited:
            await awaits()
        lengths.add(("await", len(traceback.extract_tb(awaited.value.__traceback__))))
    assert len(lengths) == 2
    assert job.outcome is not None
    assert [frame.name for frame in traceback.extract_tb(job.outcome.traceback)] == ["fails"]


async def test_a_cancelled_job_raises_what_concurrent_futures_raises(
    loop_runner: LoopRunner,
) -> None:
    """Asyncio's own CancelledError would cancel whoever waits."""
    job = launched(loop_runner, asyncio.Event().wait, number=9, is_async=True)
    job.cancel()
    waiting = asyncio.ensure_future(_await(job))
    with pytest.raises(concurrent.futures.CancelledError, match="job 9 was cancelled"):
        await waiting
    assert not waiting.cancelled()
    for ask in (job.result, job.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            ask()
    assert not issubclass(concurrent.futures.CancelledError, asyncio.CancelledError)


# Waiting


def test_result_and_exception_wait_no_longer_than_asked(fake: FakeRunner) -> None:
    """And leave nothing behind in the job."""
    job = Record(5, work(), fake)
    fake.start(job)
    for ask in (job.result, job.exception):
        with pytest.raises(TimeoutError, match=r"job 5 has not ended after 0\.01 s"):
            ask(timeout=0.01)
        with pytest.raises(TimeoutError):
            ask(0)
    assert not job._pokes
    assert job.state is JobState.RUNNING


def test_result_waits_for_the_end_from_any_thread(fake: FakeRunner) -> None:
    """All who wait get it."""
    job = Record(1, work(), fake)
    fake.start(job)
    waiting = [in_thread(job.result) for _ in range(5)]
    asking = in_thread(job.exception)
    fake.finish(job, "value")
    assert [w.result(BOUND) for w in waiting] == ["value"] * 5
    assert asking.result(BOUND) is None


async def test_interrupting_or_cancelling_who_waits_never_cancels_the_job(
    loop_runner: LoopRunner,
) -> None:
    """`wait_for`, a cancelled `await`, a cancelled task group: the job goes on."""
    gate = asyncio.Event()

    async def works() -> str:
        await gate.wait()
        return "done"

    job = launched(loop_runner, works, is_async=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(job, 0.001)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await job
    waiting = asyncio.ensure_future(_await(job))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert job.state is JobState.RUNNING
    assert not job._callbacks  # nothing of those who gave up is left
    gate.set()
    assert await asyncio.wait_for(job, BOUND) == "done"
    assert await job == "done"


async def test_many_may_await_one_job(loop_runner: LoopRunner) -> None:
    """As with a future, and from another loop, too."""
    gate = asyncio.Event()
    job = launched(loop_runner, gate.wait, is_async=True)
    elsewhere = in_thread(lambda: asyncio.run(_await(job)))
    here = asyncio.gather(*(_await(job) for _ in range(3)))
    await asyncio.sleep(0)
    gate.set()
    assert await here == [True] * 3
    assert await asyncio.wrap_future(elsewhere) is True


async def test_asking_a_job_of_the_loop_on_the_loops_thread_raises_at_once(
    loop_runner: LoopRunner,
) -> None:
    """It could never end; once it has ended, asking is fine."""
    gate = asyncio.Event()
    job = launched(loop_runner, gate.wait, number=3, is_async=True)
    for ask in (job.result, job.exception):
        with pytest.raises(WouldBlock, match="`await` it, or use %fg 3"):
            ask()
        with pytest.raises(WouldBlock):
            ask(timeout=1000)
    gate.set()
    await job
    assert job.result() is True
    assert isinstance(WouldBlock(""), RuntimeError)


async def test_a_thread_job_that_needs_the_loop_raises_as_soon_as_it_does(
    threads: ThreadRunner,
) -> None:
    """Its value turns out to be awaitable while the loop's own thread waits for it."""
    go = threading.Event()

    def gives_awaitable() -> Any:
        assert go.wait(BOUND)
        return asyncio.sleep(0, "slept")

    job = launched(threads, gives_awaitable)
    threading.Timer(0.01, go.set).start()
    with pytest.raises(WouldBlock):
        job.result(timeout=BOUND)
    assert job.where == "loop"
    assert await job == "slept"


async def test_the_end_of_a_thread_job_needs_no_loop(threads: ThreadRunner) -> None:
    """Asked on the loop's thread, which stands still meanwhile."""
    go = threading.Event()
    job = launched(threads, lambda: go.wait(BOUND))
    threading.Timer(0.01, go.set).start()
    assert job.result(timeout=BOUND) is True


async def test_a_pool_thread_that_waits_for_a_queued_job_makes_room(threads: ThreadRunner) -> None:
    """However deep: each waits for the next, in a pool of one thread."""
    threads.max_threads = 1
    jobs: dict[int, Record] = {}

    def waits(number: int) -> int:
        if number == 20:
            return 1
        jobs[number + 1] = launched(threads, lambda: waits(number + 1), number + 1)
        assert jobs[number + 1].state == "queued"
        return 1 + jobs[number + 1].result(BOUND)

    jobs[1] = launched(threads, lambda: waits(1))
    assert jobs[1].result(BOUND) == 20


async def test_a_job_that_waits_for_itself_is_told_at_once(threads: ThreadRunner) -> None:
    """It would wait forever; a thread that it started may wait for it."""

    def waits() -> Any:
        job = current_job()
        assert job is not None
        waiting = in_thread(job.result)
        with pytest.raises(WouldBlock, match="job 6 cannot wait for its own end"):
            job.result()
        return waiting

    job = launched(threads, waits, number=6)
    waiting = job.result(BOUND)
    assert waiting.result(BOUND) is waiting


# Callbacks


def test_callbacks_are_called_once_with_the_job(fake: FakeRunner) -> None:
    """At the end, or at once if it has ended; a removed one is not called."""
    job = Record(1, work(), fake)
    fake.start(job)
    called: list[Any] = []

    def unwanted(_: Record) -> None:
        called.append("unwanted")

    job.add_done_callback(called.append)
    job.add_done_callback(unwanted)
    job.remove_done_callback(unwanted)
    assert called == []
    fake.finish(job)
    assert called == [job]
    job.add_done_callback(lambda job: called.append(job.state))
    assert called == [job, "finished"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_callback_raises_goes_no_further(
    fake: FakeRunner, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An exit included: the callback runs on the loop, or in a thread of the pool."""
    job = Record(8, work(), fake)
    fake.start(job)
    called: list[Record] = []

    def raises(_: Record) -> None:
        raise error("callback")

    job.add_done_callback(raises)
    job.add_done_callback(called.append)
    fake.finish(job)
    job.add_done_callback(raises)
    assert called == [job]
    assert "done callback of job 8 failed" in caplog.text


async def test_current_job_is_the_one_whose_code_asks(
    loop_runner: LoopRunner, threads: ThreadRunner
) -> None:
    """In threads, coroutines, their tasks and `to_thread`; None elsewhere."""

    async def asks() -> list[Job | None]:
        child = asyncio.create_task(_current())
        return [current_job(), await child, await asyncio.to_thread(current_job)]

    on_loop = launched(loop_runner, asks, 1, is_async=True)
    in_pool = launched(threads, current_job, 2)
    assert current_job() is None
    assert await on_loop == [on_loop.job] * 3
    # A job that a call returns is its value, not something more to wait for.
    assert await in_pool is in_pool.job
    assert current_job() is None


async def test_a_forgotten_task_of_a_job_is_not_collected(loop_runner: LoopRunner) -> None:
    """Asyncio keeps weak references only."""
    gate = asyncio.get_running_loop().create_future()

    async def waits() -> str:
        return str(await gate)

    job = launched(loop_runner, waits, is_async=True)
    await asyncio.sleep(0)
    gc.collect()
    gate.set_result("kept")
    assert await asyncio.wait_for(job, BOUND) == "kept"


async def _await(job: Record) -> Any:
    return await job


async def _ended(job: Record) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    job.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()


async def _current() -> Job | None:
    return current_job()


async def test_a_job_that_exits_takes_no_loop_along_when_it_is_gathered(
    threads: ThreadRunner,
) -> None:
    """Asyncio makes a task of it there, and lets an exit of a task through the loop."""

    def leaves() -> None:
        raise SystemExit(3)

    job = launched(threads, leaves, number=4)
    await _ended(job)
    with pytest.raises(ExitInTask, match=r"job 4 raised SystemExit\(3\)") as raised:
        await asyncio.gather(job, job)
    assert raised.value.__cause__ is job.exception()
    with pytest.raises(SystemExit):  # whoever awaits it directly may leave
        await job


def test_a_handle_that_is_made_while_the_job_ends_is_settled_once() -> None:
    """By whoever comes first: the end must not fail in the thread that ends the job."""
    made: list[Job] = []

    def make(job: Record) -> None:
        made.append(job.job)  # the end is known, and those that wait are not yet woken

    books: Any = SimpleNamespace(job_ended=make, job_fetched=id)
    record = Record(1, work(), FakeRunner(), registry=books)
    record.begin()
    record.finish(3)
    assert concurrent.futures.wait(made, 0).done == set(made)
    assert made[0].result(0) == 3


def test_a_job_is_made_while_another_thread_imports_decimal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The module is there already, without what will be in it."""
    monkeypatch.setitem(sys.modules, "decimal", types.ModuleType("decimal"))
    assert Record(1, work(), FakeRunner()).state == "queued"
