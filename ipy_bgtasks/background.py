"""Background tasks with asyncio alone: three helpers for the ordinary Python prompt.

At that prompt no event loop runs between two lines. So tasks stand still there, and go on
whenever `run_in_foreground` runs the loop, for as long as it waits for something.
"""

from __future__ import annotations

import asyncio
import contextvars
import reprlib
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from ipy_bgtasks.sigint import sigint_for

T = TypeVar("T")


def schedule_coroutine(
    target: Coroutine[Any, Any, T], *, loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.Task[T]:
    """Make *target* a task of *loop* and return it; it starts when that loop next runs.

    Without *loop* it is the running loop, else the one set for this thread, else a new one,
    which is then set. Keep the task: asyncio itself holds tasks weakly. Call this on the
    loop's own thread. Raises `TypeError` for anything but a coroutine, including an `async def`
    function that was not called.
    """
    if not isinstance(target, Coroutine):
        raise TypeError(f"target must be a coroutine, not {_short(target)}")
    return _chosen(loop).create_task(target)


def run_in_foreground(
    task: Coroutine[Any, Any, T] | asyncio.Future[T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
) -> T:
    """Run the loop until *task* is done, other tasks included, and return its result.

    Without *loop* it is the one a task or future belongs to; for a coroutine the one that
    `schedule_coroutine` takes. Call this on the loop's own thread.

    An interrupt ends the wait with ``KeyboardInterrupt``: a coroutine is cancelled, since nobody
    else holds it; a task or future, like all others, goes on when the loop next runs. A second
    interrupt does not wait for the coroutine to end; a third is raised wherever the loop is.

    Raises `TypeError` if *task* is none of the three, `ValueError` if it belongs to a loop other
    than *loop*, and `RuntimeError` where a loop is already running.
    """
    if asyncio.isfuture(task):
        if loop is not None and task.get_loop() is not loop:
            raise ValueError(f"{_short(task)} belongs to another event loop than {_short(loop)}")
        loop = task.get_loop()
    elif not isinstance(task, Coroutine):
        raise TypeError(f"task must be a coroutine, a task or a future, not {_short(task)}")
    else:
        loop = _chosen(loop)
    if _runs(loop):
        if isinstance(task, Coroutine):
            task.close()  # nobody else can: it would be reported as never awaited
        raise RuntimeError("the event loop is already running: `await` the task, or use %fg on it")
    return _run(loop.create_task(task if isinstance(task, Coroutine) else _wait(task)), loop)


def call_in_background(
    target: Callable[[], T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
) -> asyncio.Future[T]:
    """Call *target* at once in a thread of its own and return a future of *loop*.

    The future is done when *loop* has run after the call ended. Without *loop* it is the one
    that `schedule_coroutine` takes. The thread runs in a copy of the caller's context and never
    keeps the interpreter from exiting. With *executor* the call is handed to that instead, and
    starts when the executor has room.

    Call this on the loop's own thread. Cancelling the future abandons the call, which runs on.
    Raises `TypeError` if *target* cannot be called.
    """
    if not callable(target):
        raise TypeError(f"target must be a callable, not {_short(target)}")
    loop = _chosen(loop)
    if executor is not None:
        return loop.run_in_executor(executor, target)
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        value, error = _outcome(context, target)
        # Nothing can wait for the outcome on a closed loop.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, value, error)

    threading.Thread(target=run, name="call_in_background", daemon=True).start()
    return future


def _chosen(loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    """Return *loop*, else the running one, else the thread's, else a new one, which is then set."""
    if loop is not None:
        return loop
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    with suppress(RuntimeError), warnings.catch_warnings():
        # 3.12 and 3.13 warn when they make the loop, 3.11 just makes it, 3.14 raises: all we
        # want is the loop that was set. The filter names this module so that it
        # does no harm if another thread restored the filters at the wrong moment.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=__name__)
        loop = asyncio.get_event_loop()
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop


def _runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether *loop* runs in some thread, or another loop in this one."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return loop.is_running()


async def _wait(future: asyncio.Future[T]) -> T:
    """Return the future's result; cancelling the wait does not cancel the future."""
    await asyncio.wait([future])
    return future.result()


def _run(task: asyncio.Task[T], loop: asyncio.AbstractEventLoop) -> T:
    interrupts = _Interrupts(task, loop)
    with sigint_for(loop, interrupts.interrupt):
        try:
            result = loop.run_until_complete(task)
        except asyncio.CancelledError:
            if interrupts.count and task.uncancel() == 0:
                raise KeyboardInterrupt from None
            raise
        except RuntimeError:
            if interrupts.count and not task.done():
                raise KeyboardInterrupt from None
            raise
        finally:
            # An exception that leaves through the loop (SystemExit) must not be reported again.
            if task.done() and not task.cancelled():
                task.exception()
        if interrupts.late:
            raise KeyboardInterrupt
        return result


class _Interrupts:
    """The handling of SIGINT while the loop runs for *task*: it ends that task and no other.

    Python's own handler raises wherever the loop happens to be, which may be in the middle of a
    background task. The remedy is that of `asyncio.Runner.run`, with one step added.
    """

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.count = 0
        self.late = False  # the first came when the task had just ended
        self._task = task
        self._loop = loop

    def interrupt(self, _frame: object) -> type[KeyboardInterrupt] | None:
        """Act as a `SigintHandler`."""
        self.count += 1
        if self.count == 1:
            self.late = not self._task.cancel()
        elif self.count == 2 and asyncio.current_task(self._loop) is not self._task:
            self._loop.stop()
        else:
            return KeyboardInterrupt
        return None


def _outcome(
    context: contextvars.Context, target: Callable[[], T]
) -> tuple[T | None, BaseException | None]:
    try:
        return context.run(target), None
    except BaseException as error:
        # From here on down it is the user's own code.
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        if not isinstance(error, StopIteration):
            return None, error
        # No future takes a StopIteration; generators (PEP 479) have the same trouble.
        stopped = RuntimeError("the call raised StopIteration")
        stopped.__cause__ = error
        return None, stopped


def _settle(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _short(value: object) -> str:
    shown = reprlib.Repr()
    shown.maxother = shown.maxstring = 60
    return shown.repr(value)
