"""Retries: a job that has failed is run again, after a pause that doubles each time."""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import TYPE_CHECKING

from ipy_bgtasks.job.attempts import Attempts, note_in_log
from ipy_bgtasks.registry.queueing import Queued

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.job.runner import Runner

#: The longest pause before an attempt, in seconds.
_LONGEST = 60


def pause_after(attempt: int) -> int:
    """Return the seconds between an attempt that failed and the next: 1, 2, 4, … 60."""
    return int(min(_LONGEST, 2 ** min(attempt - 1, 10)))


class Retries:
    """Gives the jobs that asked for it their next attempt. Any thread may call.

    *later* sets the one timer of a job, *released* is called when a job has left its place, and
    *enter* when its next attempt is due.
    """

    def __init__(
        self,
        *,
        later: Callable[[Record, float, Callable[[], None]], None],
        released: Callable[[Record], None],
        enter: Callable[[Queued], None],
    ) -> None:
        self._later = later
        self._released = released
        self._enter = enter
        self._lock = threading.Lock()
        self._resting: set[int] = set()

    def grant(self, job: Record, runner: Runner, retries: int) -> None:
        """Let a job that is about to start be run again on *runner*, *retries* times at most."""
        context = copy_context()
        job.attempts = Attempts(
            retries + 1,
            lambda n, line: self._rest(Queued(job, runner, self, context.copy()), n, line),
        )

    def drop(self, queued: Queued) -> bool:
        """Give a job no further attempt; return False if that has begun already."""
        with self._lock:
            if queued.job.number not in self._resting:
                return False
            self._resting.discard(queued.job.number)
            return True

    def make_room(self, queued: Queued) -> None:
        """Do nothing: only time must pass."""

    def _rest(self, queued: Queued, failed: int, line: str) -> None:
        job = queued.job
        seconds = pause_after(failed)
        note_in_log(job, f"{line}; again in {seconds} s")
        with self._lock:
            self._resting.add(job.number)
        job.rest(queued)
        self._later(job, seconds, lambda: self._go_on(queued))
        self._released(job)

    def _go_on(self, queued: Queued) -> None:
        if self.drop(queued):
            note_in_log(queued.job, str(queued.job.attempts))
            self._enter(queued)
