"""IPython within a script of the user's, which nothing may run a second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from terminals import CTRL_D, PROMPT, Terminal

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


def test_leaving_says_that_jobs_run(
    spawn_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """With Ctrl-D as with `exit`; they go on beside the program, and end with it."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    terminal = spawn_terminal(script=script)
    terminal.run("%load_ext ipy_bgtasks\nimport threading")
    terminal.run("job = %bg threading.Event().wait()")
    line = r"1 job is running \(%jobs lists it\); exit again to leave, it ends with the program\n"
    terminal.send(CTRL_D)
    terminal.expect(line)
    terminal.expect(PROMPT)
    terminal.run("1 + 1")
    terminal.start("exit")
    terminal.expect(line)
    terminal.prompt()
    terminal.send(CTRL_D)
    terminal.expect("script goes on")
    assert terminal.leave() == 0
