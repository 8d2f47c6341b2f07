"""What the pages that show this kernel's notebooks are told, and what they ask for.

One script runs in each page, as a widget without a view. It finds the cards and panels that stand
there as HTML and says which; from then on it is told what is new about their jobs, as plain data,
which it draws; it keeps their times ticking. What arrives is data from outside: it is matched
against the few forms there are, anything else is ignored and logged, and nothing in it is
evaluated.

A job is called by its number as text, ``3`` or ``k3``; the card of several ``m3``, by the first.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.log.output import Entry, dropped_mark
from ipy_bgtasks.platforms import usage_of
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.service import Soon
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.text import one_line, short_repr, visible
from ipy_bgtasks.views.describe import GLYPHS, row, traceback_text
from ipy_bgtasks.views.display import THEMED
from ipy_bgtasks.views.tables import group_tally
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ipy_bgtasks.frontends.kernel.cards import Card
    from ipy_bgtasks.frontends.kernel.cell_queue import CellRun
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.watching import News, Watching
    from ipy_bgtasks.notify import Notice
    from ipy_bgtasks.platforms import Usage

_log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("elements", "log", "card", "sweep", "timeline", "panel", "page")

_AT_ONCE = 1000  # rows in one message
_CREDIT = 600  # messages that are sent without a sign of life: five minutes of news
_CLIENTS = 50  # pages that are known; the oldest is forgotten
_MANY = 5000  # cards that one page may name
_LOGS = 20  # logs that are open at a time
_SAMPLE = 2.0  # seconds between two looks at what processes use
_NAMES = ("jobs", "look", "many", "lists")  # lists of names that a page sends
_FACTS = ("state", "where", "started", "ended")  # are sent also of a row that nobody sees
_WHOLE = 1 << 62
_PROBE = 400  # characters by which the end of what was shown is found again
_LISTED = 300  # rows of an open list
_NAMED = 12  # of those that failed with one error
_QUEUED = 20  # cells that wait
#: Those who run or failed come first, for whom a reader looks.
_ORDER = ("failed", "running", "cancelling", "paused", "queued", "finished", "cancelled")

#: Runs of text, each with the stream it was written to.
Segments = list[tuple[str, str]]


def page_widget(key: str) -> Any:
    """Return what brings the cards and panels with that key to life in each page that has them."""
    import anywidget  # with ipywidgets, which takes a while: when it is first needed
    import traitlets

    class PageWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        _esm = _script()
        _css = _style()
        key: Any = traitlets.Unicode().tag(sync=True)

    return PageWidget(key=key)


def _script() -> str:
    """Return the module; only the last of its parts exports anything."""
    parts = [(_PAGE / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return "\n".join([f"const GLYPHS = {json.dumps(GLYPHS, ensure_ascii=False)};", *parts])


def _style() -> str:
    """Return the style sheet; in it `--state` is the colour of the state that is a class."""
    colours = [f".bgt .{state} {{ --state: {css}; }}" for state, css in THEMED.items()]
    return "\n".join([*colours, (_PAGE / "page.css").read_text("utf-8")])


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one page shows."""

    #: How often the page has said so before: the first time may be heard last, on a busy main shell
    #: when the next went to a subshell, and must not count then.
    turn: int = 0
    #: Whether a panel is among it, which shows all jobs, and whether somebody looks at that.
    panel: bool = False
    watched: bool = False
    #: The jobs that have cards, and those of which anything is in sight.
    jobs: frozenset[int | JobId] = frozenset()
    look: frozenset[int | JobId] = frozenset()
    #: The cards of several jobs, and those whose list is open.
    many: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()


