"""The cards under `%bg` cells: shown when a job is displayed, updated in place while it runs.

A card is updated when something changed, at most twice a second, and all cards together at most
so often that their updates cost a few per cent of a core. The end is sent at once; after it
nothing is.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.views.card import card

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job import Job

_INTERVAL = 0.5  # seconds between two updates of one card
_BUDGET = 40  # updates of all cards in one interval
_COPIES = 4  # displays of one job that are kept up to date; the newest


class Send(Protocol):
    """Sends a display, or the update of one, to a place."""

    def __call__(
        self, parent: Any, bundle: dict[str, str], display_id: str, *, update: bool
    ) -> None: ...


@dataclass(slots=True)
class _Card:
    job: Job
    parent: Any
    display_id: str
    shown: dict[str, str]


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

    def show(self, job: Job, parent: Any) -> None:
        """Display the job in a place, and keep it up to date there until it has ended."""
        bundle = card(job)
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
        else:
            self.changed(job)  # it may have begun meanwhile

    def changed(self, job: Job) -> None:
        """Something about the job is new."""
        if job.number not in self._cards:
            return
        with self._lock:
            self._changed[job.number] = None
            if self._armed:
                return
            self._armed = True
        self._later(_INTERVAL, self._update)

    def ended(self, job: Job) -> None:
        """The job has ended: its cards say so, and are forgotten."""
        if job.number not in self._cards:
            return
        with self._lock:
            cards = self._cards.pop(job.number, [])
            self._changed.pop(job.number, None)
        if cards:
            self._put(cards, card(job))

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
            if not cards[0].job.done():
                self._put(cards, card(cards[0].job))

    def _put(self, cards: list[_Card], bundle: dict[str, str]) -> None:
        for one in cards:
            if one.shown != bundle:
                one.shown = bundle
                self._send(one.parent, bundle, one.display_id, update=True)
