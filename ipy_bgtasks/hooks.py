"""Hooks in Python itself: how a job gets its threads, and what it cannot ask for.

There are two ways to a thread, `Thread.start` and `ThreadPoolExecutor.submit`. A new thread begins
with an empty context, so its output could not be attributed to a job: one that a job starts runs
in a copy of the job's context, and so does each call that a job hands to a `ThreadPoolExecutor`,
whose threads belong to no job.

At exit Python waits for threads that are not daemons, and for all threads of executors. What a job
started must end with the session, as the job does: its threads are daemons, and an executor's
thread that is busy for a job is recorded, so that Python need not wait for it.

These two are installed with the first loading and stay there, since other hooks may have been
wrapped around them; while nothing is loaded they do nothing.

`input`, `getpass` and `breakpoint` raise at once in a background job, which cannot ask.
"""

from __future__ import annotations

import builtins
import getpass
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as _pools
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial, update_wrapper, wraps
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, current
from ipy_bgtasks.errors import CannotAsk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

    from ipy_bgtasks.patching import Installation


#: Seconds between two looks at whether another cell's question has been answered.
_TURN = 0.05


def refuse_questions(changes: Installation, kernel: Any = None) -> None:
    """Make questions raise in jobs from now on.

    *kernel* is ipykernel's, which installs its own `input` for each cell and removes it
    afterwards, so both it and what it restores must be covered.
    """
    guarded: list[tuple[object, object]] = []
    for holder, name, what in _places(kernel):
        original = getattr(holder, name)
        ask = _Guarded(original, what)
        guarded.append((ask, original))
        setattr(holder, name, ask)

    def undo() -> None:
        # The kernel moves functions about: one of ours may be elsewhere than where it was put.
        for holder, name, _ in _places(kernel):
            found = getattr(holder, name)
            originals = [original for ask, original in guarded if ask is found]
            if not originals:
                continue
            setattr(holder, name, originals[0])
            if holder is kernel and not name.startswith("_"):
                delattr(holder, name)  # there it hid the class's method

    changes.add(undo)


def _places(kernel: Any) -> Iterator[tuple[Any, str, str]]:
    yield builtins, "input", "input"
    yield getpass, "getpass", "getpass"
    yield sys, "breakpointhook", "breakpoint"
    if kernel is not None:
        yield kernel, "raw_input", "input"
        yield kernel, "getpass", "getpass"
        if hasattr(kernel, "_sys_raw_input"):
            yield kernel, "_sys_raw_input", "input"
        if hasattr(kernel, "_save_getpass"):
            yield kernel, "_save_getpass", "getpass"


class _Guarded:
    """A function that asks, for all but jobs.

    What a call calls is looked up first: the function itself, so that no frame of ours stands
    between it and the user's line, where `breakpoint` would stop.
    """

    def __init__(self, original: Callable[..., Any], what: str) -> None:
        update_wrapper(self, original)
        self._original = original
        self._what = what

    @property
    def __call__(self) -> Callable[..., Any]:
        """The function; raises `CannotAsk` in a job."""
        job = caller()
        if job is None:
            while _is_asking_elsewhere():
                time.sleep(_TURN)
            return self._original
        raise CannotAsk(
            f"{self._what}() in job {job.number}: a background job cannot ask; "
            "hand it what it needs as an argument"
        )


def _is_asking_elsewhere() -> bool:
    """Return whether a cell in another thread waits for an answer.

    An answer does not say to which question it belongs, and the kernel gives it to whoever looks
    first. A cell that was sent away while it asked had begun before anything was installed here:
    its stack tells.
    """
    for thread, innermost in sys._current_frames().items():
        frame: FrameType | None = innermost
        while frame is not None and thread != threading.get_ident():
            if frame.f_code.co_name == "_input_request":
                return str(frame.f_globals.get("__name__")) == "ipykernel.kernelbase"
            frame = frame.f_back
    return False


class ThreadsOfJobs:
    """The threads that work for jobs. Any thread may call."""

    def __init__(self) -> None:
        self._loads = 0
        self._hooked = False
        self._lock = threading.Lock()
        self._busy: set[threading.Thread] = set()
        self._submitting = threading.local()

    def track(self, changes: Installation) -> None:
        """Track the threads of jobs from now on."""
        with self._lock:
            self._loads += 1
            if not self._hooked:
                self._hooked = True
                self._hook()
        changes.add(self._end)

    def _end(self) -> None:
        with self._lock:
            self._loads -= 1

    def let_go(self) -> None:
        """Let Python exit without waiting for the threads that are busy for jobs now."""
        waited_for: Any = getattr(_pools, "_threads_queues", {})
        with getattr(_pools, "_global_shutdown_lock", self._lock):
            for thread in list(self._busy):
                waited_for.pop(thread, None)

    def _hook(self) -> None:
        start = threading.Thread.start
        submit: Callable[..., Any] = ThreadPoolExecutor.submit

        @wraps(start)
        def start_for_job(thread: threading.Thread) -> None:
            if self._loads:
                self._starting(thread)
            start(thread)

        @wraps(submit)
        def submit_for_job(
            executor: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> Future[Any]:
            if not self._loads or current.get() is None:
                return submit(executor, fn, *args, **kwargs)  # type: ignore[no-any-return]
            call = partial(copy_context().run, self._call, fn, *args, **kwargs)
            self._submitting.for_job = True
            try:
                # In an empty context, because it may start a thread that others will use.
                return Context().run(submit, executor, call)
            finally:
                self._submitting.for_job = False

        threading.Thread.start = start_for_job  # type: ignore[method-assign, assignment]
        ThreadPoolExecutor.submit = submit_for_job  # type: ignore[method-assign, assignment]

    def _starting(self, thread: threading.Thread) -> None:
        if not getattr(self._submitting, "for_job", False):
            if (job := caller()) is None:
                return
            context, run = copy_context(), thread.run
            if current.get() is None:  # of a cell that was sent to the background
                context.run(job.enter)
            thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        thread.daemon = True

    def _call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        thread = threading.current_thread()
        self._busy.add(thread)
        try:
            return fn(*args, **kwargs)
        except BaseException as error:
            if error.__traceback__ is not None:  # drop our own frame
                error.__traceback__ = error.__traceback__.tb_next
            raise
        finally:
            self._busy.discard(thread)


#: One for the process, as the hooks are.
threads_of_jobs = ThreadsOfJobs()


def executor_for_jobs(changes: Installation, loop: asyncio.AbstractEventLoop) -> None:
    """Give jobs a default executor of their own on *loop*.

    A thread that was started for other code can no longer be made a daemon: a job's
    `asyncio.to_thread` uses none of those. Does nothing for a loop that is not written in Python.
    """
    executors: list[ThreadPoolExecutor] = []

    def run_in_executor(original: Any, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        if executor is None and current.get() is not None:
            if not executors:
                executors.append(ThreadPoolExecutor(thread_name_prefix="bg-executor"))
            executor = executors[0]
        return original(executor, func, *args)

    with suppress(AttributeError, TypeError):
        changes.wrap(loop, "run_in_executor", run_in_executor)
