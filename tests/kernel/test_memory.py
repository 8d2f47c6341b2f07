"""What the processes of a job use, a limit on that, and what is said when the system kills one."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from kernels import Kernel

from ipy_bgtasks.platforms import oom_kills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

#: Takes hundred megabytes, and keeps them.
TAKES = """
def takes(megabytes=100):
    import time
    held = bytearray(megabytes * 1_000_000)
    held[::4096] = b'x' * len(held[::4096])
    print('taken', flush=True)
    time.sleep(1000)
"""
PLACES = {
    "command": f'%bg {{options}} !{sys.executable} -c "import prog; prog.takes()"',
    "process": "%bg -p {options} takes()",
    "kept": "%bg --keep {options} takes()",
}
GROUP = Path("/sys/fs/cgroup/memory/ipy_bgtasks_test")


def launch(kernel: Kernel, where: str, options: str = "") -> None:
    """Launch a job that takes memory."""
    kernel.ok(f"with open('prog.py', 'w') as file: _ = file.write({TAKES!r})\n{TAKES}")
    kernel.ok("job = None")
    kernel.ok("job = " + PLACES[where].format(options=options))


@pytest.mark.parametrize("where", [*PLACES])
def test_who_looks_sees_what_it_uses(kernel: Kernel, where: str) -> None:
    """In `%jobs -v`, `%jobs 1` and `describe()`; the whole tree counts."""
    launch(kernel, where)
    kernel.until(lambda: "taken" in kernel.ok("print(job.log.text)").stdout)
    shown = kernel.ok("%jobs -v").displays[0]["text/plain"]
    assert re.search(r"\d+% CPU, 1\d\d MB", shown)
    number = kernel.ok("print(job.number)").stdout.strip()
    assert re.search(
        r"uses +\d+% CPU, 1\d\d MB", kernel.ok(f"%jobs {number}").displays[0]["text/plain"]
    )
    assert 100e6 < float(kernel.ok("print(job.describe()['memory'])").stdout) < 200e6
    assert "CPU" not in kernel.ok("%jobs").displays[0]["text/plain"]
    kernel.ok("%cancel -f job")


@pytest.mark.parametrize("where", [*PLACES])
def test_too_much_ends_it(kernel: Kernel, where: str) -> None:
    """It fails with what it used, and what it might."""
    launch(kernel, where, "--memory 60M")
    reply = kernel.run("%fg job")
    assert reply.ename == "MemoryError"
    assert re.fullmatch(r"job k?\d used \d+ MB of 60 MB", reply.evalue or "")


@pytest.mark.parametrize("where", [*PLACES])
def test_a_kill_by_somebody_else_is_no_lack_of_memory(kernel: Kernel, where: str) -> None:
    """Linux counts what it kills."""
    before = oom_kills()
    launch(kernel, where)
    kernel.until(lambda: "taken" in kernel.ok("print(job.log.text)").stdout)
    os.kill(int(kernel.ok("print(job.pid)").stdout), signal.SIGKILL)
    reply = kernel.run("%fg job")
    said = kernel.ok("print(job.log.text)").stdout if where == "command" else str(reply.evalue)
    others = oom_kills() != before  # of another test, or anywhere on the machine
    assert "not for lack of memory" in said or (others and "probably out of memory" in said)


@pytest.fixture
def little_memory() -> Path:
    """A control group with 60 MB for those that are put into it."""
    try:
        GROUP.mkdir()
        (GROUP / "memory.limit_in_bytes").write_text("60000000")
    except OSError as error:
        pytest.skip(f"needs a control group of its own: {error}")
    return GROUP


def test_the_system_kills_it(kernel: Kernel, little_memory: Path) -> None:
    """For lack of memory, which is said; the kernel lives."""
    try:
        kernel.ok(TAKES)
        kernel.ok("import os\n%bg -p os.getpid()")
        pid = kernel.ok("%fg").result
        (little_memory / "cgroup.procs").write_text(str(pid))
        kernel.ok("job = %bg -p takes()")
        reply = kernel.run("%fg job", timeout=60)
        assert reply.ename == "ProcessDied"
        assert re.fullmatch(
            r"the worker process was killed by SIGKILL \(probably out of memory, "
            r"machine \d+\.\d GB(: peak \d+ MB)?\)",
            reply.evalue or "",
        )
        assert kernel.ok("1 + 1").result == "2"
    finally:
        little_memory.rmdir()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%bg --memory 4 -p takes()", "--memory takes an amount, such as 500M or 4G, not '4'"),
        ("%bg --memory 0G -p takes()", "--memory takes an amount, such as 500M or 4G, not '0G'"),
        (
            "%bg --memory 4G takes()",
            "--memory limits processes: it goes with -p, --keep or a !command",
        ),
    ],
)
def test_what_cannot_be_limited_is_refused(kernel: Kernel, line: str, message: str) -> None:
    """In one line, and nothing is launched."""
    kernel.ok(TAKES)
    assert kernel.run(line).evalue == message
