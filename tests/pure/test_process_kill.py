"""Worker processes that die, and jobs that are stopped there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from elsewhere import PATIENCE, Gate, House, stop
from patience import until
from processes import is_gone

from ipy_bgtasks.errors import ProcessDied
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.runners.processes import ProcessRunner

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and FIFOs")

SOURCE = """
import os, subprocess, sys, time

def add(n): return 40 + n
def wait(path):
    print("waiting")
    open(path).read()
    return "went on"
def in_c():
    print("in C")
    sum(range(10**15))
def with_child():
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def processes(house: House) -> Iterator[ProcessRunner]:
    """Two workers at most, none yet."""
    runner = ProcessRunner(max_processes=2)
    yield runner
    stop(runner)


def said(house: House, job: Record, text: str) -> Record:
    """Wait until the job has written something."""
    house.until(lambda: text in job.log.text)
    return job


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL (not for lack of memory)"),
        ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV (a crash in C code)"),
        ("os._exit(3)", "exited with code 3"),
        ("os._exit(0)", "exited with code 0"),
    ],
)
def test_a_worker_that_dies_fails_its_job_alone(
    house: House, processes: ProcessRunner, tmp_path: Path, code: str, how: str
) -> None:
    """The message says how; the job beside it goes on, and the next one has a new worker."""
    gate = Gate(tmp_path / "gate")
    house.namespace["path"] = gate.path
    beside = said(house, house.launch(processes, "wait(path)"), "waiting")
    job = house.launch(processes, f"print('last words'), {code}")
    error = job.exception(PATIENCE)
    assert isinstance(error, ProcessDied)
    assert str(error) == f"the worker process {how}"
    assert job.log.text == "last words\n"
    assert house.launch(processes, "add(2)").result(PATIENCE) == 42
    gate.open()
    assert beside.result(PATIENCE) == "went on"


def test_a_job_is_stopped_at_once_wherever_its_code_is(
    house: House, processes: ProcessRunner
) -> None:
    """In C code that never lets go of the interpreter, in well under a quarter of a second."""
    times = []
    for _ in range(5):
        job = said(house, house.launch(processes, "in_c()"), "in C")
        began = time.monotonic()
        job.cancel()
        with pytest.raises(CancelledError):
            job.result(PATIENCE)
        times.append(time.monotonic() - began)
        assert str(job.state) == "cancelled"
        assert house.states[job.number][-1] == "cancelling"
    assert min(times) < 0.25
    assert house.launch(processes, "add(2)").result(PATIENCE) == 42


def test_a_timeout_kills_too(house: House, processes: ProcessRunner) -> None:
    """It ends failed, with `TimeoutError`."""
    job = house.launch(processes, "in_c()", timeout=0.5)
    assert isinstance(job.exception(PATIENCE), TimeoutError)


def test_what_a_job_started_dies_with_it(house: House, processes: ProcessRunner) -> None:
    """The worker has a session of its own, and all of it is killed."""
    job = house.launch(processes, "with_child()")
    house.until(lambda: job.log.text.endswith("\n"))
    child = int(job.log.text)
    assert os.getsid(child) == job.pid
    job.cancel()
    with pytest.raises(CancelledError):
        job.result(PATIENCE)
    until(lambda: is_gone(child))


def test_a_job_can_be_cancelled_before_its_worker_started(
    house: House, processes: ProcessRunner
) -> None:
    """The first job of all waits for a process to start; the next one gets another."""
    job = house.launch(processes, "add(1)")
    job.cancel()
    with contextlib.suppress(CancelledError):
        job.result(PATIENCE)
    assert str(job.state) in ("cancelled", "finished")
    assert house.launch(processes, "add(2)").result(PATIENCE) == 42


def test_interrupts_do_not_reach_workers(
    house: House, processes: ProcessRunner, tmp_path: Path
) -> None:
    """Neither sent to the group of the launcher, nor to the worker itself."""
    gate = Gate(tmp_path / "gate")
    house.namespace["path"] = gate.path
    job = said(house, house.launch(processes, "wait(path)"), "waiting")
    worker = job.pid
    assert os.getpgid(worker) == worker != os.getpgrp()
    os.kill(worker, signal.SIGINT)
    gate.open()
    assert job.result(PATIENCE) == "went on"


def test_an_idle_worker_that_dies_is_replaced(house: House, processes: ProcessRunner) -> None:
    """Nobody's job is lost."""
    house.launch(processes, "add(1)").result(PATIENCE)
    (worker,) = processes._workers
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: is_gone(worker.pid))  # on a busy machine it goes on for a moment
    assert house.launch(processes, "add(2)").result(PATIENCE) == 42


def test_workers_killed_at_any_moment_leave_no_job_behind(
    house: House, processes: ProcessRunner
) -> None:
    """Every job ends; only those that a kill met fail."""
    dice = random.Random(7)
    jobs = []
    for _ in range(8):
        batch = [house.launch(processes, f"add({n})") for n in range(4)]
        for worker in list(processes._workers):
            if worker.pid is not None and dice.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
        if dice.random() < 0.5:
            dice.choice(batch).cancel()
        jobs += batch
    for job in jobs:
        with contextlib.suppress(CancelledError, ProcessDied):
            assert job.result(PATIENCE) in (40, 41, 42, 43)
    assert house.launch(processes, "add(2)").result(PATIENCE) == 42
    assert processes._queue == type(processes._queue)()


def test_lowering_the_limit_ends_workers_that_are_too_many(
    house: House, processes: ProcessRunner, tmp_path: Path
) -> None:
    """When their jobs are over."""
    gates = [Gate(tmp_path / name) for name in "ab"]
    jobs = []
    for gate in gates:
        house.namespace["path"] = gate.path
        jobs.append(said(house, house.launch(processes, "wait(path)"), "waiting"))
    processes.max_processes = 1
    first, second = (job.run.worker for job in jobs)
    for gate, job in zip(gates, jobs, strict=True):
        gate.open()
        assert job.result(PATIENCE) == "went on"
    assert first.closed.wait(PATIENCE)
    assert second.usable


def test_a_lower_limit_holds_for_workers_that_are_idle(
    house: House, processes: ProcessRunner, tmp_path: Path
) -> None:
    """They are not all used because they are there."""
    for job in [house.launch(processes, "add(2)") for _ in range(2)]:
        assert job.result(PATIENCE) == 42
    processes.max_processes = 1
    gate = Gate(tmp_path / "gate")
    house.namespace["path"] = gate.path
    first = said(house, house.launch(processes, "wait(path)"), "waiting")
    second = house.launch(processes, "add(2)")
    assert second.state == "queued"
    gate.open()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == ("went on", 42)


def test_leaving_kills_all_workers_and_returns_at_once(house: House) -> None:
    """Nothing of the pools is left, busy or not."""
    runner = ProcessRunner(max_processes=2)
    jobs = [said(house, house.launch(runner, "in_c()"), "in C") for _ in range(2)]
    pids = [job.pid for job in jobs]
    workers = list(runner._workers)
    began = time.monotonic()
    runner.shutdown()
    assert time.monotonic() - began < 0.2
    for worker in workers:
        assert worker.closed.wait(PATIENCE)
    assert all(is_gone(pid) for pid in pids)
