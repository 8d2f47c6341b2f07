"""The prompt and the await cells of a real terminal IPython on one loop."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

import pytest
from terminals import CTRL_C, CTRL_D, ENTER, Terminal

INSTALL = """\
import asyncio, signal, sys, time
from ipy_bgtasks.frontends.installing import loop_of
from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
from prompt_toolkit.patch_stdout import patch_stdout
from ipy_bgtasks.patching import Installation
shell = get_ipython()
loop = loop_of(shell)
terminal_loop = TerminalLoop(shell, loop, lambda: patch_stdout(raw=True))
changes = Installation()
line = terminal_loop.install(changes)
print("installed:", line)
"""

TICKER = """\
async def ticker(times, name="tick", seconds=0.01):
    for i in range(times):
        print(name, i)
        await asyncio.sleep(seconds)
    return times
"""


@pytest.fixture
def shared(terminal: Terminal) -> Terminal:
    """A terminal IPython with TerminalLoop installed."""
    assert "installed: None" in terminal.run(INSTALL)
    terminal.run(TICKER)
    return terminal


def test_a_task_runs_on_while_the_prompt_waits(shared: Terminal) -> None:
    """What it prints comes above the prompt, and what is being typed stays."""
    shared.run("task = loop.create_task(ticker(30))")
    shared.send("'ty' 'ped'")
    shared.expect("tick 29\n")
    shared.send(ENTER)
    assert "'typed'" in shared.prompt()
    assert "30" in shared.run("task.result()")


def test_a_blocking_cell_stands_still(shared: Terminal) -> None:
    """No task advances while a plain cell runs."""
    shared.run(
        "steps = []\n"
        "async def count():\n"
        "    while True:\n"
        "        steps.append(1); await asyncio.sleep(0)"
    )
    shared.run("task = loop.create_task(count())")
    shared.run("before = len(steps); time.sleep(0.1); after = len(steps)")  # time for many steps
    assert "still: True" in shared.run("print('still:', before == after)")
    assert "moved: True" in shared.run("print('moved:', len(steps) > after)")


def test_a_quiet_wait_is_interrupted_at_once(shared: Terminal) -> None:
    """Nothing else wakes the loop; the cell shows KeyboardInterrupt and the prompt comes back."""
    shared.run(
        "async def wait():\n"
        "    try:\n"
        "        print('wai' 'ting', flush=True); await asyncio.Event().wait()\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted at', time.monotonic()); raise"
    )
    shared.start("await wait()")
    shared.expect("waiting")
    sent = time.monotonic()
    shared.interrupt()
    landed = float(shared.expect(r"interrupted at ([\d.]+)")[1])
    assert landed - sent < 0.5  # without a wake-up it would be never
    assert "KeyboardInterrupt" in shared.prompt()
    assert "True" in shared.run("signal.getsignal(signal.SIGINT) is signal.default_int_handler")


@pytest.mark.parametrize("cell", ["await spin()", "await asyncio.gather(gate.wait(), spin())"])
def test_a_busy_await_cell_is_interrupted(shared: Terminal, cell: str) -> None:
    """Code of an await cell that never awaits is interrupted where it stands, in a task as well."""
    shared.run("async def spin():\n    print('spin' 'ning', flush=True)\n    while True: len([])")
    shared.run("gate = asyncio.Event()")
    shared.start(cell)
    shared.expect("spinning")
    shared.interrupt()
    assert "KeyboardInterrupt" in shared.prompt()


def test_control_c_typed_in_an_await_cell_interrupts_it(shared: Terminal) -> None:
    """The terminal turns the key into SIGINT while a cell runs."""
    shared.start("print('wai' 'ting', flush=True); await asyncio.Event().wait()")
    shared.expect("waiting")
    shared.send(CTRL_C)
    assert "KeyboardInterrupt" in shared.prompt()


def test_an_interrupt_of_the_prompt_harms_nothing(shared: Terminal) -> None:
    """A fresh prompt appears, with the same number; tasks and IPython go on."""
    shared.run("gate = asyncio.Event(); task = loop.create_task(gate.wait())")
    number = shared.number
    shared.send("half a li")
    shared.expect("half a li")
    shared.interrupt()
    assert int(shared.expect(r"In \[(\d+)\]: ")[1]) == number
    assert "False" in shared.run("task.done()")
    shared.run("gate.set(); await task")
    assert "result: True" in shared.run("print('result:', task.result())")


def test_control_c_typed_at_the_prompt_clears_the_input(shared: Terminal) -> None:
    """As IPython does it."""
    shared.send("1/0")
    shared.send(CTRL_C)
    assert "42" in shared.run("6 * 7")
    assert "ZeroDivisionError" not in shared.text


def test_control_d_leaves(shared: Terminal) -> None:
    """The end of input at the prompt ends IPython, also with a task running."""
    shared.run("task = loop.create_task(asyncio.sleep(1000))")
    shared.send(CTRL_D)
    assert shared.leave() == 0


def test_exit_leaves(shared: Terminal) -> None:
    """Typed exit ends IPython."""
    shared.start("exit")
    assert shared.leave() == 0


def test_a_foreground_exit_or_interrupt_passes_out_as_in_stock_ipython(shared: Terminal) -> None:
    """The loop can be used afterwards."""
    assert "To exit: use" in shared.run("await asyncio.sleep(0); raise SystemExit(3)")
    assert "KeyboardInterrupt" in shared.run("await asyncio.sleep(0); raise KeyboardInterrupt")
    assert "still here" in shared.run("await asyncio.sleep(0, 'still' ' here')")


def test_a_task_that_stops_the_loop_ends_neither_prompt_nor_cell(shared: Terminal) -> None:
    """Stock IPython would die of "Event loop stopped before Future completed"."""
    shared.run("timer = loop.call_later(0.01, loop.stop)")
    shared.run("while timer.when() > loop.time(): await asyncio.sleep(0)")
    assert "went on" in shared.run(
        "loop.call_soon(loop.stop); await asyncio.sleep(0.01, 'went' ' on')"
    )


def test_a_nested_run_is_refused_without_noise(shared: Terminal) -> None:
    """An await cell run from within an await cell gets asyncio's RuntimeError."""
    shown = shared.run("await asyncio.sleep(0); shell.run_cell('await asyncio.sleep(0)');")
    assert "RuntimeError: This event loop is already running" in shown
    assert "never awaited" not in shown + shared.run("import gc; gc.collect()")


