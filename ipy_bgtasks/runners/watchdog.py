"""The watchdog: notices a coroutine job that blocks the event loop, and says so in its cell.

It looks from another thread, a few times a second and only while jobs are on the loop. A task
that is found in the middle of a step has done no wrong yet: the loop is asked for a sign of
life, and the task is to blame if it is still there, without one, when time is up.
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

#: Looks without any job on the loop after which it stops to look.
_IDLE_LOOKS = 20
#: Seconds by which a look may be late because the machine is busy.
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
        self._due = 0.0  # when the next look should come
        self._used = 0.0  # processor time of the loop's thread at the last look
        self._suspect: _Suspect | None = None

    def wake(self) -> None:
        """Begin to look, if it does not; to be called when the loop gets its first job."""
        if self.limit <= 0 or self._looking:
            return
        with suppress(RuntimeError):  # no threads here: nobody could look
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
            if self._runner.active:  # the first one came just now
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
        # Where it is comes first: all else may let the loop's thread go on.
        stack = running_stack(task, self._runner.thread, self._runner.loop) if guilty else []
        if not suspect.asked:
            suspect.asked = True
            self._runner.loop.call_soon_threadsafe(suspect.turn)
        if guilty:
            suspect.told = True
            self._blame(suspect.job, now - suspect.since, stack)

    def _stalled(self, now: float) -> float:
        """How long the loop's thread kept everybody from running, this thread included.

        C code may hold the interpreter's lock. Nobody can look then, only find out afterwards.
        """
        late = now - self._due
        used = processor_time(self._runner.thread) - self._used
        return late if late >= max(self.limit, _STALL) and used > late / 2 else 0.0

    def _blame(self, job: Record, seconds: float, stack: list[FrameSummary]) -> None:
        frame = innermost(stack)
        where = f" in {doing(frame)} ({place(frame, self._cells)})" if frame is not None else ""
        with suppress(Exception):  # a screen that fails must not end the service
            self._tell(
                job,
                f"job {job.number} ({job.name}) has blocked the event loop for "
                f"{seconds:.1f} s{where}: nothing else on the loop can go on. "
                "%bg --thread would avoid that",
            )


class _Suspect:
    """A job's task that was in the middle of a step when the watchdog looked."""

    def __init__(self, task: asyncio.Task[Any], job: Record, since: float) -> None:
        self.task = task
        self.job = job
        self.since = since
        self.told = False
        self.asked = False
        self.loop_turned = False

    def turn(self) -> None:
        """The loop's sign of life."""
        self.loop_turned = True
