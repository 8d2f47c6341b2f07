"""The cards under `%bg` cells: shown when a job is launched, updated in place while it runs."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    MakeWidget = Callable[["Card", Callable[[], None]], "CardWidget | None"]


_PLACES = 200  # whose cards are known; the newest
_CARDS = 50  # in one place that are shown again when it is cleared; the newest
_NAMES = 20  # of those that failed


def place_of(parent: Any) -> str | None:
    """Return the key of a request's place, given its header."""
    return parent.get("msg_id") if isinstance(parent, dict) else None


class Card:
    """One display, of one job or of all that a cell launched. Any thread may call.

    Of jobs that have ended it keeps only its text about them.
    """

    __slots__ = (
        "_all",
        "_began",
        "_failed",
        "_lock",
        "_over",
        "_running",
        "display_id",
        "fresh",
        "parent",
        "sent",
        "shown",
    )

    def __init__(self, job: Record, parent: Any, display_id: str) -> None:
        self.parent = parent
        self.display_id = display_id
        #: What was sent last, and when, on the monotonic clock.
        self.shown: dict[str, Any] = {}
        self.sent = 0.0
        #: Whether it was never updated.
        self.fresh = True
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._running: dict[int, Record] = {job.number: job}
        self._all = [job.number]
        self._over: Counter[str] = Counter()
        self._failed: list[str] = []

    @property
    def count(self) -> int:
        """The number of jobs it shows."""
        return len(self._all)

    @property
    def failed(self) -> int:
        """The number of those that have failed."""
        return self._over["failed"]

    @property
    def is_over(self) -> bool:
        """Whether all of them have ended."""
        return not self._running

    @property
    def age(self) -> float:
        """The seconds since it was first shown."""
        return time.monotonic() - self._began

    @property
    def only(self) -> Record | None:
        """The job, if it is the only one and has not ended; else None."""
        with self._lock:
            if len(self._running) != 1 or self._over:
                return None
            return next(iter(self._running.values()))

    def holds(self, job: Record) -> bool:
        """Return whether the job is one of those that have not ended here."""
        return job.number in self._running or (job.done() and self.is_over)

    def numbers(self) -> list[int]:
        """Return the numbers of those that have not ended."""
        with self._lock:
            return list(self._running)

    def add(self, job: Record) -> None:
        """Show one more job."""
        with self._lock:
            self._running[job.number] = job
            self._all.append(job.number)

    def all_numbers(self) -> list[int]:
        """Return the numbers of all that it shows, ended or not."""
        with self._lock:
            return list(self._all)

    def alive(self) -> list[Record]:
        """Return the jobs that have not ended."""
        with self._lock:
            return list(self._running.values())

    def settle(self, job: Record) -> None:
        """Note how a job has ended, and drop it."""
        alone = self.count == 1
        if alone:
            self.shown = {**self.shown, **_card(job, place_of(self.parent))}
        with self._lock:
            if self._running.pop(job.number, None) is not None:
                self._over[str(job.state)] += 1
                if job.state == "failed" and len(self._failed) < _NAMES:
                    self._failed.append(f"[{job.number}] {job.name}")

    def bundle(self) -> dict[str, str]:
        """Return its current content, as a MIME bundle."""
        if (job := self.only) is not None:
            return _card(job, place_of(self.parent))
        running, over, failed, age = self.facts()
        if not running and sum(over.values()) == 1:
            return {kind: self.shown[kind] for kind in ("text/plain", "text/html")}
        from ipy_bgtasks.views.groups import group_card

        return group_card(running, over, failed, age, place_of(self.parent))

    def facts(self) -> tuple[list[Record], Counter[str], list[str], float]:
        """Return the jobs that go on, how many ended in which state, who failed, and its age."""
        with self._lock:
            running = list(self._running.values())
            return running, Counter(self._over), list(self._failed), self.age


