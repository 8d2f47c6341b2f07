"""Jobs on the user's own executors of one machine: the standard library's, loky's, Pebble's."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import loky
import pebble
import pytest
from elsewhere import COMMON, PATIENCE, Gate, House

from ipy_bgtasks.errors import BadInput, CannotSend
from ipy_bgtasks.job.handle import current_job
from ipy_bgtasks.runners.executors import Executors

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gates are FIFOs")

SOURCE = f"""
{COMMON}
import threading
lock = threading.Lock()
class Point:
    def __init__(self, x): self.x = x
class TwoArguments(Exception):
    def __init__(self, a, b): super().__init__(a)
def fail_unreadably(): raise TwoArguments(1, 2)
"""

POOLS = {
    "threads": lambda: ThreadPoolExecutor(1),
    "processes": lambda: ProcessPoolExecutor(1),
    "loky": lambda: loky.ProcessPoolExecutor(1),
    "pebble threads": lambda: pebble.ThreadPool(1),
    "pebble processes": lambda: pebble.ProcessPool(1),
}


def close(pool: Any) -> None:
    """End a pool of whichever kind."""
    if isinstance(pool, concurrent.futures.Executor):
        pool.shutdown(wait=True)
    else:
        pool.stop()
        pool.join()


@pytest.fixture
def house() -> House:
    """The names that jobs use."""
    return House(SOURCE)


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each kind of pool, with a single worker."""
    pool = POOLS[request.param]()
    yield pool
    close(pool)


@pytest.fixture
def runner(pool: Any) -> Any:
    """The place that the pool is."""
    return Executors().runner_for(pool, "pool")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """What holds a job."""
    return Gate(tmp_path / "gate")


def test_results_and_exceptions_come_back(house: House, runner: Any) -> None:
    """With the notebook's own functions, classes and exceptions, also of coroutines."""
    assert house.launch(runner, "add(2)").result(PATIENCE) == 42
    assert house.launch(runner, "later()").result(PATIENCE) == "later"
    cell = house.launch(runner, "x = add(3)\nx + 1", cell=True)
    assert cell.result(PATIENCE) == 44
    assert cell.where == "executor"
    point = house.launch(runner, "point = Point(5)").result(PATIENCE)
    assert isinstance(point, house.namespace["Point"])
    assert house.namespace["point"] is point
    job = house.launch(runner, "fail()")
    with pytest.raises(house.namespace["Own"], match="mine"):
        job.result(PATIENCE)
    assert str(job.state) == "failed"


def test_cancelling_says_what_the_executor_can_do(house: House, runner: Any, gate: Gate) -> None:
    """What waits is dropped; what has begun goes on, or, with Pebble's processes, is killed."""
    house.namespace["path"] = gate.path
    kills = "ProcessPool" in repr(type(runner.target)) and "pebble" in repr(type(runner.target))
    held = house.running(house.launch(runner, "wait(path)"))
    waiting = [house.launch(runner, "add(1)") for _ in range(4)]
    waiting[-1].cancel()
    held.cancel()
    if kills:
        with pytest.raises(CancelledError):
            held.result(PATIENCE)
    else:
        assert str(held.state) == "cancelling"
        assert "still running there" in held.run.note
        gate.open()
        assert held.result(PATIENCE) == "went on"
        assert str(held.state) == "finished"
    assert [job.result(PATIENCE) for job in waiting[:-1]] == [41] * 3
    with pytest.raises(CancelledError):
        waiting[-1].result(PATIENCE)
    assert waiting[-1].started is None


def test_a_closed_pool_fails_the_job(house: House, pool: Any, runner: Any) -> None:
    """With the pool's own exception."""
    close(pool)
    assert isinstance(house.launch(runner, "add(1)").exception(PATIENCE), RuntimeError)


@pytest.mark.parametrize("kind", ["processes", "loky", "pebble processes"])
def test_a_worker_that_dies_fails_its_job(house: House, kind: str) -> None:
    """With the pool's own exception, which differs."""
    pool = POOLS[kind]()
    error = house.launch(Executors().runner_for(pool, "pool"), "die()").exception(PATIENCE)
    assert type(error).__name__ in ("BrokenProcessPool", "TerminatedWorkerError", "ProcessExpired")
    close(pool)


@pytest.mark.parametrize("kind", ["processes", "pebble processes"])
def test_what_cannot_travel_is_refused_or_fails_in_one_line(house: House, kind: str) -> None:
    """And does not break the pool, as an exception that cannot be read would."""
    pool = POOLS[kind]()
    runner = Executors().runner_for(pool, "pool")
    with pytest.raises(BadInput, match="lock is of type"):
        house.launch(runner, "add(lock)")
    for code in ("fail_unreadably()", "lambda: threading.Lock()"):
        assert isinstance(house.launch(runner, code).exception(PATIENCE), CannotSend)
    assert house.launch(runner, "add(2)").result(PATIENCE) == 42
    close(pool)


def test_a_thread_of_the_users_is_the_jobs_while_it_runs(house: House, gate: Gate) -> None:
    """`current_job()` works there, nothing is copied, and its stack can be seen."""
    with ThreadPoolExecutor(1) as pool:
        runner = Executors().runner_for(pool, "pool")
        house.namespace.update(current_job=current_job, path=gate.path)
        job = house.launch(runner, "current_job()")
        assert job.result(PATIENCE) is job.job
        assert house.launch(runner, "lambda: lock").result(PATIENCE) is house.namespace["lock"]
        job = house.running(house.launch(runner, "wait(path)"))
        while [frame.name for frame in job.stack()][-1:] != ["wait"]:
            assert not job.done()
        gate.open()
        job.result(PATIENCE)
        assert current_job() is None


def test_jobs_that_are_shut_out_are_cancelled(house: House, gate: Gate) -> None:
    """`shutdown(cancel_futures=True)` drops what waits."""
    pool = ThreadPoolExecutor(1)
    runner = Executors().runner_for(pool, "pool")
    house.namespace["path"] = gate.path
    held = house.running(house.launch(runner, "wait(path)"))
    waiting = house.launch(runner, "add(1)")
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    gate.open()
    assert held.result(PATIENCE) == "went on"


def test_one_executor_is_one_place(house: House) -> None:
    """And is let go when it has no jobs."""
    executors = Executors()
    with ThreadPoolExecutor(1) as pool:
        runner = executors.runner_for(pool, "pool")
        assert executors.runner_for(pool, "pool") is runner
        gone = weakref.ref(runner)
        del runner
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "--on x is 7 of type int, not an executor"),
        (ThreadPoolExecutor, "--on x is <class"),
        (threading.Thread(), "of type Thread, not an executor"),
        (None, "--on x is None of type NoneType, not an executor"),
    ],
)
def test_what_is_no_executor_is_refused(value: object, shown: str) -> None:
    """One line says what was given and what would work."""
    with pytest.raises(BadInput) as caught:
        Executors().runner_for(value, "x")
    assert shown in str(caught.value)
    assert str(caught.value).endswith(
        "an ipyparallel Client or view, ray, or anything else with submit(fn, *args)"
    )
