"""The cells of a kernel: sent to the background, waiting, and interrupted.

Each cell in the background is a job, in the thread in which it runs.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.async_exceptions import waits_for_answer
from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun
from ipy_bgtasks.frontends.kernel.interrupts import own_task
from ipy_bgtasks.frontends.running_cells import BackgroundCells
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import frame_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd
    from ipy_bgtasks.job.record import Record

#: Seconds that most cells take.
_QUICK = 0.02
#: Seconds in which a second interrupt stops the cell that the first sent to the background.
_TWICE = 2.0


class KernelCells(BackgroundCells[CellRun]):
    """Sends the cells of one kernel to the background, and ends their jobs."""

    front_end: KernelFrontEnd

    def __init__(self, front_end: KernelFrontEnd, later: Callable[..., object]) -> None:
        super().__init__(front_end, later, {"SIGINT": self._on_interrupt})
        self.kernel = front_end.shell.kernel
        self._queue = CellQueue(self)
        #: The comms of widgets of ours, whose messages do not wait for a cell that runs.
        self.urgent_comms = self._queue.urgent_comms
        #: What is to be done when the last of them has ended, after unloading.
        self._close: Callable[[], None] | None = None
        #: The job of the cell that was sent to the background last, until somebody takes it.
        self._last: Record | None = None
        #: The cell that an interrupt has sent to the background last, and when.
        self._interrupted: tuple[CellRun, float] | None = None
        #: Whether IPython's capturing of a cell may be left over on the streams.
        self._tangled = False
        #: Called, on any thread, when a cell begins or waits (True) or is over; None for nobody.
        self.watcher: Callable[[bool], object] | None = None

    def install(self, changes: Installation) -> None:
        """Begin; cells that are in the background when that is undone go on."""
        events = self._shell.events
        own = Installation()
        own.event(events, "pre_run_cell", self._on_begin)
        own.event(events, "post_run_cell", self._on_end)
        own.add(self.apart.undo)

        def close() -> None:
            self._close = own.undo
            if not self._away:
                own.undo()

        changes.add(close)
        self._queue.install(changes)

    # For the panel

    def now(self) -> CellRun | None:
        """Return the cell that runs in the foreground, if its code has begun."""
        run = self._queue.running
        return run if run is not None and run.can_go else None

    def others(self) -> list[CellRun]:
        """Return the cells that run in the foreground, without the one that calls."""
        here = self._run_here()
        return [run for run in self._queue.front if run is not here and run.began]

    def waiting(self) -> list[CellRun]:
        """Return the cells that wait, in order."""
        return self._queue.waiting

    def take_out(self, places: set[int] | None) -> list[CellRun]:
        """Take waiting cells out of the queue, by their places, or all; returns which."""
        found = [run for run in self._queue.waiting if places is None or run.place in places]
        return self._queue.take_out(found) if found else []

    def send_away_by_id(self, cell: str) -> bool:
        """Send that cell to the background; return whether it runs in the foreground."""
        run = self._queue.running
        return run is not None and run.id == cell and self.send_away(run)

    def request_here(self) -> Any:
        """Return the request of the calling thread, if that is not the kernel's (ipykernel 6)."""
        return getattr(self._queue.receiver, "requests", {}).get(threading.get_ident())

    # Interrupts

    @property
    def routes(self) -> bool:
        """Whether interrupts are meant for a cell that may run in another thread."""
        return self.signals.takes("SIGINT")

    def route_interrupt(self) -> bool:
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        if self.is_meant():
            return False
        if self.routes:
            self.signals.forward()
            return True
        run = self._queue.newest
        return run is not None and self._background_interrupted(run)

    def _background_interrupted(self, run: CellRun) -> bool:
        """Send an interrupted cell to the background, if that is wanted. Any thread may call."""
        return self.front_end.interrupt_backgrounds and self.send_away(run, interrupted=True)

    def _on_interrupt(self) -> None:
        """Take an interrupt while it may be meant for another thread than the main one."""
        run = self._queue.newest
        if run is not None and run.began is None:
            time.sleep(_QUICK)  # it may have come after the signal, and be over in a moment
        on_main = run is None or run.over or run.subshell is None
        if on_main and self.front_end.unblock() and (run is None or run.over or not run.began):
            return
        if run is None or run.over:
            sent, self._interrupted = self._interrupted, None
            if sent and not sent[0].over and time.monotonic() - sent[1] < _TWICE:
                self.interrupt(sent[0])
        elif run.began is None or not (
            self.front_end.interrupt_wait(run.thread) or self._background_interrupted(run)
        ):
            self.interrupt(run)

    def is_front(self, run: CellRun) -> bool:
        """Return whether an interrupt is meant for a cell, and to be raised in it."""
        return run is self._queue.newest and not self.front_end.interrupt_backgrounds

    def interrupted_here(self, error: BaseException) -> bool:
        """Return whether the calling thread's cell, which has failed, was interrupted.

        It awaited and was cancelled by that, or failed because the signal has ended its child.
        """
        if (run := self._run_here()) is None:
            return False
        if type(error) is asyncio.CancelledError:
            return run.interrupted
        return self.missed(run, getattr(error, "returncode", 0) == -signal.SIGINT)

    def take_last(self) -> Record | None:
        """Return the job of the cell that was just sent to the background, to the first caller."""
        last, self._last = self._last, None
        return last

    def asks(self, run: CellRun) -> bool:
        """Return whether a cell waits for an answer of the user."""
        frame = frame_of(run.thread)
        return frame is not None and waits_for_answer(frame)

    def send_away(self, run: CellRun, *, interrupted: bool = False) -> bool:
        """Send a cell away without another that asks for it; return whether it can go."""
        if run is not self._queue.running or not run.can_go:
            return False

        async def send() -> None:
            await self._queue.background(run)
            if run.backgrounded and (job := self.take_last()) is not None:
                if interrupted:
                    self._interrupted = run, time.monotonic()
                self.front_end.show_backgrounded(job)

        self._queue.receiver.shell_channel_thread.io_loop.add_callback(send)
        return True

    def on_block(self, blocked: bool) -> None:
        """Take interrupts while a job blocks the main thread's loop. Any thread may call."""
        if blocked:
            self.signals.take("SIGINT")
        else:
            self._queue.receiver.shell_channel_thread.io_loop.add_callback(self._queue.look_at_main)

    def watch(self, begins: bool) -> None:
        """Call the watcher, if there is one. Any thread may call."""
        if self.watcher is not None:
            self.watcher(begins)

    # On the thread that runs a cell

    def _run_here(self) -> CellRun | None:
        header = (self.kernel.get_parent("shell") or {}).get("header", {})
        return self._queue.run_of(header.get("msg_id", ""))

    def _on_begin(self, _info: object) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth += 1
        if run.depth == 1:
            run.task = own_task()
            run.awaits = run.task is not None
            self.begin(run)
            self._queue.on_begin(run)
            self.watch(True)

    def _on_end(self, result: Any) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth -= 1
        if run.depth == 0:
            self.end(run, result)

    def on_over(self, run: CellRun) -> None:
        """Tidy up after a cell with which the kernel is done."""
        self.watch(False)
        self.rejoin(run)  # not before: its reply says its number
        if run.backgrounded:
            self.signals.renew()
        if self._tangled and not self._away and self._queue.front in ([run], []):
            # No cell runs: what IPython has put over the streams for one is left over.
            self._tangled = False
            self.front_end.drop_leftover_tee()

    # On the shell channel's thread

    def on_main_free(self) -> None:
        """Leave SIGINT to the main thread: cells run there again."""
        if not self._away and self.front_end.blocking is None:
            self.signals.give_back("SIGINT")

    def detach(self, run: CellRun) -> None:
        """Make a job of a cell that runs."""
        self._last = self.make_job(run)
        self.signals.take("SIGINT")

    def set_apart(self, run: CellRun) -> None:
        """Give the thread of a cell a number of its own until it is over."""
        super().set_apart(run)
        self._tangled = True

    def _settle(self, run: CellRun, job: Record) -> None:
        super()._settle(run, job)
        if self._close is not None and not self._away:
            self._close()
