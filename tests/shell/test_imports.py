"""What loading the extension imports, in a process of its own."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

#: Parts of the package that a session which only loads it does not need.
_LATER = (
    "ipy_bgtasks.job.future",
    "ipy_bgtasks.job.progress",
    "ipy_bgtasks.job.tracking",
    "ipy_bgtasks.live",
    "ipy_bgtasks.log.file",
    "ipy_bgtasks.log.fold",
    "ipy_bgtasks.log.output",
    "ipy_bgtasks.log.transcript",
    "ipy_bgtasks.runners.executors.",
    "ipy_bgtasks.runners.packing",
    "ipy_bgtasks.runners.processes.worker",
    "ipy_bgtasks.runners.remote",
    "ipy_bgtasks.session.launching",
    "ipy_bgtasks.session.stopping",
    "ipy_bgtasks.views.",
    "ipy_bgtasks.work.",
)
#: All that is imported beside the package itself, where IPython has not done so already.
_OTHERS = {
    "_uuid",
    "concurrent.futures.thread",
    "faulthandler",
    "gc",
    "getpass",
    "secrets",
    "termios",
    "uuid",
}
_LOAD = """
import sys
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = TerminalInteractiveShell.instance(config=config)
{kernel}before = set(sys.modules)
{screen}
shell.extension_manager.load_extension("ipy_bgtasks")
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("kernel", "screen"),
    [("", ""), ("import ipykernel.ipkernel\n", "import ipy_bgtasks.frontends.kernel.screen")],
    ids=["terminal", "kernel"],
)
def test_loading_imports_only_what_every_session_uses(kernel: str, screen: str) -> None:
    """No reading of CODE, no HTML, no pools, no engines."""
    code = _LOAD.format(kernel=kernel, screen=screen)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    ours = {name for name in loaded if name.partition(".")[0] == "ipy_bgtasks"}
    assert not {name for name in ours if name.startswith(_LATER)}
    assert set(loaded) - ours <= _OTHERS
