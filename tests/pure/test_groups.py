"""Groups: which of their jobs run, which are queued, and what becomes of those that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes import FakeClock, FakeRunner, launch_job, work

from ipy_bgtasks.errors import BadInput, NoSuchJob, WouldBlock
from ipy_bgtasks.ipython.programs import group_of
from ipy_bgtasks.job.host import Run
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry import queueing
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.views.describe import row

BOUND = 10.0


@pytest.fixture
def launch(registry: Registry) -> Callable[..., Record]:
    """Launches one job into the group that is given as on a magic's line."""

    def launch(group: str = "g:2", **options: Any) -> Record:
        return launch_job(registry, work(), group=GroupName.read(group), **options)

    return launch


def states(*jobs: Record) -> list[str]:
    """How the jobs are."""
    return [str(job.state) for job in jobs]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("crawl", ("crawl", None, False)),
        ("crawl:8", ("crawl", 8, False)),
        ("crawl:8+", ("crawl", 8, True)),
        ("a-b.c", ("a-b.c", None, False)),
    ],
)
def test_a_group_is_a_word_and_perhaps_a_limit(text: str, read: tuple[Any, ...]) -> None:
    """As `-g` takes it."""
    assert GroupName.read(text)[:3] == read


def test_a_job_that_waits_says_for_what(
    launch: Callable[..., Record], registry: Registry, fake: FakeRunner
) -> None:
    """For which jobs, then at which place of its group."""
    first, second, third = (launch("g:1") for _ in range(3))
    later = launch_job(registry, work(), name="later", after=[second, third])
    assert [row(job).last for job in (second, third)] == ["1st of @g", "2nd of @g"]
    assert row(later).last == "after 2 (f()), 3 (f())"
    fake.finish(first)
    assert [row(job).last for job in (second, third)] == ["", "1st of @g"]
    fake.finish(second)
    fake.finish(third)
    assert (row(later).state, row(later).last) == ("running", "")


