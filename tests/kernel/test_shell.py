"""Shell commands as jobs in a real kernel."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from forks import stopwatch
from kernels import Kernel, Reply
from processes import children_of, still_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

#: Children, grandchildren and one that is deaf; five of them say who they are.
TREE = (
    "sleep 1000 & echo $!; sh -c 'sleep 1001 & echo $!; wait' & echo $!; "
    "sh -c 'trap \"\" TERM HUP INT; echo $$; sleep 1002; sleep 1003' & "
    "echo $$; wait"
)
TREE_SIZE = 5


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe by name; a command that reads from it waits until the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def said(kernel: Kernel, reply: Reply, text: str) -> None:
    """Wait until a cell shows *text*."""
    kernel.until(lambda: text in reply.stdout)


def pids_of(kernel: Kernel, reply: Reply) -> list[int]:
    """The processes of a tree, all of which run by then."""
    kernel.until(lambda: len(reply.stdout.split()) == TREE_SIZE)
    return [int(word) for word in reply.stdout.split()]


def test_output_comes_under_its_cell_while_another_blocks(kernel: Kernel, gate: Path) -> None:
    """The pipes are read although the kernel's loop stands still."""
    cell = kernel.ok(f"job = %bg !echo one; echo oops >&2; read x < {gate}; echo two")
    waiting = kernel.start("job.result(30)")
    said(kernel, cell, "one\n")
    kernel.until(lambda: cell.stderr == "oops\n")
    assert not waiting.reply.done
    gate.write_text("\n")
    assert waiting.wait().result == "0"
    said(kernel, cell, "one\ntwo\n")
    assert waiting.reply.stdout == waiting.reply.stderr == ""
    shown = kernel.ok("print(job.log.stdout, job.log.stderr, job.where)")
    assert shown.stdout == "one\ntwo\n oops\n shell\n"


def test_variables_are_filled_in_as_after_a_bang(kernel: Kernel) -> None:
    """Also those of a function; what only the shell knows is left to it."""
    code = """\
    word = "global"
    def launch(number):
        job = %bg !echo {number + 1} $word {word.upper()}
        job.result(30)
        return job.log.text
    """
    kernel.ok("\n".join(line[4:] for line in code.splitlines()))
    assert kernel.ok("launch(1)").result == "'2 global GLOBAL\\n'"
    loop = kernel.ok("job = %bg !for i in a b; do echo $i; done; echo {x,y} $HOME")
    said(kernel, loop, "a\nb\nx y " if os.environ.get("SHELL", "").endswith("bash") else "a\nb\n")


def test_fg_shows_a_command_and_gives_its_status(kernel: Kernel) -> None:
    """Or raises the error of subprocess."""
    reply = kernel.run("x = %fg !echo here\nx")
    assert (reply.stdout, reply.result) == ("here\n", "0")
    failed = kernel.run("%fg !echo there; exit 7")
    assert (failed.stdout, failed.ename) == ("there\n", "CalledProcessError")
    assert failed.evalue == "Command 'echo there; exit 7' returned non-zero exit status 7."


def test_a_failure_is_shown_under_its_cell(kernel: Kernel) -> None:
    """Without any of our frames."""
    cell = kernel.ok("%bg !exit 7;")
    kernel.until(lambda: cell.traceback)
    assert "CalledProcessError" in cell.traceback
    assert "non-zero exit status 7" in cell.traceback
    assert "ipy_bgtasks" not in cell.traceback


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("%bg x = !ls", "a background command cannot fill x: write job = %bg !ls"),
        ("%bg !", "no command after the !"),
        ("%bg -t !ls", "a !command is a process of its own: it takes no --thread"),
        ("%fg -t !ls", "%fg has no option -t"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kernel: Kernel, code: str, says: str) -> None:
    """And nothing is launched."""
    reply = kernel.run(code)
    assert reply.ename == "UsageError"
    assert says in (reply.evalue or "")
    assert kernel.ok("import ipy_bgtasks; len(ipy_bgtasks.jobs())").result == "0"


def test_jobs_names_the_process(kernel: Kernel, gate: Path) -> None:
    """While it runs."""
    cell = kernel.ok(f"%bg !echo $$; read x < {gate}")
    said(kernel, cell, "\n")
    table = kernel.ok("%jobs").displays[0]["text/plain"]
    assert f"shell {cell.stdout.strip()}" in table
    gate.write_text("\n")


