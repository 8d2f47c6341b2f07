"""The end of a session: all jobs are stopped at once, may clean up, and are shown no more.

That takes a bounded time, whatever jobs do, and asyncio complains of no task that is still there.
A process may end in many ways (`exit`, a signal, a kernel that is shut down), of which several may
come at once and on any thread, so the methods may be called in any order, and again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import job_of
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.service import SHORT
from ipy_bgtasks.sigint import run_interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry

#: Seconds for the tasks that jobs have started and abandoned, after the jobs' own.
_AFTERWARDS = 0.05
#: Seconds between two looks at whether jobs end, and how many times the grace they get if so.
_LOOK, _MOST = 0.05, 4


class Leaving:
    """Ends the jobs of one registry, once, when its session ends.

    *loop* is the registry's loop; *grace* gives the seconds for which jobs may clean up. Does
    nothing in a forked child. Unless stated otherwise, any thread may call any method.
    """

    def __init__(
        self, registry: Registry, loop: asyncio.AbstractEventLoop, grace: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._loop = loop
        self._grace = grace
        #: Called, in any thread, before the jobs are stopped, and when their time is over.
        self.on_begin: list[Callable[[], object]] = []
        self.on_end: list[Callable[[], object]] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._over: Future[None] = Future()

    def begin(self) -> None:
        """Stop all jobs; returns immediately. Nothing is launched any more."""
        with self._lock:
            if self._deadline is not None or os.getpid() != self._owner:
                return
            grace = self._grace()
            self._deadline = time.monotonic() + grace
        _call_all(self.on_begin)
        left = self._registry.shutdown()
        self._extend()  # stopping many jobs can take long while they compute
        self._over.add_done_callback(lambda _: _call_all(self.on_end))
        sys.setswitchinterval(min(sys.getswitchinterval(), SHORT))  # threads may refuse to end
        ended = _all_ended(left)
        if self._loop.is_closed():
            ended.add_done_callback(lambda _: self._over.set_result(None))
        else:
            # In an empty context, even if it is a job that ends the session.
            self._loop.call_soon_threadsafe(self._begin_winding_up, left, ended, context=Context())

    def wait(self) -> None:
        """Block until the session has shut down, for a bounded time; not on the loop's thread."""
        while not self._over.done() and (left := self._left()):  # it may become more meanwhile
            with suppress(TimeoutError):
                self._over.result(left)

    async def ended(self) -> None:
        """Wait, on any loop, until the session has shut down, for a bounded time."""
        over = asyncio.wrap_future(self._over)
        while not self._over.done() and (left := self._left()):
            await asyncio.wait([over], timeout=left)

    def finish(self) -> None:
        """Stop all jobs, and run the loop until the session has shut down. On the loop's thread."""
        if os.getpid() != self._owner:
            return
        self.begin()
        if self._over.done() or self._loop.is_closed() or self._loop.is_running():
            return
        self._extend()
        # An interrupt ends the wait: the user may be in a hurry.
        with suppress(KeyboardInterrupt, RuntimeError):
            run_interruptible(self._loop, self.ended())
        _call_all(self.on_end)

    def _extend(self) -> None:
        """Leave some time from now on: beside threads that compute the loop has few turns."""
        assert self._deadline is not None
        self._deadline = max(self._deadline, time.monotonic() + self._grace() / 2)

    def _left(self) -> float:
        if self._deadline is None:
            return 0.0
        return max(self._deadline + 2 * _AFTERWARDS - time.monotonic(), 0.0)

    # On the loop

    def _begin_winding_up(self, left: list[Record], ended: Future[None]) -> None:
        self._extend()
        _keep(self._loop.create_task(self._wind_up(left, ended)))

    async def _wind_up(self, left: list[Record], ended: Future[None]) -> None:
        self._extend()  # the turn in which this begins may have come late, too
        assert self._deadline is not None
        latest = self._deadline + _MOST * self._grace()
        # Tasks that ended jobs left behind end now; those of jobs that have not ended come last,
        # since a job may clean up with their help.
        left_behind = {
            task for task in _helpers(self._loop) if (job := job_of(task)) is None or job.done()
        }
        _cancel(left_behind)
        waited = {asyncio.wrap_future(ended), *left_behind}
        alive = len(left) + len(left_behind)
        while waited and (now := time.monotonic()) < self._deadline:
            waited = (await asyncio.wait(waited, timeout=min(_LOOK, self._deadline - now)))[1]
            before, alive = alive, sum(not job.done() for job in left)
            alive += sum(not task.done() for task in left_behind)
            if alive < before and now < latest:  # on a busy machine clean-ups take long
                self._extend()
        if others := _helpers(self._loop) - left_behind:
            _cancel(others)
            seconds = max(self._deadline - time.monotonic(), _AFTERWARDS)
            await asyncio.wait(others, timeout=seconds)
        for task in asyncio.all_tasks(self._loop):
            if job_of(task) is not None:
                _keep(task)
        # asyncio's warnings while the interpreter tears down the loop are of no use.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._over.set_result(None)


def _call_all(functions: Sequence[Callable[[], object]]) -> None:
    for function in functions:
        try:
            function()
        except Exception:  # a session must be able to end
            logging.getLogger(__name__).exception("at the end of the session")


def _helpers(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    """Return the tasks of *loop* that jobs have started, without those in which jobs run."""
    return {
        task
        for task in asyncio.all_tasks(loop)
        if (job := job_of(task)) is not None and LoopRunner.task_of(job) is not task
    }


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


def _all_ended(jobs: Sequence[Record]) -> Future[None]:
    """Return a future that resolves when all of *jobs* have ended."""
    future: Future[None] = Future()
    lock = threading.Lock()
    left = len(jobs)

    def one_ended(_job: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            future.set_result(None)

    for job in jobs:
        job.add_done_callback(one_ended)
    if not jobs:
        future.set_result(None)
    return future


def _keep(task: asyncio.Task[Any]) -> None:
    """Never collect *task*: its coroutine would run on, and asyncio complain, during shutdown."""
    import ctypes

    ctypes.pythonapi["Py_IncRef"](ctypes.py_object(task))
