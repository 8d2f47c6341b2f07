"""A moment to clean up before SIGTERM, in small processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ipy_bgtasks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

HEAD = """\
import os, signal, sys, threading, time
from ipy_bgtasks.hooks import before_sigterm
from ipy_bgtasks.patching import Installation
changes = Installation()
before_sigterm(changes, lambda: print("cleaned up", flush=True))
"""
# In short steps: Python looks for a signal that comes just before a sleep only after that.
WAIT = "print('ready', flush=True)\nfor _ in range(1200): time.sleep(0.05)"


def end(code: str, *signals: int) -> tuple[str, int]:
    """Run *code*, send it *signals* when it is ready; what it said then, and its status."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HEAD + code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(ipy_bgtasks.__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    return said, process.returncode


def test_it_cleans_up_and_then_ends_by_the_signal() -> None:
    """Whoever waits for the process sees what ended it."""
    assert end(WAIT, signal.SIGTERM) == ("cleaned up\n", -signal.SIGTERM)


def test_a_clean_up_that_fails_does_not_keep_it_alive() -> None:
    """The process ends all the same."""
    code = "changes.undo(); before_sigterm(changes, lambda: 1 / 0); sys.stderr = None\n"
    assert end(code + WAIT, signal.SIGTERM)[1] == -signal.SIGTERM


def test_a_main_thread_in_c_code_does_not_keep_it_alive() -> None:
    """No Python code runs in the main thread at all."""
    code = "import hashlib; print('ready', flush=True)\nhashlib.pbkdf2_hmac('md5', b'', b'', 10**9)"
    assert end(code, signal.SIGTERM) == ("cleaned up\n", -signal.SIGTERM)


def test_a_handler_installed_afterwards_is_called() -> None:
    """And stays when ours is taken away."""
    handler = "signal.signal(signal.SIGTERM, lambda *_: (print('mine', flush=True), os._exit(3)))\n"
    assert end(handler + WAIT, signal.SIGTERM) == ("mine\n", 3)
    assert end(handler + "changes.undo()\n" + WAIT, signal.SIGTERM) == ("mine\n", 3)


def test_a_handler_that_is_there_is_left_alone() -> None:
    """Somebody wanted it."""
    code = "changes.undo(); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "before_sigterm(changes, lambda: print('no'))\nprint('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(ipy_bgtasks.__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate("\n", timeout=30)[0] == ""
    assert process.returncode == 0


def test_undoing_brings_back_the_default() -> None:
    """No trace of it is left."""
    assert end("changes.undo()\n" + WAIT, signal.SIGTERM) == ("", -signal.SIGTERM)


def test_a_forked_child_has_the_default() -> None:
    """At once and later; its parent goes on and is still warned itself."""
    code = (
        "for pause in (0, 0.05) * 5:\n"
        "    if (pid := os.fork()) == 0: time.sleep(60)\n"
        "    time.sleep(pause); os.kill(pid, signal.SIGTERM)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM\n"
    )
    assert end(code + WAIT, signal.SIGTERM) == ("cleaned up\n", -signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is told who wrote")
def test_the_signal_of_a_child_forked_in_c_is_not_the_parent_s() -> None:
    """No hook runs in such a fork, so that the child still writes to its parent."""
    code = (
        "import ctypes\n"
        "if (pid := ctypes.PyDLL(None).fork()) == 0: time.sleep(60)\n"
        # The time in which its parent, the test's program, would act on the signal by mistake.
        "os.kill(pid, signal.SIGTERM); time.sleep(0.1); os.kill(pid, signal.SIGKILL)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL\n"
    )
    assert end(code + WAIT, signal.SIGTERM) == ("cleaned up\n", -signal.SIGTERM)
