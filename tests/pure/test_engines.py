"""Jobs on whatever submits: submitit, Slurm, Ray, executorlib, MPI, and what is not known."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from elsewhere import COMMON, PATIENCE, Gate, House
from patience import until

from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.runners.executors import Executors
from ipy_bgtasks.views.describe import row

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="gates are FIFOs"),
    # Of the engines themselves, on their way up and down.
    pytest.mark.filterwarnings("ignore"),
]

SOURCE = f"""
{COMMON}
import sys, time
def wait(path):
    print("waits")
    with open(path) as gate:
        gate.read()
    print("went on"), print("on", file=sys.stderr)
    return "went on"
def compute():
    print("computes")
    while True:
        sum(range(1000))
"""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """What holds a job."""
    return Gate(tmp_path / "gate")


def submitit(folder: Path, cluster: str, **options: Any) -> Any:
    """An executor of submitit's."""
    module = pytest.importorskip("submitit", reason="submitit is not installed")
    executor = module.AutoExecutor(folder=folder / "jobs", cluster=cluster)
    executor.update_parameters(**options)
    return executor


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """Submitit's processes on this machine."""
    return submitit(tmp_path, "local")


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """Slurm, through submitit, with a job that takes all of the machine."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo", "-h"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here")
    return submitit(tmp_path, "slurm", slurm_exclusive=True)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two workers."""
    module = pytest.importorskip("ray", reason="ray is not installed")
    module.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield module
    module.shutdown()