def test_the_next_input_can_be_prefilled(shared: Terminal) -> None:
    """As %recall, %load and %edit do it."""
    shared.run("set_next = shell.set_next_input; set_next(\"'pre' 'filled'\")")
    shared.send(ENTER)
    assert "'prefilled'" in shared.prompt()


def test_a_cell_of_several_lines_can_be_typed(shared: Terminal) -> None:
    """The continuation prompt and the indentation come as usual."""
    shared.send("for i in range(2):" + ENTER)
    shared.expect(r"\.\.\.: ")
    shared.send("print('line', i)" + ENTER)
    shared.expect(r"\.\.\.: ")
    shared.send(ENTER)
    shown = shared.prompt()
    assert "line 0\nline 1\n" in shown


def test_another_gui_loop_is_said_once_and_sharing_returns(shared: Terminal) -> None:
    """While `%gui` runs the prompt, tasks stand still; without it they go on."""
    shared.run(
        "from IPython.terminal import pt_inputhooks\n"
        "pt_inputhooks.register('fake', lambda context: None)\n"
        "steps = []\n"
        "async def count():\n"
        "    while True:\n"
        "        steps.append(1); await asyncio.sleep(0)"
    )
    shown = shared.run("%gui fake") + shared.run("1")
    assert "%gui fake runs the prompt on a loop of its own" in shown
    shared.run("task = loop.create_task(count())")
    assert "stands: True" in shared.run("print('stands:', not steps)")
    shown = shared.run("%gui") + shared.run("%gui fake") + shared.run("%gui") + shared.run("1")
    assert "moves: True" in shared.run("print('moves:', bool(steps))")
    assert "a loop of its own" not in shown


def test_ipythons_own_sharing_is_no_obstacle(shared: Terminal) -> None:
    """`%gui asyncio` asks for what is there already."""
    assert "own" not in shared.run("%gui asyncio") + shared.run("1")
    shared.run("task = loop.create_task(ticker(3))")
    shared.expect("tick 2\n")


def test_a_simple_prompt_cannot_share(spawn_terminal: Callable[..., Terminal]) -> None:
    """Loading says so in one line; await cells run and can be interrupted."""
    terminal = spawn_terminal("--simple-prompt")
    for line in INSTALL.splitlines():
        shown = terminal.run(line)
    assert "--simple-prompt) cannot share the event loop; %bg --thread is not affected" in shown
    assert "whole" in terminal.run("await asyncio.sleep(0, 'who' 'le')")
    terminal.start("print('wai' 'ting', flush=True); await asyncio.Event().wait()")
    terminal.expect("waiting")
    terminal.interrupt()
    assert "KeyboardInterrupt" in terminal.prompt()
    terminal.run("changes.undo()")
    assert "ours: False" in terminal.run("print('ours:', shell.loop_runner is terminal_loop)")


