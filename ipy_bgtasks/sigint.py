"""SIGINT: it reaches the foreground at once, nothing else, and never corrupts our own state.

Python raises ``KeyboardInterrupt`` wherever the main thread happens to be; while an event loop
runs that is often a step of some background task, or the loop's own code. Here the handler
raises only where the foreground's own code runs, or that of a task it has started, and otherwise
cancels the foreground at its await, as `asyncio.Runner` does. Plain asyncio: nothing in this
module knows IPython.

`woken_by_signals` makes an idle loop notice; `run_interruptible` runs a loop for one coroutine;
`Shielded` delays an interrupt where state must not be left half written.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading

# The public functions turn handlers into enums and back, at thirty times the cost.
from _signal import getsignal as _get  # type: ignore[import-not-found, unused-ignore]
from _signal import signal as _set  # type: ignore[import-not-found, unused-ignore]
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from traceback import walk_stack
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ipy_bgtasks.context import cell, cells_away, runs_subtask
from ipy_bgtasks.platforms import on_main_thread, socket_pair, wake_up_descriptor

if TYPE_CHECKING:
    import socket

T = TypeVar("T")


class Interrupted(KeyboardInterrupt, asyncio.CancelledError):
    """A ``KeyboardInterrupt`` at an await.

    It is a ``CancelledError`` as well, because what lies between the user's code and the await
    cleans up for that one only: an ``asyncio.TaskGroup`` would leave its tasks behind, and a
    ``Lock`` or ``Semaphore`` would lose a wake-up that a background task waits for.
    """


# What a user sees in a traceback is the exception they know.
Interrupted.__name__ = Interrupted.__qualname__ = "KeyboardInterrupt"
Interrupted.__module__ = "builtins"

SigintHandler = Callable[[FrameType | None], type[KeyboardInterrupt] | None]
"""Takes the frame that SIGINT interrupted; returns what to raise there, if anything."""


def run_interruptible(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T],
    reach: Callable[[SigintHandler], object] = lambda _handler: None,
) -> T:
    """Run `coro` on `loop` until it is done and return its result; SIGINT interrupts it alone.

    While it waits, a SIGINT raises ``KeyboardInterrupt`` at its await, at once even if the loop
    is idle; while its code runs, right there; and in a step of a task that it has started, there
    as well, since that may block the loop. Other tasks and callbacks are never hit. If the code
    ends in the same instant, ``KeyboardInterrupt`` is raised here.

    Any thread may call it; SIGINT is handled in the main thread, and only if it has Python's
    default handler, since any other was set on purpose. In other threads an interrupt comes by the
    handler that *reach* is given, which any thread may call. Raises ``RuntimeError`` if the
    loop is closed, or if a loop runs in this thread already; `coro` is closed then.
    """
    foreground = _Foreground(loop, coro)
    try:
        refuse_unless_idle(loop)
        reach(foreground.interrupt)
        with sigint_for(loop, foreground.interrupt):
            result = foreground.run()
        if foreground.pending:
            raise KeyboardInterrupt
        return result
    finally:
        coro.close()


def complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
    """Run `loop` until `task` is done, even if the loop is stopped; return the task's result.

    ``KeyboardInterrupt`` or ``SystemExit`` out of another task or a signal handler cancels the
    task and, once that has ended, is raised here.
    """
    waiting = True

    def stop(_: asyncio.Task[T]) -> None:
        # Not `loop.stop` itself: one that runs late would end the loop's next run.
        if waiting:
            loop.stop()

    task.add_done_callback(stop)
    stray: BaseException | None = None
    try:
        while not task.done():
            try:
                loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as error:
                stray = error
                task.cancel()
    finally:
        waiting = False
    if stray is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it
    raise stray


def refuse_unless_idle(loop: asyncio.AbstractEventLoop) -> None:
    """Raise the ``RuntimeError`` with which asyncio refuses to run `loop` in this thread now."""
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")
    if loop.is_running():
        raise RuntimeError("This event loop is already running")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("Cannot run the event loop while another loop is running")


def sigint_for(
    loop: asyncio.AbstractEventLoop, handle: SigintHandler
) -> AbstractContextManager[None]:
    """Return `sigint_handled` where it applies: in the main thread, over Python's default."""
    if not on_main_thread():
        return nullcontext()
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return nullcontext()
    return sigint_handled(loop, handle)


def raising(handle: SigintHandler) -> Callable[[int, FrameType | None], None]:
    """Return a handler of SIGINT that raises what `handle` says."""

    def sigint(_: int, frame: FrameType | None) -> None:
        if (kind := handle(frame)) is not None:
            try:
                raise kind
            except KeyboardInterrupt as error:
                # So that the user's own line is at the end of the traceback, not this one: a
                # bare `raise` adds no frame of its own, and a function of ours would add two.
                error.__traceback__ = None
                raise

    return sigint


@contextmanager
def sigint_handled(loop: asyncio.AbstractEventLoop, handle: SigintHandler) -> Iterator[None]:
    """Have SIGINT ask `handle` what to do, and wake `loop`, inside the block.

    Main thread only. The previous handler is restored afterwards, unless ours has been replaced
    by then.
    """
    sigint = raising(handle)
    previous = signal.signal(signal.SIGINT, sigint)
    try:
        with woken_by_signals(loop):
            yield
    finally:
        # Last of all: from here on an interrupt may be raised in the very next line.
        if signal.getsignal(signal.SIGINT) is sigint:
            signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)