class Pages:
    """The pages of one kernel. Any thread may call.

    *views* has what they show, and does what their buttons ask for; *send* takes a message for all
    of them. As long as no page shows anything of us, it costs nothing.
    """

    def __init__(self, views: Watching, send: Callable[[dict[str, Any]], None]) -> None:
        self._views = views
        self._registry = views.registry
        self._cards = views.cards
        self._send = send
        self._lock = threading.RLock()
        self._clients: dict[str, _Sight] = {}
        self._all = _Sight()  # what any of them shows
        self._sent: dict[int | JobId, dict[str, Any]] = {}
        self._sent_many: dict[str, dict[str, Any]] = {}
        self._logs: dict[int | JobId, tuple[Tail, set[str]]] = {}
        self._front: tuple[Any, ...] = ()
        self._credit = 0
        self._unsubscribe: Callable[[], None] | None = None
        #: What the processes of jobs that somebody sees at work used, and when that was.
        self._used: dict[int | JobId, tuple[float, Usage]] = {}
        self._uses: dict[int | JobId, str] = {}
        self._sampling = Soon(views.feed.later, self._sample)

    def show_notice(self, notice: Notice, job: Record) -> None:
        """Send a notice; each page decides whether it shows it, and leads a click to the card."""
        name = str(job.number)
        self._send({"kind": "notice", "title": notice.title, "body": notice.body, "job": name})

    def close(self) -> None:
        """Send that this is the last state."""
        with self._lock:
            if self._clients:
                self._send_news(list(self._registry))
                self._send({"kind": "over", "text": "ipy_bgtasks is not loaded any more"})
            self._clients.clear()
            self._rest()

    # What arrives

    def receive(self, content: Any) -> None:
        """Take one message from a page."""
        with self._lock:
            match content:
                case {"kind": "hello"}:
                    self._cards.heard = True
                case {"kind": "see", "client": str(client)} if (
                    0 < len(client) <= 64 and (sight := _sight(content)) is not None
                ):
                    self._see(client, sight)
                case {"kind": "bye", "client": str(client)}:
                    self._leave(client)
                case {"kind": "ack", "client": str(client)} if client in self._clients:
                    self._renew()
                case {"kind": "log", "client": str(client), "job": name, "open": bool(wanted)} if (
                    client in self._clients and (job := self._job(name))
                ):
                    self._show_log(client, job, wanted)
                case {"kind": "missed", "jobs": list(names), "since": int() | float() as since} if (
                    len(names) <= _MANY
                ):
                    self._send_missed(names, float(since))
                case _:
                    if not self._act(content):
                        _log.warning("page: ignored %s", short_repr(content, 200))

    def _act(self, content: object) -> bool:
        """Do what a button asks for; return whether there is such a button."""
        match content:
            case {"kind": "cancel", "job": name, "force": bool(force), "to": str(to)} if job := (
                self._job(name)
            ):
                self._views.cancel([job], self._status_of(to), force=force)
            case {"kind": "cancel all", "many": str(name), "to": str(to)} if card := (
                self._cards.many.get(name)
            ):
                self._views.cancel(card.alive(), self._status_of(to))
            case {"kind": "cancel all", "group": str(name), "to": str(to)} if alive := [
                job for job in self._registry.alive() if job.group == name
            ]:
                self._views.cancel(alive, self._status_of(to))
            case {"kind": "forget", "job": name, "to": str(to)} if job := self._job(name):
                self._views.discard(job, self._status_of(to))
            case {"kind": "background", "cell": str(cell), "to": str(to)}:
                self._views.send_away(cell, self._status_of(to))
            case {"kind": "take out", "cell": int(place), "to": str(to)}:
                self._views.take_out(place, self._status_of(to))
            case {"kind": "notify", "job": name, "on": bool(wanted)} if job := self._job(name):
                self._views.notify(job, wanted)
                self._send_news([job])
            case _:
                return False
        return True

    def _job(self, name: object) -> Record | None:
        number = _number(name)
        return None if number is None else self._registry.get(number)

    def _see(self, client: str, sight: _Sight) -> None:
        missed = client in self._clients and self._credit <= 0
        before = self._clients.get(client, _Sight())
        if sight.turn < before.turn:
            return
        self._clients.pop(client, None)  # to the end: the oldest is forgotten
        self._clients[client] = sight
        while len(self._clients) > _CLIENTS:
            self._leave(next(iter(self._clients)))
        self._look()
        self._sample_soon()
        if missed or (sight.panel and not before.panel):
            self._start_over()
            return
        self._credit = _CREDIT
        new = frozenset() if before.panel else (sight.jobs | sight.look) - before.jobs - before.look
        for number in new:  # a page that is new to them knows nothing of them
            self._sent.pop(number, None)
        for name in (sight.many - before.many) | (sight.lists ^ before.lists):
            self._sent_many.pop(name, None)
        wanted = new | (sight.look - before.look) | self._listed(sight)
        self._send_news([job for n in sorted(wanted) if (job := self._registry.get(n))])

    def _look(self) -> None:
        """Note what all pages show together, and listen if that is anything."""
        seen = self._clients.values()
        names: dict[str, frozenset[Any]] = {
            part: frozenset().union(*(getattr(each, part) for each in seen)) for part in _NAMES
        }
        panel, watched = (any(getattr(each, w) for each in seen) for w in ("panel", "watched"))
        self._all = _Sight(0, panel, watched, **names)
        shown = self._all.panel or self._all.jobs or self._all.many or self._logs
        if not shown:
            self._rest()
        elif self._unsubscribe is None:
            self._unsubscribe = self._views.feed.subscribe(self._take)

    def _listed(self, sight: _Sight) -> frozenset[int | JobId]:
        cards = [card for name in sight.lists if (card := self._cards.many.get(name))]
        return frozenset(n for card in cards for n in card.numbers())

    def _leave(self, client: str) -> None:
        self._clients.pop(client, None)
        for number in list(self._logs):
            self._close_log(client, number)
        self._look()

    def _renew(self) -> None:
        ran_out, self._credit = self._credit <= 0, _CREDIT
        if ran_out:
            self._start_over()

    def _show_log(self, client: str, job: Record, wanted: bool) -> None:
        if not wanted:
            self._close_log(client, job.number)
            return
        _, readers = self._logs.pop(job.number, (None, set()))
        # Also for those who see it already: one message for all.
        self._logs[job.number] = (Tail(job, self._views.sources), readers | {client})
        while len(self._logs) > _LOGS:
            del self._logs[next(iter(self._logs))]
        self._look()
        self._send_news([], logs=[job.number])

    def _close_log(self, client: str, number: int | JobId) -> None:
        if number in self._logs:
            readers = self._logs[number][1]
            readers.discard(client)
            if not readers:
                del self._logs[number]

    def _send_missed(self, names: list[object], since: float) -> None:
        jobs = [job for name in names if (job := self._job(name))]
        found = {str(job.number): lines for job in jobs if (lines := lines_since(job, since))}
        if found:
            self._send({"kind": "missed", "jobs": found})

    # What is sent

    def _start_over(self) -> None:
        """Send everything: to a page that is new, or was not heard of for long."""
        self._credit = _CREDIT
        self._sent.clear()
        self._sent_many.clear()
        for number, (_, readers) in list(self._logs.items()):
            if job := self._registry.get(number):
                self._logs[number] = (Tail(job, self._views.sources), readers)
        self._send_news(list(self._registry)[::-1], logs=list(self._logs), reset=True)

    def _take(self, news: News) -> None:
        with self._lock:
            if self._credit <= 0 or not self._clients:
                return
            gone = [number for number in news.gone if self._sent.pop(number, None)]
            for number in gone:
                self._logs.pop(number, None)
            logs = [job.number for job in news.jobs if job.number in self._logs]
            jobs = [job for job in news.jobs if self._registry.get(job.number) is job]
            jobs += self._moved_up({job.group for job in jobs} - {None})
            self._sample_soon()
            self._send_news(jobs, gone=gone, logs=logs)

    def _moved_up(self, groups: set[str | None]) -> list[Record]:
        """Return those in sight that wait in a group of which others start: their place is new."""
        seen = [job for n in self._all.look if groups and (job := self._registry.get(n))]
        return [job for job in seen if job.group in groups and job.started is None]

    def _send_news(
        self,
        jobs: Sequence[Record],
        *,
        gone: Iterable[int | JobId] = (),
        logs: Iterable[int | JobId] = (),
        reset: bool = False,
    ) -> None:
        """Send what is new of these, if anything is."""
        look = self._all.look | self._listed(self._all)
        rows = [row for job in jobs[:_AT_ONCE] if (row := self._new_row(job, look))]
        many = {name: facts for name in self._all.many if (facts := self._new_many(name))}
        tails = [news for number in logs if (news := self._logs[number][0].news())]
        current, previous = self._registry.current, self._registry.previous
        running = self._views.front()
        cell = None if running is None else cell_row(*running)
        shown = cell and (cell["id"], [each["n"] for each in cell["queue"]])
        front = (shown, current and current.number, previous and previous.number)
        if rows or many or gone or tails or reset or front != self._front:
            self._front = front
            self._credit -= 1
            groups = {row["group"] for row in rows} - {None}
            left = {
                g.name: group_tally(g).left for g in self._registry.groups() if g.name in groups
            }
            message = {
                "kind": "news",
                "now": time.time(),
                "rows": rows,
                "many": many,
                "logs": tails,
            }
            message |= {"gone": [str(number) for number in gone], "reset": reset, "left": left}
            message["current"] = None if current is None else str(current.number)
            message["previous"] = None if previous is None else str(previous.number)
            self._send({**message, "cell": cell})
        if jobs[_AT_ONCE:]:
            self._send_news(jobs[_AT_ONCE:])

    # What processes use

    def _watched(self) -> list[Record]:
        """Return the jobs that somebody sees in a panel and that have processes at work."""
        seen = self._all.look if self._all.watched else ()
        jobs = [job for n in seen if (job := self._registry.get(n))]
        return [job for job in jobs if job.pid is not None and not job.done()]

    def _sample_soon(self) -> None:
        if not self._used and self._watched():
            self._sampling.within(0)

    def _sample(self) -> None:
        """Send what processes use, now and as long as somebody looks."""
        with self._lock:
            jobs = self._watched()
        now, found = time.monotonic(), usage_of({job.pid for job in jobs if job.pid is not None})
        with self._lock:
            before, self._used, self._uses = self._used, {}, {}
            for job in jobs:
                if used := found.get(job.pid or 0):
                    at, last = before.get(job.number, (now, used))
                    self._used[job.number] = now, used
                    self._uses[job.number] = used.since(last, now - at)
            self._send_news(jobs)
            if self._used:
                self._sampling.within(_SAMPLE)

    def _new_row(self, job: Record, look: frozenset[int | JobId]) -> dict[str, Any] | None:
        number, shown = job.number, self._all
        if not (shown.panel or number in shown.jobs or number in look):
            return None
        sent = self._sent.get(number)
        changed = sent is None or any(getattr(job, fact) != sent[fact] for fact in _FACTS)
        if not changed and number not in look:
            return None
        row = live_row(job, self._views.is_asked(job), self._uses.get(number, ""))
        if row == sent:
            return None
        self._sent[number] = row
        return row

    def _new_many(self, name: str) -> dict[str, Any] | None:
        card, sent = self._cards.many.get(name), self._sent_many.get(name)
        if card is None or (sent is not None and sent["ended"] and card.is_over):
            return None
        facts = many_row(card, listed=name in self._all.lists)
        if facts == sent:
            return None
        self._sent_many[name] = facts
        return facts

    def _status_of(self, to: str) -> Callable[[str], None]:
        """Return what shows a line of text in the card or panel of that name."""

        def say(text: str) -> None:
            with self._lock:
                if self._clients:
                    self._send({"kind": "said", "text": text, "to": to[:64]})

        return say

    def _rest(self) -> None:
        self._all = _Sight()
        for known in (self._logs, self._sent, self._sent_many, self._uses):
            known.clear()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None


