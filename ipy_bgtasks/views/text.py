"""Rows as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wcwidth import width as width_of

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.text import bar, cut_end, cut_middle, elapsed_text, one_line
from ipy_bgtasks.views.rows import GLYPHS, Row, exit_status, summary
from ipy_bgtasks.views.value import value_line

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

_GAP = "  "
_VALUE = 60  # characters of a value in a notice
_LEAST_NAME = 8  # columns; a name is not cut shorter, whatever the width
_LEAST_LAST = 6  # columns; less of the last column says nothing

NO_JOBS = "no jobs"


def text_table(rows: Sequence[Row], width: int = 80) -> str:
    """Return one line per job, aligned, in at most `width` columns; ``no jobs`` if there is none.

    In a very narrow terminal lines are longer, so that some of each job's name is left.
    """
    if not rows:
        return NO_JOBS
    cells = [_cells(row) for row in rows]
    heads = aligned([head for head, _, _, _ in cells])
    times = aligned([(elapsed,) for _, _, elapsed, _ in cells], right=True)
    name_width, last_width = _share(
        width - width_of(heads[0]) - width_of(times[0]) - 2 * len(_GAP),
        max(width_of(name) for _, name, _, _ in cells),
        max(width_of(last) for _, _, _, last in cells),
    )
    lines = []
    for head, time, (_, name, _, last), row in zip(heads, times, cells, rows, strict=True):
        line = head + _GAP + _padded(cut_middle(name, name_width), name_width) + _GAP + time
        if last_width:
            line += _GAP + cut_end(last, last_width)
        lines.append(line.rstrip())
        if row.at:
            lines.append(cut_end(f"      at {one_line(row.at, width)}", width))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[tuple[str, ...], str, str, str]:
    head = (
        f"[{row.number}]{one_line(row.mark, 1) or ' '}",
        f"{GLYPHS.get(row.state, '○')} {one_line(row.state, 20)}",
        one_line(row.where, 20),
    )
    return head, one_line(row.name, 500), one_line(row.elapsed, 20), _last(row)


def _last(row: Row) -> str:
    if row.fraction is None:
        return "→ " * (row.kind == "result") + one_line(row.last, 500)
    return f"{bar(row.fraction)} {one_line(row.label, 500)}".rstrip()


def aligned(table: Sequence[tuple[str, ...]], *, right: bool = False) -> list[str]:
    """Return one text for each line of a table, its cells as wide as the widest of the column."""
    widths = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    return [
        _GAP.join(_padded(cell, size, right=right) for cell, size in zip(line, widths, strict=True))
        for line in table
    ]


def _share(room: int, name: int, last: int) -> tuple[int, int]:
    """Share the remaining width between names and last column; one may need less than half."""
    if name + len(_GAP) + last <= room or not last:
        return (name, last) if last else (max(_LEAST_NAME, min(name, room)), 0)
    half = (room - len(_GAP)) // 2
    name = max(_LEAST_NAME, min(name, max(half, room - len(_GAP) - last)))
    left = room - len(_GAP) - name
    if left < _LEAST_LAST:
        return max(_LEAST_NAME, min(name, room)), 0
    return name, min(last, left)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def notice(job: Record, current: Record | None, previous: Record | None) -> str:
    """Return number, mark, state, name, time, value: ``[3]+ finished  fetch(u)  1.2s  'text'``.

    Of a job that has failed it tells why only where no traceback is shown.
    """
    mark = "+" if job is current else "-" if job is previous else " "
    took = "" if job.started is None else elapsed_text(job.elapsed)
    line = f"[{job.number}]{mark} {job.state}  {one_line(job.name, 500)}  {took}".rstrip()
    assert job.outcome is not None
    if job.state is JobState.FINISHED:
        shows = job.outcome.value is not None and not job.stores
        return f"{line}  {value_line(job, _VALUE)}" if shows else line
    if job.state is JobState.FAILED and not (job.quiet or exit_status(job)):
        return line
    return f"{line}  {summary(job, _VALUE)}".rstrip()
