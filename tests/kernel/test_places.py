"""Jobs of a kernel that run in processes and on executors: output, cancelling, leaving."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from kernels import Kernel
from processes import is_gone

from ipy_bgtasks.text import strip_ansi

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and FIFOs")

SETUP = """
import os, sys, time, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from ipy_bgtasks import current_job, track

def wait(path):
    print("waiting")
    with open(path) as gate:
        gate.read()
    print("over")
    return os.getpid()

def count(n):
    for i in track(range(n)):
        print(i, end=" ")
    print("counted", file=sys.stderr)
    return n

def fail():
    raise LookupError("nothing here")
"""


def gate_in(path: Path) -> str:
    """A FIFO that holds whoever reads it until somebody opens it to write."""
    os.mkfifo(path)
    return str(path)


def open_gate(path: str) -> None:
    """Let one reader through."""
    with open(path, "w"):
        pass


#: Where a job may run, by the option, and what has to be done before.
PLACES = {
    "-p": "",
    "--on threads": "threads = ThreadPoolExecutor(2)",
    "--on local": "import submitit; local = submitit.AutoExecutor('jobs', cluster='local')",
    "--on ray": "import ray; ray.init(num_cpus=1, include_dashboard=False, logging_level='ERROR')",
}


@pytest.mark.parametrize("where", PLACES)
def test_output_comes_under_the_jobs_own_cell(shared: Kernel, tmp_path: Path, where: str) -> None:
    """While it runs, also when another cell runs at that moment; so does the traceback."""
    if PLACES[where].startswith("import "):
        name = PLACES[where].split(";")[0].split()[1]
        pytest.importorskip(name, reason=f"{name} is not installed")
    gate = gate_in(tmp_path / "gate")
    shared.ok(SETUP + f"path = {gate!r}\nos.chdir({str(tmp_path)!r})\n{PLACES[where]}")
    launch = shared.ok(f"job = %bg {where} wait(path)")
    shared.until(lambda: "waiting\n" in launch.stdout)
    shared.ok("assert job.state == 'running'")
    other = shared.start("job.result(30); print('other')")
    open_gate(gate)
    assert other.wait().stdout == "other\n"
    shared.until(lambda: launch.stdout == "waiting\nover\n")
    failing = shared.ok(f"job = %bg {where} fail()")
    shared.until(lambda: "LookupError" in failing.traceback)
    assert "nothing here" in failing.traceback
    assert "in fail" in strip_ansi(failing.traceback)
    counted = shared.ok(f"n = %bg {where} count(30)\nn = %fg n\n")
    assert counted.stdout.split() == [str(i) for i in range(30)]
    assert counted.stderr == "counted\n"


def test_a_process_is_named_while_it_runs(shared: Kernel, tmp_path: Path) -> None:
    """In the table, with its stack in the long form, and cancelled at once."""
    shared.ok(SETUP + f"path = {gate_in(tmp_path / 'gate')!r}")
    launch = shared.ok("job = %bg -p wait(path)")
    shared.until(lambda: "waiting" in launch.stdout)
    shown = shared.ok("%jobs").displays[-1]["text/plain"]
    assert "process " in shown
    pid = int(shown.split("process ")[1].split()[0])
    assert not is_gone(pid)
    told = shared.ok("%cancel job\nprint(job.state, job.where)")
    assert told.stdout.splitlines()[-1] == "cancelled process"
    assert is_gone(pid)


def test_one_line_says_what_is_wrong(shared: Kernel) -> None:
    """And nothing is launched."""
    shared.ok(SETUP + "lock = threading.Lock()")
    shared.ok(
        "class Holder:\n    def __init__(self): self.lock = lock\n    def run(self): pass\n"
        "holder = Holder()\ndef shell(): return get_ipython().user_ns\n"
        "def default(key=lock): return key"
    )
    for code, said in {
        "%bg -p holder.run()": "holder.lock is of type _thread.lock and cannot be sent",
        "%bg -p default()": "key, which default() uses, is of type _thread.lock",
        "%bg -p shell()": "get_ipython, which shell() uses, is of type method and cannot be sent "
        "to a process: it belongs to this session",
        "%bg -p wait(lock)": "lock is of type _thread.lock and cannot be sent to a process",
        "%bg --on lock wait(1)": "not an executor: it takes a concurrent.futures.Executor",
        "%bg --on nothing wait(1)": "--on nothing: NameError: name 'nothing' is not defined",
        "%bg -p --on lock wait(1)": "a job runs in one place: give one of --process and --on",
        "%bg --on lock !true": "a !command is a process of its own: it takes no --on",
    }.items():
        reply = shared.run(code)
        assert said in reply.stderr, code
        assert len(reply.stderr.splitlines()) == 1
    assert shared.ok("import ipy_bgtasks; len(ipy_bgtasks.jobs())").result == "0"


def test_an_executor_of_a_function_is_found(shared: Kernel) -> None:
    """EXPR sees the locals of the function that launches, and may be any expression."""
    shared.ok(
        SETUP + "def launch(n):\n"
        "    with ThreadPoolExecutor(1) as pool:\n"
        "        return get_ipython().run_line_magic('bg', '--on pool count(n)')\n"
        "pools = {'a b': ProcessPoolExecutor(1)}"
    )
    assert shared.ok("launch(3).result(30)").result == "3"
    assert shared.ok("job = %bg --on pools['a b'] count(4)\nx = %fg job\nx").result == "4"
    shown = shared.ok("%jobs %").displays[-1]["text/plain"]
    assert "what other processes of the executor print stays there" in shown
    shared.ok("pools['a b'].shutdown()")


def test_cancelling_what_an_executor_cannot_stop(shared: Kernel, tmp_path: Path) -> None:
    """Says that it goes on there, and the job is cancelling until it has ended."""
    gate = gate_in(tmp_path / "gate")
    shared.ok(SETUP + f"path = {gate!r}\npool = ThreadPoolExecutor(1)")
    launch = shared.ok("job = %bg --on pool wait(path)")
    shared.until(lambda: "waiting" in launch.stdout)
    told = shared.ok("%config BgTasks.cancel_wait = 0.1\n%cancel job\nprint(job.state)")
    assert "still running there" in told.stdout or "still in" in told.stdout
    assert told.stdout.splitlines()[-1] == "cancelling"
    open_gate(gate)
    shared.ok("job.result(30)")


def test_the_limit_can_be_set(shared: Kernel, tmp_path: Path) -> None:
    """Jobs beyond `max_processes` are queued."""
    gate = gate_in(tmp_path / "gate")
    shared.ok(SETUP + f"path = {gate!r}")
    first = shared.ok("%config BgTasks.max_processes = 1\nfirst = %bg -p wait(path)")
    shared.until(lambda: "waiting" in first.stdout)
    states = "second = %bg -p count(2)\nprint(first.state, second.state)"
    assert shared.ok(states).stdout == "running queued\n"
    open_gate(gate)
    assert shared.ok("second.result(30)").result == "2"


def test_an_interrupt_reaches_no_worker(kernel: Kernel, tmp_path: Path) -> None:
    """Whatever the stop button signals."""
    gate = gate_in(tmp_path / "gate")
    kernel.ok(SETUP + f"path = {gate!r}")
    launch = kernel.ok("job = %bg -p wait(path)")
    kernel.until(lambda: "waiting" in launch.stdout)
    pending = kernel.start("print('in it', flush=True)\ntime.sleep(100)")
    kernel.until(lambda: pending.reply.stdout)
    while not pending.reply.done:  # one that lands in the middle of `print` may get lost there
        kernel.interrupt()
        with contextlib.suppress(AssertionError):
            kernel.until(lambda: pending.reply.done, timeout=5)
    assert pending.reply.ename == "KeyboardInterrupt"
    open_gate(gate)
    assert kernel.ok("job.result(30)").status == "ok"


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_no_process_outlives_the_kernel(kernel: Kernel, how: str) -> None:
    """Whether it is shut down or killed, with all workers busy, one of them stuck in C."""
    kernel.ok("%config BgTasks.max_processes = 2\nimport os, subprocess, time")
    stuck = kernel.ok("%bg -p print(os.getpid(), flush=True), sum(range(10**15));")
    kernel.until(lambda: stuck.stdout)
    kernel.ok(
        "def parent():\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        "    print(os.getpid(), child.pid, flush=True)\n"
        "    time.sleep(1000)"
    )
    parent = kernel.ok("%bg -p parent();")
    kernel.until(lambda: parent.stdout.endswith("\n"))
    pids = [int(word) for word in (stuck.stdout + parent.stdout).split()]
    assert len(pids) == 3
    began = time.monotonic()
    if how == "kill":
        kernel.kill()
    else:
        assert kernel.shutdown() < 5
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() - began < 10


def test_workers_that_are_only_starting_hold_up_no_shutdown(kernel: Kernel) -> None:
    """They are neither waited for nor replaced."""
    kernel.ok("import time\nfor _ in range(4):\n    %bg -p time.sleep(1000);\n")
    assert kernel.shutdown() < 5


def test_a_cell_in_a_process_takes_nothing_that_it_makes_itself(shared: Kernel) -> None:
    """The session's lock of that name could not be sent."""
    shared.ok("import threading\nlock = threading.Lock()")
    shared.ok("%%bg -p -n own\nlock = threading.Lock()\nwith lock:\n    made = 7\nmade")
    assert shared.ok("%fg %own").result == "7"
