"""The fixture of the in-process shells itself."""

from __future__ import annotations

import asyncio
import sys

import pytest
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_has_a_shell_of_its_own(shell: InteractiveShell, again: int) -> None:
    """It is the one the package finds, and nothing of another test is in it."""
    assert get_ipython() is shell
    assert "left_behind" not in shell.user_ns
    assert shell.run_cell("left_behind = get_ipython()").success
    assert shell.user_ns["left_behind"] is shell


def test_nothing_of_the_shell_stays() -> None:
    """Outside the fixture there is no shell, and Python is as it was."""
    assert get_ipython() is None
    assert sys.excepthook is sys.__excepthook__


async def test_cells_await_on_the_loop_of_the_test(shell: InteractiveShell) -> None:
    """A cell with a top-level `await` runs like in a kernel, on the running loop."""
    code = "import asyncio; await asyncio.sleep(0); asyncio.get_running_loop()"
    ran = await shell.run_cell_async(code, transformed_cell=shell.transform_cell(code))
    assert ran.result is asyncio.get_running_loop()