class _Foreground(Generic[T]):
    """One coroutine, driven step by step so that an interrupt can be raised at its await."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._coro = coro
        self._task: asyncio.Task[T] | None = None
        self._driver: FrameType | None = None
        self._cancels = 0
        self._exit: BaseException | None = None
        self.pending = False
        """Whether there was a SIGINT that the coroutine has not seen yet."""

    def run(self) -> T:
        self._task = self._loop.create_task(self._main())
        try:
            result = complete(self._loop, self._task)
        except asyncio.CancelledError:
            if not self.pending:
                raise
            self.pending = False  # it came before the first step
            raise KeyboardInterrupt from None
        if self._exit is not None:
            raise self._exit
        return result

    async def _main(self) -> T:
        cell.set(self)
        try:
            return await _Steps(self._drive())
        except (KeyboardInterrupt, SystemExit) as error:
            # asyncio would let these through the loop, past whatever else is due in this iteration.
            self._exit = error
            return None  # type: ignore[return-value]  # `run` raises instead

    def _drive(self) -> Generator[Any, None, T]:
        self._driver = sys._getframe()
        error: BaseException | None = None
        try:
            while True:
                if self.pending:
                    error = self._delivered()
                try:
                    waits_for = self._coro.send(None) if error is None else self._coro.throw(error)
                except StopIteration as end:
                    result: T = end.value
                    return result
                error = None
                try:
                    yield waits_for
                except BaseException as thrown:
                    error = thrown
                    if thrown.__traceback__ is not None:  # drop our own frames
                        thrown.__traceback__ = thrown.__traceback__.tb_next
        finally:
            self._driver = None

    def _delivered(self) -> Interrupted:
        self.pending = False
        while self._cancels and self._task is not None:
            self._cancels -= 1
            self._task.uncancel()
        return Interrupted()

    def interrupt(self, frame: FrameType | None) -> type[KeyboardInterrupt] | None:
        """Act as a `SigintHandler`: called between any two bytecodes of the main thread."""
        self.pending = not self._runs_code(frame)
        if not self.pending:
            return KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._cancel)
        subtask = self._task is not None and runs_subtask(self._task)
        return Interrupted if subtask and frame is not None and not _is_asyncio(frame) else None

    def _cancel(self) -> None:
        if self.pending and self._task is not None and not self._task.done():
            self._cancels += 1
            self._task.cancel()

    def _runs_code(self, frame: FrameType | None) -> bool:
        """Return whether `frame` is the coroutine's code, and not asyncio's or ours around it.

        Within asyncio, even on behalf of the coroutine, a future may be half resolved, its
        callbacks not yet scheduled: a task that waits for it would wait forever.
        """
        if frame is None or self._driver is None or self._task is None:
            return False
        if asyncio.current_task(self._loop) is not self._task:
            return False
        if frame is self._driver or _is_asyncio(frame):
            return False
        return any(outer is self._driver for outer, _ in walk_stack(frame))


def _is_asyncio(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "asyncio"


class _Steps(Generic[T]):
    """An awaitable made from a generator."""

    def __init__(self, steps: Generator[Any, None, T]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, None, T]:
        return self._steps


@contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let every signal end the loop's select inside the block, even one just before it.

    Without a descriptor, only a signal delivered to the main thread during the select would. One
    that is set already stays: it is the loop's own, made by ``add_signal_handler``,
    whose handlers are called only through it, or there is one because the platform's loop always
    has it. Main thread only.
    """
    if not hasattr(signal, "set_wakeup_fd") or (pair := socket_pair()) is None:
        yield  # a page has no signals
        return
    receiver, sender = pair
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        before = wake_up_descriptor(sender.fileno())
        if before != -1:
            wake_up_descriptor(before)
        with suppress(NotImplementedError):  # the Proactor loop of Windows has one of its own
            loop.add_reader(receiver, _drain, receiver)
        try:
            yield
        finally:
            now = wake_up_descriptor(-1)
            if now not in (-1, sender.fileno()):
                wake_up_descriptor(now)
            if not loop.is_closed():
                with suppress(NotImplementedError):
                    loop.remove_reader(receiver)


def _drain(receiver: socket.socket) -> None:
    with suppress(BlockingIOError, InterruptedError):
        receiver.recv(4096)


_SIGINT = int(signal.SIGINT)
#: The only thread that is ever interrupted.
_MAIN = threading.main_thread().ident


class Shielded:
    """A context manager that delays SIGINT until the end of the block. Any thread may use it.

    Between a job's number and its start an interrupt would leave a job that never ends; in the
    middle of recording output it would lose a line.

    Only the main thread is ever interrupted; elsewhere it does nothing. For short blocks in
    which no user code runs; a second interrupt is raised at once, should the block hang.
    """

    __slots__ = ("_before", "_seen")
    #: How many interrupts wait.
    _WAITING = 1

    def __enter__(self) -> None:
        self._before: Any = None
        self._seen = 0
        # While its cell is in the background, whoever interrupts that sees to it; a handler that
        # is set here would take the signal from the cell in front.
        if threading.get_ident() == _MAIN and _MAIN not in cells_away:
            self._before = _get(_SIGINT)
            if self._before is not None:  # else it is no Python function, and raises nothing
                _set(_SIGINT, self._sigint)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _set(_SIGINT, self._before)
            if self._seen:
                signal.raise_signal(signal.SIGINT)

    def _sigint(self, _: int, __: FrameType | None) -> None:
        self._seen += 1
        if self._seen > self._WAITING:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                error.__traceback__ = None  # as in `raising`, which costs a closure at each use
                raise


class ShieldedThroughout(Shielded):
    """For a block that takes a bounded time, in which an interrupt might leave a lock held."""

    __slots__ = ()
    _WAITING = sys.maxsize
