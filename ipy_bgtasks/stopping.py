"""Asking jobs to stop, and saying truthfully what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ipy_bgtasks.job import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary

    from ipy_bgtasks.job import Job
    from ipy_bgtasks.output.screen import Screen


class Stopping:
    """One request to stop some jobs; `report` says what became of each."""

    def __init__(self, jobs: Sequence[Job], screen: Screen, *, force: bool = False) -> None:
        self._screen = screen
        self._before = {job: job.state for job in jobs}
        for job in jobs:
            if not job.done():
                screen.reported(job)
                job.cancel(force)

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, but not longer than *seconds*."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_job: Job) -> None:
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
        """One line a job, true when it was written."""
        return [self._line(job, before) for job, before in self._before.items()]

    def _line(self, job: Job, before: JobState) -> str:
        who = f"job {job.number} ({job.name})"
        state = job.state
        if before in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED):
            return f"{who} had {_ended(state)} before"
        match state:
            case JobState.CANCELLED if before is JobState.QUEUED:
                return f"{who} cancelled; it never started"
            case JobState.CANCELLED:
                return f"{who} cancelled"
            case JobState.FINISHED | JobState.FAILED:
                return f"{who} {state} before it could be stopped"
        self._screen.reported(job, False)  # its end will be news
        return f"{who} is cancelling{self._stuck(job)}"

    def _stuck(self, job: Job) -> str:
        stack = job.stack()
        if not stack:
            return "; it has been asked to stop"
        where = at(stack[-1])
        if job.where == "loop":
            return f": it goes on at {where}"
        return f": it is still at {where}, and stops when that returns to Python code"


def at(frame: FrameSummary) -> str:
    """One place in the code, in few words."""
    line = (frame.line or "").strip()
    return f"{frame.name}, line {frame.lineno}" + (f": {line}" if line else "")


def _ended(state: JobState) -> str:
    return {JobState.CANCELLED: "been cancelled", JobState.FAILED: "failed"}.get(state, str(state))
