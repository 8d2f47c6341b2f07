"""Loading into a real kernel, by every way, and working from a subshell."""

from __future__ import annotations

import re

import ipykernel
import pytest
from kernels import MakeKernel

pytestmark = pytest.mark.started

SETUP = """
import asyncio, threading, time, ipy_bgtasks
jobs = ipy_bgtasks.jobs()
gate = asyncio.Event(); opened = threading.Event()
async def where(value):
    await asyncio.sleep(0)
    return threading.current_thread() is threading.main_thread(), value
async def waits(value=None):
    await gate.wait()
    return value
"""

subshells = pytest.mark.skipif(
    ipykernel.version_info < (7,), reason="subshells came with ipykernel 7"
)


def test_by_configuration(make_kernel: MakeKernel) -> None:
    """The kernel's loop is found before it runs; jobs of both places work, and interrupts."""
    kernel = make_kernel(
        config="c.InteractiveShellApp.extensions = ['ipy_bgtasks']\nc.BgTasks.max_threads = 3"
    )
    kernel.ok(SETUP)
    assert kernel.ok("x = %fg where(7)\nx").result == "(True, 7)"
    assert kernel.ok("job = %bg max(1, 2)\njob.result(20), job.where").result == "(2, 'thread')"
    assert "Current: 3" in kernel.ok("%config BgTasks").stdout
    pending = kernel.start("print('begun')\n%fg waits()")
    kernel.until(lambda: pending.reply.stdout)
    kernel.ask("kernel_info_request", {}, "control")
    kernel.interrupt()
    assert pending.wait().ename == "Detached"
    first = kernel.ok("%bg -n talks print('talks')")
    kernel.until(lambda: first.stdout == "talks\n")
    assert re.search("ipy_bgtasks|Error|Traceback", kernel.output) is None, kernel.output


def test_unloading_in_a_kernel_puts_back_everything(make_kernel: MakeKernel) -> None:
    """Streams, publisher, task factory, magics; and all of it works again when loaded again."""
    kernel = make_kernel()
    kernel.ok(
        "import asyncio, builtins, getpass, signal, sys, threading\n"
        "def everything():\n"
        "    ip = get_ipython(); k = ip.kernel\n"
        "    m = ip.magics_manager.magics\n"
        "    return [type(sys.stdout), type(sys.stderr), sorted(vars(ip.display_pub)),\n"
        "        asyncio.get_running_loop().get_task_factory(), builtins.input,\n"
        "        getpass.getpass, sys.breakpointhook, type(sys), type(ip),\n"
        "        ip.input_transformers_post[:], sorted(m['line']),\n"
        "        [c for c in ip.configurables if 'ipy_bgtasks' in type(c).__module__],\n"
        "        sorted(m['cell']), ip.Completer.custom_matchers[:], k.raw_input, k.getpass,\n"
        "        {n: f[:] for n, f in ip.events.callbacks.items()}, k.do_shutdown,\n"
        "        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), ip.display_pub]"
    )
    kernel.ok("get_ipython().Completer\nbefore = everything()")
    kernel.load()
    kernel.ok(SETUP + "job = %bg waits(7)\n%bg print()")
    kernel.ok("%reload_ext ipy_bgtasks")
    kernel.ok("%unload_ext ipy_bgtasks")
    changed = kernel.ok("print([ab for ab in zip(before, everything()) if ab[0] != ab[1]])").stdout
    assert changed == "[]\n"
    assert "not found" in kernel.run("%bg print()").stderr
    assert kernel.ok("str(job.state)").result == "'running'"
    kernel.load()
    assert kernel.ok("gate.set()\nx = %fg 1\nx").result == "7"
    assert kernel.ok("job = %bg print()\njob.number").result == "3"


def test_another_extensions_magics_are_given_back(make_kernel: MakeKernel) -> None:
    """Loading says so in one line."""
    kernel = make_kernel()
    kernel.ok("get_ipython().register_magic_function(lambda line: 'theirs', magic_name='jobs')")
    said = kernel.load().stdout
    assert said.startswith("ipy_bgtasks: hides other magics of the same names: %jobs; %unload_ext")
    assert kernel.ok("%unload_ext ipy_bgtasks\n%jobs").result == "'theirs'"


