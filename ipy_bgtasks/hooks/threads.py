"""Carries a job into the threads it starts.

A new thread begins with an empty context, so that nobody could tell whose output it writes.
While the extension is loaded, a thread that a job starts runs in a copy of the job's context;
so does each call it hands to a `ThreadPoolExecutor`, whose threads belong to no job.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.hooks.attributes import ways_to_threads

if TYPE_CHECKING:
    from collections.abc import Callable


def carry_jobs() -> Callable[[], None]:
    """Begin to carry; returns what ends it."""
    start = threading.Thread.start
    submit: Callable[..., Any] = ThreadPoolExecutor.submit

    @wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        if current.get() is not None:
            context, run = copy_context(), self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    @wraps(submit)
    def submit_in_context(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if current.get() is None:
            return submit(self, fn, *args, **kwargs)  # type: ignore[no-any-return]
        call = partial(copy_context().run, fn, *args, **kwargs)
        # In an empty context, because submitting may start a thread that others will use.
        return Context().run(submit, self, call)

    return ways_to_threads(start_in_context, submit_in_context)
