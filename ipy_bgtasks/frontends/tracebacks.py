"""A job's exception, formatted as IPython would show it."""

from __future__ import annotations

import copy
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.job.outcome import Outcome


def formatted(shell: Any, outcome: Outcome) -> list[str]:
    """The lines of the traceback, without the frames of this package. Any thread may call."""
    error = outcome.error
    assert error is not None
    kind, trace = type(error), outcome.traceback
    try:
        if hasattr(error, "_render_traceback_"):
            return list(error._render_traceback_())
        if isinstance(error, SyntaxError):
            return list(copy.copy(shell.SyntaxTB).structured_traceback(kind, error, []))
        if not _holds_group(error):
            # A copy, because the shell's own remembers the last traceback for %debug.
            lines = copy.copy(shell.InteractiveTB).structured_traceback(
                kind, error, trace, tb_offset=0
            )
            notes = getattr(error, "__notes__", [])
            shown = "\n".join(lines)
            return [*lines, *(note for note in notes if note not in shown)]
    except Exception:  # a broken repr in somebody's exception: the plain form still works
        pass
    return [line.rstrip("\n") for line in traceback.format_exception(kind, error, trace)]


def _holds_group(error: BaseException | None) -> bool:
    # IPython's own formatter does not know exception groups.
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            return True
        error = error.__context__
    return False
