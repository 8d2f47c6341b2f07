"""Ctrl-Z while a cell runs: it goes on in the background, and the prompt comes back."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from terminals import CTRL_C, CTRL_D, Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no job control")

CTRL_Z = "\x1a"
MAIN = "threading.current_thread() is threading.main_thread()"
SETUP = """\
import asyncio, os, signal, subprocess, sys, threading, time
go, gate = threading.Event(), threading.Event()
def long(value=42):
    print("beg" "ins")
    while not go.wait(0.01): pass
    print("goes" " on")
    return value
def spin():
    print("beg" "ins")
    while not go.is_set(): pass
    return "spun"
"""


@pytest.fixture
def t(terminal: Terminal) -> Terminal:
    """A terminal with what the cells here use."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run(SETUP)
    return terminal


def send_away(terminal: Terminal, code: str, began: str = "begins") -> int:
    """Run a cell and press Ctrl-Z; return the job's number once the prompt is back."""
    terminal.start(code)
    terminal.expect(began)
    terminal.send(CTRL_Z)
    number = int(terminal.expect(r"\[(\d+)\]\+ goes on in the background: ")[1])
    terminal.prompt()
    return number


def test_the_story(t: Terminal) -> None:
    """The prompt has the next number, other cells run, and the end shows above the prompt."""
    before = t.number
    job = send_away(t, "long()")
    assert t.number == before + 1
    assert "False" in t.run(MAIN)
    assert "woke" in t.run("await asyncio.sleep(0.01, 'wo' 'ke')")
    assert f"[{job}]+  ● running  cell  long()" in t.run("%jobs")
    t.start("go.set()")
    t.expect("goes on\n")
    t.expect(rf"\[{job}\]\+ finished  long\(\)  [\d.]+s  42")
    t.prompt()
    assert "True" in t.run(MAIN)
    assert "(42, 42)" in t.run(f"Out[{before}], _{before}")


@pytest.mark.parametrize("code", ["spin()", "await asyncio.to_thread(long)", "long(time.sleep(0))"])
def test_whatever_the_cell_does(t: Terminal, code: str) -> None:
    """It may compute, await or wait."""
    job = send_away(t, code)
    assert "1764" in t.run("42 * 42")
    t.run("go.set()")
    t.expect(rf"\[{job}\]\+ finished")
    assert "True" in t.run(MAIN)


def test_fg_waits_shows_the_rest_and_has_the_value(t: Terminal) -> None:
    """Ctrl-Z detaches, as Ctrl-C does; and what the cell shows at its end is not shown twice."""
    job = send_away(t, "print('beg' 'ins'); gate.wait(); print('ti' 'ck'); long()")
    t.start("gate.set()")
    t.expect("tick\n")
    t.prompt()
    t.start("%fg -a")
    t.expect("tick\n")  # again, as it waits
    t.send(CTRL_Z)
    t.expect(f"job {job} goes on: %fg {job} returns to it")
    t.prompt()
    t.run("go.set()")
    t.run(f"x = %fg {job}")
    assert "42" in t.run("x")
    assert t.text.count("goes on\n") == 1
    assert "True" in t.run(MAIN)


def test_the_end_of_a_cell_leaves_the_foregrounds_line_whole(t: Terminal) -> None:
    """IPython's loop of its thread, which goes round, prints nothing into it."""
    job = send_away(t, "print('beg' 'ins'); gate.wait(); None")
    waits = f"while __import__('ipy_bgtasks').jobs()[{job}].running(): pass"
    # The loop of the cell's thread goes round in that time.
    shown = t.run(f"print('par', end='')\ngate.set()\n{waits}\ntime.sleep(0.1)\nprint('tial')")
    assert "partial\n" in shown


def test_ctrl_c_hits_the_cell_in_front_alone(t: Terminal) -> None:
    """And `%cancel` the one in the background, where it is."""
    job = send_away(t, "spin()")
    t.start("print('second'); spin()")
    t.expect("second\nbegins")
    t.send(CTRL_C)
    assert "KeyboardInterrupt" in t.prompt()
    assert f"[{job}]+  ● running" in t.run("%jobs")
    assert f"job {job} (spin()) cancelled" in t.run(f"%cancel {job}")
    assert "True" in t.run(MAIN)
    assert t.text.count("Traceback") == 1


def test_a_failure_is_shown_above_the_prompt(t: Terminal) -> None:
    """Once, as that of any job."""
    job = send_away(t, "long(); 1 / 0")
    t.run("go.set()")
    t.expect("ZeroDivisionError")
    t.expect(rf"\[{job}\]\+ failed")
    assert "True" in t.run(MAIN)
    assert t.text.count("ZeroDivisionError: division by zero") == 1


def test_a_second_ctrl_z_sends_the_cell_in_front_away_as_well(t: Terminal) -> None:
    """Each keeps its thread; when all have ended, cells run on the main thread."""
    first = send_away(t, "long(1)")
    second = send_away(t, "long(2)")
    assert "[1, 2]" in t.run(f"go.set(); [{first}, {second}]") or first != second
    t.expect("finished  long")
    t.expect("finished  long")
    assert "True" in t.run(MAIN)
    assert "1 2" in t.run(f"a = %fg {first}\nb = %fg {second}\nprint(a, b)")


