"""Jobs as plain data for a view that draws them itself, and keeps their times ticking."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.text import visible
from ipy_bgtasks.views.rows import row

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

_TAIL = 20_000  # characters of a log that are shown
_PROBE = 400  # characters by which the end of what was shown is found again

#: Runs of text, each with the stream it was written to.
Segments = list[tuple[str, str]]


def live_row(job: Record) -> dict[str, Any]:
    """One job: texts are text, times are seconds since the epoch or None."""
    seen = row(job)
    return {
        "n": seen.number,
        "name": seen.name,
        "state": seen.state,
        "where": seen.where,
        "launched": job.launched,
        "started": job.started,
        "ended": job.ended,
        "last": "" if seen.fraction is not None else seen.last,
        "fraction": seen.fraction,
        "label": seen.label,
    }


class Tail:
    """The end of one job's log, as somebody sees it who is told the changes only."""

    def __init__(self, job: Record) -> None:
        self._job = job
        self._shown: str | None = None

    def news(self) -> dict[str, Any] | None:
        """What to append, or to show instead of all that was shown; None if nothing is new."""
        segments = _segments(self._job) if self._job.has_output else []
        text = "".join(part for _, part in segments)
        shown, self._shown = self._shown, text
        if text == shown:
            return None
        known = 0 if shown is None else _overlap(shown, text)
        return {
            "job": self._job.number,
            "replace": not known,
            "segments": _from(segments, known) if known else segments,
        }


def _overlap(shown: str, text: str) -> int:
    """How much of the beginning of *text* stands at the end of *shown*; 0 if it is not clear."""
    if shown and text.startswith(shown):
        return len(shown)
    end = shown[-_PROBE:]
    at = text.find(end) if end else -1
    known = at + len(end)
    return known if at > 0 and shown.endswith(text[:known]) else 0


def _segments(job: Record) -> Segments:
    entries = job.log.tail(_TAIL)
    texts = [
        (e.stream, visible(e.text) + "\n" * (e.bundle is not None and e.text[-1:] != "\n"))
        for e in entries
    ]
    return [
        (stream, "".join(text for _, text in run)) for stream, run in groupby(texts, lambda t: t[0])
    ]


def _from(segments: Segments, start: int) -> Segments:
    """The segments without their first *start* characters."""
    found: Segments = []
    for stream, text in segments:
        if start < len(text):
            found.append((stream, text[start:]))
        start = max(0, start - len(text))
    return found
