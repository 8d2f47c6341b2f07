"""Waiting for a job's end: on a thread, or on the running event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import ExitInTask, WouldBlock
from ipy_bgtasks.own_frames import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record


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
            _refuse_deadlock(job)
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
        if job.outcome is None:
            yield from _until_called(job.add_done_callback, job.remove_done_callback)
        outcome = job.outcome
        assert outcome is not None
        try:
            return outcome.get()
        except (SystemExit, KeyboardInterrupt) as error:
            if _in_asyncios_own_task():
                raise ExitInTask(f"job {job.number} raised {error!r}") from error
            raise
    except BaseException as error:
        hide(error)
        raise


def _refuse_deadlock(job: Record) -> None:
    if (runner := job.runner) is None:
        return  # it is just ending
    n = job.number
    if current.get() is job and job.thread == threading.get_ident():
        raise WouldBlock(f"job {n} cannot wait for its own end")
    if runner.needs_this_thread():
        raise WouldBlock(
            f"job {n} needs the event loop of this thread to end: `await` it, or use %fg {n}"
        )
    runner.make_room(job)


def _late(job: Record, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"job {job.number} has not ended after {timeout:g} s")


def _until_called(
    add: Callable[[Callable[[object], object]], object],
    remove: Callable[[Callable[[object], object]], object],
) -> Generator[Any, None, None]:
    """Wait on the running loop until the callback given to *add* is called, by any thread.

    However the wait ends, *remove* is called.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        if not called.done():
            called.set_result(None)

    def wake(_: object) -> None:
        # The loop may have closed since; then there is no waiter left.
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve)

    add(wake)
    try:
        yield from called
    finally:
        remove(wake)


def _in_asyncios_own_task() -> bool:
    """Return whether asyncio made the running task from a bare awaitable, as `gather` does."""
    task = asyncio.current_task()
    return getattr(task and task.get_coro(), "__name__", "") == "_wrap_awaitable"
