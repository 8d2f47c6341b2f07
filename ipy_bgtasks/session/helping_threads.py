"""Threads that jobs start, or send work to, do not keep the process from ending.

Python waits at its end for threads that are not daemons, and for all threads of executors. What
a job started is to end with the session, as the job does: while the extension is loaded, its
threads are daemons, and an executor's thread that is busy for a job is not waited for. A thread
that was started for somebody else cannot be made a daemon any more; so that a job's
`asyncio.to_thread` meets none of those, jobs have a default executor of their own.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as _pools
from functools import wraps
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.hooks.attributes import Attribute, ways_to_threads

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class HelpingThreads:
    """Knows which threads work for jobs. Any thread may call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._busy: set[threading.Thread] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._submitting = threading.local()

    def install(self) -> Callable[[], None]:
        """Begin; returns what ends it."""
        start = threading.Thread.start
        submit: Callable[..., Any] = ThreadPoolExecutor.submit

        @wraps(start)
        def start_daemon(thread: threading.Thread) -> None:
            if getattr(self._submitting, "for_job", False) or current.get() is not None:
                thread.daemon = True
            start(thread)

        @wraps(submit)
        def submit_noted(
            executor: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> Future[Any]:
            if current.get() is None:
                return submit(executor, fn, *args, **kwargs)  # type: ignore[no-any-return]
            self._submitting.for_job = True
            try:
                return submit(executor, self._call, fn, *args, **kwargs)  # type: ignore[no-any-return]
            finally:
                self._submitting.for_job = False

        put_back = ways_to_threads(start_daemon, submit_noted)
        own = self._install_executor()

        def undo() -> None:
            own()
            put_back()

        return undo

    def let_go(self) -> None:
        """The session ends: Python need not wait for the threads that are busy for jobs now."""
        waited_for: Any = getattr(_pools, "_threads_queues", {})
        with _pools._global_shutdown_lock:
            for thread in list(self._busy):
                waited_for.pop(thread, None)

    def _install_executor(self) -> Callable[[], None]:
        run_in_executor = self._loop.run_in_executor

        def run_for_job(executor: Any, func: Callable[..., Any], *args: Any) -> Any:
            if executor is None and current.get() is not None:
                executor = self._own_executor()
            return run_in_executor(executor, func, *args)

        try:
            return Attribute(self._loop, "run_in_executor", run_for_job).restore
        except (AttributeError, TypeError):  # a loop that is not written in Python
            return lambda: None

    def _own_executor(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(thread_name_prefix="bg-executor")
        return self._executor

    def _call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        thread = threading.current_thread()
        self._busy.add(thread)
        try:
            return fn(*args, **kwargs)
        except BaseException as error:
            if error.__traceback__ is not None:  # begins here, which helps nobody
                error.__traceback__ = error.__traceback__.tb_next
            raise
        finally:
            self._busy.discard(thread)
