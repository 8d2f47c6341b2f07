"""Waiting for a job's end: on a thread, or on the running event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import ExitInTask, WouldBlock
from ipy_bgtasks.stacks import hide

if TYPE_CHECKING:
    from collections.abc import Generator

    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record


class Waker(Protocol):
    """What a job wakes those that wait for it by, such as a `threading.Event`."""

    def set(self) -> None:
        """Wake the waiter; called on any thread."""


def block_until_end(job: Record, timeout: float | None) -> Outcome:
    """Block the calling thread until *job* has ended, and return its outcome.

    Raises `TimeoutError` after *timeout* seconds, and `WouldBlock` at once where the wait could
    not end: on a thread whose loop must run for it, or in the job's own code. With a *timeout* of
    0 it never blocks.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = threading.Event()
    while (outcome := job.outcome) is None:
        if timeout is not None and timeout <= 0:
            raise _late(job, timeout)
        if not job.wake_at_end(ended):
            continue
        try:
            refuse_deadlock(job)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not ended.wait(left):
                raise _late(job, timeout)
        finally:
            job.stop_waking(ended)
        ended.clear()
    return outcome


def await_end(job: Record) -> Generator[Any, None, Any]:
    """Wait on the running loop until *job* has ended; return its value or raise its error.

    The waiter does not own the job: cancelling the wait leaves the job alone.
    """
    try:
        while (outcome := job.outcome) is None:
            yield from _until_woken(job)
        job.fetched()
        try:
            return outcome.get()
        except (SystemExit, KeyboardInterrupt) as error:
            if _in_asyncios_own_task():
                raise ExitInTask(f"job {job.number} raised {error!r}") from error
            raise
    except BaseException as error:
        hide(error)
        raise


def refuse_deadlock(job: Record) -> None:
    """Raise `WouldBlock` if blocking this thread would keep *job* from ending; else make room."""
    if (runner := job.runner) is None:
        return  # it is just ending
    n = job.number
    if current.get() is job and job.thread == threading.get_ident():
        raise WouldBlock(f"job {n} cannot wait for its own end")
    if runner.needs_this_thread():
        raise WouldBlock(
            f"job {n} needs the event loop of this thread to end: `await` it, or use %fg {n}"
        )
    make_room(job)


def make_room(job: Record) -> None:
    """Make sure that the job can start: the calling job is about to wait for its end."""
    while (runner := job.runner) is not None:
        runner.make_room(job)
        if job.runner is runner:
            return  # else it has gone on to another, which may have a queue, too


def _late(job: Record, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"job {job.number} has not ended after {timeout:g} s")


class _Waker:
    """Wakes a wait on the running loop, from any thread, as the set of an event does."""

    __slots__ = ("_loop", "woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken: asyncio.Future[None] = self._loop.create_future()

    def set(self) -> None:
        # The loop may have closed since; then there is no waiter left.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


def _until_woken(job: Record) -> Generator[Any, None, None]:
    """Wait on the running loop until the job ends, or is elsewhere."""
    waker = _Waker()
    if not job.wake_at_end(waker):
        return
    try:
        make_room(job)
        yield from waker.woken
    finally:
        job.stop_waking(waker)


def _in_asyncios_own_task() -> bool:
    """Return whether asyncio made the running task from a bare awaitable, as `gather` does."""
    task = asyncio.current_task()
    return getattr(task and task.get_coro(), "__name__", "") == "_wrap_awaitable"
