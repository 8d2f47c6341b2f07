"""The stop button in a real kernel: it hits the foreground, at once, and nothing else."""

from __future__ import annotations

import re
import time

import pytest
from kernels import Kernel

SETUP = """
import asyncio, threading, time
gate = asyncio.Event(); opened = threading.Event()
async def waits(value=None):
    await gate.wait()
    return value
def waits_in_thread(value):
    opened.wait(60)
    return value
def soon(turns=5):
    # Some turns of the loop later, whoever called this waits.
    call = (lambda: print('begun')) if turns == 0 else (lambda: soon(turns - 1))
    asyncio.get_running_loop().call_soon(call)
async def blocks():
    for _ in range(100): await asyncio.sleep(0)
    while True: time.sleep(0.001)
async def busy():
    total = 0
    while not gate.is_set():
        for i in range(40_000): total += 1
        # It does pause: a thread that lets the interpreter lock go and takes it back at once,
        # again and again, keeps the others of a kernel from it for seconds.
        await asyncio.sleep(0.0005)
    return total % 40_000
"""

# What an interrupt may take at most: generous, since it counts the formatting of a traceback on a
# machine that may be busy. Without what is tested it takes until something else wakes the loop:
# never.
AT_ONCE = 2.0


@pytest.fixture
def k(shared: Kernel) -> Kernel:
    """The shared kernel with something to wait for."""
    shared.ok(SETUP)
    return shared


def interrupted(k: Kernel, cell: str) -> tuple[str | None, str, float]:
    """Interrupts *cell* once it waits: the error's name, what was shown, and how long it took."""
    if cell.startswith("%%"):
        magic, _, body = cell.partition("\n")
        cell = f"{magic}\nsoon()\n{body}"
    elif "await" in cell or "%fg" in cell:
        cell = f"soon()\n{cell}"
    else:
        cell = f"print('begun')\n{cell}"
    pending = k.start(cell)
    k.until(lambda: "begun" in pending.reply.stdout)
    began = time.monotonic()
    k.interrupt()
    reply = pending.wait()
    return reply.ename, reply.traceback, time.monotonic() - began


@pytest.mark.parametrize(
    "cell",
    [
        "%fg waits()",
        "x = %fg waits()",
        "%%fg\nawait waits()",
        "%fg all",
        "for i in range(3):\n    %fg waits()",
        "async def f():\n    x = %fg waits()\nawait f()",
        "%fg -- opened.wait()",
        "%fg --timeout 50 waits()",
    ],
)
def test_fg_detaches_at_once_on_a_quiet_loop(k: Kernel, cell: str) -> None:
    """One line; the job goes on, and the rest of the cell does not run."""
    if cell == "%fg all":
        k.ok("one = %bg waits()\ntwo = %bg waits()")
    ename, shown, took = interrupted(k, cell if cell.startswith("%%") else f"{cell}\nrest = 1")
    assert took < AT_ONCE
    assert ename == "Detached"
    assert re.fullmatch(
        r"Detached: jobs? [\d, ]+ goe?s? on: %fg (\d+|all) returns to (it|them), "
        r"%cancel (\d+|all) stops (it|them)",
        shown,
    )
    assert k.ok("'rest' in globals()").result == "False"
    states = k.ok("import ipy_bgtasks\nprint(*[j.state for j in ipy_bgtasks.jobs()])").stdout
    assert set(states.split()) == {"running"}
    k.ok("gate.set(); opened.set()")
    k.ok("%fg all;")


@pytest.mark.parametrize(
    "cell",
    [
        "await asyncio.Event().wait()",
        "await waits()",
        "await asyncio.sleep(1000)",
        "await asyncio.to_thread(opened.wait)",
        "job = %bg waits()\nawait job",
        "async with asyncio.TaskGroup() as g:\n    g.create_task(waits())",
        "await asyncio.gather(waits(), waits())",
        "await blocks()",
        "async with asyncio.timeout(1000):\n    await blocks()",
        "await asyncio.gather(waits(), blocks())",
        "async with asyncio.TaskGroup() as g:\n    for f in blocks, waits: g.create_task(f())",
        "task = asyncio.create_task(blocks())\nawait waits()",
    ],
)
def test_every_await_cell_is_interrupted_at_once(k: Kernel, cell: str) -> None:
    """Stock ipykernel waits until something else wakes the loop, and for the end of a step."""
    job = k.ok("other = %bg waits('other')")
    assert job.status == "ok"
    ename, _, took = interrupted(k, cell)
    assert ename in ("KeyboardInterrupt", "CancelledError")
    assert took < AT_ONCE
    assert k.ok("gate.set(); opened.set()\nx = %fg other\nx").result == "'other'"


def test_an_interrupt_right_before_a_step_that_takes_for_ever_ends_it(k: Kernel) -> None:
    """It is on its way through the loop, which does not get on."""
    reply = k.run(
        "import os, signal\n"
        "async def f():\n"
        "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(0)\n"
        "    while True: time.sleep(0.001)\n"
        "await f()"
    )
    assert reply.ename == "KeyboardInterrupt"
    assert k.ok("1 + 1").result == "2"


