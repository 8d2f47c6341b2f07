"""Exceptions as IPython shows them: those of jobs, and all others without our frames."""

from __future__ import annotations

import copy
import sys
import traceback
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.foreign import attribute, contexts, is_a, trace_of
from ipy_bgtasks.stacks import hide_all
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.patching import Installation

    #: Returns what is shown in place of an exception: itself, or another.
    Translate = Callable[[BaseException], BaseException]


def formatted(shell: Any, outcome: Outcome) -> list[str]:
    """Return the traceback's lines, without the frames of this package. Any thread may call."""
    error = outcome.error
    assert error is not None
    kind, trace = type(error), outcome.traceback
    try:
        if (render := attribute(error, "_render_traceback_")) is not None:
            return list(render())
        if is_a(error, SyntaxError):
            return list(copy.copy(shell.SyntaxTB).structured_traceback(kind, error, []))
        if not _holds_group(error):
            # A copy, because the shell's own remembers the last traceback for %debug.
            lines = copy.copy(shell.InteractiveTB).structured_traceback(
                kind, error, trace, tb_offset=0
            )
            notes = attribute(error, "__notes__", ())
            shown = "\n".join(lines)
            return [*lines, *(note for note in notes if note not in shown)]
    except Exception:  # a broken repr in a user's exception: the plain form still works
        pass
    try:
        return [line.rstrip("\n") for line in traceback.format_exception(kind, error, trace)]
    except Exception:  # it does not even let itself be looked at, or is nested too deeply
        head = ["Traceback (most recent call last):", *traceback.format_tb(trace)]
        return [line.rstrip("\n") for line in (*head, error_line(error))]


def translate_errors(
    changes: Installation, shell: Any, translators: Sequence[Translate] = ()
) -> None:
    """Show the exceptions of cells as *translators* return them, without our frames.

    Most frames are taken out where an exception leaves this package. This is for the rest, such as
    an interrupt that lands in the first line of a magic; ``%xmode Verbose`` shows them.
    """

    def showtraceback(original: Any, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        if error is not None and is_a(error, BaseException):
            for translate in translators:
                error = translate(error)
            if shell.InteractiveTB.mode != "Verbose":
                hide_all(error)
            exc_tuple = type(error), error, trace_of(error)
        original(exc_tuple, *args, **kwargs)

    changes.wrap(shell, "showtraceback", showtraceback)


def _holds_group(error: BaseException) -> bool:
    # IPython's own formatter does not know exception groups.
    return any(is_a(one, BaseExceptionGroup) for one in contexts(error))
