"""The stop button while cells are away: it hits the foreground's cell, in whichever thread.

SIGINT is the main thread's, and there runs a cell that was sent away. Only that thread could give
it another handler, and it is busy. So `faulthandler` takes the signal, as for SIGTERM: it acts in
C, from any thread, and writes a few lines to a socket at which a thread of ours reads; sleeping
code of the main thread sleeps on.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING

from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.platforms import (
    can_take_signals,
    give_signal_back,
    interrupt_main_thread,
    take_signal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun

#: Seconds in which what is written belongs to one signal.
_ONE = 0.02
#: Seconds between two tries to interrupt code that is in a library of the kernel's, and all.
_AGAIN, _PATIENCE = 0.005, 5.0
#: Seconds in which a second interrupt stops the cell that the first one has sent away.
_TWICE = 2.0
#: Seconds after which code that has not moved is taken to be stuck.
_STUCK = 0.5
#: Seconds that a signal has to get to the main thread before the next one is diverted again.
_PASSES = 0.05


class Diversion:
    """Takes SIGINT while a cell that was sent away has the main thread.

    *waits* is given the thread of the foreground's cell: it ends a `%fg` that waits there, and
    says whether there was one. *stuck* is told of a cell that an interrupt does not reach.
    *send_away* sends the foreground's cell away instead, and says whether it does.
    """

    def __init__(
        self,
        queue: CellQueue,
        waits: Callable[[int], bool],
        stuck: Callable[[CellRun], object],
        send_away: Callable[[CellRun], bool],
    ) -> None:
        self._queue = queue
        self._waits = waits
        self._tell_stuck = stuck
        self._send_away = send_away
        #: The cell that an interrupt has sent away last, and when.
        self._sent: tuple[CellRun, float] | None = None
        self._lock = threading.Lock()
        #: Whether SIGINT is diverted now.
        self.active = False
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None

    def begin(self) -> None:
        """Divert from now on. Any thread may call."""
        with self._lock:
            if self.active or not can_take_signals():
                return
            if self._reader is None:
                self._reader, self._writer = socket.socketpair()
                self._writer.setblocking(False)
                thread = threading.Thread(target=self._listen, name="bg-sigint", daemon=True)
                Context().run(thread.start)
            self.active = True
            self._register()

    def renew(self) -> None:
        """Take the signal again: the main thread has set a handler since, as each cell does."""
        with self._lock:
            if self.active:
                give_signal_back(signal.SIGINT)
                self._register()

    def take(self) -> bool:
        """Take an interrupt that a Python handler got; return whether it is dealt with here."""
        if not self.active or self._writer is None:
            return False
        self._writer.send(b"\n")
        return True

    def end(self) -> None:
        """Let SIGINT go where it went before. Any thread may call."""
        with self._lock:
            if self.active:
                self.active = False
                give_signal_back(signal.SIGINT)

    def sent_away(self, run: CellRun) -> None:
        """Note that an interrupt has sent this cell away: a second one, soon, stops it."""
        self._sent = run, time.monotonic()

    def _twice(self) -> CellRun | None:
        sent, self._sent = self._sent, None
        if sent is None or sent[0].over or time.monotonic() - sent[1] > _TWICE:
            return None
        return sent[0]

    def interrupt(self, run: CellRun) -> None:
        """Interrupt a cell, wherever it is. Any thread may call."""
        if run.thread == threading.main_thread().ident and hasattr(signal, "pthread_kill"):
            self._interrupt_main()
        elif _is_elsewhere(run):
            run.interrupted = True
            run.task.get_loop().call_soon_threadsafe(run.task.cancel)
        else:
            pursuing = threading.Thread(target=self._pursue, args=[run], daemon=True)
            Context().run(pursuing.start)

    def _register(self) -> None:
        assert self._writer is not None
        take_signal(signal.SIGINT, self._writer.fileno())

    def _interrupt_main(self) -> None:
        """Send the real signal, which also ends a sleep; the handler is the kernel's own."""
        with self._lock:
            diverted, self.active = self.active, False
            if diverted:
                give_signal_back(signal.SIGINT)
            interrupt_main_thread()
            if diverted:
                time.sleep(_PASSES)
                self.active = True
                self._register()

    def _listen(self) -> None:
        assert self._reader is not None
        while self._reader.recv(65536):
            run = self._queue.running  # before another one begins
            time.sleep(_ONE)
            with suppress(BlockingIOError):
                self._reader.recv(65536, getattr(socket, "MSG_DONTWAIT", 0))
            if run is None or run.over:
                run = self._twice()  # else no cell of the foreground's runs
                if run is not None:
                    self.interrupt(run)
            elif run.began is None or not (self._waits(run.thread) or self._send_away(run)):
                self.interrupt(run)

    def _pursue(self, run: CellRun) -> None:
        """Raise `KeyboardInterrupt` in the code of a cell, as soon as the thread is there."""
        from ipy_bgtasks.raising import raise_in_user_code

        start = code_that_runs_cells()
        deadline = time.monotonic() + _PATIENCE
        while not run.over and time.monotonic() < deadline:
            if run.began is not None:
                if start is None or _is_elsewhere(run):
                    self.interrupt(run)
                    return
                if raise_in_user_code(run.thread, KeyboardInterrupt, start):
                    self._look_again(run)
                    return
            time.sleep(_AGAIN)

    def _look_again(self, run: CellRun) -> None:
        """Say so if the cell is inside something that no exception reaches."""
        before = _position(run)
        time.sleep(_STUCK)
        if not run.over and before is not None and _position(run) == before:
            self._tell_stuck(run)


def _is_elsewhere(run: CellRun) -> bool:
    """Return whether a cell awaits and is not in the middle of a step: cancelling is enough."""
    return run.task is not None and asyncio.current_task(run.task.get_loop()) is not run.task


def _position(run: CellRun) -> tuple[int, int] | None:
    frame = sys._current_frames().get(run.thread)
    return None if frame is None else (id(frame), frame.f_lasti)