# Not one long wait: a signal that comes just before a system call does not end it.
@pytest.mark.parametrize(
    "cell",
    ["while True: time.sleep(0.01)", "while True: pass", "while not opened.wait(0.01): pass"],
)
def test_a_plain_cell_is_interrupted_as_ever(k: Kernel, cell: str) -> None:
    """Jobs go on."""
    k.ok("job = %bg waits_in_thread(7)\nother = %bg waits(8)")
    ename, _, took = interrupted(k, cell)
    assert ename == "KeyboardInterrupt"
    assert took < AT_ONCE
    k.ok("gate.set(); opened.set()")
    assert k.ok("r = %fg all\nr").result == "[7, 8]"


def test_interrupts_never_hit_a_job_that_is_nearly_always_in_a_step(k: Kernel) -> None:
    """Of any kind of foreground; one after the other."""
    k.ok("b = %bg busy()\nt = %bg -t busy()\nw = %bg waits_in_thread(3)")
    for cell in [
        "await asyncio.sleep(1000)",
        "%fg b",
        "while True: pass",
        "%fg w",
        "await b",
        "%fg all",
    ]:
        ename, _, _ = interrupted(k, cell)
        assert ename in ("Detached", "KeyboardInterrupt", "CancelledError"), cell
    assert k.ok("print(b.state, t.state, w.state)").stdout.split() == ["running"] * 3
    k.ok("gate.set(); opened.set()")
    assert k.ok("r = %fg all\nr").result == "[0, 0, 3]"


def test_an_interrupt_while_the_kernel_is_idle_harms_nothing(k: Kernel) -> None:
    """Neither the jobs nor the next cell."""
    k.ok("b = %bg busy()")
    for _ in range(5):
        k.interrupt()
        assert k.run("1 + 1").result in ("2", None)
    assert k.ok("str(b.state)").result == "'running'"
    k.ok("gate.set()\n%fg b")


def test_what_was_there_before_comes_back(k: Kernel) -> None:
    """Signal handler and wake-up descriptor, after a wait and after an interrupt."""
    look = "import signal\nrepr(signal.getsignal(signal.SIGINT))"
    before = k.ok(look).result
    k.ok("%bg gate.set()\n%fg waits()")
    k.ok("gate.clear()")
    interrupted(k, "%fg waits()")
    assert k.ok(look).result == before
    assert interrupted(k, "await asyncio.Event().wait()")[2] < AT_ONCE


#: Interrupts in the kernel's own code, once: after the cell's, or before it as if after it began.
_MEET = """
import os, signal
shell = get_ipython(); kernel = shell.kernel
def meets(owner, name, interrupt):
    original = getattr(owner, name)
    def meet(*args, **kwargs):
        setattr(owner, name, original)
        interrupt()
        return original(*args, **kwargs)
    setattr(owner, name, meet)
def press():
    for _ in range(3): signal.raise_signal(signal.SIGINT)
def raises(): raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("meets", "status"),
    [
        ("(kernel, 'finish_metadata', press)", "ok"),
        ("(kernel, 'finish_metadata', raises)", "ok"),
        ("(kernel, 'do_execute', raises)", "error"),
    ],
    ids=["late, thrice", "late", "early"],
)
def test_a_cell_gets_its_reply_wherever_an_interrupt_lands(
    kernel: Kernel, meets: str, status: str
) -> None:
    """The front end would wait for ever, and all cells behind it."""
    kernel.ok(_MEET)
    early = "do_execute" in meets
    if early:
        kernel.ok(f"meets{meets}")
    first = kernel.start("1 + 1" if early else f"meets{meets}\n1 + 1")
    second = kernel.start("3", queue=True)
    reply = first.wait()
    assert reply.content["status"] == status
    if status == "ok":
        assert reply.result == "2"
        assert second.wait().result == "3"
    else:
        assert reply.ename == "KeyboardInterrupt"
        assert second.wait().content["status"] in ("aborted", "ok")  # it may come later
    assert kernel.ok("1 + 2").result == "3"


def test_a_second_interrupt_ends_a_hook_that_hangs(kernel: Kernel) -> None:
    """The first comes too late for the cell."""
    kernel.ok(
        "import time\n"
        "def hang(result):\n"
        "    while result.result == 'hang': print('hangs'); time.sleep(0.01)\n"
        "get_ipython().events.register('post_run_cell', hang)"
    )
    cell = kernel.start("'hang'")
    kernel.until(lambda: cell.reply.stdout)
    while not cell.reply.content:
        seen = cell.reply.stdout
        kernel.interrupt()
        kernel.until(lambda seen=seen: cell.reply.content or cell.reply.stdout != seen)
    assert cell.wait().result == "'hang'"
    assert kernel.ok("1").result == "1"


def test_an_interrupt_of_a_flush_leaves_no_lock_that_output_needs(kernel: Kernel) -> None:
    """The kernel's thread for output would wait for it, and show nothing any more."""
    kernel.ok(
        "import signal, sys, threading\n"
        "enter = threading.Condition.__enter__\n"
        "def interrupted(self):\n"
        "    entered = enter(self)\n"
        "    if threading.current_thread() is threading.main_thread() and armed:\n"
        "        armed.clear(); signal.raise_signal(signal.SIGINT)\n"
        "    return entered\n"
        "armed = []; threading.Condition.__enter__ = interrupted"
    )
    reply = kernel.run("armed.append(1); sys.stdout.flush()")
    assert reply.ename == "KeyboardInterrupt"
    assert kernel.ok("print('shown')").stdout == "shown\n"
