"""The line a terminal shows when a job has ended, as bash does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipy_bgtasks.views.summary import elapsed_text, one_line

if TYPE_CHECKING:
    from ipy_bgtasks.job import Job


def notice(job: Job, current: Job | None, previous: Job | None) -> str:
    """Number, mark, state, name, time: ``[3]+ finished  fetch(u)  1.2s``."""
    mark = "+" if job is current else "-" if job is previous else " "
    took = "" if job.started is None else elapsed_text(job.elapsed)
    return f"[{job.number}]{mark} {job.state}  {one_line(job.name, 500)}  {took}".rstrip()