class Places:
    """The cards of each request, sent to where they are shown. Any thread may call."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._at: OrderedDict[str, list[Card]] = OrderedDict()
        self._launch: dict[str, Card] = {}
        #: The header of the request that runs now, if one does.
        self._now: Any = None
        #: The header of the cell that runs, or ran last.
        self.last: Any = {}
        self._unseen: list[Card] = []

    def launch_card(self, parent: Any) -> Card | None:
        """Return the card of what was launched in a place."""
        key = place_of(parent)
        return None if key is None else self._launch.get(key)

    def add(self, card: Card, *, launch: bool) -> None:
        """Show a new card in its place."""
        key = place_of(card.parent)
        card.shown = card.bundle()
        card.sent = time.monotonic()
        if key is not None:
            with self._lock:
                self._keep(card, key, launch)
        self._send(card.parent, card.shown, card.display_id, update=False)

    def _keep(self, card: Card, key: str, launch: bool) -> None:
        cards = self._at.setdefault(key, [])
        cards.append(card)
        del cards[:-_CARDS]
        self._at.move_to_end(key)
        if launch:
            self._launch[key] = card
        if len(self._at) > _PLACES:
            gone, _ = self._at.popitem(last=False)
            self._launch.pop(gone, None)

    def put(self, card: Card, bundle: dict[str, Any]) -> None:
        """Update a card in all clients.

        A program that executes a notebook sees an update only as part of the request that runs:
        the end is also sent with that as its parent, or with the next one.
        """
        if card.shown == bundle and not card.is_over:
            return
        card.shown = bundle
        card.sent = time.monotonic()
        card.fresh = False
        self._send(card.parent, bundle, card.display_id, update=True)
        if not card.is_over:
            return
        with self._lock:
            now = self._now
            if now is None:
                self._unseen.append(card)
                del self._unseen[:-_PLACES]
        if now is not None and place_of(now) != place_of(card.parent):
            self._send(now, bundle, card.display_id, update=True)

    def watch(self, events: Any, here: Callable[[], Any]) -> Callable[[], None]:
        """Track each cell that begins and ends; *here* returns the header of the one that runs.

        Returns what ends that.
        """

        def begins() -> None:
            parent = here()  # the message of a widget is one, too
            of_a_cell = parent.get("msg_type", "execute_request") == "execute_request"
            if of_a_cell and threading.current_thread() is threading.main_thread():
                self.request_begins(parent)

        def ends() -> None:
            if threading.current_thread() is threading.main_thread():
                self.request_ends()

        events.register("pre_execute", begins)
        events.register("post_execute", ends)

        def undo() -> None:
            events.unregister("pre_execute", begins)
            events.unregister("post_execute", ends)

        return undo

    def request_begins(self, parent: Any) -> None:
        """Note that a cell runs now, and send it the ends that no cell was sent."""
        with self._lock:
            self._now = self.last = parent
            unseen, self._unseen = self._unseen, []
        for card in unseen:
            self._send(parent, card.shown, card.display_id, update=True)

    def request_ends(self) -> None:
        """Note that no cell runs now."""
        self._now = None

    def stand_in(self, parent: Any) -> bool:
        """Return whether there are cards in the place of a request."""
        return bool(self._at.get(place_of(parent) or ""))

    def show_again(self, parent: Any) -> None:
        """Show the cards of a place that was cleared."""
        with self._lock:
            cards = list(self._at.get(place_of(parent) or "", ()))
        for card in cards:
            self._send(parent, card.shown, card.display_id, update=False)


def _card(job: Record, place: str | None) -> dict[str, str]:
    from ipy_bgtasks.views.card import card

    return card(job, place)


_INTERVAL = 0.5  # seconds between two updates of one card
_SOON = 0.1  # seconds to the first: the job has started meanwhile
_BUDGET = 40  # updates of all cards in one interval
_BUTTON_AFTER = 1.0  # seconds after the launch
_BUTTONS = 50  # cards that have buttons at a time
_BUTTONS_AT_ONCE = 5  # made in one second: each costs some ms and two messages
_COPIES = 4  # displays of one job that are kept up to date; the newest


class Send(Protocol):
    """Send a display, or the update of one, to a place."""

    def __call__(
        self, parent: Any, bundle: dict[str, Any], display_id: str, *, update: bool
    ) -> None: ...


class CardWidget(Protocol):
    """A card that draws itself, with buttons."""

    #: The MIME type and content with which it is displayed.
    view: dict[str, Any]

    def refresh(self) -> None:
        """Show the jobs as they are now."""

    @property
    def is_read(self) -> bool:
        """Return whether a part of it is open on a page, which must not lose it then."""

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
        #: How to make buttons; None while nobody can.
        self.make_widget: MakeWidget | None = None
        self._widgets: dict[Card, CardWidget | None] = {}  # while its jobs go on
        self._past: list[CardWidget] = []
        self._looking = False

    def close(self) -> None:
        """Make no more buttons, and replace those there are by plain cards."""
        self.make_widget = None
        with self._lock:
            widgets, self._widgets = self._widgets, {}
        for card, widget in widgets.items():
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
        self._await_buttons(card)
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
        self._await_buttons(card)

    def _await_buttons(self, card: Card) -> None:
        if self.make_widget is None:
            return
        with self._lock:
            self._widgets.setdefault(card, None)
            looking, self._looking = self._looking, True
        if not looking:
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
        for card in cards:
            card.settle(job)
            with self._lock:
                widget = self._widgets.pop(card, None) if card.is_over else None
            if widget is not None:
                self._keep_past(widget)
            if widget is not None and widget.is_read:
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
        if card.count == 1 and card.is_over:
            return  # that was sent at once
        widget = self._widgets.get(card)
        if widget is not None:
            widget.refresh()
        if widget is None or not widget.view.keys() <= card.shown.keys():
            self.places.put(card, card.bundle())

    def _look(self) -> None:
        """Give buttons to the cards whose jobs have gone on for a while."""
        with self._lock:
            waiting = [card for card, widget in self._widgets.items() if widget is None]
            room = min(_BUTTONS_AT_ONCE, _BUTTONS - len(self._widgets) + len(waiting))
            self._looking = bool(waiting) and room > 0
        for card in [card for card in waiting if card.age > _BUTTON_AFTER][: max(room, 0)]:
            self._add_widget(card)
        if self._looking:
            self._later(1.0, self._look)

    def _add_widget(self, card: Card) -> None:
        make, early = self.make_widget, threading.Event()

        def answered() -> None:  # perhaps before the widget is known here
            early.set()
            self._answered(card)

        widget = None if make is None else make(card, answered)
        with self._lock:
            goes_on = widget is not None and card in self._widgets
            if goes_on:
                self._widgets[card] = widget
        if widget is None:
            self.make_widget = None
        elif not goes_on:
            widget.close()  # all have ended meanwhile
        elif early.is_set():
            self._answered(card)

    def _answered(self, card: Card) -> None:
        """Put the widget in the place of the plain card: a front end shows it."""
        widget = self._widgets.get(card)
        if widget is not None:
            widget.refresh()
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
