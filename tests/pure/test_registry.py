"""The registry: numbers, specs' marks, order, retention, time-outs and jobs after others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Collection
from typing import Any

import pytest
from fakes import FakeClock, FakeRunner, launch_job, work

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.log.output import Log, dropped_mark
from ipy_bgtasks.registry import retention
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner

BOUND = 20.0


def launch(registry: Registry, name: str = "f()", **options: Any) -> Record:
    """A job of that name."""
    return launch_job(registry, work(label=name), **options)


def test_jobs_are_numbered_from_one_and_kept_in_that_order(registry: Registry) -> None:
    """The registry is a collection of them."""
    jobs = [launch(registry) for _ in range(3)]
    assert [job.number for job in jobs] == [1, 2, 3]
    assert isinstance(registry, Collection)
    assert list(registry) == jobs
    assert len(registry) == 3
    assert jobs[1] in registry
    assert "f()" not in registry
    assert registry.get(2) is jobs[1]
    assert registry.get(4) is None


def test_async_work_goes_to_the_loop_and_other_work_to_a_thread(clock: FakeClock) -> None:
    """Unless a place is named."""
    loop, thread = FakeRunner(), FakeRunner()
    registry = Registry({"loop": loop, "thread": thread}, clock)  # type: ignore[arg-type]
    first = registry.launch(work(is_async=True))
    second = registry.launch(work())
    third = registry.launch(work(is_async=True), where="thread")
    assert (loop.running, thread.running) == ([first], [second, third])


def test_the_current_job_is_the_last_launched_or_foregrounded(registry: Registry) -> None:
    """Ended or not; forgetting one moves the marks on."""
    assert registry.current is registry.previous is None
    one, two, three = (launch(registry) for _ in range(3))
    assert (registry.current, registry.previous) == (three, two)
    registry.touch(one)
    assert (registry.current, registry.previous) == (one, three)
    registry.runners["thread"].finish(one)  # type: ignore[attr-defined]
    assert registry.current is one
    registry.prune()
    assert (registry.current, registry.previous) == (three, two)
    registry.touch(one)
    assert registry.current is three


def test_the_oldest_ended_jobs_are_forgotten(registry: Registry, fake: FakeRunner) -> None:
    """In the order in which they ended; what has not ended is kept in any case."""
    registry.max_finished = 2
    forgotten: list[int] = []
    registry.on_discard.append(lambda job: forgotten.append(job.number))
    jobs = [launch(registry) for _ in range(6)]
    for number in (5, 2, 1, 6):
        fake.finish(jobs[number - 1])
    assert forgotten == [5, 2]
    assert [job.number for job in registry] == [1, 3, 4, 6]
    assert [job.number for job in registry.ended()] == [1, 6]
    assert [job.number for job in registry.alive()] == [3, 4]
    assert jobs[4] not in registry
    assert jobs[4].result() is None  # who holds it can use it
    assert registry.prune() == 2
    assert [job.number for job in registry] == [3, 4]


def test_what_one_cell_has_launched_is_kept_as_one(registry: Registry, fake: FakeRunner) -> None:
    """Of three hundred results none is missing, while jobs of other cells come and go."""
    registry.max_finished = 2
    loop = [launch(registry, cell="a") for _ in range(300)]
    for job in loop:
        fake.finish(job, "a value")
    assert list(registry) == loop
    others = [launch(registry, cell="b"), launch(registry), launch(registry)]
    for job in others[:2]:
        fake.finish(job, "a value")
    assert list(registry) == others
    assert registry.pop_lost() == 300
    assert registry.pop_lost() == 0


def test_what_somebody_has_fetched_goes_first(registry: Registry, fake: FakeRunner) -> None:
    """Also before what is older; a value of None is nothing to fetch."""
    registry.max_finished = 3
    jobs = [launch(registry) for _ in range(5)]
    for job in jobs[:2]:
        fake.finish(job, "a value")
    fake.finish(jobs[2], None)
    assert jobs[1].result() == "a value"
    fake.finish(jobs[3], "a value")
    assert list(registry) == [jobs[0], jobs[1], jobs[3], jobs[4]]
    fake.fail(jobs[4], ValueError())
    assert list(registry) == [jobs[0], jobs[3], jobs[4]]
    assert registry.pop_lost() == 1  # the one that returned None: `%fg all` would have listed it


def test_one_cell_cannot_fill_the_memory(
    registry: Registry, fake: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of its jobs go, with a count; of the oldest logs a mark is left."""
    registry.max_finished = 5
    monkeypatch.setattr(retention, "MOST", 5)
    monkeypatch.setattr(retention, "_CHARACTERS", 100)
    jobs = [launch(registry, group=GroupName("g")) for _ in range(8)]
    for job in jobs:
        job._log = Log()
        job.log.write("stdout", "x" * 30)
        fake.finish(job, "a value")
    assert list(registry) == jobs[3:]
    assert registry.group("@g").lost == registry.pop_lost() == 3
    assert [job.log.text for job in jobs[3:]] == [dropped_mark(30)] * 2 + ["x" * 30] * 3


