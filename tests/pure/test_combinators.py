"""asyncio's combinators and concurrent.futures' functions, with jobs of every place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import pickle
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from fakes import work

from ipy_bgtasks.errors import WouldBlock
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work.reading import command_work

BOUND = 20.0
PLACES = ["loop", "thread", "thread loop", "process", "shell"]


def answer(gate: Any) -> int:
    """Wait for the file to appear, in whatever process, and return 0, as a command does."""
    while not gate.exists():
        threading.Event().wait(0.005)
    return 0


class Places:
    """Jobs of every local place, on the loop that runs the test."""

    def __init__(
        self, gate: Any, service: ServiceLoop, supervisor: Supervisor, processes: ProcessRunner
    ) -> None:
        self.gate = gate
        threads = ThreadRunner(LoopRunner(asyncio.get_running_loop()), service=service)
        self._shell = ShellRunner(service, supervisor)
        self.processes = processes
        runners = {"loop": threads.loop_runner, "thread": threads, "shell": self._shell}
        self._registry = Registry(runners, service)

    def launch(self, where: str) -> Job:
        """Launch a job that goes on until `open`, and then returns 0."""
        gate = self.gate

        async def waits() -> int:
            while not gate.exists():
                await asyncio.sleep(0.005)  # in another process, which hears of no event here
            return 0

        match where:
            case "loop":
                record = self._registry.launch(work(waits, is_async=True), where="loop")
            case "thread loop":
                record = self._registry.launch(work(waits, is_async=True), where="thread")
            case "thread":
                record = self._registry.launch(work(partial(answer, gate)), where="thread")
            case "process":
                what = self.processes.accept(work(partial(answer, gate)))
                record = self._registry.launch(what, where=self.processes)
            case _:
                text = f"until [ -e '{gate}' ]; do sleep 0.01; done"
                record = self._registry.launch(command_work(text, text), where="shell")
        return record.job

    def open(self) -> None:
        """Let all jobs end."""
        self.gate.touch()

    def close(self) -> None:
        """End what is left."""
        self.open()
        for job in self._registry.alive():
            job.cancel(force=True)


@pytest.fixture(scope="module")
def service() -> ServiceLoop:
    """One for all tests."""
    return ServiceLoop()


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One for all tests."""
    made = Supervisor()
    yield made
    made.close(BOUND)


@pytest.fixture(scope="module")
def processes(supervisor: Supervisor) -> Iterator[ProcessRunner]:
    """One pool for all tests."""
    runner = ProcessRunner(supervisor)
    yield runner
    runner.shutdown()


@pytest.fixture
async def places(
    tmp_path: Any, service: ServiceLoop, supervisor: Supervisor, processes: ProcessRunner
) -> Any:
    """Jobs of every place."""
    made = Places(tmp_path / "gate", service, supervisor, processes)
    yield made
    made.close()


async def _wait(job: Job) -> int:
    done, pending = await asyncio.wait([job])  # type: ignore[type-var]
    assert (done, pending) == ({job}, set())
    return job.result()


async def _wait_all(job: Job) -> int:
    other = asyncio.ensure_future(asyncio.sleep(0, 0))
    done, _ = await asyncio.wait({job, other}, return_when=asyncio.FIRST_EXCEPTION)  # type: ignore[type-var]
    assert done == {job, other}
    return job.result()


async def _gather(job: Job) -> int:
    first, second = await asyncio.gather(job, job)
    return first + second


async def _as_completed(job: Job) -> int:
    for each in asyncio.as_completed([job]):
        return await each
    raise AssertionError


async def _timeout(job: Job) -> int:
    async with asyncio.timeout(BOUND):
        return await job


async def _group(job: Job) -> int:
    async def waits() -> int:
        return await job

    async with asyncio.TaskGroup() as group:
        task = group.create_task(waits())
    return task.result()


COMBINATORS: dict[str, Callable[[Job], Awaitable[int]]] = {
    "wait": _wait,
    "wait FIRST_EXCEPTION": _wait_all,
    "wait_for": lambda job: asyncio.wait_for(job, BOUND),
    "gather": _gather,
    "shield": asyncio.shield,
    "as_completed": _as_completed,
    "timeout": _timeout,
    "TaskGroup": _group,
    "await": lambda job: job,
    "wrap_future": lambda job: asyncio.wrap_future(job.future),
    "to_thread": lambda job: asyncio.to_thread(job.result, BOUND),
}


