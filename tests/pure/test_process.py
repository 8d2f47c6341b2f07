"""Jobs in worker processes: what goes there, what comes back, and in which order."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from elsewhere import PATIENCE, Gate, House, stop

from ipy_bgtasks.errors import BadInput, CannotSend, ProcessDied, RemoteTraceback
from ipy_bgtasks.runners.processes import ProcessRunner

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gates are FIFOs")

SOURCE = """
import os, sys, threading
from ipy_bgtasks import current_job, track

base = 40
lock = threading.Lock()

def add(n): return base + n
def uses_lock(): return lock
def indirect(): return uses_lock()
def say(n):
    for i in track(range(n)):
        print("line", i)
    print("err", file=sys.stderr)
    sys.stdout.write("no newline")
def wait(path):
    print("waiting")
    open(path).read()
    return os.getpid()
async def later():
    import asyncio
    await asyncio.sleep(0)
    return "later"
class Point:
    def __init__(self, x): self.x = x
class Own(Exception): pass
class TwoArguments(Exception):
    def __init__(self, a, b): super().__init__(a)
def fail(): raise Own("mine")
def fail_unreadably(): raise TwoArguments(1, 2)
def fail_deep():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise Own("outer") from error
"""


@pytest.fixture(scope="module")
def processes(house: House) -> Iterator[ProcessRunner]:
    """Two workers for all tests of this file."""
    runner = ProcessRunner(max_processes=2)
    yield runner
    stop(runner)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """What holds a job."""
    return Gate(tmp_path / "gate")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("add(2)", 42),
        ("lambda: base + 3", 43),
        ("(lambda n: [add(n) for n in range(n)])(2)", [40, 41]),
        ("os.getpid() == os.getsid(0)", True),
        ("later()", "later"),
        ("await later()", "later"),
        ("later", "later"),
        ("type(current_job()).__name__", "RemoteJob"),
        ("sys.stdin.read()", ""),
        ("Point(3).x", 3),
    ],
)
def test_what_the_notebook_defines_runs_there(
    house: House, processes: ProcessRunner, code: str, value: object
) -> None:
    """Functions, lambdas, classes and coroutines of `__main__`, over copies of their globals."""
    assert house.launch(processes, code).result(PATIENCE) == value


def test_instances_of_the_notebooks_classes_come_back_as_such(
    house: House, processes: ProcessRunner
) -> None:
    """A class that travels there and back is the same class."""
    point = house.launch(processes, "Point(5)").result(PATIENCE)
    assert isinstance(point, house.namespace["Point"])
    assert house.launch(processes, "lambda: add").result(PATIENCE)(1) == 41


def test_names_are_copied_at_launch_and_results_are_bound_here(
    house: House, processes: ProcessRunner
) -> None:
    """What is assigned later does not count; `name = …` binds in the user's namespace."""
    house.namespace["items"] = items = [1]
    job = house.launch(processes, "total = sum(items)")
    items.append(1000)
    job.result(PATIENCE)
    assert house.namespace["total"] == 1


def test_a_cell_runs_over_copies(house: House, processes: ProcessRunner) -> None:
    """Its functions see what it assigns, its last value is the result, and here nothing changes."""
    cell = "base = 100\ndef local(): return base\nadd(1) + local()"
    assert house.launch(processes, cell, cell=True).result(PATIENCE) == 201
    assert house.namespace["base"] == 40
    assert "local" not in house.namespace
    assert house.launch(processes, "await later()\n", cell=True).result(PATIENCE) == "later"


def test_a_job_that_waits_for_others_takes_their_results_along(
    house: House, processes: ProcessRunner
) -> None:
    """Names that other jobs assign are copied when it starts."""
    first = house.launch(processes, "made = add(1)")
    second = house.launch(processes, "made + 1", after=[first])
    assert second.result(PATIENCE) == 42


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("add(lock)", "lock is of type _thread.lock"),
        ("uses_lock()", "lock, which uses_lock() uses, is of type _thread.lock"),
        ("indirect()", "lock, which uses_lock() uses, is of type _thread.lock"),
        ("(lambda: lock)()", "lock is of type _thread.lock"),
    ],
)
def test_what_cannot_be_sent_is_named_at_launch(
    house: House, processes: ProcessRunner, code: str, named: str
) -> None:
    """In one line; nothing is launched."""
    before = len(house.registry)
    with pytest.raises(BadInput) as caught:
        house.launch(processes, code)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(house.registry) == before


