"""Cells that were sent to the background: each becomes a job, in the thread in which it runs."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import cells_away
from ipy_bgtasks.frontends.base import ForegroundCell, WaitingCell
from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun
from ipy_bgtasks.frontends.kernel.interrupts import SigintRouter
from ipy_bgtasks.frontends.per_thread import PerThread
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.stacks import thread_stack
from ipy_bgtasks.waits import stoppable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd
    from ipy_bgtasks.job.record import Record


class BackgroundCells:
    """Sends the cells of one kernel to the background, and ends their jobs."""

    def __init__(self, front_end: KernelFrontEnd) -> None:
        self.front_end = front_end
        self.kernel = front_end.shell.kernel
        self._shell = front_end.shell
        self._queue = CellQueue(self)
        self.router = SigintRouter(self, self._queue)
        self._per_thread: PerThread | None = None
        self._changes = Installation()
        #: Whether it was tried, and this version of IPython is not built as needed.
        self.unable = False
        #: What is to be done when the last of them has ended, after unloading.
        self._close: Callable[[], None] | None = None
        self._jobs: dict[str, Record] = {}
        #: The job of the cell that was sent to the background last, until somebody takes it.
        self._last: Record | None = None
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
        own.add(self._changes.undo)

        def close() -> None:
            self._close = own.undo
            if not self._jobs:
                own.undo()

        changes.add(close)
        self._queue.install(changes)

    # For the panel

    def now(self) -> ForegroundCell | None:
        """Return the cell that runs in the foreground, if its code has begun."""
        run = self._queue.running
        return _as_shown(run) if run is not None and run.can_go else None

    def others(self) -> list[ForegroundCell]:
        """Return the cells that run in the foreground, without the one that calls."""
        here = self._run_here()
        return [_as_shown(run) for run in self._queue.front if run is not here and run.began]

    def waiting(self) -> list[WaitingCell]:
        """Return the cells that wait, in order."""
        return [WaitingCell(run.id, run.code, run.place) for run in self._queue.waiting]

    def take_out(self, places: set[int] | None) -> list[WaitingCell]:
        """Take waiting cells out of the queue, by their places, or all; returns which."""
        found = [run for run in self._queue.waiting if places is None or run.place in places]
        taken = self._queue.take_out(found) if found else []
        return [WaitingCell(run.id, run.code, run.place) for run in taken]

    def send_away_by_id(self, cell: str) -> bool:
        """Send that cell to the background; return whether it runs in the foreground."""
        run = self._queue.running
        return run is not None and run.id == cell and self._background(run)

    def hear(self, comm: str) -> None:
        """Have the messages of this comm, of a widget of ours, not wait for a cell that runs."""
        self._queue.urgent_comms.add(comm)

    def hear_no_more(self, comm: str) -> None:
        """Undo `hear`."""
        self._queue.urgent_comms.discard(comm)

    @property
    def variables(self) -> dict[str, Any]:
        """The user's variables."""
        return self._shell.user_ns  # type: ignore[no-any-return]

    # Interrupts

    def route_interrupt(self) -> bool:
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        if self.router.route():
            return True
        run = self._queue.newest
        return run is not None and self.background_interrupted(run)

    def background_interrupted(self, run: CellRun) -> bool:
        """Send an interrupted cell to the background, if that is wanted. Any thread may call."""
        return self.front_end.interrupt_backgrounds and self._background(run, interrupted=True)

    def interrupted_here(self, cancelled: bool) -> bool:
        """Return whether the calling thread's cell, which has failed, was interrupted.

        It awaited and was *cancelled* by that, or failed because the signal has ended its child.
        """
        run = self._run_here()
        return run is not None and (run.interrupted if cancelled else self.router.missed(run))

    def explain_other_loop(self, error: BaseException) -> BaseException:
        """Return one line for an await of what belongs to the main thread's loop.

        While a cell in the background has the main thread, cells run in a subshell, on a loop of
        its own. What was made on the main loop (a task, a contended lock) cannot be awaited there.
        """
        if threading.current_thread() is threading.main_thread():
            return error
        job: Record | None = cells_away.get(threading.main_thread().ident or 0)
        if job is None or not isinstance(error, RuntimeError | ValueError):
            return error
        text = str(error)  # asyncio's message, in all versions
        if "different loop" not in text and "different event loop" not in text:
            return error
        from IPython.core.error import UsageError

        return UsageError(
            "what is awaited here belongs to the event loop of the main thread, which is "
            f"job {job.number}'s ({job.name}) until that ends: wait for it with %fg {job.number}, "
            "or await something that is made here"
        )

    def take_last(self) -> Record | None:
        """Return the job of the cell that was just sent to the background, to the first caller."""
        last, self._last = self._last, None
        return last

    def _background(self, run: CellRun, *, interrupted: bool = False) -> bool:
        """Send a cell to the background without another that asks; returns whether it runs."""
        if not run.can_go or run is not self._queue.running:
            return False

        async def send() -> None:
            await self._queue.background(run)
            if run.backgrounded and (job := self.take_last()) is not None:
                if interrupted:
                    self.router.backgrounded(run)
                self.front_end.show_backgrounded(job)

        self.kernel.shell_channel_thread.io_loop.add_callback(send)
        return True

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
            if self._per_thread is not None:
                self._shell.display_trap.set()  # a cell that just ended may have taken it off
            run.thread = threading.get_ident()
            if threading.current_thread() is not threading.main_thread():
                stoppable[run.thread] = None  # no signal ends its sleep
            run.task = _own_task()
            run.began = time.monotonic()
            self.router.renew()
            self._queue.on_begin()
            if self.watcher is not None:
                self.watcher(True)

    def _on_end(self, result: Any) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth -= 1
        if run.depth > 0:
            return
        stoppable.pop(run.thread, None)
        if run.thread != threading.main_thread().ident and self.router.missed(run):
            self._interrupt_at_end(result)
        run.result = result
        if run.backgrounded:
            self._settle(run)

    def _interrupt_at_end(self, result: Any) -> None:
        """End the cell as an interrupt does, which came before its end, if nothing else has."""
        if result.success:
            result.error_in_exec = error = KeyboardInterrupt()
            self._shell.showtraceback((KeyboardInterrupt, error, None))

    def on_over(self, run: CellRun) -> None:
        """Tidy up after a cell with which the kernel is done."""
        if self.watcher is not None:
            self.watcher(False)
        if run.apart:  # until here: its reply says its number
            assert self._per_thread is not None
            self._per_thread.numbers.pop(run.thread, None)
            self._per_thread.quiet.pop(run.thread, None)
        if run.backgrounded:
            self.router.renew()
        if self._tangled and not self._jobs and self._queue.front in ([run], []):
            # No cell runs: what IPython has put over the streams for one is left over.
            self._tangled = False
            self.front_end.drop_leftover_tee()

    # On the shell channel's thread

    def on_main_free(self) -> None:
        """Leave SIGINT to the main thread: cells run there again."""
        if not self._jobs:
            self.router.end()

    def on_waiting(self) -> None:
        """Have the cells that wait shown."""
        if self.watcher is not None:
            self.watcher(True)

    def prepare(self) -> bool:
        """Keep for each thread what IPython keeps once; return whether that works here."""
        if self._per_thread is None and not self.unable:
            per_thread = PerThread()
            self._changes.step("background cells", per_thread.install, self._shell)
            self.unable = bool(self._changes.missing)
            if not self.unable:
                self._per_thread = per_thread
        return not self.unable

    def make_job(self, run: CellRun) -> None:
        """Make a job of a cell that runs."""
        if not run.apart:
            self.set_apart(run)
        job = self.front_end.launch_cell(run, lambda: self.router.interrupt(run))
        self._jobs[run.id] = self._last = job
        cells_away[run.thread] = job
        self._tangled = True
        self.router.begin()
        if run.result is not None:  # it has ended meanwhile
            self._settle(run)

    def set_apart(self, run: CellRun) -> None:
        """Give the thread of a cell that runs a number of its own; the shell's is the next."""
        assert self._per_thread is not None
        # IPython counts before it runs a cell, or, before version 9, afterwards.
        self._per_thread.numbers[run.thread] = self._shell.execution_count
        self._per_thread.quiet[run.thread] = run.code.rstrip().endswith(";")
        self._shell.execution_count = run.number + 1
        run.apart = self._tangled = True

    def _settle(self, run: CellRun) -> None:
        """End the job of a cell whose code has ended."""
        job = self._jobs.pop(run.id, None)
        if job is None:
            return
        try:
            self._end(run, job)  # the thread is still the job's: it shows figures left open
        finally:
            cells_away.pop(run.thread, None)
        if self._close is not None and not self._jobs:
            self._close()

    def _end(self, run: CellRun, job: Record) -> None:
        result = run.result
        error = result.error_before_exec or result.error_in_exec
        if error is None:
            job.finish(result.result)
        elif job.cancel_requested and isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            job.end_cancelled()
        else:
            job.fail(error)


def _as_shown(run: CellRun) -> ForegroundCell:
    assert run.began is not None
    began = time.time() - (time.monotonic() - run.began)
    stack = partial(thread_stack, run.thread, code_that_runs_cells())
    return ForegroundCell(run.id, run.code, run.number, began, stack)


def _own_task() -> asyncio.Task[Any] | None:
    """Return the task of a cell that awaits; a plain cell runs in a step of the kernel's."""
    if asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return None
    return task if getattr(task.get_coro(), "__name__", "") == "run_cell_async" else None