@pytest.mark.parametrize("combinator", COMBINATORS)
@pytest.mark.parametrize("where", PLACES)
async def test_combinators_take_running_jobs(places: Places, where: str, combinator: str) -> None:
    """They wake up when the job ends, on a loop that is otherwise quiet."""
    job = places.launch(where)
    waiting = asyncio.ensure_future(COMBINATORS[combinator](job))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    places.open()
    assert await asyncio.wait_for(waiting, BOUND) == 0


@pytest.mark.parametrize("combinator", COMBINATORS)
@pytest.mark.parametrize("where", PLACES)
async def test_combinators_take_ended_jobs(places: Places, where: str, combinator: str) -> None:
    """As they take futures that are done."""
    places.open()
    job = places.launch(where)
    await asyncio.wait_for(job, BOUND)
    assert await asyncio.wait_for(COMBINATORS[combinator](job), BOUND) == 0


@pytest.mark.parametrize("where", PLACES)
async def test_waits_that_run_out_leave_the_job_alone(places: Places, where: str) -> None:
    """Who waits does not own."""
    job = places.launch(where)
    done, pending = await asyncio.wait([job], timeout=0.01)  # type: ignore[type-var]
    assert (done, pending) == (set(), {job})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(job, 0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.gather(job)
    assert not job.done()
    places.open()
    assert await asyncio.wait_for(job, BOUND) == 0


@pytest.mark.parametrize("ends_first", [False, True])
@pytest.mark.parametrize("where", PLACES)
async def test_the_future_of_a_job_is_a_real_one(
    places: Places, where: str, ends_first: bool
) -> None:
    """`concurrent.futures.wait` and `as_completed` take it, ended or not."""
    if ends_first:
        places.open()
    job = places.launch(where)
    if ends_first:
        await asyncio.wait_for(job, BOUND)
    future = job.future
    assert future is job.future
    assert isinstance(future, concurrent.futures.Future)

    def wait() -> None:
        done, rest = concurrent.futures.wait([future], BOUND)
        assert (done, rest) == ({future}, set())
        assert list(concurrent.futures.as_completed([future], BOUND)) == [future]
        assert future.result(BOUND) == 0

    waiting = asyncio.ensure_future(asyncio.to_thread(wait))
    await asyncio.sleep(0)
    places.open()
    await asyncio.wait_for(waiting, BOUND)


@pytest.mark.parametrize("where", PLACES)
async def test_cancelling_the_future_cancels_the_job(places: Places, where: str) -> None:
    """And whoever waits for it hears of that."""
    job = places.launch(where)
    future = job.future
    waiting = asyncio.ensure_future(asyncio.to_thread(concurrent.futures.wait, [future], BOUND))
    assert future.cancel()
    done, _ = await asyncio.wait_for(waiting, BOUND)
    assert done == {future}
    assert future.cancelled()
    assert job.cancelled()
    assert not job.running()
    assert job.cancel()  # as with a future: it is cancelled
    assert future.cancel()


@pytest.mark.parametrize("where", PLACES)
async def test_asking_never_blocks(places: Places, where: str) -> None:
    """With a timeout of 0 nothing waits, so nothing can hang: on the loop's thread, too."""
    job = places.launch(where)
    with pytest.raises(TimeoutError, match=r"job 1 has not ended"):
        job.result(0)
    with pytest.raises(TimeoutError):
        job.exception(0)
    assert not job.cancelled()
    places.open()
    await asyncio.wait_for(job, BOUND)
    assert job.result(0) == 0
    assert (job.running(), job.done(), job.cancelled()) == (False, True, False)
    assert not job.cancel()


async def test_a_job_is_copied_as_itself_and_never_pickled(places: Places) -> None:
    """In whatever it stands."""
    job = places.launch("thread")
    assert copy.copy(job) is job
    assert copy.deepcopy({"of": [job]})["of"][0] is job
    with pytest.raises(TypeError, match=r"^job 1 cannot be pickled: .*result\(\) instead"):
        pickle.dumps([job])


async def test_a_blocking_wait_that_could_never_end_is_refused(places: Places) -> None:
    """A job of the loop cannot end while `concurrent.futures.wait` blocks that loop's thread."""
    job = places.launch("loop")
    with pytest.raises(WouldBlock, match=r"needs the event loop of this thread .* %fg 1"):
        concurrent.futures.wait([job])
    with pytest.raises(WouldBlock):
        next(concurrent.futures.as_completed([job]))
    places.open()
    await job
    assert concurrent.futures.wait([job]) == ({job}, set())