def test_magics_in_a_cell_are_refused(house: House, processes: ProcessRunner) -> None:
    """They need the session."""
    house.namespace["get_ipython"] = lambda: None
    with pytest.raises(BadInput, match="magics and ! lines need the session"):
        house.launch(processes, "get_ipython().run_line_magic('pwd', '')", cell=True)


def test_without_the_extra_it_says_what_to_install(house: House) -> None:
    """One line."""
    with (
        mock.patch.dict(sys.modules, {"cloudpickle": None}),
        pytest.raises(BadInput) as caught,
    ):
        house.launch(ProcessRunner(), "add(1)")
    assert str(caught.value) == ('--process needs cloudpickle: pip install "ipy_bgtasks[process]"')


def test_output_and_progress_come_in_order_and_before_the_end(
    house: House, processes: ProcessRunner
) -> None:
    """Each stream whole; `track` in the worker sets the job's progress here."""
    job = house.launch(processes, "say(300)")
    job.result(PATIENCE)
    assert job.log.stdout == "".join(f"line {i}\n" for i in range(300)) + "no newline"
    assert job.log.stderr == "err\n"
    assert job.progress is not None
    assert job.progress.fraction == 1


def test_output_comes_while_the_job_runs(
    house: House, processes: ProcessRunner, gate: Gate
) -> None:
    """And the job says in which process it is, until it has ended."""
    house.namespace["path"] = gate.path
    job = house.running(house.launch(processes, "wait(path)"))
    house.until(lambda: "waiting" in job.log.text)
    pid = job.pid
    gate.open()
    assert pid == job.result(PATIENCE)
    assert (job.where, job.pid) == ("process", None)


def test_what_forked_children_and_late_threads_write_breaks_nothing(
    house: House, processes: ProcessRunner
) -> None:
    """A child of the worker does not write into the worker's messages."""
    code = "import os\npid = os.fork()\nprint('who')\npid or os._exit(0)\nos.waitpid(pid, 0)[1]"
    job = house.launch(processes, code, cell=True)
    assert job.result(PATIENCE) == 0
    assert job.log.stdout == "who\n"


def test_exceptions_keep_their_type_and_bring_the_traceback_along(
    house: House, processes: ProcessRunner
) -> None:
    """As text, without our own frames."""
    job = house.launch(processes, "fail_deep()")
    with pytest.raises(house.namespace["Own"], match="outer") as caught:
        job.result(PATIENCE)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "ZeroDivisionError" in str(cause)
    assert "in fail_deep" in str(cause)
    assert "ipy_bgtasks" not in str(cause)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("uses_made_lock()", "its result, of type lock, cannot be sent"),
        ("(n for n in [1]).gi_frame", "its result, of type frame, cannot be sent"),
        ("fail_unreadably()", "TwoArguments: 1 (which itself cannot be sent"),
    ],
)
def test_what_cannot_come_back_fails_with_one_line(
    house: House, processes: ProcessRunner, code: str, said: str
) -> None:
    """It says what it was, below an exception's own traceback; the worker lives on."""
    exec(
        "def uses_made_lock():\n    import threading\n    return threading.Lock()", house.namespace
    )
    error = house.launch(processes, code).exception(PATIENCE)
    assert isinstance(error, CannotSend)
    assert said in str(error)
    assert "\n" not in str(error)
    *above, line = error._render_traceback_()
    assert line == f"CannotSend: {error}"
    assert ("in fail_unreadably" in "\n".join(above)) is code.startswith("fail")


def test_exits_are_failures_of_the_job_alone(house: House, processes: ProcessRunner) -> None:
    """`sys.exit` ends neither the worker nor anything here."""
    error = house.launch(processes, "sys.exit(3)").exception(PATIENCE)
    assert isinstance(error, SystemExit)
    assert house.launch(processes, "add(1)").result(PATIENCE) == 41


