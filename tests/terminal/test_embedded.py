"""IPython within a script of the user's, which nothing may run a second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from terminals import Terminal

#: Without ``if __name__ == "__main__"``, as quick scripts are.
_SCRIPT = """
import os
print("script runs in", os.getpid())

def f(x):
    return x * 14

class Point:
    def __init__(self, x):
        self.x = x

import IPython
IPython.embed(banner1="", confirm_exit=False)
print("script goes " "on")
"""


def test_a_process_job_leaves_the_script_alone(
    spawn_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """What it defines gets to the worker by value, and comes back as what it is here."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    terminal = spawn_terminal(script=script)
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("j = %bg -p f(3)")
    terminal.start("print('value', j.result(60))")
    terminal.expect("value 42")
    terminal.prompt()
    terminal.run("j = %bg -p Point(7)")
    terminal.start("print('point', j.result(60).x, type(j.result()) is Point)")
    terminal.expect("point 7 True")
    terminal.prompt()
    terminal.start("exit")
    terminal.expect("script goes on")
    assert terminal.leave() == 0
    assert terminal.text.count("script runs in") == 1
