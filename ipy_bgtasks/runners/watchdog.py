"""Notices the jobs for which everything else has to wait, and reports them in their cells.

It checks from another thread, a few times a second and only while there are jobs on the loop or in
threads. A task in the middle of a step is not yet at fault: the loop is asked for a sign of life,
and the task is blamed if there is none when time is up. C code that holds the interpreter's lock
keeps the watchdog, too, from running; that it finds out afterwards, by being late itself, and from
the processor time that each thread has used meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ipy_bgtasks.context import job_of
from ipy_bgtasks.platforms import processor_times
from ipy_bgtasks.stacks import Cells, doing, innermost, no_cells, place, running_stack, thread_stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.loop import LoopRunner
    from ipy_bgtasks.runners.threads import ThreadRunner
    from ipy_bgtasks.service import ServiceLoop


#: Checks without any job after which it stops checking.
_IDLE_LOOKS = 20
#: Seconds by which a check may be late because the machine is busy.
_STALL = 0.5


class Watchdog:
    """Watches the jobs of *loop* and *threads* from the thread of *service*.

    ``tell(job, line)`` is called on that thread, once for each time a job blocks the loop for
    `limit` seconds or more, and once for a job in a thread that holds the interpreter as long; 0
    turns it off, at any time. *cells* tells which cell a file name stands for.
    """

    def __init__(
        self,
        loop: LoopRunner,
        threads: ThreadRunner | None,
        service: ServiceLoop,
        tell: Callable[[Record, str], object],
        *,
        limit: float = 1.0,
        cells: Cells = no_cells,
    ) -> None:
        self.limit = limit
        self._loop = loop
        self._threads = threads
        self._service = service
        self._tell = tell
        self._cells = cells
        self._looking = False
        self._idle = 0
        self._due = 0.0  # when the next check is due
        self._used: dict[int, float] = {}  # processor time of each thread at the last check
        self._suspect: _Suspect | None = None
        self._told: WeakSet[Record] = WeakSet()

    def wake(self) -> None:
        """Begin to check, unless it does already; call this when a job is about to begin."""
        if self.limit <= 0 or self._looking:
            return
        with suppress(RuntimeError):  # no threads here to check from
            if self._service.loop is not self._loop.loop:
                self._looking, self._idle = True, 0
                # The job may hold the interpreter before the other thread gets it.
                self._due, self._used = time.monotonic(), self._processor_times()
                self._service.loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        now = time.monotonic()
        held = self._held(now - self._due)
        active = self._is_active()
        self._idle = 0 if active or held is not None else self._idle + 1
        if self.limit <= 0 or self._idle > _IDLE_LOOKS or self._loop.loop.is_closed():
            self._suspect = None
            self._looking = False
            if active:  # the first one has just come
                self.wake()
            return
        if self._loop.active:
            on_loop = held == self._loop.thread
            self._check(now, now - self._due if on_loop else 0.0)
        pause = min(max(self.limit / 4, 0.02), 0.5)
        self._due, self._used = time.monotonic() + pause, self._processor_times()
        self._service.loop.call_later(pause, self._look)

    def _is_active(self) -> bool:
        return bool(self._loop.active or (self._threads is not None and self._threads.busy()))

    def _processor_times(self) -> dict[int, float]:
        others = {} if self._threads is None else self._threads.latest_jobs()
        return processor_times({self._loop.thread, *others})

    def _held(self, late: float) -> int | None:
        """Return the thread that kept all others, this one too, from running, and report its job.

        *late* is by how many seconds this check is.
        """
        limit = max(self.limit, _STALL)
        if self.limit <= 0 or late < limit:
            return None
        used = {
            thread: seconds - self._used.get(thread, 0.0)
            for thread, seconds in self._processor_times().items()
        }
        thread = max(used, key=used.__getitem__, default=0)
        if used.get(thread, 0.0) < limit / 2:  # the machine was busy, or asleep
            return None
        job = None if self._threads is None else self._threads.latest_jobs().get(thread)
        if job is not None and job not in self._told:
            self._told.add(job)
            number = None if job.source is None else self._cells(job.source)
            where = "" if number is None else f" (cell {number})"
            if not job.done():  # the thread lets go of the interpreter right at the call's end
                where = self._where(thread_stack(thread)) or where
            self._say(
                job, f"held the interpreter for {late:.1f} s{where}: all else had to wait", "-p"
            )
        return thread

    def _check(self, now: float, stalled: float) -> None:
        """Check the task that the loop is in, which has kept this thread for *stalled* seconds."""
        task = asyncio.current_task(self._loop.loop)
        suspect = self._suspect
        if suspect is not None and (task is not suspect.task or suspect.loop_turned):
            suspect = self._suspect = None
        if suspect is None and task is not None and (job := job_of(task)) is not None:
            suspect = self._suspect = _Suspect(task, job, now - stalled)
        if suspect is None or suspect.told:
            return
        guilty = now - suspect.since >= self.limit
        # Read its stack first: anything else may let the loop's thread go on.
        stack = running_stack(task, self._loop.thread, self._loop.loop) if guilty else []
        if not suspect.asked:
            suspect.asked = True
            self._loop.loop.call_soon_threadsafe(suspect.turn)
        if guilty:
            suspect.told = True
            seconds = f"{now - suspect.since:.1f} s{self._where(stack)}"
            what = f"has blocked the event loop for {seconds}: nothing else on the loop can go on"
            self._say(suspect.job, what, "--thread")

    def _where(self, stack: list[FrameSummary]) -> str:
        frame = innermost(stack)
        return "" if frame is None else f" in {doing(frame)} ({place(frame, self._cells)})"

    def _say(self, job: Record, what: str, instead: str) -> None:
        with suppress(Exception):  # a failing front end must not end the service
            self._tell(job, f"job {job.number} ({job.name}) {what}. %bg {instead} would avoid that")


class _Suspect:
    """A job's task that was in the middle of a step when the watchdog checked."""

    def __init__(self, task: asyncio.Task[Any], job: Record, since: float) -> None:
        self.task = task
        self.job = job
        self.since = since
        self.told = False
        self.asked = False
        self.loop_turned = False

    def turn(self) -> None:
        """Note the loop's sign of life."""
        self.loop_turned = True
