"""Which job the running code belongs to: the one thing that follows a job wherever it goes.

A context variable, so that child tasks inherit it, and threads that a job starts are given it.
"""

from __future__ import annotations

import gc
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

#: The record of the job whose code asks (`ipy_bgtasks.job.record.Record`); None: the foreground.
current: ContextVar[Any] = ContextVar("ipy_bgtasks.current_job", default=None)


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
