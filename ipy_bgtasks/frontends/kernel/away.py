"""What IPython's shell keeps about "the" cell, kept for each thread.

IPython has one number for the cell that runs and one place for its value. With a cell in the
background a second one runs in another thread at the same time.

Cells that were sent to the background: each becomes a job, in the thread in which it runs.

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
from ipy_bgtasks.frontends.kernel.interrupts import Diversion
from ipy_bgtasks.waits import stoppable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.front_end import ForegroundCell
    from ipy_bgtasks.job.record import Record


_NONE = object()


class PerThread:
    """Attributes of `shell` and its display hook that a thread may have of its own.

    Both get a subclass of their class, with properties; what a thread has not of its own is
    everybody's, as before.
    """

    def __init__(self, shell: Any) -> None:
        #: The number of the cell that a thread runs, where that is not the foreground's.
        self.numbers: dict[int, int] = {}
        #: Whether the value of the cell that a thread runs is not to be shown.
        self.quiet: dict[int, bool] = {}
        self._results: dict[int, Any] = {}
        self._messages: dict[int, Any] = {}
        self._shell = shell
        self._hook = shell.displayhook
        self._classes = type(shell), type(self._hook)

    def install(self) -> None:
        """Begin; the value of the cell that runs now stays where it is.

        Raises `AttributeError` or `TypeError`, and changes nothing, where IPython is not built so.
        """
        shell, hook = self._classes
        quiet = hook.quiet
        mine = self.quiet
        traps = self._shell.display_trap, self._shell.builtin_trap
        enter = [trap.__enter__ for trap in traps]
        _ = [trap.__exit__ for trap in traps], self._shell.display_trap.set

        def quiet_here(hook: Any) -> bool:
            own = mine.get(threading.get_ident())
            return bool(quiet(hook) if own is None else own)

        number = _property(shell.execution_count, self.numbers, own_only=True)
        numbered = _subclass(shell, execution_count=number)
        parted = _subclass(
            hook,
            exec_result=_property(hook.exec_result, self._results),
            msg=_property(None, self._messages),
            quiet=quiet_here,
        )
        self._shell.__class__ = numbered
        # IPython counts the cells that use these, and the last one takes them off. What counts is
        # not made for two threads: a cell that began at that moment had its value shown nowhere.
        for begin in enter:
            begin()
        self._hook.__class__ = parted

    def cell_begins(self) -> None:
        """Put the display hook there again, if a cell that just ended took it off."""
        self._shell.display_trap.set()

    def uninstall(self) -> None:
        """Put both back. Call it while no two cells run."""
        shell, hook = self._classes
        for trap in (self._shell.display_trap, self._shell.builtin_trap):
            trap.__exit__(None, None, None)
        number = self._shell.execution_count
        self._shell.__class__, self._hook.__class__ = shell, hook
        self._shell.execution_count = number
        self._hook.exec_result = None


def _subclass(cls: type, **members: Any) -> type:
    # With the metaclass of traitlets' own, which `type(...)` alone would not find.
    return type(cls)(cls.__name__, (cls,), {**members, "__module__": cls.__module__})


def _property(trait: Any, own: dict[int, Any], *, own_only: bool = False) -> property:
    """Return a property that is *trait* unless the calling thread has an entry in *own*.

    With *own_only* a thread without an entry sets the trait; else what it sets is its own.
    """

    def read(instance: Any) -> Any:
        value = own.get(threading.get_ident(), _NONE)
        if value is not _NONE:
            return value
        return None if trait is None else trait.__get__(instance, type(instance))

    def write(instance: Any, value: Any) -> None:
        ident = threading.get_ident()
        if own_only and ident not in own:
            trait.__set__(instance, value)
        else:
            own[ident] = value

    return property(read, write)


class CellsAway:
    """Sends the cells of one kernel away, and ends their jobs.

    *launch* makes a job of a cell that runs, given what interrupts it. *waits* is given the thread
    of the foreground's cell: it ends a `%fg` that waits there, and says whether there was one.
    *untangle* takes off the streams what IPython leaves there when cells end in another order than
    they began. *stuck* is told of a cell that an interrupt does not reach.
    *first_sends_away* tells whether an interrupt does the same as `%bg`; *told* gets that job.
    """

    def __init__(
        self,
        shell: Any,
        launch: Callable[[CellRun, Callable[[], object]], Record],
        waits: Callable[[int], bool],
        untangle: Callable[[], object],
        stuck: Callable[[CellRun], object],
        first_sends_away: Callable[[], bool],
        told: Callable[[Record], object],
    ) -> None:
        self._shell = shell
        self._launch = launch
        self._queue = CellQueue(shell.kernel, self._can_take, self._take, self._over, self._back)
        self._untangle_streams = untangle
        self._tangled = False
        self._first_sends_away = first_sends_away
        self._tell = told
        self._diversion = Diversion(self._queue, waits, stuck, self._interrupted, first_sends_away)
        self._per_thread: PerThread | None = None
        #: What is left to undo when the last cell that is away has ended, after unloading.
        self._close: Callable[[], None] | None = None
        self._jobs: dict[str, Record] = {}
        #: The job of the cell that was sent away last, until somebody asks for it.
        self._last: Record | None = None
        self.watcher: Callable[[bool], object] | None = None
        #: Whether it was tried, and this version of IPython is not built as needed.
        self.unable = False

    def install(self) -> Callable[[], None]:
        """Begin; returns what ends it. Cells that are away then go on."""
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
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        if self._diversion.take():
            return True
        run = self._queue.running
        return run is not None and self._interrupted(run)

    def _interrupted(self, run: CellRun) -> bool:
        """Send a cell away that was interrupted, if that is wanted. Any thread may call."""
        return self._first_sends_away() and self._send_away(run, self._diversion.sent_away)

    def _send_away(self, run: CellRun, told: Callable[[CellRun], object]) -> bool:
        """Send a cell away for which no cell asks; returns whether it runs. Any thread may call."""
        if not run.can_go:
            return False

        async def send() -> None:
            await self._queue.send_away(run)
            if run.away and (job := self._last) is not None:
                self._last = None  # no cell has asked for it
                told(run)
                self._tell(job)

        self._shell.kernel.shell_channel_thread.io_loop.add_callback(send)
        return True

    # What `ForegroundCells` asks for

    def now(self) -> ForegroundCell | None:
        """Return the cell that runs in the foreground, if its code has begun."""
        from ipy_bgtasks.frontends.front_end import ForegroundCell

        run = self._queue.running
        if run is None or not run.can_go:
            return None
        assert run.began is not None
        ago = time.monotonic() - run.began
        return ForegroundCell(run.id, run.code, run.number, time.time() - ago)

    def send_away_by_id(self, cell: str) -> bool:
        """Send that cell to the background; return whether it runs in the foreground."""
        run = self._queue.running
        return run is not None and run.id == cell and self._send_away(run, lambda _run: None)

    def hear(self, comm: str) -> None:
        """Have the messages of this comm, of a widget of ours, not wait for a cell that runs."""
        self._queue.heard.add(comm)

    def hear_no_more(self, comm: str) -> None:
        """Take back `hear`."""
        self._queue.heard.discard(comm)

    def reaches(self) -> bool:
        """Return whether the stop button reaches the calling thread, which is not the main one."""
        return self._diversion.active

    def interrupted_here(self) -> bool:
        """Return whether the calling thread's cell awaited, and an interrupt has cancelled it."""
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
            if self._per_thread is not None:
                self._per_thread.cell_begins()
            run.thread = threading.get_ident()
            if threading.current_thread() is not threading.main_thread():
                stoppable[run.thread] = None  # no signal ends its sleep
            run.task = _own_task()
            run.began = time.monotonic()
            self._queue.begun()
            if self.watcher is not None:
                self.watcher(True)

    def _ends(self, result: Any) -> None:
        run = self._run_here()
        if run is None:
            return
        run.depth -= 1
        if run.depth > 0:
            return
        run.result = result
        stoppable.pop(run.thread, None)
        if run.away:
            self._settle(run)

    def _over(self, run: CellRun) -> None:
        if self.watcher is not None:
            self.watcher(False)
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

    def _can_take(self) -> bool:
        """Keep for each thread what IPython keeps once; return whether that works here."""
        if self._per_thread is None and not self.unable:
            per_thread = PerThread(self._shell)
            try:
                per_thread.install()
            except (AttributeError, TypeError):
                self.unable = True
                self._shell.kernel.log.debug("no cell can be sent away", exc_info=True)
            else:
                self._per_thread = per_thread
        return not self.unable

    def _take(self, run: CellRun) -> None:
        """Make a job of a cell that runs."""
        assert self._per_thread is not None
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
        """End the job of a cell whose code has ended."""
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
        elif job.cancel_requested and isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            job.end_cancelled()
        else:
            job.fail(error)


def _own_task() -> asyncio.Task[Any] | None:
    """Return the task of a cell that awaits; a plain cell runs in a step of the kernel's."""
    if asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return None
    return task if getattr(task.get_coro(), "__name__", "") == "run_cell_async" else None
