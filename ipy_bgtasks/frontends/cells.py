"""What IPython knows of cells: the names of their source text, and whether a text is one.

A text that IPython transforms may be part of a cell whose top level cannot await: `%time`,
`%prun` and other magics have a line or body transformed, and then compile it as they please;
`%%capture` and `%run` run a cell inside the cell. IPython does not tell a transformer, so we
inspect the call stack.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
from collections import Counter
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

_SHELL = "IPython.core.interactiveshell"


class Sources:
    """Names for the source text of jobs, under which tracebacks find it.

    They are IPython's own, so that a traceback says "Cell In[7], line 2". What was added only
    for jobs is removed when the last job compiled from it is discarded. A cell may have defined
    functions that live on: its text stays, like that of every cell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._own: set[str] = set()

    def name(self, text: str, caller: str) -> str:
        """Return the file name for *text*, which is in the cell with the file name *caller*.

        Where that is no cell, it is taken to be in the newest one.
        """
        shell = self._shell
        number = cell_numbers(shell).get(caller)
        if number is None:
            number = max(shell.execution_count - 1, 0)
        # The empty lines before the code count: the same call on another line is another text.
        name = shell.compile.get_code_name(text, text, number)
        if name not in linecache.cache:
            with self._lock:
                self._own.add(name)
        return str(shell.compile.cache(text, number, raw_code=text))

    def cell(self, name: str) -> int | None:
        """Return the number of the cell with the file name *name*, or None."""
        number = cell_numbers(self._shell).get(name)
        return None if number is None else int(number)

    def hold(self, name: str) -> None:
        """Note that one more job was compiled under *name*."""
        with self._lock:
            self._held[name] += 1

    def release(self, job: Record) -> None:
        """Note that a job was discarded."""
        name = job.source
        if name is None:
            return
        with self._lock:
            self._held[name] -= 1
            if self._held[name] > 0:
                return
            del self._held[name]
            if name not in self._own or "def " in job.code or "lambda" in job.code:
                return
            self._own.discard(name)
        linecache.cache.pop(name, None)
        cell_numbers(self._shell).pop(name, None)


def expanded(text: str, variables: Mapping[str, Any]) -> str:
    """Return *text* with `{expressions}` and `$names` replaced, as IPython does after `!`.

    Raises whatever an expression raises.
    """
    from IPython.utils.text import DollarFormatter

    return str(DollarFormatter().vformat(text, [], dict(variables)))


def transforms_a_cell() -> bool:
    """Return whether the text being transformed now will run where its top level may `await`.

    Call this from a transformer, in the thread that transforms.
    """
    asks = _outside(sys._getframe(1))
    if asks is None or not _within(asks):
        return True
    # A cell inside a cell may await where it can run the loop itself; a magic's text may not.
    return asks.f_globals.get("__name__") == _SHELL and asyncio._get_running_loop() is None


def _outside(frame: FrameType | None) -> FrameType | None:
    """Return the frame that called the shell's own `transform_cell`."""
    while frame is not None:
        if _is_shells(frame, "transform_cell"):
            return frame.f_back
        frame = frame.f_back
    return None


def runs_in_a_cell() -> bool:
    """Return whether the caller is called by the code of a cell."""
    return _within(sys._getframe(1))


def _within(frame: FrameType | None) -> bool:
    """Return whether the call comes from the code of a cell or a magic."""
    while frame is not None:
        if _is_shells(frame, "run_code", "run_line_magic", "run_cell_magic"):
            return True
        frame = frame.f_back
    return False


def _is_shells(frame: FrameType, *names: str) -> bool:
    return frame.f_code.co_name in names and frame.f_globals.get("__name__") == _SHELL


def code_that_runs_cells() -> CodeType | None:
    """Return the code of the IPython function that calls the user's code."""
    shell = getattr(sys.modules.get("IPython.core.interactiveshell"), "InteractiveShell", None)
    function = getattr(shell, "run_code", None)
    return getattr(function, "__code__", None)


def cell_numbers(shell: Any) -> MutableMapping[str, int]:
    """Return the table of the numbers of cells by the file names under which they were compiled.

    It is IPython's own if there is one, else the one that `keep_cell_numbers` fills.
    """
    compiler = shell.compile
    own: MutableMapping[str, int] | None = getattr(compiler, "_filename_map", None)
    if own is None:
        own = vars(compiler).setdefault("_ipy_bgtasks_cells", {})
    return own


def keep_cell_numbers(changes: Installation, shell: Any) -> None:
    """Keep the table of cells if IPython keeps none.

    Raises `AttributeError` if the shell's compiler names no cells at all.
    """
    compiler = shell.compile
    if hasattr(compiler, "_filename_map"):
        return
    numbers = cell_numbers(shell)

    def cache(
        original: Any, transformed_code: str, number: int = 0, raw_code: str | None = None
    ) -> str:
        name = str(original(transformed_code, number, raw_code))
        numbers[name] = number
        return name

    changes.wrap(compiler, "cache", cache)
