"""One line, instead of asyncio's frames, for an await of what belongs to the main thread's loop.

While a cell that was sent away has the main thread, cells run in a subshell, on a loop of its own.
What was made on the main loop (a task, a contended lock) cannot be awaited there.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

#: asyncio's message, in all versions.
_SAYS = ("different loop", "different event loop")


def explain_other_loop(shell: Any, on_main: Callable[[], Record | None]) -> Callable[[], None]:
    """Show that one line while *on_main* has a job; returns what ends it. Any thread may call."""
    show = shell.showtraceback

    def showtraceback(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        job = on_main() if _is_about_loops(error) else None
        if job is None or threading.current_thread() is threading.main_thread():
            show(exc_tuple, *args, **kwargs)
            return
        from IPython.core.error import UsageError

        line = UsageError(
            "what is awaited here belongs to the event loop of the main thread, which is "
            f"job {job.number}'s ({job.name}) until that ends: wait for it with %fg {job.number}, "
            "or await something that is made here"
        )
        show((UsageError, line, None), *args, **kwargs)

    return Attribute(shell, "showtraceback", showtraceback).restore


def _is_about_loops(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError | ValueError):
        return False
    text = str(error)
    return any(words in text for words in _SAYS)
