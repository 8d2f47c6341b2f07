"""The cards under `%bg` cells: shown when a job is displayed, updated in place while it runs.

A card is updated when something changed, at most twice a second, and all cards together at most
so often that their updates cost a few per cent of a core. The end is sent at once; after it
nothing is.

The card of a job that goes on for more than a moment gets a button, if there are widgets here.
Short jobs pay nothing for that, and a front end that does not answer keeps the plain card.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ipy_bgtasks.job.record import Record

_INTERVAL = 0.5  # seconds between two updates of one card
_BUDGET = 40  # updates of all cards in one interval
_BUTTON_AFTER = 1.0  # seconds after the launch
_BUTTONS = 50  # jobs that have a button at a time
_BUTTONS_AT_ONCE = 5  # made in one second: each costs some ms and two messages
_COPIES = 4  # displays of one job that are kept up to date; the newest


class Send(Protocol):
    """Sends a display, or the update of one, to a place."""

    def __call__(
        self, parent: Any, bundle: dict[str, Any], display_id: str, *, update: bool
    ) -> None: ...


class CardWidget(Protocol):
    """A card that draws itself, with a button."""

    #: The MIME type and content with which it is displayed.
    view: dict[str, Any]

    def refresh(self) -> None:
        """Show the job as it is now."""

    def close(self) -> None:
        """Leave the page."""


#: Makes one for a job, and calls the function once a front end has answered; None if there are
#: no widgets here.
MakeWidget = Callable[[Record, Callable[[], None]], CardWidget | None]


@dataclass(slots=True)
class _Card:
    job: Record
    parent: Any
    display_id: str
    shown: dict[str, Any]


class Cards:
    """The cards of the jobs that have not ended. Any thread may call.

    *later* calls a function after some seconds.
    """

    def __init__(self, send: Send, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._send = send
        self._later = later
        self._lock = threading.Lock()
        self._cards: dict[int, list[_Card]] = {}
        self._changed: dict[int, None] = {}
        self._armed = False
        #: How to make a button; None while nobody can.
        self.make_widget: MakeWidget | None = None
        self._widgets: dict[int, CardWidget] = {}
        self._past: list[CardWidget] = []
        self._looking = False

    def close(self) -> None:
        """Make no more buttons, and leave those there are without anybody to press them for."""
        self.make_widget = None
        with self._lock:
            numbers = list(self._widgets)
        for number in numbers:
            self._plain_again(number)

    def show(self, job: Record, parent: Any) -> None:
        """Display the job in a place, and keep it up to date there until it has ended."""
        bundle = _bundle(job)
        one = _Card(job, parent, uuid.uuid4().hex, bundle)
        if job.done():
            self._send(parent, bundle, one.display_id, update=False)
            return
        self._send(parent, bundle, one.display_id, update=False)
        with self._lock:
            cards = self._cards.setdefault(job.number, [])
            cards.append(one)
            del cards[:-_COPIES]
        if job.done():  # meanwhile
            self.ended(job)
            return
        self.changed(job)  # it may have begun meanwhile
        if self.make_widget is not None and not self._looking:
            self._looking = True
            self._later(_BUTTON_AFTER, self._look)

    def changed(self, job: Record) -> None:
        """Something about the job is new."""
        if job.number not in self._cards:
            return
        with self._lock:
            self._changed[job.number] = None
            if self._armed:
                return
            self._armed = True
        self._later(_INTERVAL, self._update)

    def ended(self, job: Record) -> None:
        """The job has ended: its cards say so, and are forgotten."""
        if job.number not in self._cards:
            return
        with self._lock:
            cards = self._cards.pop(job.number, [])
            self._changed.pop(job.number, None)
            widget = self._widgets.pop(job.number, None)
        if widget is not None:
            self._keep_past(widget)
        if cards:
            self._put(cards, _bundle(job))

    def _update(self) -> None:
        with self._lock:
            due = list(self._changed)[:_BUDGET]
            for number in due:
                del self._changed[number]
            todo = [list(cards) for n in due if (cards := self._cards.get(n))]
            self._armed = bool(self._changed)
        if self._armed:
            self._later(_INTERVAL, self._update)
        for cards in todo:
            job = cards[0].job
            if job.done():
                continue
            widget = self._widgets.get(job.number)
            if widget is not None:
                widget.refresh()
            if widget is None or not widget.view.keys() <= cards[0].shown.keys():
                self._put(cards, _bundle(job))

    def _look(self) -> None:
        """Give buttons to the jobs that have gone on for a while."""
        due = time.time() - _BUTTON_AFTER
        with self._lock:
            jobs = [cards[0].job for n, cards in self._cards.items() if n not in self._widgets]
            room = min(_BUTTONS_AT_ONCE, _BUTTONS - len(self._widgets))
            self._looking = bool(jobs) and room > 0
        for job in [job for job in jobs if job.launched <= due][: max(room, 0)]:
            self._add_widget(job)
        if self._looking:
            self._later(1.0, self._look)

    def _add_widget(self, job: Record) -> None:
        make = self.make_widget
        widget = None if make is None else make(job, lambda: self._answered(job))
        if widget is None:
            self.make_widget = None
            return
        with self._lock:
            if job.number in self._cards:
                self._widgets[job.number] = widget
                return
        widget.close()  # the job has ended meanwhile

    def _answered(self, job: Record) -> None:
        """A front end shows the job's widget: it takes the place of the plain card."""
        with self._lock:
            widget = self._widgets.get(job.number)
            cards = list(self._cards.get(job.number, ()))
        if widget is not None:
            widget.refresh()
            self._put(cards, {**_bundle(job), **widget.view})

    def _keep_past(self, widget: CardWidget) -> None:
        # After a reload a page shows the widget whatever we put in its place: it shows the end.
        widget.refresh()
        with self._lock:
            self._past.append(widget)
            over = self._past[:-_BUTTONS]
            del self._past[:-_BUTTONS]
        for old in over:
            old.close()

    def _plain_again(self, number: int) -> None:
        with self._lock:
            widget = self._widgets.pop(number, None)
            cards = list(self._cards.get(number, ()))
        if widget is not None and cards:
            self._put(cards, _bundle(cards[0].job))

    def _put(self, cards: list[_Card], bundle: dict[str, Any]) -> None:
        for one in cards:
            if one.shown != bundle:
                one.shown = bundle
                self._send(one.parent, bundle, one.display_id, update=True)


def _bundle(job: Record) -> dict[str, str]:
    from ipy_bgtasks.views.card import card  # with all that HTML takes, at the first card

    return card(job)
