"""`--after`: jobs that start when others have finished."""

from __future__ import annotations

import threading
from collections import deque
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipy_bgtasks.job.outcome import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.job.runner import Runner
    from ipy_bgtasks.registry.queueing import Start


@dataclass(slots=True)
class _Waiting:
    """A job that starts when *left* others have ended; its launch counts as one of them."""

    job: Record
    runner: Runner
    left: int
    context: Context


class Dependents:
    """The jobs that wait for others; *start* starts one on its runner. Any thread may call."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._waiting: dict[int, list[_Waiting]] = {}
        self._ended: deque[Record] = deque()
        self._going_on = False

    def wait(self, job: Record, runner: Runner, others: Sequence[Record]) -> None:
        """Start *job* when the others have finished; cancel it if one of them does not."""
        waiting = _Waiting(job, runner, len(others) + 1, copy_context())
        for other in others:
            with self._lock:
                if not other.done():
                    self._waiting.setdefault(other.number, []).append(waiting)
                    continue
            self._advance(waiting, other)
        self._advance(waiting, None)

    def ended(self, job: Record) -> None:
        """Start, or cancel, those that have waited for *job* alone."""
        with self._lock:  # or one that is just being added would be missed
            if job.number not in self._waiting:
                return
            self._ended.append(job)
            if self._going_on:  # ending a dependent leads here: thousands must not become a stack
                return
            self._going_on = True
        while True:
            with self._lock:
                if not self._ended:
                    self._going_on = False
                    return
                job = self._ended.popleft()
                waiting = self._waiting.pop(job.number, [])
            for each in waiting:
                self._advance(each, job)

    def _advance(self, waiting: _Waiting, ended: Record | None) -> None:
        """Note that a job that *waiting* waits for has ended, or, with None, that all are known."""
        job = waiting.job
        if ended is not None and ended.state is not JobState.FINISHED:
            job.end_cancelled(
                f"job {job.number} never started: job {ended.number} ({ended.name}) {ended.state}"
            )
            return
        with self._lock:
            waiting.left -= 1
            ready = waiting.left == 0
        if ready and not job.done():
            # Where it was launched, not in the context of the job that happened to end last.
            waiting.context.run(self._start, waiting.runner, job)
            job.poke()
