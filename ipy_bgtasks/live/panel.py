"""The panel of `%jobs -w`: what it sends to the browser, and what it takes from there.

Nothing here knows how messages travel. What arrives is data from outside: it is matched against
the few forms there are, anything else is ignored and logged, and nothing in it is evaluated.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.live.tail import Tail, live_row
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.text import short_repr
from ipy_bgtasks.views.groups import group_tally
from ipy_bgtasks.views.timeline import Span, strip

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.feed import Feed, News
    from ipy_bgtasks.live.watching import Watching
    from ipy_bgtasks.registry.collection import Registry

_log = logging.getLogger(__name__)

_AT_ONCE = 1000  # rows in one message
_CREDIT = 600  # messages that are sent without a sign of life: five minutes of news
_CLIENTS = 50  # pages that show one panel; the oldest is forgotten
_LOOK = 300  # rows that one page can have in sight
_LOGS = 20  # logs that are open at a time
_FACTS = ("state", "where", "started", "ended")  # are sent also of a row that nobody sees
_SAVED = 200  # rows in a saved notebook
_ON_TIMELINE = 150  # jobs, the newest


class Panel:
    """One panel, which any number of pages may show. Any thread may call.

    *actions* is what the buttons do; *send* takes a message for all pages. *only* are the numbers
    of the jobs it shows; None: all that are kept. *cell* returns the cell to show that runs in the
    foreground, as `tail.cell_row` makes it. As long as no page shows it, it costs nothing.
    """

    def __init__(
        self,
        registry: Registry,
        feed: Feed,
        actions: Watching,
        send: Callable[[dict[str, Any]], None],
        only: Iterable[int] | None = None,
        cell: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._cell = cell
        self._feed = feed
        self._actions = actions
        self._send = send
        self._only = None if only is None else frozenset(only)
        self._lock = threading.RLock()
        self._clients: dict[str, frozenset[int]] = {}  # each with the rows it has in sight
        self._sent: dict[int, dict[str, Any]] = {}
        self._stale: dict[int, None] = {}
        self._timeline_changed = False
        self._logs: dict[int, tuple[Tail, set[str]]] = {}
        self._marks: tuple[int | None, int | None] = (None, None)
        self._shown_cell: str | None = None
        self._credit = 0
        self._unlisten: Callable[[], None] | None = None

    def snapshot(self) -> dict[str, Any]:
        """Return the newest rows and the timeline as they are now, for where no kernel answers."""
        jobs = self._jobs()
        return {"rows": [live_row(job) for job in jobs[:_SAVED]], "timeline": _timeline(jobs)}

    def close(self) -> None:
        """Send the last state, and that it is the last."""
        with self._lock:
            if self._clients:
                self._send({"kind": "over", "text": "ipy_bgtasks is not loaded any more"})
            self._clients.clear()
            self._rest()

    # What arrives

    def receive(self, content: object) -> None:
        """Take one message from a page."""
        with self._lock:
            match content:
                case {"kind": "open", "client": str(client)} if 0 < len(client) <= 64:
                    self._open(client)
                case {"kind": "close", "client": str(client)}:
                    self._leave(client)
                case {"kind": "ack", "client": str(client)} if client in self._clients:
                    self._renew()
                case {"kind": "look", "client": str(client), "jobs": list(jobs)} if (
                    client in self._clients and len(jobs) <= _LOOK and all(map(_is_number, jobs))
                ):
                    self._look(client, frozenset(jobs))
                case {
                    "kind": "log",
                    "client": str(client),
                    "job": number,
                    "open": bool(wanted),
                } if client in self._clients and (job := self._job(number)):
                    self._show_log(client, job, wanted)
                case {"kind": "cancel", "job": number, "force": bool(force)} if job := self._job(
                    number
                ):
                    self._actions.cancel(job, force, self._say)
                case {"kind": "background", "cell": str(cell)}:
                    self._actions.send_away(cell, self._say)
                case {"kind": "cancel all", "group": str(group)} if alive := [
                    job for job in self._jobs() if job.group == group and not job.done()
                ]:
                    self._actions.cancel_all(alive, self._say)
                case {"kind": "forget", "job": number} if job := self._job(number):
                    self._actions.discard(job, self._say)
                case _:
                    log_ignored("panel", content)

    def _job(self, number: object) -> Record | None:
        if not _is_number(number) or (self._only is not None and number not in self._only):
            return None
        return self._registry.get(number)  # type: ignore[arg-type]

    def _open(self, client: str) -> None:
        self._clients.pop(client, None)
        self._clients[client] = frozenset()
        while len(self._clients) > _CLIENTS:
            self._leave(next(iter(self._clients)))
        if self._unlisten is None:
            self._unlisten = self._feed.listen(self._news)
        self._start_over()

    def _leave(self, client: str) -> None:
        self._clients.pop(client, None)
        for number in list(self._logs):
            self._close_log(client, number)
        if not self._clients:
            self._rest()

    def _renew(self) -> None:
        ran_out, self._credit = self._credit <= 0, _CREDIT
        if ran_out:
            self._start_over()

    def _look(self, client: str, jobs: frozenset[int]) -> None:
        self._clients[client] = jobs
        self._tell([job for n in jobs & self._stale.keys() if (job := self._job(n))])

    def _show_log(self, client: str, job: Record, wanted: bool) -> None:
        if not wanted:
            self._close_log(client, job.number)
            return
        _, readers = self._logs.pop(job.number, (None, set()))
        # Also for those who see it already: one message for all.
        self._logs[job.number] = (Tail(job), readers | {client})
        while len(self._logs) > _LOGS:
            del self._logs[next(iter(self._logs))]
        self._tell([], logs=[job.number])

    def _close_log(self, client: str, number: int) -> None:
        if number in self._logs:
            readers = self._logs[number][1]
            readers.discard(client)
            if not readers:
                del self._logs[number]

    # What is sent

    def _start_over(self) -> None:
        """Send everything: to a page that is new, or was not heard of for long."""
        self._credit = _CREDIT
        self._sent.clear()
        self._stale.clear()
        self._tell_in_parts(self._jobs(), reset=True)
        for number, (_, readers) in list(self._logs.items()):
            if job := self._job(number):
                self._logs[number] = (Tail(job), readers)
                self._tell([], logs=[number])

    def _news(self, news: News) -> None:
        with self._lock:
            if self._credit <= 0 or not self._clients:
                return
            jobs = [job for job in news.jobs if self._job(job.number) is job]
            gone = [number for number in news.gone if self._sent.pop(number, None)]
            logs = [job.number for job in jobs if job.number in self._logs]
            for number in gone:
                self._stale.pop(number, None)
                self._logs.pop(number, None)
            self._tell_in_parts(jobs, gone=gone, logs=logs)

    def _tell_in_parts(self, jobs: list[Record], **first: Any) -> None:
        self._tell(jobs[:_AT_ONCE], **first)
        for start in range(_AT_ONCE, len(jobs), _AT_ONCE):
            self._tell(jobs[start : start + _AT_ONCE])

    def _tell(
        self,
        jobs: Iterable[Record],
        *,
        gone: Iterable[int] = (),
        logs: Iterable[int] = (),
        reset: bool = False,
    ) -> None:
        """Send what is new of these, if anything is."""
        in_sight = frozenset().union(*self._clients.values())
        rows = [row for job in jobs if (row := self._new_row(job, job.number in in_sight))]
        tails = [news for number in logs if (news := self._logs[number][0].news())]
        marks = (_number(self._registry.current), _number(self._registry.previous))
        cell = self._cell()
        shown_cell = None if cell is None else cell["id"]
        other = marks != self._marks or shown_cell != self._shown_cell
        if not (rows or gone or tails or reset or other):
            return
        self._marks, self._shown_cell = marks, shown_cell
        self._credit -= 1
        message = {"kind": "news", "now": time.time(), "rows": rows, "gone": gone, "logs": tails}
        message["left"] = self._left({row["group"] for row in rows})
        redraw = reset or gone or self._timeline_changed
        message["timeline"] = _timeline(self._jobs()) if redraw else None
        self._timeline_changed = False
        message |= {"reset": reset, "current": marks[0], "previous": marks[1], "cell": cell}
        self._send(message)

    def _left(self, names: set[str | None]) -> dict[str, str]:
        """Return how long these groups will still take, in words."""
        groups = self._registry.groups() if names - {None} else []
        return {g.name: group_tally(g).left for g in groups if g.name in names}

    def _new_row(self, job: Record, in_sight: bool) -> dict[str, Any] | None:
        sent = self._sent.get(job.number)
        if sent is not None and not in_sight and not _is_news(job, sent):
            self._stale[job.number] = None
            return None
        self._stale.pop(job.number, None)
        row = live_row(job)
        if row == sent:
            return None
        self._timeline_changed |= sent is None or _is_news(job, sent)
        self._sent[job.number] = row
        return row

    def _say(self, text: str) -> None:
        with self._lock:
            if self._clients:
                self._send({"kind": "said", "text": text})

    def _jobs(self) -> list[Record]:
        only = self._only
        found = [job for job in self._registry if only is None or job.number in only]
        return found[::-1]

    def _rest(self) -> None:
        self._logs.clear()
        self._sent.clear()
        self._stale.clear()
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None


def log_ignored(who: str, content: object) -> None:
    """Log a message from a page that has none of the known forms."""
    _log.warning("%s: ignored %s", who, short_repr(content, 200))


def _timeline(jobs: Sequence[Record]) -> dict[str, Any]:
    return strip([Span.of(job) for job in jobs[:_ON_TIMELINE]], time.time())


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is str and JobId.read(value) is not None)


def _number(job: Record | None) -> int | None:
    return None if job is None else job.number


def _is_news(job: Record, sent: dict[str, Any]) -> bool:
    return any(getattr(job, fact) != sent[fact] for fact in _FACTS)
