"""`%cancel --pause`: a job's processes stop where they are, and go on with `%bg 3` or `%fg 3`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from kernels import Kernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

#: Counts in a file, so that anybody can see whether it runs.
COUNT = """
import itertools, time
def count(path):
    for n in itertools.count():
        with open(path, 'a') as file: file.write('.')
        print(n, flush=True)
        time.sleep(0.01)
"""
LAUNCH = {
    "command": "%bg !{python} -c 'import prog; prog.count(\"{path}\")'",
    "process": "%bg -p count({path!r})",
    "kept": "%bg --keep !{python} -c 'import prog; prog.count(\"{path}\")'",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file in which a job counts."""
    return tmp_path / "count"


def start(kernel: Kernel, path: Path, where: str) -> str:
    """Launch a job that counts, wait until it does, and return its number."""
    kernel.ok(f"import os\nwith open('prog.py', 'w') as file: _ = file.write({COUNT!r})")
    kernel.ok(COUNT)
    kernel.ok("job = None")
    kernel.ok("job = " + LAUNCH[where].format(path=str(path), python=sys.executable))
    moves(kernel, path)
    return kernel.ok("print(job.number)").stdout.strip()


def size(path: Path) -> int:
    """How far it has counted."""
    return path.stat().st_size if path.exists() else 0


def moves(kernel: Kernel, path: Path) -> None:
    """Wait until it counts on."""
    before = size(path)
    kernel.until(lambda: kernel.wait_a_moment(0.01) or size(path) > before)


