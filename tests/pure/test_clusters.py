"""Jobs on real clusters: Dask with two worker processes, ipyparallel with two engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from elsewhere import COMMON, PATIENCE, Gate, House

from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.runners.executors import Executors

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="gates are FIFOs"),
    # Of the engines themselves, on their way up and down.
    pytest.mark.filterwarnings("ignore"),
]

SOURCE = COMMON


@contextlib.contextmanager
def local_cluster() -> Iterator[Any]:
    """Two worker processes of one thread each."""
    import dask
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    """For all tests that leave both workers alive."""
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def parallel_cluster() -> Iterator[Any]:
    """A controller and two engines."""
    import ipyparallel

    cluster = ipyparallel.Cluster(n=2, log_level=logging.CRITICAL)
    cluster.start_cluster_sync()
    yield cluster
    cluster.stop_cluster_sync()


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of the kind of cluster that the test names."""
    if request.param == "dask":
        from distributed import Client

        client = Client(request.getfixturevalue("dask_cluster"))
    else:
        client = request.getfixturevalue("parallel_cluster").connect_client_sync()
        client.wait_for_engines(2, timeout=PATIENCE)
    yield client
    client.close()


@pytest.fixture
def gates(tmp_path: Path) -> list[Gate]:
    """What holds both workers."""
    return [Gate(tmp_path / name) for name in "ab"]


both = pytest.mark.parametrize("client", ["dask", "ipyparallel"], indirect=True)
dask = pytest.mark.parametrize("client", ["dask"], indirect=True)
parallel = pytest.mark.parametrize("client", ["ipyparallel"], indirect=True)


def hold(house: House, runner: Any, gates: list[Gate]) -> list[Any]:
    """A job in each worker."""
    jobs = []
    for gate in gates:
        house.namespace["path"] = gate.path
        jobs.append(house.running(house.launch(runner, "wait(path)")))
    return jobs


@both
def test_results_and_exceptions_come_back(house: House, client: Any) -> None:
    """Each call is one task of its own, also where it is the same call again."""
    runner = Executors().runner_for(client, "client")
    assert house.launch(runner, "add(2)").result(PATIENCE) == 42
    assert house.launch(runner, "later()").result(PATIENCE) == "later"
    pids = house.launch(runner, "os.getpid()")
    assert pids.result(PATIENCE) != os.getpid()
    assert pids.where == runner.where in ("dask", "ipyparallel")
    random = [house.launch(runner, "os.urandom(8)") for _ in range(2)]
    assert random[0].result(PATIENCE) != random[1].result(PATIENCE)
    with pytest.raises(house.namespace["Own"], match="mine") as caught:
        house.launch(runner, "fail()").result(PATIENCE)
    assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


@both
def test_what_has_begun_is_told_from_what_waits(
    house: House, client: Any, gates: list[Gate]
) -> None:
    """What waits is dropped; what has begun is never called cancelled while it goes on."""
    runner = Executors().runner_for(client, "client")
    held = hold(house, runner, gates)
    waiting = [house.launch(runner, "add(1)") for _ in range(4)]
    assert {str(job.state) for job in waiting} == {"queued"}
    waiting[-1].cancel()
    held[0].cancel()
    assert str(held[0].state) == "cancelling"
    assert "still running there" in held[0].run.note
    if runner.where == "dask":
        with pytest.raises(CancelledError):
            waiting[-1].result(PATIENCE)
    assert str(held[0].state) == "cancelling"
    for gate in gates:
        gate.open()
    if runner.where == "dask":  # which forgets what was cancelled
        with pytest.raises(CancelledError):
            held[0].result(PATIENCE)
    else:
        assert held[0].result(PATIENCE) == "went on"
    assert held[1].result(PATIENCE) == "went on"
    assert [job.result(PATIENCE) for job in waiting[:-1]] == [41] * 3
    with contextlib.suppress(CancelledError):
        assert waiting[-1].result(PATIENCE) == 41
        assert runner.where == "ipyparallel"  # whose engine began before it heard of it
    assert (waiting[-1].started is None) == (str(waiting[-1].state) == "cancelled")


