"""Jobs as plain data for the script of a page, which draws them and keeps their times ticking."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.log.transcript import Entry, dropped_mark
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.text import one_line, visible
from ipy_bgtasks.views.describe import row
from ipy_bgtasks.views.display import traceback_text
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipy_bgtasks.frontends.base import ForegroundCell, WaitingCell
    from ipy_bgtasks.frontends.kernel.cards import Card
    from ipy_bgtasks.job.record import Record

_WHOLE = 1 << 62
_PROBE = 400  # characters by which the end of what was shown is found again
_LISTED = 300  # rows of an open list
_NAMED = 12  # of those that failed with one error
_QUEUED = 20  # cells that wait
#: Those who run or failed come first, for whom a reader looks.
_ORDER = ("failed", "running", "cancelling", "paused", "queued", "finished", "cancelled")

#: Runs of text, each with the stream it was written to.
Segments = list[tuple[str, str]]


def live_row(job: Record, asked: bool = False) -> dict[str, Any]:
    """Return one job as data: texts are text, times are seconds since the epoch or None.

    *asked* tells whether there will be a notice of its end.
    """
    seen = row(job)
    code = one_line(job.code, 500)
    return {
        "n": str(seen.number),
        "name": seen.name,
        **({} if code == seen.name else {"code": code}),
        "state": seen.state,
        "where": seen.where,
        "group": job.group,
        "launched": job.launched,
        "started": job.started,
        "ended": job.ended,
        "last": "" if seen.fraction is not None else seen.last,
        "kind": seen.kind,
        "fraction": seen.fraction,
        "label": seen.label,
        "notify": asked,
    }


def many_row(card: Card, *, listed: bool) -> dict[str, Any]:
    """Return the card of several jobs as data; *listed* with the numbers for its list, in order."""
    tally = card.tally()
    named: Counter[str] = Counter()
    facts: dict[str, Any] = {
        "title": tally.title,
        "counts": {state: count for state, count in tally.counts.items() if count},
        "ended": tally.is_over,
        "fraction": tally.fraction,
        "left": tally.left,
        "kinds": dict(tally.kinds.most_common()),
        "failed": [],
    }
    for each in sorted(card.failed, key=lambda failure: failure.number):
        named[each.kind] += 1
        if each.trace or named[each.kind] <= _NAMED:
            facts["failed"].append({**each._asdict(), "number": str(each.number)})
    if listed:
        over = {each.number for each in card.failed}
        states = {job.number: str(job.state) for job in card.alive()}

        def order(number: int) -> tuple[int, int]:
            state = "failed" if number in over else states.get(number, "finished")
            return _ORDER.index(state) if state in _ORDER else 0, number

        facts["list"] = [str(n) for n in sorted(card.numbers(), key=order)[:_LISTED]]
    return facts


def cell_row(cell: ForegroundCell, waiting: Sequence[WaitingCell]) -> dict[str, Any]:
    """Return the cell that runs in the foreground, and those that wait for it, as such data."""
    name = visible(label_of_cell(cell.code))
    found = {"id": cell.id, "name": name, "number": cell.number, "started": cell.began}
    shown = waiting[:_QUEUED]
    found["queue"] = [{"n": w.place, "name": visible(label_of_cell(w.code))} for w in shown]
    return found


def lines_since(job: Record, since: float) -> int:
    """Return how many lines a job has printed since a time, of those that are kept."""
    if not job.has_output:
        return 0
    texts = [entry.text for entry in job.log if entry.time > since]
    return sum(max(text.count("\n"), 1) for text in texts)


class Tail:
    """The log of one job, and its traceback, as somebody sees it who is told the changes only."""

    def __init__(self, job: Record, cells: Cells = no_cells) -> None:
        self._job = job
        self._cells = cells
        self._shown: str | None = None

    def news(self) -> dict[str, Any] | None:
        """Return what to append, or to show instead of all there was; None if nothing is new."""
        segments = _segments(self._job, self._cells)
        text = "".join(part for _, part in segments)
        shown, self._shown = self._shown, text
        if text == shown:
            return None
        known = 0 if shown is None else _overlap(shown, text)
        return {
            "job": str(self._job.number),
            "replace": not known,
            "segments": _from(segments, known) if known else segments,
        }


def _overlap(shown: str, text: str) -> int:
    """Return how much of the beginning of *text* ends *shown*; 0 if it is not clear."""
    if shown and text.startswith(shown):
        return len(shown)
    end = shown[-_PROBE:]
    at = text.find(end) if end else -1
    known = at + len(end)
    return known if at > 0 and shown.endswith(text[:known]) else 0


def _segments(job: Record, cells: Cells) -> Segments:
    entries = job.log.tail(_WHOLE) if job.has_output else []
    if entries and (dropped := job.log.dropped):
        entries.insert(0, Entry("stdout", 0.0, dropped_mark(dropped)))
    texts = [
        (e.stream, visible(e.text) + "\n" * (e.bundle is not None and e.text[-1:] != "\n"))
        for e in entries
    ]
    segments = [
        (stream, "".join(text for _, text in run)) for stream, run in groupby(texts, lambda t: t[0])
    ]
    if job.outcome is not None and job.outcome.state == "failed":
        break_ = "\n" * bool(segments and not segments[-1][1].endswith("\n"))
        segments.append(("traceback", break_ + traceback_text(job.outcome, cells) + "\n"))
    return segments


def _from(segments: Segments, start: int) -> Segments:
    """Return the segments without their first *start* characters."""
    found: Segments = []
    for stream, text in segments:
        if start < len(text):
            found.append((stream, text[start:]))
        start = max(0, start - len(text))
    return found
