"""Cells that were sent to the background: each becomes a job, in the thread in which it runs.

IPython's shell knows one cell at a time. While one is away, what it keeps about "the" cell is kept
for each thread: the number, and what its value is stored in.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import cells_away
from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun
from ipy_bgtasks.frontends.kernel.diverting import Diversion
from ipy_bgtasks.frontends.kernel.per_thread import PerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record


class CellsAway:
    """Sends the cells of one kernel away, and ends their jobs.

    *launch* makes a job of a cell that runs, given what interrupts it. *waits* is given the thread
    of the foreground's cell: it ends a `%fg` that waits there, and says whether there was one.
    *untangle* takes off the streams what IPython leaves there when cells end in another order than
    they began. *stuck* is told of a cell that an interrupt does not reach.
    """

    def __init__(
        self,
        shell: Any,
        launch: Callable[[CellRun, Callable[[], object]], Record],
        waits: Callable[[int], bool],
        untangle: Callable[[], object],
        stuck: Callable[[CellRun], object],
    ) -> None:
        self._shell = shell
        self._launch = launch
        self._queue = CellQueue(shell.kernel, self._take, self._over, self._back)
        self._untangle_streams = untangle
        self._tangled = False
        self._diversion = Diversion(self._queue, waits, stuck)
        self._per_thread: PerThread | None = None
        #: What is left to undo when the last cell that is away has ended, after unloading.
        self._close: Callable[[], None] | None = None
        self._jobs: dict[str, Record] = {}
        #: The job of the cell that was sent away last, until somebody asks for it.
        self._last: Record | None = None

    def install(self) -> Callable[[], None]:
        """Begin; returns what ends it. What is away goes on."""
        events = self._shell.events
        undo = self._queue.install()
        events.register("pre_run_cell", self._begins)
        events.register("post_run_cell", self._ends)

        def close() -> None:
            events.unregister("pre_run_cell", self._begins)
            events.unregister("post_run_cell", self._ends)
            if self._per_thread is not None:
                self._per_thread.uninstall()
                self._per_thread = None

        def undo_all() -> None:
            undo()
            self._close = close
            if not self._jobs:
                close()

        return undo_all

    def divert(self) -> bool:
        """Take an interrupt that came to the main thread; whether it is not meant for that."""
        return self._diversion.take()

    def reaches(self) -> bool:
        """Whether the stop button finds the calling thread, though it is not the main one."""
        return self._diversion.active

    def interrupted_here(self) -> bool:
        """Whether the calling thread's cell, one that awaits, was cancelled by an interrupt."""
        run = self._run_here()
        return run is not None and run.interrupted

    def on_main(self) -> Record | None:
        """Return the job of the cell that has the main thread, if one was sent away there."""
        main: Record | None = cells_away.get(threading.main_thread().ident or 0)
        return main

    def last(self) -> Record | None:
        """Return the job of the cell that was just sent away, to the first who asks."""
        last, self._last = self._last, None
        return last

    # On the thread that runs a cell

    def _run_here(self) -> CellRun | None:
        header = (self._shell.kernel.get_parent("shell") or {}).get("header", {})
        return self._queue.run_of(header.get("msg_id", ""))

    def _begins(self, _info: object) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth += 1
        if run.depth == 1:
            run.thread = threading.get_ident()
            run.task = _own_task()
            run.began = time.monotonic()
            self._queue.begun()

    def _ends(self, result: Any) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth -= 1
        if run.depth > 0:
            return
        run.result = result
        if run.away:
            self._settle(run)

    def _over(self, run: CellRun) -> None:
        if run.away:
            self._diversion.renew()
        if self._tangled and not self._jobs and self._queue.running in (run, None):
            # No cell runs: what IPython has put over the streams for one is left over.
            self._tangled = False
            self._untangle_streams()

    # On the shell channel's thread

    def _back(self) -> None:
        if not self._jobs:
            self._diversion.end()

    def _take(self, run: CellRun) -> None:
        """Make a job of a cell that runs."""
        if self._per_thread is None:
            self._per_thread = PerThread(self._shell)
            self._per_thread.install()
        # IPython counts before it runs a cell, or, before version 9, afterwards.
        self._per_thread.numbers[run.thread] = self._shell.execution_count
        self._per_thread.quiet[run.thread] = run.code.rstrip().endswith(";")
        self._shell.execution_count = run.number + 1
        job = self._launch(run, lambda: self._diversion.interrupt(run))
        self._jobs[run.id] = self._last = job
        cells_away[run.thread] = job
        self._tangled = True
        self._diversion.begin()
        if run.result is not None:  # it has ended meanwhile
            self._settle(run)

    def _settle(self, run: CellRun) -> None:
        """The code of a cell that is away has ended."""
        job = self._jobs.pop(run.id, None)
        if job is None:
            return
        assert self._per_thread is not None
        self._per_thread.numbers.pop(run.thread, None)
        self._per_thread.quiet.pop(run.thread, None)
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
        elif job.asked and isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            job.end_cancelled()
        else:
            job.fail(error)


def _own_task() -> asyncio.Task[Any] | None:
    """Return the task of a cell that awaits; a plain cell runs in a step of the kernel's."""
    if asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return None
    return task if getattr(task.get_coro(), "__name__", "") == "run_cell_async" else None