def test_nothing_is_kept_with_a_limit_of_none(registry: Registry, fake: FakeRunner) -> None:
    """Each goes as it ends."""
    registry.max_finished = 0
    job = launch(registry)
    fake.finish(job)
    assert len(registry) == 0
    assert registry.current is None


def test_one_job_can_be_forgotten_if_it_has_ended(registry: Registry, fake: FakeRunner) -> None:
    """Otherwise the error says what would end it."""
    job = launch(registry)
    with pytest.raises(BadInput, match="job 1 is running: %cancel 1 stops it"):
        registry.discard(job)
    fake.finish(job)
    registry.discard(job)
    registry.discard(job)
    assert job not in registry


def test_who_shall_know_is_told_of_launches_and_ends(registry: Registry, fake: FakeRunner) -> None:
    """A launch before it starts, an end after it."""
    told: list[tuple[str, str]] = []

    class Told(Host):
        """Notes what it hears."""

        def changed(self, job: Record) -> None:
            told.append(("changed", str(job.state)))

        def ended(self, job: Record) -> None:
            told.append(("end", str(job.state)))

    registry.host.exchange(Told())
    job = launch(registry, prepare=lambda job: told.append(("prepare", str(job.state))))
    fake.fail(job, ValueError())
    assert told == [
        ("prepare", "queued"),
        ("changed", "running"),  # a launch that starts at once is one change
        ("end", "failed"),
    ]


def test_what_cannot_be_prepared_is_not_launched(registry: Registry, fake: FakeRunner) -> None:
    """The registry is as it was."""

    def refuse(_: Record) -> None:
        raise BadInput("no")

    with pytest.raises(BadInput):
        launch(registry, prepare=refuse)
    assert len(registry) == 0
    assert fake.running == fake.queued == []
    assert registry.current is None


