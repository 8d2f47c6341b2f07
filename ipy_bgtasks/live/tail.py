"""Jobs as plain data for a view that draws them itself, and keeps their times ticking."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.log.transcript import Entry, dropped_mark
from ipy_bgtasks.text import visible
from ipy_bgtasks.views.rows import row
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.base import ForegroundCell
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.feed import Feed, News

_TAIL = 20_000  # characters of a log that are shown
_WHOLE = 1 << 62
_READERS = 50  # pages that have one log open
_PROBE = 400  # characters by which the end of what was shown is found again

#: Runs of text, each with the stream it was written to.
Segments = list[tuple[str, str]]


def live_row(job: Record) -> dict[str, Any]:
    """Return one job as data: texts are text, times are seconds since the epoch or None."""
    seen = row(job)
    return {
        "n": seen.number,
        "name": seen.name,
        "state": seen.state,
        "where": seen.where,
        "group": job.group,
        "launched": job.launched,
        "started": job.started,
        "ended": job.ended,
        "last": "" if seen.fraction is not None else seen.last,
        "fraction": seen.fraction,
        "label": seen.label,
    }


def cell_row(cell: ForegroundCell) -> dict[str, Any]:
    """Return the cell that runs in the foreground as such data."""
    name = visible(label_of_cell(cell.code))
    return {"id": cell.id, "name": name, "number": cell.number, "started": cell.began}


class OpenLog:
    """The whole log of one job, for the pages that have it open. Any thread may call.

    *send* takes a message for all of them. As long as none has it open it costs nothing.
    """

    def __init__(self, job: Record, feed: Feed, send: Callable[[dict[str, Any]], None]) -> None:
        self._job = job
        self._feed = feed
        self._send = send
        self._lock = threading.RLock()
        self._readers: dict[str, None] = {}
        self._tail = Tail(job)
        self._unlisten: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        """Return whether anybody reads it."""
        return bool(self._readers)

    def show(self, client: str, wanted: bool) -> None:
        """Open it on a page, or close it there."""
        with self._lock:
            self._readers.pop(client[:64], None)
            if not wanted:
                if not self._readers:
                    self.close()
                return
            self._readers[client[:64]] = None
            while len(self._readers) > _READERS:
                del self._readers[next(iter(self._readers))]
            self._tail = Tail(self._job, _WHOLE)
            self._tell()
            if self._unlisten is None:
                self._unlisten = self._feed.listen(self._news)

    def close(self) -> None:
        """Tell nobody any more."""
        with self._lock:
            self._readers.clear()
            unlisten, self._unlisten = self._unlisten, None
        if unlisten is not None:
            unlisten()

    def _news(self, news: News) -> None:
        if any(job is self._job for job in news.jobs):
            with self._lock:
                self._tell()

    def _tell(self) -> None:
        if self._readers and (news := self._tail.news()) is not None:
            self._send({"kind": "log", **news})


class Tail:
    """The end of one job's log, as somebody sees it who is told the changes only.

    *characters* is how much of it is shown.
    """

    def __init__(self, job: Record, characters: int = _TAIL) -> None:
        self._job = job
        self._characters = characters
        self._shown: str | None = None

    def news(self) -> dict[str, Any] | None:
        """Return what to append, or to show instead of all there was; None if nothing is new."""
        segments = _segments(self._job, self._characters) if self._job.has_output else []
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
    """Return how much of the beginning of *text* ends *shown*; 0 if it is not clear."""
    if shown and text.startswith(shown):
        return len(shown)
    end = shown[-_PROBE:]
    at = text.find(end) if end else -1
    known = at + len(end)
    return known if at > 0 and shown.endswith(text[:known]) else 0


def _segments(job: Record, characters: int) -> Segments:
    entries = job.log.tail(characters)
    if characters >= _WHOLE and (dropped := job.log.dropped):
        entries.insert(0, Entry("stdout", 0.0, dropped_mark(dropped)))
    texts = [
        (e.stream, visible(e.text) + "\n" * (e.bundle is not None and e.text[-1:] != "\n"))
        for e in entries
    ]
    return [
        (stream, "".join(text for _, text in run)) for stream, run in groupby(texts, lambda t: t[0])
    ]


def _from(segments: Segments, start: int) -> Segments:
    """Return the segments without their first *start* characters."""
    found: Segments = []
    for stream, text in segments:
        if start < len(text):
            found.append((stream, text[start:]))
        start = max(0, start - len(text))
    return found
