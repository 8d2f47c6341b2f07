"""Job control in a real terminal IPython, loaded as the README says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from terminals import CTRL_C, ENTER, Terminal

SETUP = """\
import asyncio, threading, time
gate, opened = asyncio.Event(), threading.Event()
async def ticker(name, times=None):
    i = 0
    while times is None or i < times:
        print(name, i); i += 1
        await asyncio.sleep(0.01)
    return i
async def waits(value=None):
    await gate.wait()
    return value
async def says(text):
    for _ in range(5): await asyncio.sleep(0)
    print(text)
def waits_in_thread(value):
    opened.wait(60)
    return value
async def fails():
    raise ValueError('mi' + 'ne')
"""


def test_tickers_tick_at_the_prompt_and_stand_still_in_a_blocking_cell(loaded: Terminal) -> None:
    """They go on during `%fg`, and stop when they are told to."""
    assert "Traceback" not in loaded.text
    loaded.run("steps = 0")
    loaded.run(
        "async def count():\n    global steps\n"
        "    while True: steps += 1; await asyncio.sleep(0.001)"
    )
    loaded.run("%bg -n ticks ticker('a')")
    loaded.run("%bg -q count()")
    seen = int(loaded.expect(r"\ba (\d+)\n")[1])  # some may have ticked before the prompt came
    loaded.expect(rf"\ba {seen + 6}\n")
    assert "still: True" in loaded.run(
        "before = steps; time.sleep(0.1); print('still:', steps == before)"  # time for a hundred
    )
    loaded.run("before = steps")
    loaded.run("%fg asyncio.sleep(0.1)")  # the time that it lets them go on
    assert "moved: True" in loaded.run("print('moved:', steps > before)")
    said = loaded.run("%cancel 1")
    assert "job 1 (ticks) cancelled" in said
    assert not re.search(r"\[1\][+-]? +cancelled", said)  # it is not announced a second time
    assert re.search(r"\[2\].*running.*count\(\)", loaded.run("%jobs"))
    assert "job 2 (count()) cancelled" in loaded.run("%cancel all")


def test_a_synchronous_call_starts_immediately(loaded: Terminal) -> None:
    """Before the launching line's next statement prints."""
    loaded.run("def tick_sync():\n    print('sta' 'rted', flush=True); opened.wait(60)")
    loaded.run("%fg -- print('warm')")
    shown = loaded.run("job = %bg tick_sync()\nprint('th' 'en')")
    assert shown.index("started") < shown.index("then")
    loaded.run("opened.set()")


def test_a_job_that_ends_says_so_above_the_prompt(loaded: Terminal) -> None:
    """What is being typed stays; a failure shows its traceback once."""
    loaded.run("%bg -n first waits(42)")
    loaded.send("'ty' + 'ped'")
    loaded.expect("ped'")
    loaded.send(ENTER)
    assert "'typed'" in loaded.prompt()
    loaded.start("gate.set()")
    loaded.expect(r"\[1\]\+? +finished +first +\d+\.\ds.*\n")
    loaded.prompt()
    loaded.start("%bg fails()")
    loaded.expect(r"ValueError: mine")
    loaded.expect(r"\[2\]\+? +failed +fails\(\)")
    loaded.prompt()
    assert loaded.text.count("ValueError: mine") == 1


def test_control_c_detaches_with_one_line(loaded: Terminal) -> None:
    """The job goes on; the rest of the cell does not run."""
    loaded.start("%bg says('be' 'gun')\nx = %fg waits(7)\nprint('re' 'st')")
    loaded.expect("begun")
    loaded.send(CTRL_C)
    shown = loaded.prompt()
    assert "Detached: job 2 goes on: %fg 2 returns to it, %cancel 2 stops it" in shown
    assert "Traceback" not in shown
    assert "rest" not in shown
    loaded.run("gate.set()")
    assert "x: 7" in loaded.run("x = %fg 2\nprint('x:', x)")


def test_an_interrupt_detaches_at_once_on_a_quiet_loop(loaded: Terminal) -> None:
    """Also from a thread's job, and with a time-out set."""
    for number, code in enumerate(
        ["waits()", "-- waits_in_thread(1)", "--timeout 50 waits()"], start=1
    ):
        loaded.start(f"%bg says('be' 'gun {number}')\n%fg {code}")
        loaded.expect(f"begun {number}")
        began = time.monotonic()
        loaded.interrupt()
        assert f"job {2 * number} goes on" in loaded.prompt()
        assert time.monotonic() - began < 2  # which counts the painting of the prompt
    loaded.run("gate.set(); opened.set()")
    assert "[None, None, None, 1, None, None]" in loaded.run("r = %fg all\nprint(r)")


def test_an_interrupt_of_any_cell_spares_the_jobs(loaded: Terminal) -> None:
    """A job that is nearly always in a step, while plain and await cells are interrupted."""
    loaded.run(
        "async def busy(pause=0):\n"
        "    total = 0\n"
        "    while not gate.is_set():\n"
        "        for i in range(10_000): total += 1\n"
        "        await asyncio.sleep(pause)\n"
        "    return total % 10_000"
    )
    loaded.run("b = %bg busy()")
    # This one does pause: a thread that lets the interpreter lock go and takes it back again and
    # again can keep all others from it for seconds.
    loaded.run("t = %bg -t busy(0.001)")
    # Not one long sleep: a signal that comes just before a system call does not end it.
    naps = "while True: time.sleep(0.01)"
    for number, cell in enumerate(
        ["await asyncio.Event().wait()", "while True: pass", "await b", "%fg t", naps]
    ):
        loaded.start(f"print('be' 'gun {number}')\n{cell}")
        loaded.expect(f"begun {number}")
        loaded.interrupt()
        shown = loaded.prompt()
        assert "KeyboardInterrupt" in shown or "Detached" in shown
    assert "running running" in loaded.run("print(b.state, t.state)")
    loaded.run("gate.set()")
    assert "[0, 0]" in loaded.run("r = %fg all\nprint(r)")


