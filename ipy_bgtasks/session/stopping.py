"""Asks jobs to stop, and reports accurately what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.stacks import Cells, doing, innermost, no_cells, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipy_bgtasks.frontends.screen import Screen
    from ipy_bgtasks.job.record import Record

#: With more than so many jobs that were cancelled one line stands for all.
_MANY = 10


class Stopping:
    """One request to stop some jobs; `report` gives the result for each.

    *cells* tells which cell a file name stands for.
    """

    def __init__(
        self,
        jobs: Sequence[Record],
        screen: Screen,
        *,
        force: bool = False,
        cells: Cells = no_cells,
    ) -> None:
        self._screen = screen
        self._cells = cells
        self._waited = False
        self._before = {job: job.state for job in jobs}
        for job in jobs:
            if not job.done():
                screen.reported(job)
                job.cancel(force)

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, but not longer than *seconds*."""
        self._waited = True
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_job: Record) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        left = [job for job in self._before if not job.done()]
        for job in left:
            job.add_done_callback(wake)
        try:
            async with asyncio.timeout(seconds):
                while not all(job.done() for job in left):
                    changed.clear()
                    if not all(job.done() for job in left):
                        await changed.wait()
        except TimeoutError:
            pass
        finally:
            for job in left:
                job.remove_done_callback(wake)

    def report(self) -> list[str]:
        """Return one line per job, true at the time of the call.

        Many that were simply cancelled, as those of a group, share one.
        """
        lines = {job: self._line(job, before) for job, before in self._before.items()}
        told: list[str] = []
        for end, words in (("; it never started", "; they never started"), ("", "")):
            alike = [job for job, line in lines.items() if line.endswith(f"cancelled{end}")]
            if len(alike) > _MANY:
                told.append(f"{len(alike):,} jobs cancelled{words}")
                for job in alike:
                    del lines[job]
        return [*lines.values(), *told]

    def _line(self, job: Record, before: JobState) -> str:
        who = f"job {job.number} ({job.name})"
        state = job.state
        if before in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED):
            return f"{who} had {_ended(state)} before"
        match state:
            case JobState.CANCELLED if job.started is None and not _has_run(job):
                job.seen = True  # there is nothing more to report
                return f"{who} cancelled; it never started"
            case JobState.CANCELLED:
                job.seen = True
                return f"{who} cancelled"
            case JobState.FINISHED | JobState.FAILED:
                return f"{who} {state} before it could be stopped"
        self._screen.reported(job, False)  # its end will be news
        return self._still(job)

    def _still(self, job: Record) -> str:
        """Return the line for a job that was asked to stop and has not ended."""
        n = job.number
        run = job.run
        why = run.why_not_stopped() if run is not None and self._waited else ""
        frame = innermost(job.stack()) if self._waited else None
        if job.done():
            return self._line(job, JobState.RUNNING)  # it has just ended
        if frame is None:
            note = (run.note if run is not None else "") or "it has been asked to stop"
            return f"job {n} is cancelling: {note}"
        where = f"{doing(frame)} ({place(frame, self._cells)})"
        match why:
            case "waiting":
                return (
                    f"job {n} is still in {where}; it stops when that returns. "
                    "--process can be killed at any time."
                )
            case "cleaning":
                return f"job {n} is cleaning up: it is in {where}"
            case "caught":
                return f"job {n} caught the request and is in {where}; -f asks until it ends"
            case "blocked":
                return (
                    f"job {n} is still in {where}, which blocks its event loop; "
                    "-f raises an exception there"
                )
        return f"job {n} was told to stop and is still in {where}; -f asks again until it ends"


def _has_run(job: Record) -> bool:
    """Return whether an attempt of the job has failed, after which it waited for the next."""
    return job.attempts is not None and job.attempts.has_failed


def _ended(state: JobState) -> str:
    return {JobState.CANCELLED: "been cancelled", JobState.FAILED: "failed"}.get(state, str(state))