@both
def test_a_closed_client_ends_its_jobs(house: House, client: Any, gates: list[Gate]) -> None:
    """They fail, and say why; the next launch fails, too."""
    runner = Executors().runner_for(client, "client")
    (job,) = hold(house, runner, gates[:1])
    client.close()
    error = job.exception(PATIENCE)
    assert isinstance(error, ProcessDied)
    assert runner.where in str(error).lower()
    gates[0].open()
    with pytest.raises(Exception, match=r".") as caught:
        house.launch(Executors().runner_for(client, "client"), "add(1)").result(PATIENCE)
    assert not isinstance(caught.value, TimeoutError)


def test_a_worker_of_dask_that_dies_fails_its_job(house: House) -> None:
    """When Dask gives it up; the cluster goes on."""
    from distributed import Client

    # One of its own, since Dask does not always start another worker in the place of this one.
    with local_cluster() as cluster, Client(cluster) as client:
        runner = Executors().runner_for(client, "client")
        error = house.launch(runner, "die()").exception(PATIENCE)
        assert type(error).__name__ == "KilledWorker"
        assert house.launch(runner, "add(2)").result(PATIENCE) == 42


@dask
def test_its_executor_is_as_honest_as_the_client(
    house: House, client: Any, gates: list[Gate]
) -> None:
    """Its own future says that it is cancelled while the worker runs on."""
    runner = Executors().runner_for(client.get_executor(), "executor")
    assert runner.where == "dask"
    (job,) = hold(house, runner, gates[:1])
    job.cancel()
    assert str(job.state) == "cancelling"
    gates[0].open()
    with pytest.raises(CancelledError):
        job.result(PATIENCE)


@dask
def test_a_client_that_must_be_awaited_is_refused(client: Any) -> None:
    """One line says what to give instead."""
    from distributed import Client

    async def refused() -> None:
        async with Client(client.scheduler.address, asynchronous=True) as awaited:
            with pytest.raises(BadInput, match="asynchronous Dask Client"):
                Executors().runner_for(awaited, "client")

    asyncio.run(refused())


@parallel
def test_a_view_of_several_engines_gives_a_list(house: House, client: Any) -> None:
    """Or fails, if one fails."""
    runner = Executors().runner_for(client[:], "view")
    assert house.launch(runner, "add(2)").result(PATIENCE) == [42, 42]
    with pytest.raises(house.namespace["Own"]):
        house.launch(runner, "fail()").result(PATIENCE)


def test_a_lost_cluster_ends_its_jobs(house: House, tmp_path: Path, gates: list[Gate]) -> None:
    """A scheduler that is killed takes nothing here with it; nor needs it this package."""
    from distributed import Client

    def start(what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
        options = ("--scheduler-file", str(tmp_path / "scheduler.json"))
        return subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL, cwd=tmp_path)

    scheduler = start("scheduler", "--port", "0", "--no-dashboard")
    worker = start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    try:
        with Client(scheduler_file=str(tmp_path / "scheduler.json")) as client:
            runner = Executors().runner_for(client, "client")
            cell = "x = add(1)\nlater()"  # this package is not installed there
            assert house.launch(runner, cell, cell=True).result(PATIENCE) == "later"
            assert house.launch(runner, "len(locals()) and add(2)").result(PATIENCE) == 42
            (job,) = hold(house, runner, gates[:1])
            scheduler.kill()
            assert isinstance(job.exception(PATIENCE), ProcessDied)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


@parallel
def test_an_engine_that_dies_fails_its_job(house: House, client: Any) -> None:
    """When the controller has noticed."""
    error = house.launch(Executors().runner_for(client, "client"), "die()").exception(PATIENCE)
    assert "died" in str(error)