def test_fg_in_a_plain_function_runs_the_loop(loaded: Terminal) -> None:
    """There it cannot be awaited: it blocks, others go on, and Ctrl-C detaches."""
    loaded.run("def f():\n    %bg -q ticker('t')\n    x = %fg ticker('u', 3)\n    return x")
    assert "got: 3" in loaded.run("print('got:', f())")
    shown = loaded.run("%time %fg ticker('v', 2)")
    assert "v 1" in shown
    assert "Wall time" in shown
    shown = loaded.run("%%capture out\n%fg ticker('w', 2)") + loaded.run("print(out.stdout)")
    assert "w 1" in shown
    loaded.run("def g():\n    %bg says('be' 'gun')\n    %fg waits(7)")
    loaded.start("g()")
    loaded.expect("begun")
    loaded.interrupt()
    assert re.search(r"Detached: job \d+ goes on", loaded.prompt())
    assert "cancelled" in loaded.run("%cancel ?'t'")


def test_bad_input_is_one_line(loaded: Terminal) -> None:
    """In the form of IPython's own."""
    for line, message in [
        ("%bg 42", "UsageError: 42 is nothing to run"),
        ("%bg", "UsageError: no cell runs that could go to the background"),
        ("%bg nowhere()", "UsageError: name 'nowhere' is not defined"),
        ("%fg 7", "UsageError: no job 7: there are none yet"),
        ("%bg --timeout x waits()", "UsageError: --timeout takes a number of seconds"),
    ]:
        shown = loaded.run(line)
        assert message in shown
        assert "Traceback" not in shown
    shown = loaded.run("%bg f(")
    assert "SyntaxError" in shown
    assert "Traceback" not in shown
    assert "no jobs" in loaded.run("%jobs")


def test_a_job_cannot_ask(loaded: Terminal) -> None:
    """The terminal stays with the prompt."""
    loaded.start("%bg input('who?')")
    loaded.expect("CannotAsk: input\\(\\) in job 1: a background job cannot ask")
    loaded.prompt()
    assert "42" in loaded.run("6 * 7")


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt"])
def test_an_exit_in_a_job_leaves_the_terminal_alone(loaded: Terminal, error: str) -> None:
    """In a coroutine, a task of one, and a thread."""
    loaded.run(f"def leaves(): raise {error}\nasync def aleaves(): leaves()")
    loaded.run("async def child(): await asyncio.create_task(aleaves())")
    for code in ("leaves()", "aleaves()", "child()", "-t aleaves()"):
        loaded.run(f"%bg -q {code}")
    loaded.run(
        "while not all(j.done() for j in __import__('ipy_bgtasks').jobs()):\n"
        "    await asyncio.sleep(0)"
    )
    states = loaded.run("print(*[j.state for j in __import__('ipy_bgtasks').jobs()])")
    assert "failed failed failed failed" in states
    assert "42" in loaded.run("6 * 7")


def test_without_a_shared_prompt_one_line_says_what_that_means(
    spawn_terminal: Callable[..., Terminal],
) -> None:
    """With `--simple-prompt` coroutine jobs advance while `%fg` runs the loop."""
    terminal = spawn_terminal("--simple-prompt", "--ext", "ipy_bgtasks")
    lines = [line for line in terminal.text.splitlines() if "ipy_bgtasks" in line]
    assert lines == [
        "ipy_bgtasks: coroutine jobs advance only while %fg or an await cell runs: this prompt "
        "(--simple-prompt) cannot share the event loop; %bg --thread is not affected"
    ]
    terminal.run("import asyncio, time")
    terminal.run("job = %bg asyncio.sleep(0, 'sl' 'ept')")
    assert "running" in terminal.run("print(job.state)")
    terminal.run("x = %fg 1")
    assert "slept" in terminal.run("print(x)")
    terminal.run("t = %bg max(1, 2)")
    assert "got: 2" in terminal.run("print('got:', t.result(20))")
    refused = terminal.run("job = %bg asyncio.sleep(9)") + terminal.run("job.result()")
    assert "WouldBlock" in refused
    terminal.start("x = %fg job")
    terminal.interrupt()
    terminal.sync()
    assert "cancelled" in terminal.run("%cancel job")


def test_unloading_gives_the_terminal_back(loaded: Terminal) -> None:
    """Await cells, the prompt and interrupts are IPython's own again; loading finds the jobs."""
    loaded.run("%bg -q waits(7)")
    loaded.run("%unload_ext ipy_bgtasks")
    assert "not found" in loaded.run("%bg waits()")
    assert "whole" in loaded.run("await asyncio.sleep(0, 'who' 'le')")
    assert "False" in loaded.run("hasattr(get_ipython(), '_ipy_bgtasks_loaded')")
    loaded.run("%load_ext ipy_bgtasks")
    loaded.run("gate.set()")
    assert "got: 7" in loaded.run("x = %fg 1\nprint('got:', x)")


def test_a_failure_in_the_foreground_shows_the_users_lines_only(loaded: Terminal) -> None:
    """The traceback has the cell and the job's code, and nothing of the machinery between."""
    shown = loaded.run("%fg 1/0")
    assert "ZeroDivisionError" in shown
    assert "ipy_bgtasks/" not in shown
    assert "_drive" not in shown
