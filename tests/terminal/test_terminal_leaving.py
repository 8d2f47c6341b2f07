"""Leaving a terminal with jobs running: it says so first, and then ends at once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import IPython
import pytest
from forks import EXECUTED, stopwatch
from terminals import CTRL_D, PROMPT, Terminal

pytestmark = pytest.mark.started

#: Seconds. On a quiet machine it takes less than one from when the command is executed.
BOUND = 3.0

NOISE = re.compile(
    r"Traceback|Exception|Error|Warning|was destroyed|never (retrieved|awaited)|StopThread"
)
STAYS = re.compile(
    r"(1 job is running \(%jobs lists it\); exit again to leave, it will be stopped"
    r"|\d+ jobs are running \(%jobs lists them\); exit again to leave, they will be stopped)\n"
)

#: IPython 7 closes no loop that it has made, as for any cell that awaits.
UNCLOSED = re.compile(r"\S+: ResourceWarning: unclosed event loop.*\n.*\n.*tracemalloc.*\n")

JOBS = """\
import asyncio, os, threading, time
from pathlib import Path
here, gate = Path.cwd(), threading.Event()
def spin():
    gate.wait()
    while True: pass
async def stubborn():
    while True:
        try: await asyncio.sleep(1000)
        except BaseException: pass
async def tidy(name):
    try: await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.01); (here / name).write_text(str(JOBS))
async def fails():
    try: await asyncio.sleep(1000)
    finally: 1 / 0
async def leaves_behind(name):
    asyncio.create_task(tidy(name))
JOBS = 'still here'
"""

MIX = """\
for i in range(8):
    %bg -q tidy(f'coroutine-{i}')
%bg leaves_behind('coroutine-8')
%bg stubborn()
%bg fails()
%bg asyncio.to_thread(time.sleep, 1000)
for i in range(6):
    %bg time.sleep(1000)
for i in range(64):
    %bg spin()
for i in range(15):
    %bg time.sleep(1000)
for i in range(3):
    %bg --after 10 time.sleep(1000)
"""


def load(terminal: Terminal) -> Terminal:
    """Load the extension and define the jobs above."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run(JOBS)
    return terminal


@pytest.fixture
def loaded(terminal: Terminal) -> Terminal:
    """A terminal with the extension."""
    return load(terminal)


def ends(terminal: Terminal, status: int = 0, executed: Path | None = None) -> str:
    """Wait for the end; returns what was shown on the way."""
    seconds, mark = stopwatch(terminal.pid, executed), len(terminal.text)
    assert terminal.leave() == status, terminal.text[mark:]
    assert seconds() < BOUND
    shown = terminal.text[mark:]
    return UNCLOSED.sub("", shown) if IPython.version_info[0] < 8 else shown


def control_d(terminal: Terminal) -> str:
    """Type it at an empty prompt; returns what was shown before the prompt that follows."""
    mark = len(terminal.text)
    terminal.send(CTRL_D)
    terminal.expect(STAYS.pattern)
    # Between two prompts the terminal is no application's, and a Ctrl-D in that gap is nobody's.
    terminal.expect(PROMPT)
    return terminal.text[mark:]


def test_without_jobs_exit_leaves(loaded: Terminal) -> None:
    """Jobs that have ended do not count."""
    loaded.run("%fg asyncio.sleep(0)")
    loaded.start("exit")
    assert not NOISE.search(ends(loaded))


@pytest.mark.parametrize("command", ["exit", "quit", "exit()"])
def test_the_first_exit_says_so_and_the_second_leaves(loaded: Terminal, command: str) -> None:
    """In one line, as bash does."""
    loaded.run("%bg stubborn()")
    shown = loaded.run(command)
    assert "\n1 job is running (%jobs lists it); exit again to leave, it will be stopped" in shown
    assert len(STAYS.findall(shown)) == 1
    loaded.start(command)
    shown = ends(loaded)
    assert not STAYS.search(shown)
    assert not NOISE.search(shown)


def test_any_other_command_in_between_starts_over(loaded: Terminal) -> None:
    """Then it was no second thought about leaving."""
    loaded.run("%bg stubborn()")
    loaded.run("%bg stubborn()")
    assert "2 jobs are running (%jobs lists them)" in loaded.run("exit")
    loaded.run("1 + 1")
    assert "2 jobs are running" in loaded.run("exit")
    loaded.start("exit")
    ends(loaded)


def test_the_same_goes_for_control_d(loaded: Terminal) -> None:
    """Also when both are mixed."""
    loaded.run("%bg stubborn()")
    assert STAYS.search(control_d(loaded))
    loaded.run("1 + 1")
    assert STAYS.search(control_d(loaded))
    loaded.send(CTRL_D)
    assert not NOISE.search(ends(loaded))