@pytest.fixture(params=["local", "slurm", "ray"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Each of the three, one by one."""
    return request.getfixturevalue(request.param)


def text(job: Any, stream: str | None = None) -> str:
    """What a job has printed."""
    return "".join(e.text for e in job.log.tail(10_000) if stream in (None, e.stream))


def test_results_exceptions_and_output_come_back(house: House, engine: Any, gate: Gate) -> None:
    """The output while it runs, under the name of the place."""
    runner = Executors().runner_for(engine, "engine")
    house.namespace["path"] = gate.path
    job = house.running(house.launch(runner, "wait(path)"))
    house.until(lambda: job.has_output and "waits\n" in text(job))
    assert str(job.state) == "running"
    gate.open()
    assert job.result(PATIENCE) == "went on"
    assert (text(job, "stdout"), text(job, "stderr")) == ("waits\nwent on\n", "on\n")
    assert job.where.split()[0] == runner.where
    with pytest.raises(house.namespace["Own"], match="mine") as caught:
        house.launch(runner, "fail()").result(PATIENCE)
    assert "in fail" in "".join(traceback.format_exception(caught.value))


def test_a_job_that_runs_can_be_ended(house: House, engine: Any) -> None:
    """And is cancelled only when it has ended."""
    job = house.running(house.launch(Executors().runner_for(engine, "engine"), "compute()"))
    house.until(lambda: job.has_output and "computes" in text(job))
    job.cancel()
    assert str(job.state) == "cancelling"
    with pytest.raises(CancelledError):
        job.result(PATIENCE)


def test_a_worker_that_dies_fails_its_job(house: House, engine: Any) -> None:
    """In a line that says so."""
    error = house.launch(Executors().runner_for(engine, "engine"), "die()").exception(PATIENCE)
    assert type(error).__name__ in ("ProcessDied", "WorkerCrashedError")
    assert "cancel" not in str(error)


def test_force_kills_what_ray_only_interrupts(house: House, ray: Any) -> None:
    """Its interrupt wakes nobody who sleeps."""
    job = house.running(house.launch(Executors().runner_for(ray, "ray"), "time.sleep(600)"))
    job.cancel()
    assert "-f kills" in job.run.note
    job.cancel(force=True)
    with pytest.raises(CancelledError):
        job.result(PATIENCE)


def test_slurm_says_why_a_job_waits(house: House, slurm: Any, gate: Gate) -> None:
    """And its number; what is cancelled meanwhile never starts."""
    runner = Executors().runner_for(slurm, "slurm")
    house.namespace["path"] = gate.path
    held = house.running(house.launch(runner, "wait(path)"))
    waiting = house.launch(runner, "add(1)")
    until(lambda: row(waiting).last)
    assert row(waiting).last in ("Slurm: Resources", "Slurm: Priority", "Slurm: None")
    assert row(waiting).state == "queued"
    assert re.fullmatch(r"slurm \d+", waiting.where)
    waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    assert waiting.started is None
    gate.open()
    assert held.result(PATIENCE) == "went on"
    assert re.fullmatch(r"slurm \d+", held.where)


def test_what_waits_for_slurm_does_not_outlive_the_session(
    house: House, slurm: Any, gate: Gate
) -> None:
    """Nobody would see it begin."""
    runner = Executors().runner_for(slurm, "slurm")
    house.namespace["path"] = gate.path
    held = house.running(house.launch(runner, "wait(path)"))
    waiting = house.launch(runner, "add(1)")
    until(lambda: waiting.where != "slurm")
    runner.shutdown()
    command = ["squeue", "-h", "-t", "all", "-o", "%T", "-j", waiting.where.split()[1]]
    until(lambda: subprocess.check_output(command, text=True).strip() == "CANCELLED")
    gate.open()
    assert held.result(PATIENCE) == "went on"


def test_a_batch_of_submitits_is_one_array(house: House, slurm: Any) -> None:
    """Jobs that are launched in it have numbers of their own in the array."""
    runner = Executors().runner_for(slurm, "slurm")
    with slurm.batch():
        jobs = [house.launch(runner, f"add({n})") for n in range(2)]
    assert [job.result(PATIENCE) for job in jobs] == [40, 41]
    number = jobs[0].where.partition("_")[0]
    assert [job.where for job in jobs] == [f"{number}_0", f"{number}_1"]


def test_ray_takes_resources(house: House, ray: Any) -> None:
    """Its decorator with options is a place; one for each set of options."""
    executors = Executors()
    runner = executors.runner_for(ray.remote(num_cpus=2), "x")
    assert house.launch(runner, "add(2)").result(PATIENCE) == 42
    assert executors.runner_for(ray.remote(num_cpus=2), "x") is runner
    assert executors.runner_for(ray.remote(num_cpus=1), "x") is not runner


def test_jobs_of_a_ray_that_is_shut_down_fail(house: House, ray: Any) -> None:
    """The last test of Ray here: its cluster is gone then."""
    job = house.running(house.launch(Executors().runner_for(ray, "ray"), "time.sleep(600)"))
    ray.shutdown()
    assert isinstance(job.exception(PATIENCE), ProcessDied)


class Handle:
    """What an unknown engine may give: no future."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.cancelled = threading.Event()
        self._call = call
        self.ready = threading.Event()

    def done(self) -> bool:
        """Whether the result can be had."""
        return self.ready.is_set() or self.cancelled.is_set()

    def result(self) -> Any:
        """Run it."""
        if self.cancelled.is_set():
            raise RuntimeError("it was ended")
        return self._call()

    def cancel(self) -> None:
        """End it."""
        self.cancelled.set()


class Submits:
    """The least that is an executor."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        """Take a call."""
        self.handles.append(Handle(lambda: fn(*args)))
        return self.handles[-1]


def test_whatever_submits_is_an_executor(house: House) -> None:
    """Its handle need not call back, nor say whether it runs."""
    engine = Submits()
    runner = Executors().runner_for(engine, "engine")
    job = house.running(house.launch(runner, "add(2)"))
    assert str(job.state) == "running"
    engine.handles[0].ready.set()
    assert job.result(PATIENCE) == 42
    assert job.where == "executor"
    cancelled = house.running(house.launch(runner, "add(2)"))
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE)


def test_what_gives_no_handle_is_refused(house: House) -> None:
    """One line says what is missing; the job is not left behind."""

    class Fires:
        def submit(self, fn: Callable[..., Any], *args: Any) -> None:
            """Forget it."""

    with pytest.raises(BadInput, match=r"Fires.submit\(\) gave None, .* done\(\) and result\(\)"):
        house.launch(Executors().runner_for(Fires(), "fires"), "add(2)").result(PATIENCE)


def executorlib() -> Any:
    """Processes of executorlib's on this machine."""
    module = pytest.importorskip("executorlib", reason="executorlib is not installed")
    return module.SingleNodeExecutor(max_workers=1)


def mpi() -> Any:
    """A pool of MPI's."""
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor
    except (ImportError, RuntimeError):
        pytest.skip("mpi4py or its MPI is not installed")
    assert MPI.COMM_WORLD.size == 1
    return MPIPoolExecutor(max_workers=1)


def interpreters() -> Any:
    """A pool of interpreters."""
    if sys.version_info < (3, 14):
        pytest.skip("InterpreterPoolExecutor comes with Python 3.14")
    from concurrent.futures import InterpreterPoolExecutor

    return InterpreterPoolExecutor(max_workers=1)


@pytest.mark.parametrize("make", [executorlib, mpi, interpreters])
def test_other_executors_are_taken(house: House, make: Callable[[], Any]) -> None:
    """With nothing known of them but that their handles are futures."""
    with make() as pool:
        runner = Executors().runner_for(pool, "pool")
        assert house.launch(runner, "add(2)").result(PATIENCE) == 42
        with pytest.raises(house.namespace["Own"], match="mine") as caught:
            house.launch(runner, "fail()").result(PATIENCE)
        assert "in fail" in "".join(traceback.format_exception(caught.value))
