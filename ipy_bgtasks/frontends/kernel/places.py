"""Which cards are where: each in the place of a request, shown again when that is cleared."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

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
    from ipy_bgtasks.views.card import card  # imports all that HTML needs, with the first card

    return card(job, place)
