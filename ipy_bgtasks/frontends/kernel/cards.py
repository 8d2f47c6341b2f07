"""The cards under `%bg` cells: shown when a job is launched, updated in place while it runs.

The jobs that one cell launches share one card. It is that of the job as long as there is one,
and says how many there are as soon as there are more.

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
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.frontends.kernel.places import Card, Places

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    #: Makes one for a job, and calls the function once a front end has answered; None if there
    #: are no widgets here.
    MakeWidget = Callable[[Record, Callable[[], None]], "CardWidget | None"]
    #: The same for a card that shows several jobs.
    MakeMany = Callable[[Card, Callable[[], None]], "CardWidget | None"]

_INTERVAL = 0.5  # seconds between two updates of one card
_SOON = 0.1  # seconds to the first: the job has started meanwhile
_BUDGET = 40  # updates of all cards in one interval
_BUTTON_AFTER = 1.0  # seconds after the launch
_BUTTONS = 50  # jobs that have a button at a time
_BUTTONS_AT_ONCE = 5  # made in one second: each costs some ms and two messages
_COPIES = 4  # displays of one job that are kept up to date; the newest


class Send(Protocol):
    """Send a display, or the update of one, to a place."""

    def __call__(
        self, parent: Any, bundle: dict[str, Any], display_id: str, *, update: bool
    ) -> None: ...


class CardWidget(Protocol):
    """A card that draws itself, with a button."""

    #: The MIME type and content with which it is displayed.
    view: dict[str, Any]

    def refresh(self) -> None:
        """Show the job as it is now."""

    @property
    def is_read(self) -> bool:
        """Return whether its log is open on a page, which must not lose it then."""

    def close(self) -> None:
        """Leave the page."""


class Cards:
    """The cards of the jobs that have not ended, and where they stand. Any thread may call.

    *later* calls a function after some seconds.
    """

    def __init__(self, send: Send, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._lock = threading.RLock()
        self.places = Places(send)
        self._cards: dict[int, list[Card]] = {}  # of each job that has not ended
        self._changed: dict[Card, None] = {}
        self._armed = False
        #: How to make a button; None while nobody can.
        self.make_widget: MakeWidget | None = None
        self.make_many: MakeMany | None = None
        self._widgets: dict[int, CardWidget] = {}
        self._many: dict[Card, CardWidget | None] = {}  # of several jobs, while they go on
        self._past: list[CardWidget] = []
        self._looking = False

    def close(self) -> None:
        """Make no more buttons, and replace those there are by plain cards."""
        self.make_widget = self.make_many = None
        with self._lock:
            numbers = list(self._widgets)
            many, self._many = self._many, {}
        for number in numbers:
            self._plain_again(number)
        for card, widget in many.items():
            if widget is not None:
                self.places.put(card, card.bundle())

    def launching(self, job: Record) -> None:
        """Show a job that is about to start where it was launched: alone, or with the others."""
        card = self.places.launch_card(job.origin)
        if card is None:
            self._new(job, job.origin, launch=True)
            return
        with self._lock:
            card.add(job)
            self._cards.setdefault(job.number, []).append(card)
        if card.count == 2:
            for number in card.numbers():
                self._plain_again(number)
        if card not in self._many and self.make_many is not None:
            with self._lock:
                self._many[card] = None
            self._look_soon()
        self._note(card)

    def show(self, job: Record, parent: Any) -> None:
        """Display the job in a place, and keep it up to date there until it has ended."""
        card = self.places.launch_card(parent)
        if card is None or not card.holds(job):
            self._new(job, parent, launch=False)

    def is_alone(self, job: Record) -> bool:
        """Return whether the cell that launched the job shows a card of it alone."""
        card = self.places.launch_card(job.origin)
        return card is not None and card.count == 1 and card.holds(job)

    def failed_before(self, job: Record) -> int:
        """Return how many others of the jobs that the same cell launched have failed by now."""
        card = self.places.launch_card(job.origin)
        return 0 if card is None else max(0, card.failed - 1)

    def _new(self, job: Record, parent: Any, *, launch: bool) -> None:
        card = Card(job, parent, uuid.uuid4().hex)
        self.places.add(card, launch=launch)
        if job.done():
            card.settle(job)
            return
        with self._lock:
            cards = self._cards.setdefault(job.number, [])
            cards.append(card)
            del cards[:-_COPIES]
        if job.done():  # meanwhile
            self.ended(job)
            return
        if not launch:
            self._note(card)  # it may have begun meanwhile
        if self.make_widget is not None:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self._later(_BUTTON_AFTER, self._look)

    def changed(self, job: Record) -> None:
        """Bring the job's cards up to date, soon."""
        for card in self._cards.get(job.number, ()):
            self._note(card)

    def _note(self, card: Card) -> None:
        with self._lock:
            self._changed[card] = None
            if self._armed:
                return
            self._armed = True
        self._later(_SOON if card.fresh else _INTERVAL, self._update)

    def ended(self, job: Record) -> None:
        """Show on the job's cards that it has ended, and let go of it."""
        if job.number not in self._cards:
            return
        with self._lock:
            cards = self._cards.pop(job.number, [])
            widget = self._widgets.pop(job.number, None)
        for card in cards:
            card.settle(job)
            if card.is_over and card in self._many:
                with self._lock:
                    widget = self._many.pop(card, None) or widget
        if widget is not None:
            self._keep_past(widget)
        for card in cards:
            if widget is not None and widget.is_read and card.is_over:
                self.places.put(card, {**card.bundle(), **widget.view})
            elif card.count == 1 or (card.is_over and time.monotonic() - card.sent > _INTERVAL):
                self.places.put(card, card.bundle())
            else:
                self._note(card)

    def _update(self) -> None:
        with self._lock:
            due = list(self._changed)[:_BUDGET]
            for card in due:
                del self._changed[card]
            self._armed = bool(self._changed)
        if self._armed:
            self._later(_INTERVAL, self._update)
        for card in due:
            self._refresh(card)

    def _refresh(self, card: Card) -> None:
        if card.count > 1:
            many = self._many.get(card)
            if many is not None:
                many.refresh()
            if many is None or not many.view.keys() <= card.shown.keys():
                self.places.put(card, card.bundle())
            return
        job = card.only
        if job is None or job.done():
            return
        widget = self._widgets.get(job.number)
        if widget is not None:
            widget.refresh()
        if widget is None or not widget.view.keys() <= card.shown.keys():
            self.places.put(card, card.bundle())

    def _look(self) -> None:
        """Give buttons to the jobs that have gone on for a while."""
        due = time.time() - _BUTTON_AFTER
        with self._lock:
            jobs = [
                job
                for n, cards in self._cards.items()
                if n not in self._widgets and (job := cards[0].only) is not None
            ]
            waiting = [card for card, widget in self._many.items() if widget is None]
            room = min(_BUTTONS_AT_ONCE, _BUTTONS - len(self._widgets))
            self._looking = bool(jobs or waiting) and room > 0
        for card in waiting[:_BUTTONS_AT_ONCE]:
            if card.age > _BUTTON_AFTER:
                self._add_to_many(card)
        for job in [job for job in jobs if job.launched <= due][: max(room, 0)]:
            self._add_widget(job)
        if self._looking:
            self._later(1.0, self._look)

    def _add_widget(self, job: Record) -> None:
        make, early = self.make_widget, threading.Event()

        def answered() -> None:  # perhaps before the widget is known here
            early.set()
            self._answered(job)

        widget = None if make is None else make(job, answered)
        if widget is None:
            self.make_widget = None
            return
        with self._lock:
            goes_on = job.number in self._cards
            if goes_on:
                self._widgets[job.number] = widget
        if not goes_on:
            widget.close()  # the job has ended meanwhile
        elif early.is_set():
            self._answered(job)

    def _add_to_many(self, card: Card) -> None:
        make, early = self.make_many, threading.Event()

        def answered() -> None:
            early.set()
            self._many_answered(card)

        widget = None if make is None else make(card, answered)
        with self._lock:
            goes_on = widget is not None and card in self._many
            if goes_on:
                self._many[card] = widget
            else:
                self._many.pop(card, None)
        if widget is None:
            self.make_many = None
        elif not goes_on:
            widget.close()  # all have ended meanwhile
        elif early.is_set():
            self._many_answered(card)

    def _many_answered(self, card: Card) -> None:
        widget = self._many.get(card)
        if widget is not None:
            widget.refresh()
            self.places.put(card, {**card.bundle(), **widget.view})

    def _answered(self, job: Record) -> None:
        """Put the widget in the place of the plain card: a front end shows it."""
        with self._lock:
            widget = self._widgets.get(job.number)
            cards = [card for card in self._cards.get(job.number, ()) if card.count == 1]
        if widget is not None:
            widget.refresh()
            for card in cards:
                self.places.put(card, {**card.bundle(), **widget.view})

    def _keep_past(self, widget: CardWidget) -> None:
        # After a reload a page shows the widget whatever we put in its place: it shows the end,
        # and the log that the page has missed.
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
        if widget is not None:
            for card in cards:
                self.places.put(card, card.bundle())
