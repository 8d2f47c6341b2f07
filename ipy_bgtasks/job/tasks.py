"""Which job a task of asyncio belongs to."""

from __future__ import annotations

import gc
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.job import Job, _current

if TYPE_CHECKING:
    import asyncio


def job_of(task: asyncio.Task[Any]) -> Job | None:
    """The job that a task belongs to, as the job's own or as one that it started."""
    get_context = getattr(task, "get_context", None)  # from Python 3.12 on
    if get_context is not None:
        context: Context | None = get_context()
    else:
        context = next((r for r in gc.get_referents(task) if isinstance(r, Context)), None)
    return None if context is None else context.get(_current)
