"""Retries: what fails is run again, so many times, after a pause."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeClock, FakeRunner, launch_job, work

from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName, pause_after
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.session.foreground import Stopping

BOUND = 10.0


def test_the_pauses_double_up_to_a_minute() -> None:
    """In seconds."""
    assert [pause_after(n) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_after(10_000) == 60


def test_what_fails_is_run_again_after_a_pause(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """It is queued meanwhile, and whoever waits goes on to wait."""
    job = launch_job(registry, work(), retries=2)
    ends: list[Record] = []
    job.add_done_callback(ends.append)
    job.progress = 0.5
    fake.fail(job, ValueError("first"))
    assert (str(job.state), str(job.attempts), job.started) == ("queued", "attempt 2 of 3", None)
    clock.advance(0.9)
    assert str(job.state) == "queued"
    clock.advance(0.1)
    assert (str(job.state), job.progress) == ("running", None)
    fake.fail(job, ValueError("second"))
    clock.advance(1)
    assert str(job.state) == "queued"
    clock.advance(1)
    assert ends == []
    fake.finish(job, "well")
    assert ends == [job]
    assert (job.result(0), str(job.attempts)) == ("well", "attempt 3 of 3")
    assert clock.pending == 0


def test_the_outcome_is_that_of_the_last_attempt(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """The earlier errors are notes on it."""
    job = launch_job(registry, work(), retries=2)
    for n in range(3):
        fake.fail(job, ValueError(n))
        clock.advance(60)
    error = job.exception(0)
    assert repr(error) == "ValueError(2)"
    assert error.__notes__ == ["attempt 1 of 3: ValueError: 0", "attempt 2 of 3: ValueError: 1"]


def test_the_log_says_which_attempt_a_line_is_from(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """Also after a partial line."""
    job = launch_job(registry, work(), retries=1)
    job.write("stdout", "half a line")
    fake.fail(job, ValueError("no luck"))
    clock.advance(1)
    job.write("stdout", "second\n")
    fake.finish(job)
    assert job.log.text.splitlines() == [
        "half a line",
        "attempt 1 of 2 failed: ValueError: no luck; again in 1 s",
        "second",
    ]


def test_cancel_ends_it_at_once_between_two_attempts(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """And says nothing of a job that never started."""

    class Screen:
        def mark_reported(self, job: Record, yes: bool = True) -> None:
            """Nothing is shown here."""

    job = launch_job(registry, work(), retries=3)
    fake.fail(job, ValueError())
    stopping = Stopping([job], Screen())  # type: ignore[arg-type]
    assert str(job.state) == "cancelled"
    assert stopping.report() == ["job 1 (f()) cancelled"]
    clock.advance(100)
    assert str(job.state) == "cancelled"
    assert clock.pending == 0


def test_who_was_asked_to_stop_is_not_run_again(registry: Registry, fake: FakeRunner) -> None:
    """Though it fails, as code does that cleans up badly."""
    job = launch_job(registry, work(), retries=3)
    job.cancel()
    fake.fail(job, ValueError())
    assert str(job.state) == "failed"


def test_an_exit_is_no_failure(registry: Registry, fake: FakeRunner) -> None:
    """It is meant."""
    job = launch_job(registry, work(), retries=3)
    fake.fail(job, SystemExit(1))
    assert str(job.state) == "failed"


def test_each_attempt_has_its_own_time_and_the_end_of_it_is_the_end(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """The pause does not count."""
    job = launch_job(registry, work(), retries=3, timeout=5)
    clock.advance(4)
    fake.fail(job, ValueError())
    clock.advance(1)
    clock.advance(4)
    assert str(job.state) == "running"
    clock.advance(1)
    assert str(job.state) == "cancelling"
    fake.obey(job)
    error = job.exception(0)
    assert isinstance(error, TimeoutError)
    assert error.__notes__ == ["attempt 1 of 4: ValueError"]
    assert clock.pending == 0


def test_between_attempts_it_has_no_place_in_its_group(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """The next one starts; afterwards it gets in line."""
    first, second, third = (
        launch_job(registry, work(), group=GroupName("g", 1), retries=1) for _ in range(3)
    )
    fake.fail(first, ValueError())
    assert [str(job.state) for job in (first, second, third)] == ["queued", "running", "queued"]
    clock.advance(1)
    fake.finish(second)
    assert [str(job.state) for job in (first, second, third)] == ["queued", "finished", "running"]
    fake.finish(third)
    assert str(first.state) == "running"


def test_dependents_wait_for_the_last_attempt(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """An attempt that failed is not the job's end."""
    job = launch_job(registry, work(), retries=1)
    after = registry.launch(work(), after=[job])
    fake.fail(job, ValueError())
    assert str(after.state) == "queued"
    clock.advance(1)
    fake.finish(job)
    assert str(after.state) == "running"


class Hurried(FakeClock):
    """A service loop on which no pause is longer than a moment."""

    def later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Callable[[], None]:
        """Call it on a thread of its own."""
        timer = threading.Timer(0.001, fn, args)
        timer.start()
        return timer.cancel


def flaky(bad: int) -> Callable[[], int]:
    """A function that fails so many times."""
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= bad:
            raise ValueError(calls)
        return calls

    return call


@pytest.mark.parametrize("kind", ["thread", "thread-async", "loop", "adopted"])
async def test_every_place_runs_it_again(kind: str, service: ServiceLoop) -> None:
    """On the thread or the loop where it began, an awaitable value included."""
    loop = LoopRunner(asyncio.get_running_loop())
    threads = ThreadRunner(loop, service=service)
    registry = Registry({"loop": loop, "thread": threads}, Hurried())  # type: ignore[arg-type]
    call = flaky(3)

    async def coroutine() -> int:
        await asyncio.sleep(0)
        return call()

    one = call if kind == "thread" else coroutine if kind != "adopted" else lambda: coroutine()
    is_async = kind in ("thread-async", "loop")
    job = launch_job(
        registry,
        work(one, is_async=is_async),
        where="loop" if kind == "loop" else "thread",
        retries=3,
    )
    async with asyncio.timeout(BOUND):
        assert await job.job == 4
    assert loop.active == 0
