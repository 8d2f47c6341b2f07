"""What a worker process is: what it costs while idle, and what it takes over from the session."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from elsewhere import PATIENCE, Gate, House, stop

import ipy_bgtasks
from ipy_bgtasks.runners import processes
from ipy_bgtasks.runners.processes import ProcessRunner

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gates are FIFOs")

SOURCE = """
import os
def wait(path):
    open(path).read()
    return os.getpid()
"""

#: Tells, from a worker, with which options its interpreter runs.
SCRIPT = """
from elsewhere import PATIENCE, House, stop
from ipy_bgtasks.runners.processes import ProcessRunner

house = House('''
import sys
def told():
    quiet = "ignore::ResourceWarning" in sys.warnoptions
    return sys.flags.optimize, sys.flags.utf8_mode, quiet, sys._xoptions["mine"]
''')
runner = ProcessRunner()
print(*house.launch(runner, "told()").result(PATIENCE))
stop(runner)
"""


#: Runs a job in a worker while a debugger listens.
DEBUGGED = """
import os
import debugpy
debugpy.listen(("127.0.0.1", 0))
from elsewhere import PATIENCE, House
from ipy_bgtasks.runners.processes import ProcessRunner

job = House("def f(): return 42").launch(ProcessRunner(), "f()")
print(job.result(PATIENCE / 4), flush=True)
os._exit(0)  # debugpy leaves a thread that is no daemon
"""


def children() -> set[int]:
    """The child processes of this one."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("only /proc says which children there are")
    found: set[int] = set()
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            found.update(map(int, (task / "children").read_text().split()))
    return found


def test_workers_are_used_again_and_cost_a_thread_each_and_no_other_process(
    tmp_path: Path,
) -> None:
    """Two jobs at once, then two more: the same workers, the same threads."""
    house, runner = House(SOURCE), ProcessRunner(max_processes=2)
    threads, others = set(threading.enumerate()), children()
    pids = []
    for turn in range(2):
        gates = [Gate(tmp_path / f"{turn}-{n}") for n in range(2)]
        jobs = []
        for gate in gates:
            house.namespace["path"] = gate.path
            jobs.append(house.running(house.launch(runner, "wait(path)")))
        for gate in gates:
            gate.open()
        pids.append({job.result(PATIENCE) for job in jobs})
        house.until(lambda: not house.registry.alive())
    assert len(pids[0]) == 2
    assert pids[0] == pids[1] == children() - others
    new = [each.name for each in set(threading.enumerate()) - threads]
    assert new.count("bg-process") == 2
    assert len(new) <= 3, new  # the registry may have started its loop
    stop(runner)


def test_a_worker_has_the_options_of_the_sessions_interpreter(tmp_path: Path) -> None:
    """As the standard library's workers have: -O, -W and -X change what code does."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    roots = [str(Path(ipy_bgtasks.__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-O", "-Wignore::ResourceWarning", "-Xutf8", "-Xmine=1", str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "1 1 True 1\n", done.stderr


def test_a_debugger_keeps_no_worker_from_starting(tmp_path: Path) -> None:
    """It starts every other Python program under itself, and there waits for a client."""
    pytest.importorskip("debugpy")
    script = tmp_path / "script.py"
    script.write_text(DEBUGGED)
    roots = [str(Path(ipy_bgtasks.__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-Xfrozen_modules=off", str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "42\n"


def test_a_worker_that_takes_long_to_come_up_is_named_in_its_jobs_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job would be `queued`, and nobody knew why."""
    gate = Gate(tmp_path / "gate")
    (tmp_path / "sitecustomize.py").write_text(f"open({str(gate.path)!r}).read()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(processes, "_LATE", 0.1)
    house, runner = House(SOURCE), ProcessRunner(max_processes=1)
    job = house.launch(runner, "os.getpid()")
    house.until(lambda: "has not come up for 0.1 s" in job.log.text)
    gate.open()
    pid = job.result(PATIENCE)
    assert job.log.text == f"[its worker process, {pid}, has not come up for 0.1 s]\n"
    stop(runner)


def test_killing_a_worker_that_is_gone_signals_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's by then."""
    house, runner = House(SOURCE), ProcessRunner(max_processes=1)
    house.launch(runner, "os.getpid()").result(PATIENCE)
    (worker,) = runner._workers
    worker.kill()
    assert worker.closed.wait(PATIENCE)
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: signalled.append(group))
    worker.kill()
    assert signalled == []