def _sight(content: dict[str, Any]) -> _Sight | None:
    """Read what a page says that it shows; None if that makes no sense."""
    turn, panel, watched = (content.get(word) for word in ("turn", "panel", "watched"))
    if type(turn) is not int or not isinstance(panel, bool) or not isinstance(watched, bool):
        return None
    names: dict[str, Any] = {}
    for part in _NAMES:
        found = content.get(part)
        if not isinstance(found, list) or len(found) > _MANY:
            return None
        if not all(isinstance(name, str) for name in found):
            return None
        names[part] = frozenset(found)
    for part in ("jobs", "look"):
        names[part] = frozenset(n for name in names[part] if (n := _number(name)) is not None)
    return _Sight(turn, panel, watched, **names)


def _number(name: object) -> int | JobId | None:
    """Return the number of the job that is so called, ``3`` or ``k3``."""
    if not isinstance(name, str) or len(name) > 20:
        return None
    if name.isascii() and name.isdecimal():
        return int(name)
    return JobId.read(name)


# Jobs as plain data


def live_row(job: Record, asked: bool, uses: str) -> dict[str, Any]:
    """Return one job as data: texts are text, times are seconds since the epoch or None.

    *asked* tells whether there will be a notice of its end, *uses* what its processes use.
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
        "uses": "" if job.done() else uses,
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


def cell_row(cell: CellRun, waiting: Sequence[CellRun]) -> dict[str, Any]:
    """Return the cell that runs in the foreground, and those that wait for it, as such data."""
    name = visible(label_of_cell(cell.code))
    found = {
        "id": cell.id,
        "name": name,
        "number": cell.number,
        "started": time.time() - cell.elapsed,
    }
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
