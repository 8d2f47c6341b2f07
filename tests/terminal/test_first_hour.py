"""What annoyed in the first hour, and does not any more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminals import Terminal

import ipy_bgtasks


@pytest.fixture
def loaded(spawn_terminal: Callable[..., Terminal]) -> Terminal:
    """A terminal with the extension loaded."""
    terminal = spawn_terminal("--ext", "ipy_bgtasks")
    terminal.run("import asyncio, threading, time\ngo = threading.Event()")
    return terminal


def test_a_semicolon_shows_nothing(loaded: Terminal) -> None:
    """Not even an empty `Out[2]: `."""
    shown = loaded.run("%bg go.wait();")
    assert "Out[" not in shown
    assert "Out[" in loaded.run("%bg go.wait()")


def test_a_look_between_two_exits_is_no_reason_to_ask_again(loaded: Terminal) -> None:
    """`exit`, `%jobs`, `exit` leaves."""
    loaded.run("%bg go.wait();")
    assert "exit again to leave" in loaded.run("exit")
    assert "go.wait()" in loaded.run("%jobs")
    loaded.start("exit")
    assert loaded.leave() == 0


def test_a_failure_in_the_foreground_is_shown_once(loaded: Terminal) -> None:
    """And not at all where the cell catches it."""
    loaded.run("def bad(): raise ValueError('bad ' 'thing')")
    assert loaded.run("%fg bad()").count("ValueError: bad thing") == 1
    caught = loaded.run("try:\n    %fg bad()\nexcept ValueError:\n    print('cau' 'ght')\n")
    assert "caught" in caught
    assert "bad thing" not in caught + loaded.run("1 + 1")


def test_nothing_is_left_to_be_told_after_fg(loaded: Terminal) -> None:
    """However fast the job was."""
    for _ in range(10):
        assert "finished" not in loaded.run("%fg time.sleep(0)")
    assert "finished" not in loaded.run("1 + 1")


def _ipython(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", *arguments],
        env={
            **os.environ,
            "IPYTHONDIR": str(home),
            "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_script_tells_of_failures_when_it_ends(tmp_path: Path) -> None:
    """No prompt comes at which they could be told; and nothing is said of prompts."""
    script = tmp_path / "script.ipy"
    script.write_text(
        "%load_ext ipy_bgtasks\n"
        "def bad(): raise ValueError('bad thing')\n"
        "job = %bg bad()\n"
        "error = job.exception()\n"
    )
    done = _ipython(str(script), home=tmp_path)
    assert "ValueError: bad thing" in done.stderr
    assert "failed  bad()" in done.stderr
    assert "prompt" not in done.stdout + done.stderr
    code = "%bg 1 + 1; \nimport time; time.sleep(.2)"
    quiet = _ipython("--ext", "ipy_bgtasks", "-c", code, home=tmp_path)
    assert "prompt" not in quiet.stdout + quiet.stderr
