"""The line a terminal shows when a job has ended, as bash does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipy_bgtasks.views.rows import rows

if TYPE_CHECKING:
    from ipy_bgtasks.job import Job


def notice(job: Job, current: Job | None, previous: Job | None) -> str:
    """Number, mark, state, name, time: ``[3]+ finished  fetch(u)  1.2s``."""
    (row,) = rows([job], current=current, previous=previous)
    return f"[{row.number}]{row.mark or ' '} {row.state}  {row.name}  {row.elapsed}".rstrip()
