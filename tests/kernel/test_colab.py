"""A kernel that overrides what Google Colab's does: all works as anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import Kernel, MakeKernel

import ipy_bgtasks


@pytest.fixture
def colab(make_kernel: MakeKernel) -> Kernel:
    """The stand-in, with the extension loaded."""
    here, source = Path(__file__).parent, Path(ipy_bgtasks.__file__).parents[1]
    kernel = make_kernel(
        config="c.IPKernelApp.kernel_class = 'colab_stand_in.Kernel'",
        env={"PYTHONPATH": f"{source}:{here}"},
    )
    loaded = kernel.load()
    assert (loaded.stdout, loaded.stderr) == ("", "")
    assert kernel.ok("type(get_ipython()).__module__").result == "'colab_stand_in'"
    return kernel


def test_jobs_show_under_their_cells_beside_its_own_commands(colab: Kernel) -> None:
    """`!` and `%%shell` in a job are the job's, those of the foreground the foreground's."""
    colab.ok("import asyncio\ngate = asyncio.Event()")
    cell = colab.ok("%%bg\nawait gate.wait()\n!echo from the job\nprint('printed')\n5")
    assert colab.ok("!echo from the cell").stdout == "from the cell\n"
    assert colab.ok("%%shell\necho shelled").stdout == "shelled\n"
    colab.ok("gate.set()")
    assert colab.until(lambda: "printed" in cell.stdout and cell.stdout) == (
        "from the job\nprinted\n"
    )
    shown = colab.ok("x = %fg\nx")
    assert (shown.stdout, shown.result) == ("from the job\nprinted\n", "5")
    command = colab.ok("x = %fg -- !echo command")
    assert colab.until(lambda: command.stdout) == "command\n"


def test_what_a_job_asks_of_the_shell_is_the_jobs(colab: Kernel) -> None:
    """Variables in commands, their exit codes and output, and the failures of `%shell`."""
    cell = colab.ok("%%bg\nname = 'x'\n!echo {name} $name; exit 4\nprint(_exit_code)")
    colab.until(lambda: "4" in cell.stdout)
    assert cell.stdout == "x x\n4\n"
    cell = colab.ok("job = %bg [get_ipython().getoutput('echo a; echo b'), 1]")
    assert colab.ok("%fg job").result == "[['a', 'b'], 1]"
    colab.ok("%%bg\nlines = !echo c; echo d")
    assert colab.ok("%fg\nlines").result == "['c', 'd']"
    cell = colab.ok("%%bg\n%shell echo shelled; exit 5")
    (error,) = colab.until(lambda: cell.contents("error"))
    assert (cell.stdout, error["ename"]) == ("shelled\n", "CalledProcessError")


def test_errors_are_shown_once_under_the_jobs_cell(colab: Kernel) -> None:
    """Those with a handler or a rendering of their own, too; and raised by `%fg`."""
    for raises in ("import no_such_module", "raise RenderedError('mine')", "1 / 0"):
        colab.ok("from colab_stand_in import RenderedError\ndef fails():\n    " + raises)
        cell = colab.ok("job = %bg fails()")
        (error,) = colab.until(lambda cell=cell: cell.contents("error"))
        assert error["traceback"]
        foreground = colab.run("%fg job")
        if "import" in raises:
            (shown,) = foreground.contents("error")
            assert shown["traceback"][-1] == "how to install it"
        assert (foreground.status, foreground.ename) == ("error", error["ename"])
        assert colab.ok("1").result == "1"


def test_waits_are_interrupted_and_options_completed(colab: Kernel) -> None:
    """As under the stock kernel; and unloading puts its own things back."""
    colab.ok("import asyncio\njob = %bg asyncio.sleep(1000)")
    waiting = colab.start("print('waits')\n%fg job")
    colab.until(lambda: waiting.reply.stdout)
    colab.interrupt()
    assert waiting.wait().ename == "Detached"
    assert "--thread" in colab.complete("%bg --th")
    found = colab.ask("inspect_request", {"code": "job.cancel", "cursor_pos": 10})
    assert found["data"]["application/json"]["docstring"]
    assert "cancelled" in colab.ok("%cancel job").stdout
    colab.ok("%unload_ext ipy_bgtasks")
    assert colab.ok("type(get_ipython().events).__module__").result == "'IPython.core.events'"
    assert colab.ok("!echo still").stdout == "still\n"