def test_main_in_the_background_prints_while_cells_are_interrupted(t: Terminal) -> None:
    """What it records must not take the signal from the cell in front."""
    send_away(t, "print('beg' 'ins')\nwhile not go.wait(0.001): print('.')\n'prin' 'ted'")
    for _ in range(5):
        # Ctrl-C comes in the sleep or in the loop, while the other prints: both are meant.
        t.start("print('beg' 'un'); time.sleep(0.2)\nwhile True: pass")
        t.expect("begun")
        t.send(CTRL_C)
        assert "KeyboardInterrupt" in t.prompt()
    t.run("go.set()")
    t.expect("finished")
    t.expect("'printed'")


def test_what_threads_print_that_the_cell_had_started_is_its_jobs(t: Terminal) -> None:
    """A plain one and one of a pool: in the job's log, not only on the screen."""
    t.run("import ipy_bgtasks\nfrom concurrent.futures import ThreadPoolExecutor")
    t.run("pool = ThreadPoolExecutor(1)")
    # In one write: a text and its end are two, between which the other thread may print.
    t.run("def say(text):\n    gate.wait()\n    print(text + '\\n', end='')")
    code = "threading.Thread(target=say, args=['a th' 'read']).start(); "
    code += "f = pool.submit(say, 'a po' 'ol'); long(); f.result()"
    job = send_away(t, code)
    t.start("gate.set()")
    t.expect("a thread\n")
    t.prompt()
    t.run("go.set()")
    t.expect("finished")
    shown = t.run(f"print(sorted(ipy_bgtasks.jobs()[{job}].log.text.split()))")
    assert "['a', 'a', 'goes', 'on', 'pool', 'thread']" in shown


def test_a_handler_that_the_cell_in_the_background_sets(t: Terminal) -> None:
    """`asyncio.run` sets one of SIGINT: Ctrl-C still means the cell in front."""
    t.run("async def nap():\n    print('nap' 'ping')\n    await asyncio.to_thread(gate.wait)")
    job = send_away(t, "long(); asyncio.run(nap()); 'wo' 'ke'")
    t.start("go.set()\nwhile not gate.is_set(): pass")
    t.expect("napping")
    t.send(CTRL_C)
    t.expect("KeyboardInterrupt")
    t.prompt()
    assert f"[{job}]+  ● running" in t.run("%jobs")
    t.run("gate.set()")
    t.expect("'woke'")


def test_control_c_ends_a_task_that_blocks(t: Terminal) -> None:
    """The cell in front awaits it in another thread than the main one."""
    t.run("async def naps():\n    print('nap' 'ping'); time.sleep(1000)")
    send_away(t, "long(); 'wo' 'ke'")
    t.start("await asyncio.gather(asyncio.sleep(1000), naps())")
    t.expect("napping")
    t.send(CTRL_C)
    t.expect("KeyboardInterrupt")
    t.prompt()
    t.run("go.set()")
    t.expect("'woke'")


def test_a_key_that_came_too_late_for_its_cell_is_not_for_the_next(t: Terminal) -> None:
    """The one who acts was still busy with a key before it."""
    t.run("import select; signals = get_ipython()._ipy_bgtasks_core.front_end._suspending.signals")
    t.run("comes = lambda: select.select([signals._sockets['SIGTSTP'][0]], [], [])")
    t.start("signals._acting.acquire(); print('he' 'ld'); comes()")
    t.expect("held")
    t.send(CTRL_Z)
    t.prompt()
    t.start("signals._acting.release(); time.sleep(1); 'sta' 'yed'")  # what must not happen
    t.expect("'stayed'")
    t.prompt()
    assert "goes on in the background" not in t.text


def test_a_cell_that_takes_longer_goes_by_itself(t: Terminal) -> None:
    """As with Ctrl-Z, which ends a `%fg`, too; one that asks stays until it has its answer."""
    t.run("%config BgTasks.background_after = 0.2")
    t.start("long()")
    job = int(t.expect(r"\[(\d+)\]\+ goes on in the background: long\(\)")[1])
    t.prompt()
    t.start(f"%fg {job}")
    t.expect(f"job {job} goes on: %fg {job} returns to it")
    t.prompt()
    t.run("go.set()")
    t.expect(r"finished  long\(\)")
    t.start("input('as' 'ks')")
    t.expect("asks")
    time.sleep(0.5)  # what must not happen
    t.send("x\r")
    assert "'x'" in t.prompt()
    assert "goes on in the background: input" not in t.text


def test_leaving_with_a_cell_in_the_background(t: Terminal) -> None:
    """Once it is said, then it ends, and leaves the terminal in order."""
    send_away(t, "spin()")
    t.send(CTRL_D)
    t.expect("1 job is running .* exit again to leave")
    t.expect(r"In \[\d+\]: ")
    t.send(CTRL_D)
    assert t.leave() == 0