def test_an_interrupt_reaches_no_command(kernel: Kernel, gate: Path, tmp_path: Path) -> None:
    """Of `%bg` or of a `!` line in a cell, when the kernel's process group gets a SIGINT."""
    other = tmp_path / "other"
    os.mkfifo(other)
    line = kernel.ok(f"one = %bg !echo up; read x < {gate}; echo $x")
    cell = kernel.ok(f"%%bg -n cell\n!echo up; read x < {other}; echo $x")
    said(kernel, line, "up")
    said(kernel, cell, "up")
    blocked = kernel.start("print('blocked')\none.result()")
    said(kernel, blocked.reply, "blocked")
    os.killpg(os.getpgid(kernel.pid), signal.SIGINT)
    assert blocked.wait().ename == "KeyboardInterrupt"
    assert kernel.ok("one.state.value").result == "'running'"
    gate.write_text("on\n")
    other.write_text("on\n")
    said(kernel, line, "on")
    said(kernel, cell, "on")


def test_cancel_says_when_all_of_it_is_gone(kernel: Kernel) -> None:
    """With what the command started; a deaf one is killed after the grace period."""
    kernel.ok("%config BgTasks.cancel_grace = 0.2")
    cell = kernel.ok(f"%bg !{TREE}")
    pids = pids_of(kernel, cell)
    reply = kernel.ok("%cancel +")
    assert re.fullmatch(r"job 1 \(.*\) cancelled\n", reply.stdout)
    assert still_alive(pids, 0) == []


def test_cancel_says_what_a_command_is_waiting_for(kernel: Kernel) -> None:
    """One that is deaf to SIGTERM; `-f` does not wait for the grace period."""
    kernel.ok("%config BgTasks.cancel_grace = 60")
    cell = kernel.ok("%bg !trap '' TERM; echo up; sleep 1000; sleep 1000")
    said(kernel, cell, "up")
    reply = kernel.ok("%cancel +")
    assert re.fullmatch(
        r"job 1 is cancelling: it was sent SIGTERM; "
        r"SIGKILL follows in [56]\d\.\d s, or at once with -f\n",
        reply.stdout,
    )
    assert "cancelled" in kernel.ok("%config BgTasks.cancel_wait = 30\n%cancel -f +").stdout


def test_a_capturing_foreground_does_not_get_it(kernel: Kernel, gate: Path) -> None:
    """`%%capture` is for the cell it stands on."""
    cell = kernel.ok(f"job = %bg !read x < {gate}; echo mine")
    kernel.ok(
        f"%%capture got\nwith open({str(gate)!r}, 'w') as f: f.write('\\n')\n"
        "job.result(30); print('yours')"
    )
    said(kernel, cell, "mine\n")
    assert kernel.ok("got.stdout").result == "'yours\\n'"


def test_unloading_leaves_commands_running(kernel: Kernel, gate: Path, tmp_path: Path) -> None:
    """Their output is recorded then, and after loading again it is shown."""
    other = tmp_path / "other"
    os.mkfifo(other)
    cell = kernel.ok(
        f"job = %bg !echo one; read x < {gate}; echo two; read x < {other}; echo three"
    )
    said(kernel, cell, "one")
    kernel.ok("%unload_ext ipy_bgtasks")
    gate.write_text("\n")
    kernel.load()
    other.write_text("\n")
    assert kernel.ok("job.result(30)").result == "0"
    assert kernel.ok("job.log.stdout").result == r"'one\ntwo\nthree\n'"


def test_no_child_stays_unreaped(kernel: Kernel) -> None:
    """After many commands only the supervisor is there, and it lives."""
    kernel.ok("jobs = []\nfor i in range(20):\n    job = %bg !exit 0\n    jobs.append(job)")
    kernel.ok("for job in jobs: job.result(30)")
    assert "Z" not in children_of(kernel.pid).values()


@pytest.mark.parametrize("how", ["shutdown", "kill", "restart", "SIGTERM", "exit"])
def test_nothing_outlives_the_kernel(kernel: Kernel, how: str) -> None:
    """Twenty trees of seven processes are gone 3 s after it, however it went."""
    cells = []
    for _ in range(20):
        cells.append(kernel.ok(f"%bg -q !{TREE};"))
    ready = kernel.ok(
        "import ipy_bgtasks\n"
        "def pids(): return [w for job in ipy_bgtasks.jobs() for w in job.log.stdout.split()]\n"
        f"while len(pids()) < {20 * TREE_SIZE}: pass\n"
        "print(*pids())"
    )
    pids = [int(word) for word in ready.stdout.split()]
    assert len(pids) == 20 * TREE_SIZE
    pids += children_of(kernel.pid)
    seconds = stopwatch(kernel.pid)
    if how == "shutdown":
        kernel.shutdown()
    elif how == "kill":
        kernel.kill()
    elif how == "restart":
        kernel.manager.restart_kernel(now=False)
    elif how == "SIGTERM":
        kernel.manager.signal_kernel(signal.SIGTERM)
        kernel.status(10)
    else:
        kernel.start("exit")
        kernel.status(10)
    assert seconds() < 3
    assert still_alive(pids, 3) == []