def test_what_cannot_be_started_fails(
    registry: Registry, fake: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more threads, a closed loop: the job says so, and does not stay queued forever."""

    def start(_: Record) -> None:
        raise RuntimeError("can't start new thread")

    one = launch(registry)
    monkeypatch.setattr(fake, "start", start)
    two = launch(registry)
    after = launch(registry, after=[one])
    fake.finish(one)
    later = launch(registry, after=[after])
    for job in (two, after):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            job.result(0)
    assert later.state == "cancelled"
    monkeypatch.undo()
    assert launch(registry).state == "running"


# Time-outs


def test_a_job_is_stopped_when_its_time_is_up(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """It counts from the launch and strikes once."""
    job = launch(registry, timeout=2)
    clock.advance(1.9)
    assert job.state == "running"
    clock.advance(0.2)
    assert job.state == "cancelling"
    fake.obey(job)
    assert isinstance(job.exception(), TimeoutError)
    assert len(fake.stopped) == 1
    assert clock.pending == 0


def test_the_timer_of_a_job_that_ends_is_called_off(
    registry: Registry, fake: FakeRunner, clock: FakeClock
) -> None:
    """Nothing holds the job then."""
    job = launch(registry, timeout=1000)
    assert clock.pending == 1
    fake.finish(job)
    assert clock.pending == 0


def test_time_runs_for_a_queued_job_as_well(registry: Registry, clock: FakeClock) -> None:
    """It fails without ever having started."""
    first = launch(registry)
    waiting = launch(registry, after=[first], timeout=1)
    clock.advance(1)
    assert waiting.state == "failed"
    assert waiting.started is None


# After others


def test_a_job_starts_when_all_it_waits_for_have_finished(
    registry: Registry, fake: FakeRunner
) -> None:
    """Not before the last of them; of those nothing is kept."""
    registry.host.exchange(Host())  # without one, what has ended waits for it
    one, two = launch(registry), launch(registry)
    ended = launch(registry)
    fake.finish(ended)
    waiting = launch(registry, after=[one, two, ended])
    assert waiting.state == "queued"
    fake.finish(two)
    assert waiting.state == "queued"
    fake.finish(one)
    assert waiting.state == "running"
    assert launch(registry, after=[ended]).state == "running"


def test_nothing_is_kept_of_what_a_job_waited_for(registry: Registry, fake: FakeRunner) -> None:
    """Once it is discarded, as jobs in a long session are."""
    registry.host.exchange(Host())
    one = launch(registry)
    waiting = launch(registry, after=[one])
    fake.finish(one)
    fake.finish(waiting)
    gone = [weakref.ref(one), weakref.ref(waiting)]
    registry.prune()
    del one, waiting
    gc.collect()
    assert [each() for each in gone] == [None, None]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_job_whose_dependency_does_not_finish_well_never_starts(
    registry: Registry, fake: FakeRunner, end: str
) -> None:
    """It says which one it was; so does one launched afterwards."""
    one = launch(registry, "load()")
    before = launch(registry, after=[one])
    if end == "failed":
        fake.fail(one, ValueError())
    else:
        one.cancel()
        fake.obey(one)
    after = launch(registry, after=[one])
    for job in (before, after):
        with pytest.raises(concurrent.futures.CancelledError) as raised:
            job.result(0)
        assert str(raised.value) == f"job {job.number} never started: job 1 (load()) {end}"
    assert registry.alive() == []


def test_a_waiting_job_that_is_cancelled_never_starts(registry: Registry, fake: FakeRunner) -> None:
    """Also when what it waited for finishes afterwards."""
    one = launch(registry)
    waiting = launch(registry, after=[one])
    waiting.cancel()
    fake.finish(one)
    assert (waiting.state, waiting.started) == ("cancelled", None)


@pytest.mark.parametrize("good", [True, False])
def test_a_chain_of_a_thousand_is_no_stack(
    registry: Registry, fake: FakeRunner, good: bool
) -> None:
    """Each after the one before; when the first fails, all the others are cancelled."""
    registry.max_finished = 1000
    chain = [launch(registry)]
    for _ in range(999):
        chain.append(launch(registry, after=[chain[-1]]))
    assert [job.state for job in chain[1:]] == ["queued"] * 999
    if not good:
        fake.fail(chain[0], ValueError())
        assert {job.state for job in chain[1:]} == {"cancelled"}
        assert "job 999 (f()) cancelled" in str(_error(chain[-1]))
        return
    for job in chain:
        assert fake.running == [job]
        fake.finish(job)
    assert {job.state for job in chain} == {"finished"}


def test_a_chain_whose_jobs_end_as_they_start_is_no_stack(clock: FakeClock) -> None:
    """A place that runs work in the launch itself must not deepen the stack either."""

    class Immediate(FakeRunner):
        def start(self, job: Record) -> None:
            super().start(job)
            if job.work is not None:
                self.finish(job)

    hold, now = FakeRunner(), Immediate()
    registry = Registry({"loop": hold, "thread": now}, clock, max_finished=2000)  # type: ignore[arg-type]
    chain = [registry.launch(work(is_async=True))]
    for _ in range(999):
        chain.append(launch(registry, after=[chain[-1]]))
    hold.finish(chain[0])
    assert {job.state for job in chain} == {"finished"}


async def test_a_chain_of_a_thousand_runs_on_the_real_places() -> None:
    """Alternating between the loop and threads, in order."""
    loop_runner = LoopRunner(asyncio.get_running_loop())
    threads = ThreadRunner(loop_runner)
    registry = Registry(
        {"loop": loop_runner, "thread": threads},
        FakeClock(),  # type: ignore[arg-type]
        max_finished=2000,
    )
    order: list[int] = []
    gate = asyncio.Event()

    async def on_loop(i: int) -> None:
        await (gate.wait() if i == 0 else asyncio.sleep(0))
        order.append(i)

    chain: list[Record] = []
    for i in range(1000):
        task = work(lambda i=i: on_loop(i), is_async=True)
        if i % 2:
            task = work(lambda i=i: order.append(i))
        chain.append(registry.launch(task, after=chain[-1:]))
    gate.set()
    await asyncio.wait_for(chain[-1], BOUND)
    assert order == list(range(1000))


def test_a_display_that_fails_holds_nobody_up(registry: Registry, fake: FakeRunner) -> None:
    """What waits for the job starts all the same, and others are told."""
    told: list[int] = []

    def broken(_: Record) -> None:
        raise BrokenPipeError

    host = Host()
    host.ended = broken  # type: ignore[method-assign]
    registry.host.exchange(host)
    one = launch(registry)
    one.add_done_callback(lambda job: told.append(job.number))
    two = launch(registry, after=[one])
    fake.finish(one)
    assert two.state == "running"
    assert told == [1]


# Threads


def test_any_thread_may_launch_look_and_forget() -> None:
    """Numbers are unique and in order, and every job ends in the registry's books."""
    loop = asyncio.new_event_loop()
    loop_runner = LoopRunner(loop)
    threads = ThreadRunner(loop_runner, max_threads=4)
    registry = Registry(
        {"loop": loop_runner, "thread": threads},
        FakeClock(),  # type: ignore[arg-type]
        max_finished=10_000,
    )
    begin = threading.Barrier(6)
    ended = threading.Semaphore(0)
    host = Host()
    host.ended = lambda job: ended.release()  # type: ignore[method-assign]
    registry.host.exchange(host)

    def use(i: int) -> list[Record]:
        begin.wait(BOUND)
        mine: list[Record] = []
        for k in range(100):
            mine.append(registry.launch(work(lambda: i), after=mine[-1:] if k % 5 else ()))
            numbers = [job.number for job in registry]
            assert numbers == sorted(numbers)
            assert registry.current is not None
            registry.alive()
            registry.touch(mine[0])
            if k % 10 == 0:
                mine[-1].cancel()
        return mine

    with concurrent.futures.ThreadPoolExecutor(6) as users:
        jobs = [job for mine in users.map(use, range(6)) for job in mine]
    assert all(ended.acquire(timeout=BOUND) for _ in range(600))
    loop.close()
    assert sorted(job.number for job in jobs) == list(range(1, 601))
    assert list(registry) == sorted(jobs, key=lambda job: job.number)
    assert registry.alive() == []
    assert len(registry.ended()) == 600
    registry.prune()
    left = weakref.WeakSet(jobs)
    jobs.clear()
    gc.collect()
    assert len(left) == 0


def _error(job: Record) -> BaseException | None:
    assert job.outcome is not None
    return job.outcome.error
