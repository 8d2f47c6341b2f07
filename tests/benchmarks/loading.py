"""What loading the extension takes, each time in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .contest import OURS, Contests, Round, Size, excess, turns
from .shells import EXTENSION, kernel

BENCH = Contests("loading")

_BARE = "bare_extension"
#: The least an extension can be: one magic.
_BARE_SOURCE = """
from IPython.core.magic import Magics, line_magic, magics_class

@magics_class
class Bare(Magics):
    @line_magic
    def bare(self, line): pass

def load_ipython_extension(shell):
    shell.register_magics(Bare)
"""
_TIMED = """
from time import perf_counter
began = perf_counter()
get_ipython().extension_manager.load_extension({name!r})
took = perf_counter() - began
"""
_FRESH = """
import sys
sys.path[:0] = {path!r}
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.hist_file = ":memory:"
config.HistoryManager.enabled = False
shell = TerminalInteractiveShell.instance(config=config)
get_ipython = lambda: shell
"""


@BENCH.add("%load_ext in a fresh terminal shell", {"a bare extension": excess(0.012)})
def terminal(size: Size) -> Iterator[Round]:
    """The extension's own imports included."""

    def load(name: str, path: list[str], env: dict[str, str]) -> float:
        code = _FRESH.format(path=path) + _TIMED.format(name=name) + "print('took', took)"
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | env)
        return float(done.stdout.rpartition("took ")[2])

    yield from _both(load, size.rounds(20))


@BENCH.add("%load_ext in a fresh kernel", {"a bare extension": excess(0.012)})
def in_kernel(size: Size) -> Iterator[Round]:
    """The extension's own imports included."""

    def load(name: str, path: list[str], env: dict[str, str]) -> float:
        with kernel(env) as k:
            k.ok(f"import sys; sys.path[:0] = {path!r}")
            k.ok(_TIMED.format(name=name))
            return float(k.ok("took").result or 0)

    yield from _both(load, size.rounds(10))


def _both(load: Callable[[str, list[str], dict[str, str]], float], rounds: int) -> Iterator[Round]:
    with tempfile.TemporaryDirectory() as home:
        Path(home, f"{_BARE}.py").write_text(_BARE_SOURCE)
        path = [home, *(p for p in sys.path if p)]
        # Compiled once, as what is installed is, whatever the environment says about that.
        cache = str(Path(home, "cache"))
        env = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        contenders: dict[str, Callable[[], float]] = {
            OURS: lambda: load(EXTENSION, path, env),
            "a bare extension": lambda: load(_BARE, path, env),
        }
        yield from turns(contenders, rounds)