def test_completion_comes_through_the_kernel(make_kernel: MakeKernel) -> None:
    """Options, numbers, names and `all`."""
    kernel = make_kernel()
    kernel.load()
    kernel.ok(SETUP + "job = %bg -n loads waits()")
    assert kernel.complete("%fg ") == ["1", "all"]
    assert kernel.complete("%cancel %lo") in (["%loads"], ["loads"])
    assert kernel.complete("%bg --ti") == ["--timeout"]
    assert "--watch" in kernel.complete("%jobs --")


@subshells
def test_from_a_subshell(make_kernel: MakeKernel) -> None:
    """What is loaded there is bound to the kernel's loop, and works everywhere."""
    kernel = make_kernel()
    sub = kernel.subshell()
    assert kernel.ok("%load_ext ipy_bgtasks", subshell=sub).stdout == ""
    kernel.ok(SETUP)
    assert kernel.ok("x = %fg where(7)\nx").result == "(True, 7)"
    assert kernel.ok("job = %bg max(1, 2)\njob.result(20)").result == "2"
    pending = kernel.start("print('begun')\n%fg waits()")
    kernel.until(lambda: pending.reply.stdout)
    kernel.ask("kernel_info_request", {}, "control")
    kernel.interrupt()
    assert pending.wait().ename == "Detached"
    kernel.ok("gate.set()")
    assert kernel.ok("x = %fg ?waits\nx", subshell=sub).status == "ok"
    kernel.ok("%unload_ext ipy_bgtasks", subshell=sub)
    assert "not found" in kernel.run("%bg print()").stderr
    kernel.ok("%load_ext ipy_bgtasks")
    assert kernel.ok("job = %bg where(3)\nawait job").result == "(True, 3)"


@subshells
def test_all_magics_work_in_a_subshell_while_the_main_shell_is_busy(
    make_kernel: MakeKernel,
) -> None:
    """Coroutine jobs launched there wait for the main loop; `%fg` says it cannot be interrupted."""
    kernel = make_kernel()
    kernel.load()
    kernel.ok(
        SETUP + "def spins():\n    while True: pass\ndef waits_for(e):\n    return e.wait(60)"
    )
    kernel.ok("spinner = %bg spins()\nslow = %bg waits_for(opened)\ncoro = %bg waits(1)")
    sub, more = kernel.subshell(), kernel.subshell()
    busy = kernel.start("print('busy'); done = threading.Event(); done.wait(60)")
    kernel.until(lambda: busy.reply.stdout)

    listed = kernel.ok("%jobs", subshell=sub).displays[0]["text/plain"]
    assert [line.partition("● ")[2].split()[0] for line in listed.splitlines()] == [
        "running"
    ] * 4  # the cell, too
    said = kernel.ok("%cancel spinner", subshell=sub).stdout
    assert said == "job 1 (spins()) cancelled\n"
    assert kernel.ok("job = %bg max(1, 2)\njob.result(20)", subshell=sub).result == "2"
    waits = kernel.start("x = %fg slow\nx", subshell=sub)
    kernel.until(lambda: "cannot be interrupted" in waits.reply.stdout)
    kernel.ok("opened.set()", subshell=more)
    assert waits.wait().result == "True"
    text = kernel.ok("late = %bg where(7)\nstr(late.state), done.is_set()", subshell=sub).result
    assert text == "('queued', False)"
    first = kernel.ok("%bg -n talks print('talks')", subshell=sub)
    kernel.until(lambda: first.stdout == "talks\n")
    refused = kernel.run("coro.cancel(); late.result(0.01)", subshell=more)
    assert refused.ename == "TimeoutError"
    assert not busy.reply.content
    kernel.ok("done.set()", subshell=more)
    assert busy.wait().status == "ok"
    assert kernel.ok("await late").result == "(True, 7)"
    assert kernel.ok("str(coro.state)").result == "'cancelled'"


def test_fg_in_the_cell_that_loads_says_why_it_cannot_wait(make_kernel: MakeKernel) -> None:
    """That cell was compiled before; all else works in it, and `%fg` from the next one on."""
    kernel = make_kernel()
    reply = kernel.start("%load_ext ipy_bgtasks\njob = %bg max(1, 2)\n%fg job").wait()
    assert "%fg works from the next cell on" in reply.stderr
    assert kernel.ok("%fg job").result == "2"
    assert "top level" in kernel.start("def f():\n    %fg job\nf()").wait().stderr