def test_leaving_although_the_cell_never_ends(t: Terminal) -> None:
    """It catches what interrupts it."""
    stubborn = "try:\n  while True: pass\n except KeyboardInterrupt: pass"
    send_away(t, f"print('beg' 'ins')\nwhile True:\n {stubborn}")
    t.run("exit")
    t.start("exit")
    assert t.leave() == 0


def test_a_child_in_the_foreground_is_continued(t: Terminal) -> None:
    """The terminal has stopped it with us."""
    job = send_away(t, "!echo be''gins; sleep 1; echo was slo''w")
    t.expect("was slow")
    t.expect(rf"\[{job}\]\+ finished")


def test_what_cannot_work_off_the_main_thread_says_so(t: Terminal) -> None:
    """In one line that names the job that has it."""
    job = send_away(t, "long()")
    shown = t.run("signal.signal(signal.SIGUSR1, signal.SIG_DFL)")
    assert f"job {job}" in shown
    assert "Traceback" not in shown


def test_input_in_a_cell_of_the_second_thread(t: Terminal) -> None:
    """It asks, and Ctrl-C ends it."""
    send_away(t, "long()")
    t.start("input('name' '? ')")
    t.expect(r"name\? $")
    t.send("Ada\r")
    assert "'Ada'" in t.prompt()
    t.start("input('name' '? ')")
    t.expect(r"name\? $")
    t.send(CTRL_C)
    assert "KeyboardInterrupt" in t.prompt()


SHELL = """\
import os, psutil, signal, sys, termios, time
def still_runs(process):
    try:
        return os.getpgid(process.pid) == pid and process.status() not in ("stopped", "zombie")
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
modes = own = termios.tcgetattr(0)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "IPython", "--no-banner", "--no-confirm-exit",
        "--ext", "ipy_bgtasks"])
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
while True:
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass
    os.tcsetpgrp(0, pid)
    termios.tcsetattr(0, termios.TCSADRAIN, modes)
    os.kill(-pid, signal.SIGCONT)
    print("RESU" "MED", flush=True)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    while any(map(still_runs, psutil.process_iter())):  # less stops later than IPython, alone
        time.sleep(0.01)
    modes = termios.tcgetattr(0)
    os.tcsetpgrp(0, os.getpgrp())
    termios.tcsetattr(0, termios.TCSADRAIN, own)
    print("STOP" "PED", flush=True)
    input()
print("ENDED", flush=True)
"""


@pytest.fixture
def in_shell(tmp_path: Path, spawn_terminal: Callable[..., Terminal]) -> Terminal:
    """A terminal in which IPython is the job of a shell that can continue it, on Enter."""
    script = tmp_path / "shell.py"
    script.write_text(SHELL)
    (tmp_path / "poem.txt").write_text("Der Mond ist aufgegangen\n")
    terminal = spawn_terminal(script=script)
    terminal.run(SETUP)
    return terminal


def suspended(terminal: Terminal) -> None:
    """Wait until the shell has the terminal, and continue IPython."""
    terminal.expect("STOPPED")
    terminal.send("\r")
    terminal.expect("RESUMED")


def test_at_the_prompt_it_suspends_as_ever(in_shell: Terminal) -> None:
    """Also while a cell is in the background, right after it was sent there."""
    t = in_shell
    t.send(CTRL_Z)
    suspended(t)
    assert "42" in t.run("6 * 7")
    t.start("long()")
    t.expect("begins")
    t.send(CTRL_Z)
    t.expect("goes on in the background")
    t.send(CTRL_Z)
    suspended(t)
    t.run("go.set()")
    t.expect(r"finished  long\(\)")


@pytest.mark.parametrize(
    ("code", "shows"),
    [
        ("input('as' 'ks')", "asks"),
        ("import getpass; getpass.getpass('as' 'ks')", "asks"),
        ("breakpoint()\nx = 1", r"\(Pdb\) "),
        ("!less -X poem.txt", r"\(END\)"),
    ],
    ids=["input", "getpass", "pdb", "pager"],
)
def test_where_somebody_else_has_the_terminal_it_means_what_it_did(
    in_shell: Terminal, code: str, shows: str
) -> None:
    """The cell is stopped, and goes on when the shell says so."""
    t = in_shell

    shell = psutil.Process(t.pid)

    def asked(times: int) -> None:
        t.wait(lambda: len(re.findall(shows, t.text)) >= times)
        # Between its question and its look for a key, less sees a Ctrl-Z only at the next key.
        while "running" in [each.status() for each in shell.children(recursive=True)]:
            t.read_for(0.01)

    t.start(code)
    asked(1)
    t.send(CTRL_Z)
    suspended(t)
    asked(2 if "less" in code else 1)
    t.send(CTRL_Z)
    suspended(t)
    t.send("q\r" if "less" in code or "break" in code else "x\r")
    t.prompt()
    assert "42" in t.run("6 * 7")


def test_the_setting_keeps_the_old_meaning(in_shell: Terminal) -> None:
    """Also while a cell runs."""
    t = in_shell
    t.run("%config BgTasks.ctrl_z = 'suspend'")
    t.start("long()")
    t.expect("begins")
    t.send(CTRL_Z)
    suspended(t)
    t.send(CTRL_C)
    assert "KeyboardInterrupt" in t.prompt()
