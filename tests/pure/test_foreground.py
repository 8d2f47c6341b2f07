"""Waiting in the foreground without a shell: what an interrupt at any moment comes to."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeRunner, work

from ipy_bgtasks.errors import BadInput, Detached
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.session.foreground import Foreground


@pytest.fixture
def outer() -> Iterator[list[int]]:
    """The interrupts that reach whoever handled them before."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    yield seen
    assert signal.getsignal(signal.SIGINT) not in (signal.SIG_DFL, signal.default_int_handler)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
async def foreground() -> Foreground:
    """One of the test's loop that shows nothing."""
    return Foreground(asyncio.get_running_loop())


def running(number: int = 1) -> Record:
    """A job that is running."""
    fake = FakeRunner()
    job = Record(number, work(), fake)
    fake.start(job)
    return job


async def test_an_interrupt_detaches_and_the_job_goes_on(
    foreground: Foreground, outer: list[int]
) -> None:
    """At once on a quiet loop; the handler before comes back."""
    job = running(3)
    waiting = foreground.attach([job])
    threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(Detached, match="job 3 goes on: %fg 3 returns to it"):
        await waiting
    assert job.state == "running"
    assert outer == []
    signal.raise_signal(signal.SIGINT)
    assert outer == [1]


async def test_all_waits_are_interrupted_and_say_what_goes_on(
    foreground: Foreground, outer: list[int]
) -> None:
    """A wait for several names those that have not ended."""
    one, two, three = running(1), running(2), running(3)
    many, single = foreground.attach([one, two, three], every=True), foreground.attach([two])
    one.finish()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Detached, match="jobs 2, 3 go on"):
        await many
    with pytest.raises(Detached, match="job 2 goes on"):
        await single
    assert outer == []


async def test_a_job_is_followed_until_its_end_has_been_shown(foreground: Foreground) -> None:
    """Else a failure would be shown by the wait and as a notice, if another ends meanwhile."""
    shows, shown = threading.Event(), threading.Event()
    followed: list[int] = []

    def follow(job: Record) -> Any:
        followed.append(job.number)
        return lambda: followed.remove(job.number)

    def show(_job: Record) -> None:
        shows.set()
        assert shown.wait(20)

    fake = FakeRunner()
    books: Any = SimpleNamespace(job_ended=show, job_fetched=id)
    one, two = running(1), Record(2, work(), fake, registry=books)
    fake.start(two)
    waiting = foreground.attach([one, two], every=True, follow=follow)
    ending = threading.Thread(target=two.finish)
    ending.start()
    assert await asyncio.to_thread(shows.wait, 20)
    one.finish()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (waiting.done(), followed) == (False, [1, 2])
    shown.set()
    assert await waiting == [None, None]
    assert followed == []
    ending.join()


async def test_an_interrupt_as_the_job_ends_reaches_what_follows(
    foreground: Foreground, outer: list[int]
) -> None:
    """The wait is over, the code after it has not begun: the interrupt is not lost."""
    loop = asyncio.get_running_loop()
    job = running()

    def end() -> None:
        job.finish("value")  # the wait notices in the next turn; the signal comes right after
        loop.call_soon(signal.raise_signal, signal.SIGINT)

    waiting = foreground.attach([job])
    loop.call_soon(end)
    assert await waiting == "value"
    assert outer == [1]


async def test_an_interrupt_after_the_end_waits_for_no_detaching(
    foreground: Foreground, outer: list[int]
) -> None:
    """A job that has ended cannot be detached from: its result comes, then the interrupt."""
    job = running()
    waiting = foreground.attach([job])
    job.finish("value")
    signal.raise_signal(signal.SIGINT)
    assert await waiting == "value"
    assert outer == [1]


async def test_a_time_out_in_the_moment_of_the_end_gives_the_result(
    foreground: Foreground, outer: list[int]
) -> None:
    """There is nothing left that could go on."""
    job = running()
    waiting = foreground.attach([job], timeout=0)
    job.finish("value")
    assert await waiting == "value"


async def test_abandoning_the_wait_puts_everything_back(
    foreground: Foreground, outer: list[int]
) -> None:
    """Handler, callbacks, and what followed the output."""
    followed: list[str] = []

    def follow(_: Record) -> Any:
        followed.append("begun")
        return lambda: followed.append("ended")

    job = running()
    task = asyncio.ensure_future(foreground.attach([job], follow=follow))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert followed == ["begun", "ended"]
    assert not job._callbacks
    signal.raise_signal(signal.SIGINT)
    assert outer == [1]


async def test_blocking_is_refused_where_a_loop_runs(foreground: Foreground) -> None:
    """One line that says what would work."""
    with pytest.raises(BadInput, match=r"the event loop would stop; .* or `await job`"):
        foreground.block(lambda: foreground.attach([running()]))


def test_blocking_runs_the_loop_where_none_runs() -> None:
    """And can be interrupted there."""
    loop = asyncio.new_event_loop()
    foreground = Foreground(loop)
    job = running(5)
    loop.call_later(0.01, job.finish, "value")
    assert foreground.block(lambda: foreground.attach([job])) == "value"
    job = running(5)
    loop.call_later(0.01, signal.raise_signal, signal.SIGINT)
    with pytest.raises(Detached, match="job 5 goes on"):
        foreground.block(lambda: foreground.attach([job]))
    assert job.state == "running"
    loop.close()


async def test_nothing_to_wait_for_is_done_at_once(foreground: Foreground) -> None:
    """`%fg all` without jobs."""
    assert await foreground.attach([], every=True) == []


async def test_a_wait_for_thousands_looks_at_each_a_few_times(
    foreground: Foreground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all of them whenever one ends."""
    jobs = [running(number) for number in range(2000)]
    looked = 0
    done = Record.done

    def counted(job: Record) -> bool:
        nonlocal looked
        looked += 1
        return done(job)

    waiting = foreground.attach(jobs, every=True)
    monkeypatch.setattr(Record, "done", counted)
    for job in jobs:
        job.finish(job.number)
        await asyncio.sleep(0)
    assert await waiting == list(range(2000))
    assert looked < 10 * len(jobs)
