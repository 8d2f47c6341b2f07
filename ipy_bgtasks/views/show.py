"""What `%jobs` displays, as MIME bundles: the same rows as text and as HTML."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.views.detail import detail_html, detail_text
from ipy_bgtasks.views.groups import group_html, group_line
from ipy_bgtasks.views.html import html_note, html_table
from ipy_bgtasks.views.rows import Row, rows
from ipy_bgtasks.views.text import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import Group

_MOST = 100  # rows of a live table
_NAMED = 8  # jobs that are left out, by number


def table(
    registry: Registry,
    jobs: Sequence[Record],
    *,
    groups: Sequence[Group] = (),
    verbose: bool = False,
    cells: Cells = no_cells,
    notes: Sequence[str] = (),
    running: Sequence[Row] = (),
    waiting: Sequence[Row] = (),
) -> dict[str, str]:
    """Return the table of some jobs, with *verbose* also where each running one is.

    It begins with rows for cells that are *running*, and ends with those that are *waiting*. Above
    it stands one line for each of *groups*, below it *notes*. *cells* tells which cell a file name
    stands for.
    """
    found = [
        *running,
        *rows(
            jobs,
            current=registry.current,
            previous=registry.previous,
            where_now=verbose,
            cells=cells,
        ),
        *waiting,
    ]
    text = text_table(found, shutil.get_terminal_size().columns)
    bundle = {"text/plain": text, "text/html": html_table(found)}
    if groups:
        lines = "\n".join(map(group_line, groups))
        bundle["text/plain"] = f"{lines}\n{text}" if found else lines
        bundle["text/html"] = "".join(map(group_html, groups)) + bundle["text/html"]
    if notes:
        bundle["text/plain"] = "\n".join([bundle["text/plain"], *notes])
        bundle["text/html"] += "".join(map(html_note, notes))
    return bundle


def left_out(registry: Registry, jobs: Sequence[Record]) -> list[str]:
    """Return a line on those that run, and one on those that failed, and are not among *jobs*.

    Those that are queued in a group are counted in its own line.
    """
    shown = {job.number for job in jobs}
    rest = [job for job in registry if job.number not in shown]
    run = sum(not job.done() and (job.group is None or job.started is not None) for job in rest)
    failed = [str(job.number) for job in rest if job.state is JobState.FAILED]
    lines = [f"{run:,} more {'runs' if run == 1 else 'run'}: %jobs -a"] if run else []
    if failed:
        named = ", ".join(failed[-_NAMED:])
        dots = "…, " * (len(failed) > _NAMED)
        lines.append(f"{len(failed):,} more failed ({dots}{named}): %jobs -a")
    return lines


def live_table(
    registry: Registry, jobs: Sequence[Record], *, key: str = "", only: str = "", note: str = ""
) -> dict[str, str]:
    """Return the table for a display that is updated only on events, and so shows no clock.

    *key* and *only* are by what the script of a page finds it, and shows the panel in its place.
    """
    found = rows(jobs[-_MOST:], current=registry.current, previous=registry.previous)
    still = [
        replace(row, elapsed=f"since {time.strftime('%H:%M:%S', time.localtime(job.started))}")
        if job.started is not None and not row.ended
        else row
        for job, row in zip(jobs[-_MOST:], found, strict=True)
    ]
    notes = [f"the newest {_MOST} of {len(jobs):,} jobs"] if len(jobs) > len(found) else []
    notes += [note] if note else []
    below = "".join(map(html_note, notes))
    found_by = f' data-bgt="panel" data-bgt-only="{only}" data-bgt-key="{key}"' if key else ""
    return {
        "text/plain": text_table(still, shutil.get_terminal_size().columns),
        "text/html": f"<div{found_by}>{html_table(still)}{below}</div>",
    }


def detail(job: Record, *, cells: Cells = no_cells) -> dict[str, str]:
    """Return one job in full, with its stack if it runs."""
    return {"text/plain": detail_text(job, cells), "text/html": detail_html(job, cells)}