def test_exit_after_control_d_leaves(loaded: Terminal) -> None:
    """It is the second time, whatever the first looked like."""
    loaded.run("%bg stubborn()")
    assert STAYS.search(control_d(loaded))
    loaded.start("exit")
    assert not STAYS.search(ends(loaded))


def test_there_is_one_question_only(loaded: Terminal) -> None:
    """Where IPython would ask at Ctrl-D, it need not when jobs have been named."""
    loaded.run("%config TerminalInteractiveShell.confirm_exit = True")
    loaded.run("job = %bg stubborn()")
    assert STAYS.search(control_d(loaded))
    loaded.send(CTRL_D)
    assert "really" not in ends(loaded)


def test_ipython_s_own_question_is_asked_where_no_job_runs(loaded: Terminal) -> None:
    """As it was before loading."""
    loaded.run("%config TerminalInteractiveShell.confirm_exit = True")
    loaded.send(CTRL_D)
    loaded.expect("really want to exit")
    loaded.send("y\r")
    ends(loaded)


def test_the_saying_can_be_turned_off(loaded: Terminal) -> None:
    """Then the first exit leaves."""
    loaded.run("%bg stubborn()")
    loaded.run("%config BgTasks.confirm_exit = False")
    loaded.start("exit")
    assert not STAYS.search(ends(loaded))


def test_a_simple_prompt_says_so_too(spawn_terminal: Callable[..., Terminal]) -> None:
    """Its Ctrl-D is an end of file, its loop runs only when it is waited for."""
    terminal = load(spawn_terminal("--simple-prompt"))
    terminal.run("%bg tidy('coroutine')")
    terminal.send(CTRL_D)
    terminal.expect(STAYS.pattern)
    terminal.expect(PROMPT)
    terminal.send(CTRL_D)
    assert not NOISE.search(ends(terminal))


def test_an_exit_in_a_script_is_the_first_one_too(loaded: Terminal, tmp_path: Path) -> None:
    """`%run` of IPython's own scripts; of others, `sys.exit` ends the script alone."""
    (tmp_path / "script.ipy").write_text("exit()\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit()\n")
    loaded.run("%bg stubborn()")
    assert not STAYS.search(loaded.run("%run script.py"))
    assert STAYS.search(loaded.run("%run script.ipy"))
    loaded.start("exit")
    ends(loaded)


def test_unloading_brings_back_the_plain_exit(loaded: Terminal) -> None:
    """Nothing is said, and nothing of ours is left in the shell."""
    loaded.run("%bg time.sleep(1000)")
    loaded.run("%unload_ext ipy_bgtasks")
    names = "'ask_exit', '_atexit_once', 'prompt_for_code'"
    assert "left: []" in loaded.run(
        f"print('left:', [n for n in ({names}) if n in vars(get_ipython())])"
    )
    loaded.start("exit")
    assert not STAYS.search(ends(loaded))


@pytest.mark.parametrize("way", ["exit", "control-d", "SIGTERM"])
def test_a_hundred_jobs_hold_nobody_up(loaded: Terminal, tmp_path: Path, way: str) -> None:
    """Clean-ups run, with the user's variables still there; nothing else is said."""
    loaded.run("%config BgTasks.max_threads = 70")
    loaded.run(EXECUTED)
    loaded.run(MIX)
    assert "left behind: True" in loaded.run(
        "print('left behind:', get_ipython().run_line_magic('fg', '9') is None)"
    )
    assert "begun: 100" in loaded.run(
        "import ipy_bgtasks; print('begun:', len(ipy_bgtasks.jobs()))"
    )
    loaded.run("%config BgTasks.confirm_exit = False")
    loaded.run("gate.set()")
    if way == "SIGTERM":
        os.kill(loaded.pid, signal.SIGTERM)
    elif way == "exit":
        loaded.start("exit")
    else:
        loaded.send(CTRL_D)
    shown = ends(loaded, -signal.SIGTERM if way == "SIGTERM" else 0, tmp_path / "executed")
    assert not NOISE.search(shown)
    assert "cancelled" not in shown
    said = {path.name: path.read_text() for path in tmp_path.glob("coroutine-*")}
    assert said == {f"coroutine-{i}": "still here" for i in range(9)}


def test_a_job_on_the_users_own_threads_holds_nobody_up(loaded: Terminal) -> None:
    """Python waits at its end for all threads of executors: not for those started for jobs."""
    loaded.run("from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor()")
    loaded.run("begun = threading.Event()")
    loaded.run("def sleeps():\n    begun.set()\n    time.sleep(1000)")
    loaded.run("%bg --on pool sleeps()")
    loaded.run("begun.wait()")
    loaded.run("exit")
    loaded.start("exit")
    assert not NOISE.search(ends(loaded))