def states(pid: int) -> str:
    """The state of a process: T if it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("where", [*LAUNCH])
@pytest.mark.parametrize("again", ["%bg", "%fg"])
def test_it_stands_still_and_goes_on(kernel: Kernel, path: Path, where: str, again: str) -> None:
    """Its time stands still, too; all say that it is paused."""
    number = start(kernel, path, where)
    pid = int(kernel.ok("print(job.pid)").stdout)
    said = kernel.ok("%cancel --pause job").stdout
    assert said.startswith(f"job {number} (")
    assert said.endswith(f" is paused: %bg {number} or %fg {number} go on with it\n")
    kernel.until(lambda: kernel.wait_a_moment(0.01) or states(pid) == "T")
    assert kernel.ok("print(job.state)").stdout == "paused\n"
    elapsed = kernel.ok("print(job.elapsed)").stdout
    assert f"%bg {number} lets it go on" in kernel.ok("%jobs").displays[0]["text/plain"]
    assert kernel.ok("print(job.elapsed)").stdout == elapsed
    assert kernel.ok("print(job.describe()['state'])").stdout == "paused\n"
    if again == "%bg":
        assert f"job {number} (" in kernel.ok(f"%bg {number}").stdout
        moves(kernel, path)
        assert kernel.ok("print(job.state)").stdout == "running\n"
    else:
        waits = kernel.start(f"%fg {number}")
        moves(kernel, path)
        kernel.interrupt()
        assert waits.wait().ename == "Detached"
    assert "cancelled" in kernel.ok("%config BgTasks.cancel_wait = 20\n%cancel job").stdout


@pytest.mark.parametrize("where", [*LAUNCH])
def test_cancel_ends_a_paused_one_at_once(kernel: Kernel, path: Path, where: str) -> None:
    """It need not go on first."""
    number = start(kernel, path, where)
    kernel.ok("%cancel --pause job")
    kernel.ok("%config BgTasks.cancel_wait = 20\n%config BgTasks.cancel_grace = 60")
    assert kernel.ok("%cancel job").stdout.startswith(f"job {number} (")
    assert kernel.ok("print(job.state)").stdout == "cancelled\n"


def test_somebody_else_may_pause_it(kernel: Kernel, path: Path) -> None:
    """One word, whoever did it."""
    start(kernel, path, "command")
    pid = int(kernel.ok("print(job.pid)").stdout)
    os.kill(pid, 19)
    kernel.until(lambda: kernel.wait_a_moment(0.01) or states(pid) == "T")
    assert "paused" in kernel.ok("%jobs").displays[0]["text/plain"]
    assert kernel.ok("print(job.state)").stdout == "paused\n"
    os.kill(pid, 18)
    kernel.until(lambda: kernel.wait_a_moment(0.01) or states(pid) != "T")
    assert "running" in kernel.ok("%jobs").displays[0]["text/plain"]
    kernel.ok("%cancel -f job")


def test_its_timeout_waits_as_well(kernel: Kernel, path: Path) -> None:
    """Time that stands still does not run out."""
    kernel.ok("job = %bg --timeout 1 !sleep 1000")
    kernel.until(lambda: "running" in kernel.ok("print(job.state)").stdout)
    kernel.ok("%cancel --pause job")
    kernel.ok("import time; time.sleep(1.5)")  # longer than its time
    assert kernel.ok("print(job.state)").stdout == "paused\n"
    kernel.ok("%bg 1")
    reply = kernel.run("%fg 1")
    assert (reply.ename, reply.evalue) == ("TimeoutError", "job 1 took longer than 1 s")


def test_of_a_group_no_more_start(kernel: Kernel, path: Path) -> None:
    """Until it goes on."""
    kernel.ok("for n in range(3):\n    %bg -g g:1 !sleep {1000 if n == 0 else 0}")
    assert "no more jobs of @g start until %bg @g" in kernel.ok("%cancel --pause @g").stdout
    kernel.ok("%cancel -f 1")
    kernel.until(lambda: "cancelled" in kernel.ok("%jobs 1").displays[0]["text/plain"])
    assert "paused: %bg @g lets it go on" in kernel.ok("%jobs @g").displays[0]["text/plain"]
    assert kernel.ok("print(*(j.state for j in __import__('ipy_bgtasks').jobs()))").stdout == (
        "cancelled queued queued\n"
    )
    kernel.ok("%bg @g")
    kernel.ok("%fg 3")


def test_a_paused_one_leaves_its_slot_to_the_next_where_the_group_says_so(kernel: Kernel) -> None:
    """Not in a group with a limit alone."""
    for name, then in (("a:1", "queued"), ("b:1+", "running")):
        kernel.ok(f"a = %bg -g {name} !sleep 1000\nb = %bg -g {name} !sleep 1000")
        kernel.ok("%cancel --pause a")
        assert kernel.ok("print(a.state, b.state)").stdout == f"paused {then}\n"
    kernel.ok("%bg a")
    assert kernel.ok("print(a.state, b.state)").stdout == "running running\n"
    kernel.ok("%cancel -f all")


def test_nobody_looks_into_a_paused_one(kernel: Kernel, path: Path) -> None:
    """Its process cannot answer, which is said at once, and what would help."""
    number = start(kernel, path, "process")
    assert "[1] " in kernel.ok(f"%jobs {number} --show n").stdout
    kernel.ok("%cancel --pause job")
    began = time.monotonic()
    said = kernel.ok(f"%jobs {number} --show n").stdout
    assert said == f"[{number}] is paused: %bg {number} lets it go on\n"
    profile = kernel.run(f"%jobs {number} --profile 1")
    assert profile.evalue == f"job {number} is paused: %bg {number} lets it go on"
    assert time.monotonic() - began < 5
    kernel.ok("%cancel -f job")


def test_a_thread_cannot_be_paused(kernel: Kernel) -> None:
    """One line says why."""
    kernel.ok("import threading; go = threading.Event()\njob = %bg go.wait()")
    reply = kernel.run("%cancel --pause job")
    assert reply.ename == "UsageError"
    assert reply.evalue == (
        "job 1 cannot be paused: only processes can, which `!`, -p and --keep start"
    )
    kernel.ok("go.set()")


def test_of_one_that_has_ended_its_state_is_said(kernel: Kernel) -> None:
    """There is nothing to pause, and nothing that could go on."""
    kernel.ok("%bg -q !true\n%fg 1;")
    said = kernel.ok("%cancel --pause 1").stdout
    assert said == "job 1 (!true) has ended: finished\n"
    failed = kernel.run("%bg 1")
    assert "job 1 is finished already: %fg 1 returns to it" in failed.stderr
    assert "42 is nothing to run" in kernel.run("%bg 42").stderr
