"""Whether a text that IPython transforms is a cell, or part of one whose top level cannot await.

`%time`, `%prun` and other magics have a line or body transformed, and then compile it as they
please; `%%capture` and `%run` run a cell inside the cell. IPython tells a transformer nothing of
that, so we look who asks.
"""

from __future__ import annotations

import asyncio
import sys
from types import FrameType

_SHELL = "IPython.core.interactiveshell"


def transforms_a_cell() -> bool:
    """Whether the top level of what is being transformed now will be run where it may `await`.

    To be called from a transformer, in the thread that transforms.
    """
    asks = _outside(sys._getframe(1))
    if asks is None or not _within(asks):
        return True
    # A cell inside a cell may await where it can run the loop itself; a magic's text may not.
    return asks.f_globals.get("__name__") == _SHELL and asyncio._get_running_loop() is None


def _outside(frame: FrameType | None) -> FrameType | None:
    """Who called the shell's own `transform_cell`."""
    while frame is not None:
        if _is_shells(frame, "transform_cell"):
            return frame.f_back
        frame = frame.f_back
    return None


def _within(frame: FrameType | None) -> bool:
    """Whether code of a cell or a magic is running, on whose behalf somebody asks."""
    while frame is not None:
        if _is_shells(frame, "run_code", "run_line_magic", "run_cell_magic"):
            return True
        frame = frame.f_back
    return False


def _is_shells(frame: FrameType, *names: str) -> bool:
    return frame.f_code.co_name in names and frame.f_globals.get("__name__") == _SHELL
