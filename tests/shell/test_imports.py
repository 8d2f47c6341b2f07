"""What loading the extension imports, in a process of its own."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

#: Parts of the package that a session in which nothing is launched does not need.
_LATER = (
    "ipy_bgtasks.notify",
    "ipy_bgtasks.background",
    "ipy_bgtasks.errors",
    "ipy_bgtasks.frontends.commands",
    "ipy_bgtasks.hooks",
    "ipy_bgtasks.ipython.calls",
    "ipy_bgtasks.ipython.options",
    "ipy_bgtasks.job.",
    "ipy_bgtasks.live",
    "ipy_bgtasks.log",
    "ipy_bgtasks.registry",
    "ipy_bgtasks.runners",
    "ipy_bgtasks.session.foreground",
    "ipy_bgtasks.session.launching",
    "ipy_bgtasks.session.leaving",
    "ipy_bgtasks.session.notices",
    "ipy_bgtasks.views",
    "ipy_bgtasks.work",
)
#: … but for this, which the screens are.
_BASE = {"ipy_bgtasks.job.host"}
#: All that is imported beside the package itself, where IPython has not done so already.
_OTHERS = {"_uuid", "faulthandler", "gc", "uuid", "secrets"}  # of uuid, since Python 3.15
_LOAD = """
import sys
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = TerminalInteractiveShell.instance(config=config)
{kernel}before = set(sys.modules)
{front_end}
shell.extension_manager.load_extension("ipy_bgtasks")
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("kernel", "front_end", "most"),
    [
        ("", "", 33),
        (
            "import ipykernel.ipkernel\n",
            "from ipy_bgtasks.frontends.kernel import front_end, background_cells",
            50,
        ),
    ],
    ids=["terminal", "kernel"],
)
def test_loading_imports_only_what_every_session_uses(
    kernel: str, front_end: str, most: int
) -> None:
    """What jobs need comes with the first; each module costs a quarter of a millisecond."""
    code = _LOAD.format(kernel=kernel, front_end=front_end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = done.stdout  # IPython 7 sets the terminal's title before
    loaded: list[str] = ast.literal_eval(printed[printed.rindex("[") :])
    ours = {name for name in loaded if name.partition(".")[0] == "ipy_bgtasks"}
    assert not {name for name in ours - _BASE if name.startswith(_LATER)}
    assert len(ours) <= most
    assert set(loaded) - ours <= _OTHERS
