"""Which job the running code belongs to.

A context variable, so that child tasks inherit it; threads that a job starts are given it.
"""

from __future__ import annotations

import gc
import threading
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

#: The `ipy_bgtasks.job.record.Record` of the job whose code runs; None in the foreground.
current: ContextVar[Any] = ContextVar("ipy_bgtasks.current_job", default=None)

#: The jobs of backgrounded cells, by the thread in which they run. Such a cell began in a context
#: of the foreground, in which `current` can no longer be set.
cells_away: dict[int, Any] = {}


def caller() -> Any:
    """Return the record of the job the calling code belongs to; a backgrounded cell counts."""
    job = current.get()
    if job is None and cells_away:
        return cells_away.get(threading.get_ident())
    return job


def job_of(task: asyncio.Task[Any]) -> Any:
    """Return the record of the job that *task* belongs to, as its own or as one it started.

    None if it belongs to none. Any thread may call.
    """
    get_context = getattr(task, "get_context", None)  # from Python 3.12 on
    if get_context is not None:
        context: Context | None = get_context()
    else:
        context = next((r for r in gc.get_referents(task) if isinstance(r, Context)), None)
    return None if context is None else context.get(current)