def test_a_paused_job_lends_its_slot_where_the_group_says_so(
    launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """And has it again when it goes on, without waiting for it."""
    first, second, third = (launch("lends:1+") for _ in range(3))
    processes: Any = SimpleNamespace(pause=int, go_on=int)
    first.run = third.run = cast("Run", SimpleNamespace(processes=processes))
    first.pause()
    assert states(first, second, third) == ["paused", "running", "queued"]
    first.pause(False)
    assert states(first, second, third) == ["running", "running", "queued"]
    fake.finish(second)
    assert states(first, third) == ["running", "queued"]
    first.pause()
    assert states(first, third) == ["paused", "running"]
    fake.finish(first)
    fourth = launch("lends:1+")
    assert states(third, fourth) == ["running", "queued"]
    launch("lends:1")  # takes that back
    third.pause()
    assert states(third, fourth) == ["paused", "queued"]


@pytest.mark.parametrize(
    "text",
    [
        *("g:0", "g:-1", "g:x", "g:1.5", "g:", "g:+", "g:2++", "g:+2", ":3", "", "a b"),
        *("@g", "g:²"),
    ],
)
def test_what_is_no_group_is_refused_in_one_line(text: str) -> None:
    """And nothing is launched."""
    with pytest.raises(BadInput, match=r"\A-g .*\Z"):
        GroupName.read(text)


def test_so_many_run_and_the_rest_starts_in_order(
    launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """Each end lets the next one start, whichever ends first and however it ends."""
    jobs = [launch() for _ in range(5)]
    assert states(*jobs) == ["running", "running", "queued", "queued", "queued"]
    fake.finish(jobs[1])
    assert states(*jobs[2:]) == ["running", "queued", "queued"]
    fake.fail(jobs[0], ValueError())
    assert states(*jobs[2:]) == ["running", "running", "queued"]
    jobs[2].cancel()
    assert states(*jobs[2:]) == ["cancelling", "running", "queued"]
    fake.obey(jobs[2])
    assert states(*jobs[2:]) == ["cancelled", "running", "running"]


def test_a_queued_job_is_cancelled_at_once_and_never_starts(
    launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """Its place is not even asked."""
    first, second, third = (launch("g:1") for _ in range(3))
    assert second.cancel()
    assert states(second) == ["cancelled"]
    assert second.started is None
    assert fake.stopped == []
    fake.finish(first)
    assert states(third) == ["running"]


def test_a_later_limit_counts(launch: Callable[..., Record], fake: FakeRunner) -> None:
    """More start at once, in order; fewer only when so many have ended; without one it stays."""
    jobs = [launch("g:1") for _ in range(4)]
    jobs.append(launch("g:3"))
    assert states(*jobs) == ["running"] * 3 + ["queued"] * 2
    jobs.append(launch("g:1"))
    fake.finish(jobs[0])
    fake.finish(jobs[1])
    assert states(*jobs[3:]) == ["queued"] * 3
    fake.finish(jobs[2])
    jobs.append(launch("g"))
    assert states(*jobs[3:]) == ["running", "queued", "queued", "queued"]


def test_a_group_without_a_limit_queues_nothing(launch: Callable[..., Record]) -> None:
    """It is only a name."""
    assert states(*[launch("g") for _ in range(50)]) == ["running"] * 50


def test_groups_do_not_touch_each_other(launch: Callable[..., Record]) -> None:
    """Nor jobs without one."""
    jobs = [launch(group) for group in ("a:1", "b:1", "a:1", "b:1", "c")]
    assert states(*jobs) == ["running", "running", "queued", "queued", "running"]


def test_a_job_that_waits_for_others_takes_no_place(
    registry: Registry, launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """It gets in line when those have finished."""
    other = registry.launch(work())
    late = launch("g:1", after=[other])
    first, second = launch("g:1"), launch("g:1")
    assert states(late, first, second) == ["queued", "running", "queued"]
    fake.finish(other)
    fake.finish(first)
    assert states(late, second) == ["queued", "running"]
    fake.finish(second)
    assert states(late) == ["running"]


def test_time_is_up_after_so_long_in_a_place_not_in_the_queue(
    registry: Registry, launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """Or the last of a sweep would never have a chance."""
    clock: FakeClock = registry.service  # type: ignore[assignment]
    first, second = launch("g:1", timeout=5), launch("g:1", timeout=5)
    clock.advance(4)
    fake.finish(first)
    clock.advance(4)
    assert states(first, second) == ["finished", "running"]
    clock.advance(1)
    assert states(second) == ["cancelling"]
    fake.obey(second)
    assert isinstance(second.exception(0), TimeoutError)
    assert clock.pending == 0


def test_a_failing_start_lets_the_next_one_start(
    launch: Callable[..., Record], fake: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands in a row, without a deep stack."""
    first = launch("g:1")
    jobs = [launch("g:1") for _ in range(3000)]

    def refuse(job: Record) -> None:
        raise RuntimeError("no more threads")

    monkeypatch.setattr(fake, "start", refuse)
    fake.finish(first)
    assert set(states(*jobs)) == {"failed"}


def test_cancelling_all_from_the_first_starts_none(
    registry: Registry, launch: Callable[..., Record]
) -> None:
    """As `%cancel @g` does it: the running ones first, so that the next would be due."""
    jobs = [launch("g:2") for _ in range(100)]
    for job in registry.find_all("@g"):
        job.cancel()
    assert states(*jobs) == ["cancelling"] * 2 + ["cancelled"] * 98


def test_the_jobs_of_a_group_are_one_spec(
    registry: Registry, launch: Callable[..., Record]
) -> None:
    """In order of number; a single job cannot be named so."""
    a, b, _ = launch("g"), launch("g"), launch("other")
    assert registry.find_all("@g") == [a, b]
    assert registry.find_all(f"%{a.number}") == [a]
    assert [job.number for job in group_of(registry, "@g")] == [1, 2]
    assert group_of(registry, "@g")[2].group == "g"
    assert 3 not in group_of(registry, "@g")
    assert 1 in group_of(registry, "@g")
    with pytest.raises(NoSuchJob, match="not in the group g"):
        group_of(registry, "@g")[3]
    with pytest.raises(NoSuchJob, match=r"\A@g names a group"):
        registry.find("@g")
    with pytest.raises(NoSuchJob, match=r"no group 'x': there is @g, @other"):
        registry.find_all("@x")
    with pytest.raises(BadInput, match="takes a group"):
        group_of(registry, "1")


def test_a_group_is_forgotten_with_its_last_job(
    registry: Registry, launch: Callable[..., Record], fake: FakeRunner
) -> None:
    """Its name can be used again, without the limit it had."""
    jobs = [launch("g:1") for _ in range(2)]
    fake.finish(jobs[0])
    registry.discard(jobs[0])
    assert registry.find_all("@g") == [jobs[1]]
    fake.finish(jobs[1])
    assert registry.prune() == 1
    assert registry.groups() == []
    assert states(launch("g"), launch("g")) == ["running", "running"]


def test_a_group_is_kept_as_one(fake: FakeRunner) -> None:
    """Of a thousand results none is missing, while the jobs of old come and go."""
    registry = Registry({"thread": fake}, FakeClock(), max_finished=3)  # type: ignore[arg-type]
    old = [registry.launch(work()) for _ in range(3)]
    group = [launch_job(registry, work(), group=GroupName("g", 2)) for _ in range(20)]
    for job in [*old, *group]:
        fake.finish(job)
    assert list(registry) == [*old[1:], *group]
    new = [registry.launch(work()) for _ in range(2)]
    for job in new:
        fake.finish(job)
    assert list(registry) == [*group, *new]
    fake.finish(launch_job(registry, work(), group=GroupName("g")))
    assert len(registry) == 23  # the group lived again, and is the youngest now
    for _ in range(3):
        fake.finish(registry.launch(work()))
    assert len(registry) == 3


def test_the_end_of_the_session_ends_who_is_queued(
    registry: Registry, launch: Callable[..., Record]
) -> None:
    """Nothing starts any more, and thousands take no time."""
    jobs = [launch("g:1") for _ in range(5000)]
    registry.shutdown()
    assert states(*jobs) == ["cancelling"] + ["cancelled"] * 4999
    assert "the session ended" in str(jobs[1].outcome.error)  # type: ignore[union-attr]


# In real places


@pytest.fixture
def pool(service: ServiceLoop) -> ThreadRunner:
    """Threads, two at most."""
    return ThreadRunner(None, max_threads=2, service=service)  # type: ignore[arg-type]


def in_group(registry: Registry, call: Callable[[], Any], group: str, **options: Any) -> Record:
    """Launch one call into a group."""
    return launch_job(registry, work(call, **options), group=GroupName.read(group))


def test_a_thread_that_waits_for_one_of_its_group_makes_room(
    pool: ThreadRunner, service: ServiceLoop
) -> None:
    """Also where the pool has no more threads, and through several levels."""
    registry = Registry({"thread": pool}, service)

    def nested(level: int) -> int:
        if level == 0:
            return 0
        inner = in_group(registry, lambda: nested(level - 1), "g:1")
        assert str(inner.state) == "queued"
        return 1 + inner.result(BOUND)  # type: ignore[no-any-return]

    assert in_group(registry, lambda: nested(5), "g:1").result(BOUND) == 5


def test_a_future_of_a_queued_job_makes_room_too(pool: ThreadRunner, service: ServiceLoop) -> None:
    """For code that insists on a real one."""
    registry = Registry({"thread": pool}, service)

    def outer() -> Any:
        return in_group(registry, lambda: 7, "g:1").job.future.result(BOUND)

    assert in_group(registry, outer, "g:1").result(BOUND) == 7


def test_a_pool_full_of_waiters_goes_on_when_their_jobs_become_due(
    pool: ThreadRunner, service: ServiceLoop
) -> None:
    """Those are queued in a group first and in the pool then."""
    registry = Registry({"thread": pool}, service)
    gate = threading.Event()
    first = in_group(registry, lambda: gate.wait(BOUND), "slow:1")
    late = [in_group(registry, lambda i=i: i, "slow:1") for i in range(3)]  # type: ignore[misc]
    waiters = [registry.launch(work(lambda job=job: job.result(BOUND))) for job in late]  # type: ignore[misc]
    gate.set()
    assert first.result(BOUND)
    assert [job.result(BOUND) for job in waiters] == [0, 1, 2]


@pytest.mark.parametrize("how", ["await", "gather", "wait", "future"])
async def test_a_coroutine_that_awaits_one_of_its_group_makes_room(
    service: ServiceLoop, how: str
) -> None:
    """However it waits."""
    registry = Registry({"loop": LoopRunner(asyncio.get_running_loop())}, service)

    async def inner() -> int:
        return 7

    async def outer() -> Any:
        record = in_group(registry, inner, "g:1", is_async=True)
        job = record.job
        match how:
            case "await":
                return await job
            case "gather":
                return (await asyncio.gather(job))[0]
            case "wait":
                done, _ = await asyncio.wait([job])
                return done.pop().result()
        return await asyncio.wrap_future(job.future)

    async with asyncio.timeout(BOUND):
        assert await in_group(registry, outer, "g:1", is_async=True) == 7


async def test_who_waits_from_outside_makes_no_room(service: ServiceLoop) -> None:
    """A limit holds, whoever is curious; and a wait that would block the loop is refused."""
    registry = Registry({"loop": LoopRunner(asyncio.get_running_loop())}, service)
    gate = asyncio.Event()
    running = in_group(registry, gate.wait, "g:1", is_async=True)
    queued = in_group(registry, gate.wait, "g:1", is_async=True)
    waits = asyncio.ensure_future(_result(queued))
    other = registry.launch(work(lambda: _result(queued), is_async=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert states(running, queued, other) == ["running", "queued", "running"]
    with pytest.raises(WouldBlock):
        queued.result()
    gate.set()
    async with asyncio.timeout(BOUND):
        assert await waits is True
        assert await other is True


async def _result(job: Record) -> Any:
    return await job


async def test_a_queued_coroutine_is_cancelled_while_the_loop_is_busy(
    service: ServiceLoop,
) -> None:
    """From another thread, too: nothing of it is on the loop."""
    registry = Registry({"loop": LoopRunner(asyncio.get_running_loop())}, service)
    gate = asyncio.Event()
    running = in_group(registry, gate.wait, "g:1", is_async=True)
    queued = in_group(registry, gate.wait, "g:1", is_async=True)
    thread = threading.Thread(target=queued.cancel)
    thread.start()
    thread.join(BOUND)  # blocks the loop
    assert states(queued) == ["cancelled"]
    gate.set()
    assert await running is True


async def test_a_mixed_group_keeps_its_limit(service: ServiceLoop) -> None:
    """Threads and coroutines, counted from inside."""
    loop = LoopRunner(asyncio.get_running_loop())
    registry = Registry({"loop": loop, "thread": ThreadRunner(loop, service=service)}, service)
    lock = threading.Lock()
    now = most = 0

    def enter(step: int) -> None:
        nonlocal now, most
        with lock:
            now += step
            most = max(most, now)

    def call() -> None:
        enter(1)
        threading.Event().wait(0.001)
        enter(-1)

    async def coroutine() -> None:
        enter(1)
        await asyncio.sleep(0.001)  # its work: others may run beside it
        enter(-1)

    jobs = [
        in_group(registry, coroutine if n % 2 else call, "g:3", is_async=bool(n % 2))
        for n in range(200)
    ]
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(job.job for job in jobs))
    assert most == 3


def test_a_group_that_halts_stops_at_its_first_failure(
    registry: Registry, fake: FakeRunner
) -> None:
    """Those that run are asked to stop, the others never start, whoever launches them later."""
    fits = GroupName("fits", 2)
    jobs = [launch_job(registry, work(), group=fits, halt=True) for _ in range(5)]
    late = launch_job(registry, work(), group=fits, halt=True, after=[jobs[1]])
    fake.finish(jobs[0])
    fake.fail(jobs[1], ValueError("why"))
    assert [str(job.state) for job in jobs] == [
        *("finished", "failed", "cancelling", "cancelled", "cancelled")
    ]
    for job in (jobs[3], late, launch_job(registry, work(), group=fits, halt=True)):
        with pytest.raises(CancelledError, match=r"never started: job 2 \(f\(\)\) failed"):
            job.result(0)
    fake.obey(jobs[2])
    assert fake.running == fake.queued == []


def test_a_group_that_does_not_halt_goes_on(registry: Registry, fake: FakeRunner) -> None:
    """As by default, and after a job that was cancelled."""
    jobs = [launch_job(registry, work(), group=GroupName("fits", 1)) for _ in range(2)]
    fake.fail(jobs[0], ValueError())
    assert str(jobs[1].state) == "running"
    other = GroupName("other", 1)
    jobs = [launch_job(registry, work(), group=other, halt=True) for _ in range(2)]
    jobs[0].cancel()
    fake.obey(jobs[0])
    assert str(jobs[1].state) == "running"


def test_a_group_that_has_halted_begins_anew_after_a_moment(
    registry: Registry, fake: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the cell can be run again."""
    fits = GroupName("fits")
    fake.fail(launch_job(registry, work(), group=fits, halt=True), ValueError())
    assert str(launch_job(registry, work(), group=fits, halt=True).state) == "cancelled"
    monkeypatch.setattr(queueing, "_IDLE", 0)
    assert str(launch_job(registry, work(), group=fits, halt=True).state) == "running"
