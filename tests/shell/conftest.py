"""The ring of in-process shells."""

from __future__ import annotations

import asyncio
import atexit
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

EXTENSION = "ipy_bgtasks"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A fresh shell without history, which `get_ipython()` finds while the test runs.

    The extension is not loaded; if the test loads it, it is unloaded afterwards.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("displayhook", "excepthook", "stdout", "stderr", "ps1", "ps2", "ps3"):
        monkeypatch.setattr(sys, name, getattr(sys, name, None), raising=False)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    yield shell
    if EXTENSION in shell.extension_manager.loaded:
        shell.extension_manager.unload_extension(EXTENSION)
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
async def loaded(shell: InteractiveShell) -> AsyncIterator[InteractiveShell]:
    """A fresh shell with the extension loaded on the test's own running loop, as in a kernel.

    Run cells with ``await shell.run_cell_async(code, transformed_cell=shell.transform_cell(code))``
    and single magics with ``shell.run_line_magic``.
    """
    shell.extension_manager.load_extension(EXTENSION)
    yield shell
    if EXTENSION in shell.extension_manager.loaded:
        shell.extension_manager.unload_extension(EXTENSION)


async def run_cell(shell: InteractiveShell, code: str) -> Any:
    """Run a cell; its value, or what it raised."""
    text = shell.transform_cell(code)
    ran = await asyncio.wait_for(shell.run_cell_async(code, transformed_cell=text), 30)
    if error := ran.error_before_exec or ran.error_in_exec:
        raise error
    return ran.result


@pytest.fixture
async def cells(shell: InteractiveShell, request: pytest.FixtureRequest) -> Any:
    """Runs cells in a loaded shell, the first after the module's ``SETUP``: see `run_cell`.

    It loads at the first cell, not before: pytest gives each phase of a test other streams.
    """

    async def run(code: str) -> Any:
        if EXTENSION not in shell.extension_manager.loaded:
            shell.extension_manager.load_extension(EXTENSION)
            await run_cell(shell, getattr(request.module, "SETUP", ""))
        return await run_cell(shell, code)

    return run
