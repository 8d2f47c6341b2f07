"""Ends an interrupted `await` cell of a kernel with `KeyboardInterrupt`, as in a terminal.

ipykernel cancels the task of the cell, so that the cell ends with asyncio's `CancelledError` and
with asyncio's frames, which tell its author nothing. What the cell itself raises stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable


def show_interrupts(
    shell: Any, diverted: Callable[[], bool], divert: Callable[[], bool]
) -> Callable[[], None]:
    """Show an interrupt as such from now on; returns what ends that. Any thread may call.

    *diverted* returns whether the cell of the calling thread, not the main one, was interrupted;
    *divert* takes an interrupt that is not for the main thread's, and returns whether it did.
    """
    awaiting = _Awaiting(shell, diverted, divert)
    shown = Attribute(shell, "showtraceback", awaiting.showtraceback)
    events = {"pre_execute": awaiting.begins, "post_run_cell": awaiting.ended}
    for name, callback in events.items():
        shell.events.register(name, callback)

    def undo() -> None:
        shown.restore()
        for name, callback in events.items():
            shell.events.unregister(name, callback)

    return undo


class _Awaiting:
    """The await cells that run now. Each method is called on the thread of its cell."""

    def __init__(
        self, shell: Any, diverted: Callable[[], bool], divert: Callable[[], bool]
    ) -> None:
        self._showtraceback = shell.showtraceback
        self._diverted = diverted
        self._divert = divert
        #: Whether the main thread's cell was interrupted.
        self._interrupted = False
        #: What was shown, by thread.
        self._shown: dict[int, KeyboardInterrupt] = {}

    def begins(self) -> None:
        """Observe an interrupt that goes to the kernel's own handler for await cells."""
        self._shown.pop(threading.get_ident(), None)
        if threading.current_thread() is not threading.main_thread():
            return
        self._interrupted = False
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "__name__", "") != "handle_sigint" or not callable(handler):
            return  # a plain cell

        def interrupt(number: int, frame: Any) -> None:
            if self._divert():
                return
            self._interrupted = True
            handler(number, frame)

        signal.signal(signal.SIGINT, interrupt)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show what the cell ended with."""
        _, error, trace = exc_tuple or sys.exc_info()
        if type(error) is asyncio.CancelledError and self._take():
            self._shown[threading.get_ident()] = error = KeyboardInterrupt()
            exc_tuple = (KeyboardInterrupt, error.with_traceback(trace := _users(trace)), trace)
        self._showtraceback(exc_tuple, *args, **kwargs)

    def _take(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return self._diverted()
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def ended(self, result: Any) -> None:
        """Put the same error into the reply."""
        shown = self._shown.pop(threading.get_ident(), None)
        if shown is not None and type(getattr(result, "error_in_exec", None)) in (
            asyncio.CancelledError,
        ):
            result.error_in_exec = shown


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback up to the last frame that is neither asyncio's nor ours."""
    links: list[TracebackType] = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    while links and _top(links[-1]) in ("asyncio", "ipy_bgtasks"):
        links.pop()
    if links:
        links[-1].tb_next = None
    return links[0] if links else None


def _top(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