def test_a_dumb_terminal_shares(spawn_terminal: Callable[..., Terminal]) -> None:
    """prompt_toolkit has a prompt of its own there."""
    terminal = spawn_terminal(term="dumb")
    for line in INSTALL.splitlines():
        terminal.run(line)
    terminal.run("timer = loop.call_later(0.01, lambda: print('ti' 'cked'))")
    terminal.expect("ticked")
    terminal.interrupt()
    terminal.expect(r"In \[\d+\]: ")
    assert "42" in terminal.run("6 * 7")


def test_autoawait_keeps_its_choices(shared: Terminal) -> None:
    """Asyncio is ours, off is off, and others run as in stock IPython."""
    assert "set to use `asyncio`" in shared.run("%autoawait")
    assert "SyntaxError" in shared.run("%autoawait off") + shared.run("await asyncio.sleep(0)")
    shared.run("def other(coro): print('ot' 'her'); return loop.run_until_complete(coro)")
    assert "other" in shared.run("%autoawait other") + shared.run("await asyncio.sleep(0)")
    shared.run("%autoawait asyncio")
    assert "ours: True" in shared.run("print('ours:', shell.loop_runner is terminal_loop)")


def test_uninstall_puts_everything_back(terminal: Terminal) -> None:
    """The shell has the same attributes and runner as before; await cells run as before."""
    terminal.run("shell = get_ipython()")
    terminal.run("before = dict(vars(shell)), shell.loop_runner, shell.loop_runner_map")
    terminal.run(INSTALL)
    terminal.run("changes.undo()")
    terminal.run("after = dict(vars(shell)), shell.loop_runner, shell.loop_runner_map")
    assert "same: set() True" in terminal.run(
        "print('same:', after[0].keys() ^ before[0].keys(), after[1:] == before[1:])"
    )
    assert "whole" in terminal.run("await asyncio.sleep(0, 'who' 'le')")
    terminal.run("terminal_loop.install(changes); wrapped = shell.prompt_for_code")
    terminal.run("shell.prompt_for_code = lambda: wrapped(); changes.undo()")
    assert "42" in terminal.run("6 * 7")


def test_a_context_surrounds_each_prompt(terminal: Terminal) -> None:
    """It is told when the prompt runs, and leaves before the cell does."""
    terminal.run(
        "import contextlib\n"
        "seen = []\n"
        "@contextlib.contextmanager\n"
        "def around():\n"
        "    seen.append('entered')\n"
        "    yield lambda: seen.append(shell.pt_app.app.is_running)\n"
        "    seen.append('left')"
    )
    terminal.run(INSTALL.replace("lambda: patch_stdout(raw=True)", "around"))
    terminal.run("1")
    once = "'entered', True, 'left'"
    assert f"[{once}, {once}]" in terminal.run("seen")


def test_output_of_a_task_is_whole_and_in_order_across_prompts(shared: Terminal) -> None:
    """Neither the end of a prompt nor a cell swallows or reorders a line."""
    shared.run("task = loop.create_task(ticker(1500, 'line', 0.001))")
    for _ in range(10):
        shared.run("await asyncio.sleep(0.01)")  # a cell of some lines' length
        shared.run("1")
    shared.run("await task")
    shared.run("1")
    numbers = [int(n) for n in re.findall(r"line (\d+)\n", shared.text)]
    assert numbers == list(range(1500))


def test_random_interrupts_hit_the_foreground_alone(shared: Terminal) -> None:
    """A task that is nearly always in a step survives, with the right result; IPython answers."""
    shared.run(
        "async def work(gate):\n"
        "    total = 0\n"
        "    while not gate.is_set():\n"
        "        for i in range(20_000): total += 1\n"
        "        await asyncio.sleep(0)\n"
        "    return total % 20_000, total > 0"
    )
    shared.run("gate = asyncio.Event(); task = loop.create_task(work(gate))")
    cells = ["await asyncio.sleep(0.1)", "await asyncio.Event().wait()", "time.sleep(0.1)", "1", ""]
    chance = random.Random(7)
    for _ in range(50):
        shared.start(chance.choice(cells))
        shared.read_for(chance.uniform(0.05, 0.2))  # the stimulus: an interrupt at any moment
        shared.interrupt()
    shared.sync()
    assert "done: False" in shared.run("print('done:', task.done())")
    shared.run("gate.set(); result = await task")
    assert "result: (0, True)" in shared.run("print('result:', result)")
