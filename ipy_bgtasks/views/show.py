"""What `%jobs` displays, as MIME bundles: the same rows as text and as HTML."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.views.detail import detail_html, detail_text
from ipy_bgtasks.views.groups import group_html, group_line
from ipy_bgtasks.views.html import html_note, html_table
from ipy_bgtasks.views.rows import rows
from ipy_bgtasks.views.text import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import Group

_MOST = 100  # rows of a live table


def table(
    registry: Registry,
    jobs: Sequence[Record],
    *,
    groups: Sequence[Group] = (),
    verbose: bool = False,
    cells: Cells = no_cells,
) -> dict[str, str]:
    """Return the table of some jobs, with *verbose* also where each running one is.

    Above it stands one line for each of *groups*. *cells* tells which cell a file name stands for.
    """
    found = rows(
        jobs,
        current=registry.current,
        previous=registry.previous,
        where_now=verbose,
        cells=cells,
    )
    text = text_table(found, shutil.get_terminal_size().columns)
    bundle = {"text/plain": text, "text/html": html_table(found)}
    if groups:
        lines = "\n".join(map(group_line, groups))
        bundle["text/plain"] = f"{lines}\n{text}" if found else lines
        bundle["text/html"] = "".join(map(group_html, groups)) + bundle["text/html"]
    return bundle


def live_table(registry: Registry, jobs: Sequence[Record]) -> dict[str, str]:
    """Return the table for a display that is updated only on events, and so shows no clock."""
    found = rows(jobs[-_MOST:], current=registry.current, previous=registry.previous)
    still = [
        replace(row, elapsed=f"since {time.strftime('%H:%M:%S', time.localtime(job.started))}")
        if job.started is not None and not row.ended
        else row
        for job, row in zip(jobs[-_MOST:], found, strict=True)
    ]
    hidden = len(jobs) - len(found)
    more = f"the newest {_MOST} of {len(jobs):,} jobs; " if hidden else ""
    note = f"{more}pip install 'ipy_bgtasks[panel]' gives this table buttons"
    return {
        "text/plain": text_table(still, shutil.get_terminal_size().columns),
        "text/html": html_table(still) + html_note(note),
    }


def detail(job: Record, *, cells: Cells = no_cells) -> dict[str, str]:
    """Return one job in full, with its stack if it runs."""
    return {"text/plain": detail_text(job, cells), "text/html": detail_html(job, cells)}