def test_large_data_go_and_come(house: House, processes: ProcessRunner) -> None:
    """Larger than any buffer, also while the worker is only starting."""
    house.namespace["data"] = os.urandom(5_000_000)
    assert house.launch(processes, "data[::-1]").result(PATIENCE) == house.namespace["data"][::-1]
    fresh = ProcessRunner(max_processes=1)
    assert house.launch(fresh, "len(data)").result(PATIENCE) == 5_000_000
    stop(fresh)


def test_jobs_beyond_the_workers_are_queued_in_order(
    house: House, processes: ProcessRunner, gate: Gate, tmp_path: Path
) -> None:
    """And a queued one that is cancelled never starts."""
    house.namespace["path"] = gate.path
    other = Gate(tmp_path / "other")
    house.namespace["other"] = other.path
    held = [house.running(house.launch(processes, f"wait({name})")) for name in ("path", "other")]
    queued = [house.launch(processes, f"add({n})") for n in range(3)]
    assert [str(job.state) for job in queued] == ["queued"] * 3
    queued[1].cancel()
    assert str(queued[1].state) == "cancelled"
    gate.open()
    assert queued[2].result(PATIENCE) == 42
    other.open()
    for job in held:
        job.result(PATIENCE)
    assert queued[1].started is None
    assert queued[0].started <= queued[2].started
    with pytest.raises(CancelledError):
        queued[1].result()


def test_the_stack_is_the_workers(house: House, processes: ProcessRunner, gate: Gate) -> None:
    """The user's frames, the innermost last."""
    house.namespace["path"] = gate.path
    job = house.running(house.launch(processes, "wait(path)"))
    house.until(lambda: "waiting" in job.log.text)
    stack: list[Any] = []
    while [frame.name for frame in stack][:2] != ["<module>", "wait"]:  # a busy machine may not
        stack = job.stack()  # answer in time
        assert not job.done()
    gate.open()
    job.result(PATIENCE)
    assert job.stack() == []


def test_nothing_of_a_job_is_kept_when_it_is_forgotten(
    house: House, processes: ProcessRunner
) -> None:
    """Neither here nor in threads of workers."""
    house.registry.on_discard.append(processes.discard)
    house.launch(processes, "add(1)").result(PATIENCE)
    threads = threading.active_count()
    for n in range(20):
        house.launch(processes, f"add({n})").result(PATIENCE)
    house.until(lambda: not house.registry.alive())
    left = weakref.WeakSet(house.registry)
    assert len(left) > 20
    house.registry.prune()
    gc.collect()
    assert len(left) == 0
    assert threading.active_count() <= threads


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("return 1", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise ValueError('of the child')", 1, "ValueError: of the child"),
    ],
)
def test_a_forked_child_ends_as_a_script_does(
    capfd: pytest.CaptureFixture[str], end: str, status: int, says: str
) -> None:
    """And says nothing of ours; the job goes on."""
    house = House(
        f"import os\ndef f():\n if (child := os.fork()) == 0:\n  {end}\n"
        " return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])"
    )
    runner = ProcessRunner(max_processes=1)  # its stderr is what this test captures
    assert house.launch(runner, "f()").result(PATIENCE) == status
    stop(runner)
    written = capfd.readouterr().err
    assert written.rpartition("\n")[0].rpartition("\n")[2] == says
    assert "ipy_bgtasks" not in written


def test_what_cannot_be_looked_at_does_not_kill_the_worker(processes: ProcessRunner) -> None:
    """An exception whose `__getattr__` raises something else than AttributeError, and a value."""
    house = House(
        "class Slip(Exception):\n def __getattr__(self, name): return {}[name]\n"
        "def raises(): raise Slip('slipped')"
    )
    error = house.launch(processes, "raises()").exception(PATIENCE)
    assert "slipped" in str(error)
    assert not isinstance(error, ProcessDied)
    house.launch(processes, "Slip()").exception(PATIENCE)
    assert house.launch(processes, "1 + 1").result(PATIENCE) == 2
