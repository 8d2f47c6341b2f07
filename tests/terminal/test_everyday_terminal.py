"""Commands, stops and tracebacks of jobs as somebody at a terminal has them."""

from __future__ import annotations

import re

import pytest
from terminals import CTRL_C, Terminal

_OURS = re.compile(r"ipy_bgtasks[./]|site-packages/ipy_bgtasks|_drive|run_interruptible|await_end")

_UNTIL = "while {!r} not in jobs()[1].log.stdout: time.sleep(0.01)"


@pytest.fixture
def t(terminal: Terminal) -> Terminal:
    """A terminal with the extension loaded."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import time; from ipy_bgtasks import jobs")
    return terminal


def test_a_command_in_a_job_takes_no_keys_and_no_ctrl_c(t: Terminal) -> None:
    """It has a session of its own; what it prints is the job's."""
    t.run("import asyncio, os")
    t.run(
        "%%bg -n within\n!cat; echo 'fin''ished'; ps -o sid= -p $$; sleep 0.5\n"
        "x = !echo then\nprint(x)"
    )
    t.run(_UNTIL.format("finished"))
    t.start("print('on ' 'it'); await asyncio.Event().wait()")
    t.expect("on it")
    t.interrupt()
    assert "KeyboardInterrupt" in t.prompt()
    t.run("%fg %within")
    assert "['finished', \"['then']\"]" in t.run(
        "log = jobs()[1].log.stdout.splitlines(); log[::2]"
    )
    assert "True" in t.run("int(log[1]) != os.getsid(0)")


def test_a_command_in_a_job_is_cancelled_with_it(t: Terminal) -> None:
    """With all that it started."""
    seconds = f"1003.{t.pid}"  # nobody else on the machine sleeps for just as long
    t.run(f"%%bg -n within\n!echo begun; sleep {seconds} & sleep {seconds}")
    t.run(_UNTIL.format("begun"))
    assert "(within) cancelled" in t.run("%cancel %within")
    assert "'0'" in t.run(f"x = !pgrep -fc 'sleep 10[0]3.{t.pid}'\nx[0]")


def test_no_frame_of_ours_is_shown_where_fg_blocks(t: Terminal) -> None:
    """In a function, under %time, with autoawait off."""
    t.run("def f():\n    return 1 / 0")
    t.run("def in_function():\n    get_ipython().run_line_magic('fg', 'j')")
    t.run("j = %bg -q f()")
    for code in ("in_function()", "%time %fg j", "j.result()", "%fg j", "await j"):
        shown = t.run(code)
        assert "ZeroDivisionError" in shown
        assert not _OURS.search(shown), shown
    t.run("%autoawait off")
    shown = t.run("%fg j")
    assert "ZeroDivisionError" in shown
    assert not _OURS.search(shown), shown


@pytest.mark.parametrize("autoawait", ["on", "off"])
def test_an_interrupted_cancel_shows_no_frame_of_ours(t: Terminal, autoawait: str) -> None:
    """While it waits."""
    t.run("import threading; lock = threading.Lock(); lock.acquire()")
    t.run("%config BgTasks.cancel_wait = 1000")
    t.run(f"%autoawait {autoawait}")
    t.run("%bg -n stuck lock.acquire()")
    t.run(
        "def watch():\n"
        "    while str(jobs()[1].state) != 'cancelling': time.sleep(0.01)\n"
        # `%cancel` begins to wait right after that: no event says so.
        "    time.sleep(0.05); print('on ' 'it')"
    )
    t.start("threading.Thread(target=watch).start()\n%cancel %stuck")
    t.expect("on it")
    t.send(CTRL_C)
    shown = t.prompt()
    assert "Detached: the request to stop stands; %jobs shows what comes of it" in shown
    assert "Traceback" not in shown
    assert not _OURS.search(shown), shown
    assert "asyncio/" not in shown
    t.run("lock.release()")


def test_an_interrupted_await_cell_shows_no_frame_of_ours(t: Terminal) -> None:
    """As in a kernel."""
    t.run("import asyncio")
    t.start("print('on ' 'it')\nawait asyncio.sleep(1000)")
    t.expect("on it")
    t.interrupt()
    shown = t.prompt()
    assert "KeyboardInterrupt" in shown
    assert not _OURS.search(shown), shown
