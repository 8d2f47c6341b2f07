"""The watchdog: notices a coroutine job that blocks the event loop, and reports it in its cell.

It checks from another thread, a few times a second and only while jobs are on the loop. A task
in the middle of a step is not yet at fault: the loop is asked for a sign of life, and the task is
blamed if there is none when time is up.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import job_of
from ipy_bgtasks.platforms import processor_time
from ipy_bgtasks.stacks import Cells, doing, innermost, no_cells, place, running_stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.loop import LoopRunner
    from ipy_bgtasks.service import ServiceLoop

#: Checks without any job on the loop after which it stops checking.
_IDLE_LOOKS = 20
#: Seconds by which a check may be late because the machine is busy.
_STALL = 0.5


class Watchdog:
    """Watches the loop of *runner* from the thread of *service*.

    ``tell(job, line)`` is called on that thread, once for each time a job blocks the loop for
    `limit` seconds or more; 0 turns it off, at any time. *cells* tells which cell a file name
    stands for.
    """

    def __init__(
        self,
        runner: LoopRunner,
        service: ServiceLoop,
        tell: Callable[[Record, str], object],
        *,
        limit: float = 1.0,
        cells: Cells = no_cells,
    ) -> None:
        self.limit = limit
        self._runner = runner
        self._service = service
        self._tell = tell
        self._cells = cells
        self._looking = False
        self._idle = 0
        self._due = 0.0  # when the next check is due
        self._used = 0.0  # processor time of the loop's thread at the last check
        self._suspect: _Suspect | None = None

    def wake(self) -> None:
        """Begin to check, unless it does already; call this when the loop gets its first job."""
        if self.limit <= 0 or self._looking:
            return
        with suppress(RuntimeError):  # no threads here to check from
            if self._service.loop is not self._runner.loop:
                self._looking = True
                self._service.loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._idle = 0
        self._again(time.monotonic())

    def _again(self, now: float) -> None:
        pause = min(max(self.limit / 4, 0.02), 0.5)
        self._due = now + pause
        self._used = processor_time(self._runner.thread)
        self._service.loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._idle = 0 if self._runner.active else self._idle + 1
        if self.limit <= 0 or self._idle > _IDLE_LOOKS or self._runner.loop.is_closed():
            self._suspect = None
            self._looking = False
            if self._runner.active:  # the first one has just come
                self.wake()
            return
        now = time.monotonic()
        if not self._idle:
            self._check(now)
        self._again(now)

    def _check(self, now: float) -> None:
        task = asyncio.current_task(self._runner.loop)
        suspect = self._suspect
        if suspect is not None and (task is not suspect.task or suspect.loop_turned):
            suspect = self._suspect = None
        if suspect is None and task is not None and (job := job_of(task)) is not None:
            suspect = self._suspect = _Suspect(task, job, now - self._stalled(now))
        if suspect is None or suspect.told:
            return
        guilty = now - suspect.since >= self.limit
        # Read its stack first: anything else may let the loop's thread go on.
        stack = running_stack(task, self._runner.thread, self._runner.loop) if guilty else []
        if not suspect.asked:
            suspect.asked = True
            self._runner.loop.call_soon_threadsafe(suspect.turn)
        if guilty:
            suspect.told = True
            self._blame(suspect.job, now - suspect.since, stack)

    def _stalled(self, now: float) -> float:
        """Return how long the loop's thread kept all threads, including this one, from running.

        C code may hold the interpreter's lock; that can only be found out afterwards.
        """
        late = now - self._due
        used = processor_time(self._runner.thread) - self._used
        return late if late >= max(self.limit, _STALL) and used > late / 2 else 0.0

    def _blame(self, job: Record, seconds: float, stack: list[FrameSummary]) -> None:
        frame = innermost(stack)
        where = f" in {doing(frame)} ({place(frame, self._cells)})" if frame is not None else ""
        with suppress(Exception):  # a failing front end must not end the service
            self._tell(
                job,
                f"job {job.number} ({job.name}) has blocked the event loop for "
                f"{seconds:.1f} s{where}: nothing else on the loop can go on. "
                "%bg --thread would avoid that",
            )


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
