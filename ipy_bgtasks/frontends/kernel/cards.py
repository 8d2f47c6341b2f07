"""The cards under `%bg` cells: shown when a job is launched, brought up to date as it changes.

A card is HTML in the notebook. Each change of state is an update of its display, so that a notebook
that is saved has the last one. What changes more often is told to the page that shows it, which
asks for it (`live.pages`); where no page does, as in a program that executes a notebook, it is an
update of the display as well.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.frontends.kernel.output import key_of
from ipy_bgtasks.service import Soon
from ipy_bgtasks.stacks import Cells, no_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.views.tables import Failure, Tally

_PLACES = 200  # whose cards are known; the newest
_CARDS = 50  # in one place that are shown again when it is cleared; the newest
_FAILURES = 300  # of one card that are kept as text
_TRACES = 3  # with one error that are kept with their tracebacks
_KINDS = 5  # errors of which there are such
_LATE = 20_000  # characters of what came after its cell that a card shows, at most
_SHOWN = 3  # tracebacks beside a card that names all that failed
_INTERVAL = 0.5  # seconds between two updates of one card
_RARELY = 5.0  # where a page shows what happens between them
_SOON = 0.1  # seconds to the first: the job has started meanwhile
_BUDGET = 40  # updates of all cards in one interval
_COPIES = 4  # displays of one job that are kept up to date; the newest
_OPENED = 0.2  # seconds from the first card to the script of the page: a short job needs none
_PATIENCE = 2.0  # seconds in which a page answers that shows all outputs in one document


def cell_of(request: Any) -> str | None:
    """Return what names the cell of a request in its notebook, where the front end says so."""
    metadata = request.get("metadata") or {} if isinstance(request, dict) else {}
    colab = metadata.get("colab") or {}
    named = metadata.get("cellId") or (colab.get("cell_id") if isinstance(colab, dict) else None)
    return named if isinstance(named, str) else None


class Card:
    """One display, of one job or of all that a cell launched. Any thread may call.

    Of jobs that have ended it keeps only its text about them.
    """

    def __init__(self, job: Record, parent: Any, key: str) -> None:
        self.parent = parent
        self.key = key
        self.display_id = uuid.uuid4().hex
        #: What was sent last, and when, on the monotonic clock.
        self.shown: dict[str, Any] = {}
        self.sent = 0.0
        #: The state that this shows; empty for several jobs.
        self.state = ""
        #: Characters of the job's log when its cell had ended, where a program runs the notebook.
        self.seen: int | None = None
        #: Whether it shows what its cell has launched, and whether that was run again since.
        self.launches = self.again = False
        #: When it was first shown, in seconds since the epoch.
        self.began = time.time()
        self.failed: list[Failure] = []
        self._kinds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._running: dict[int, Record] = {job.number: job}
        self._all = {job.number: None}
        self._over: Counter[str] = Counter()
        self._discarded = 0

    @property
    def name(self) -> str:
        """What it is called in the page: a job's number, ``m3`` for several from job 3 on."""
        return f"{'m' * (self.count > 1)}{next(iter(self._all))!s}"

    @property
    def count(self) -> int:
        """The number of jobs it shows."""
        return len(self._all)

    @property
    def is_over(self) -> bool:
        """Whether all of them have ended."""
        return not self._running

    def holds(self, job: Record) -> bool:
        """Return whether the job is one of those that have not ended here."""
        return job.number in self._running or (job.done() and self.is_over)

    def numbers(self) -> list[int]:
        """Return the numbers of all that it shows, ended or not."""
        with self._lock:
            return list(self._all)

    def discarded(self, job: Record) -> bool:
        """Note that a job is kept no more; return whether that is to be shown, among others."""
        if self.count == 1 or job.number not in self._all:
            return False
        self._discarded += 1
        return True

    def alive(self) -> list[Record]:
        """Return the jobs that have not ended."""
        with self._lock:
            return list(self._running.values())

    def add(self, job: Record) -> None:
        """Show one more job."""
        with self._lock:
            self._running[job.number] = job
            self._all[job.number] = None
            self.state = ""

    def settle(self, job: Record, cells: Cells = no_cells) -> None:
        """Note how a job has ended, and drop it."""
        failed = None
        if job.state == "failed":
            from ipy_bgtasks.views.tables import failure_of, kind_of

            known = self._kinds[kind_of(job)]
            traced = 0 < known < _TRACES or (not known and len(self._kinds) < _KINDS)
            failed = failure_of(job, traced=traced, cells=cells)
        if self.count == 1:
            late = [] if self.seen is None or not job.has_output else [job.log.text[self.seen :]]
            late += [] if failed is None or self.seen is None else [failed.trace]
            self.shown = self._bundle_of(job, live=False, late="\n".join(filter(None, late)))
            self.state = str(job.state)
        with self._lock:
            if self._running.pop(job.number, None) is not None:
                self._over[str(job.state)] += 1
                if failed is not None:
                    self._kinds[failed.kind] += 1
                    self.failed += [failed] if len(self.failed) < _FAILURES else []

    def tally(self) -> Tally:
        """Count its jobs."""
        from ipy_bgtasks.views.tables import Tally

        with self._lock:
            alive, over = list(self._running.values()), Counter(self._over)
            kinds = Counter(self._kinds)
        return Tally.of(alive, over, time.time() - self.began, kinds)

    def bundle(self, *, live: bool) -> dict[str, str]:
        """Return its current content, as a MIME bundle; *live* if a page shows the rest."""
        if self.count == 1:
            for job in self.alive():
                self.state = str(job.state)
                return self._bundle_of(job, live=live)
            return self.shown
        from ipy_bgtasks.views.tables import many_card

        failed = sorted(self.failed, key=lambda each: each.number)
        return many_card(self.tally(), failed, self.name, self.key, self._discarded)

    def _bundle_of(self, job: Record, *, live: bool, late: str = "") -> dict[str, str]:
        from ipy_bgtasks.views.display import card

        return card(job, self.key, live=live, again=self.again, late=late[-_LATE:])


class _Request(NamedTuple):
    """Where a request comes from."""

    #: What names its cell in its notebook, where the front end says so.
    cell: str | None
    #: Whether somebody sits there who can be asked.
    asks: bool


class Cards:
    """The cards of all jobs, sent to where they are shown. Any thread may call.

    *send* sends a display, or the update of one, to a place; *later* calls a function after some
    seconds. *served* tells whether a server has started the kernel, and not a program for itself.
    *flush* sends what jobs have written so far: who stops reading at "finished" has all of it.
    """

    def __init__(
        self,
        send: Callable[..., None],
        later: Callable[[float, Callable[[], None]], object],
        served: bool = False,
        flush: Callable[[], object] = int,
    ) -> None:
        self._send = send
        self._flush = flush
        self._later = later
        self._served = served
        self._lock = threading.RLock()
        #: What the script of a page knows the cards of this kernel by.
        self.key = secrets.token_hex(6)
        # Opens the script of the page; returns what shows a view of it, None where there is none.
        self._open_page: Callable[[], dict[str, Any] | None] | None = None
        #: Whether a page has answered …
        self.heard = False
        #: … and whether one answers only where a view of the script stands beside the card.
        self._needs_views = False
        self._opened = False
        self._cells: Cells = no_cells
        self._cards: dict[int, list[Card]] = {}  # of each job that has not ended
        #: Those of several jobs, by what they are called in the page; the newest.
        self.many: OrderedDict[str, Card] = OrderedDict()
        self._changed: dict[Card, None] = {}
        self._soon = Soon(later, self._update)
        self._at: OrderedDict[str, list[Card]] = OrderedDict()  # in each place
        self._requests: OrderedDict[str, _Request] = OrderedDict()  # the newest
        #: The header of the request that runs, if one does, and of the one that runs or ran last.
        self._now: Any = None
        self.last: Any = {}
        #: Whether that comes from a program, which asks nobody.
        self.by_program = False
        self._unseen: list[Card] = []

    def use(self, open_page: Callable[[], dict[str, Any] | None], cells: Cells) -> None:
        """Open the page with the first card, or now if there are some already.

        *cells* tells which cell a file name in a traceback stands for.
        """
        self._open_page, self._cells = open_page, cells
        if self._cards:
            self._opened = True
            self._later(0, self._open)

    def close(self) -> None:
        """Expect no page any more."""
        self._open_page = None
        self.heard = self._opened = False

    # Requests

    def request_begins(self, request: Any) -> list[Card]:
        """Note that a cell runs now, and send it the ends that no cell was sent.

        Returns the cards of earlier runs of the same cell of which jobs still go on: the front
        end has just taken them away. They are to be moved to where the cell shows its output now.
        """
        parent, cell = request.get("header") or {}, cell_of(request)
        key = key_of(parent)
        stdin = (request.get("content") or {}).get("allow_stdin")
        with self._lock:
            self._now = self.last = parent
            self.by_program = stdin is False
            unseen, self._unseen = self._unseen, []
            earlier = (
                []
                if cell is None
                else [k for k, known in self._requests.items() if known.cell == cell and k != key]
            )
            cards = [card for k in earlier for card in self._at.pop(k, ())]
            for k in earlier:
                del self._requests[k]
            if key is not None:
                self._requests[key] = _Request(cell, bool(stdin))
            if len(self._requests) > _PLACES:
                self._requests.popitem(last=False)
        for card in unseen:
            if self._repeats:
                self._send(parent, card.shown, card.display_id, update=True)
        return [card for card in cards if card.launches and not card.is_over]

    def request_ends(self) -> None:
        """Note that no cell runs now; a program hears of what it launched by its card alone."""
        card = self.launch_card(self._now)
        if card is not None and self._repeats:
            for job in card.alive():
                card.seen = len(job.log.text) if job.has_output else 0
        self._now = None

    @property
    def _repeats(self) -> bool:
        """Whether the end of a card is sent with the request that runs as well, or with the next.

        A program that executes a notebook takes an update only as part of the request that runs.
        A server that executes the cells of an open notebook would take it for output of that cell.
        It cannot be told by what it sends, but by how it has started the kernel; and a page that
        answers needs no repeats.
        """
        return self.by_program and not self._served and not self.heard

    def has_cell(self, parent: Any) -> bool:
        """Return whether a request is known to come from the cell of a notebook."""
        known = self._requests.get(key_of(parent) or "")
        return known is not None and known.cell is not None

    def is_console(self, parent: Any) -> bool:
        """Return whether a request comes from somebody who can be asked, and from no notebook."""
        known = self._requests.get(key_of(parent) or "")
        return known is not None and known.asks and known.cell is None

    # Cards in their places

    def launch_card(self, parent: Any) -> Card | None:
        """Return the card of what was launched in a place."""
        cards = self._at.get(key_of(parent) or "", ())
        return next((card for card in cards if card.launches and not card.again), None)

    def stand_in(self, parent: Any) -> bool:
        """Return whether there are cards in a place."""
        return bool(self._at.get(key_of(parent) or ""))

    def show_again(self, parent: Any) -> None:
        """Show the cards of a place that was cleared."""
        with self._lock:
            cards = list(self._at.get(key_of(parent) or "", ()))
        for card in cards:
            self._send(parent, card.shown, card.display_id, update=False)

    def launching(self, job: Record) -> None:
        """Show a job that is about to start where it was launched: alone, or with the others."""
        card = self.launch_card(job.origin)
        if card is None:
            self._new(job, job.origin, launch=True)
            return
        with self._lock:
            card.add(job)
            self._cards.setdefault(job.number, []).append(card)
            if card.name not in self.many:
                self.many[card.name] = card
                while len(self.many) > _PLACES:
                    self.many.popitem(last=False)
        self._mark_changed(card)

    def show(self, job: Record, parent: Any) -> None:
        """Display the job in a place, and keep it up to date there until it has ended."""
        card = self.launch_card(parent)
        if card is None or not card.holds(job):
            self._new(job, parent, launch=False)

    def move(self, cards: list[Card], parent: Any) -> None:
        """Show cards of an earlier run of a cell where it shows its output now."""
        for card in cards:
            card.parent, card.again = parent, True
            self._add(card, launch=False)

    def is_alone(self, job: Record) -> bool:
        """Return whether the cell that launched the job shows a card of it alone."""
        card = self.launch_card(job.origin)
        return card is not None and card.count == 1 and card.holds(job)

    def names_failure(self, job: Record) -> bool:
        """Return whether the job has one card with others, which shows its traceback or name.

        A program, or a console, shows no later news of a card: there the first are shown as well.
        """
        card = self.launch_card(job.origin)
        if card is None or card.count == 1 or not card.holds(job):
            return False
        return self.has_cell(job.origin) or len(card.failed) >= _SHOWN

    def _new(self, job: Record, parent: Any, *, launch: bool) -> None:
        card = Card(job, parent, self.key)
        self._add(card, launch=launch)
        if not self._opened:
            self._opened = True
            self._later(_OPENED, self._open)
        elif self._needs_views:
            self._show_view(card)
        if job.done():
            card.settle(job, self._cells)
            return
        with self._lock:
            cards = self._cards.setdefault(job.number, [])
            cards.append(card)
            del cards[:-_COPIES]
        if job.done():  # meanwhile
            self.ended(job)
        elif not launch:
            self._mark_changed(card)  # it may have begun meanwhile

    def _add(self, card: Card, *, launch: bool) -> None:
        key = key_of(card.parent)
        card.shown, card.sent = card.bundle(live=self.heard), time.monotonic()
        card.launches |= launch
        if key is not None:
            with self._lock:
                cards = self._at.setdefault(key, [])
                cards.append(card)
                cards[:-_CARDS] = [old for old in cards[:-_CARDS] if old.launches]
                self._at.move_to_end(key)
                if len(self._at) > _PLACES:
                    self._at.popitem(last=False)
        self._send(card.parent, card.shown, card.display_id, update=False)

    # The page

    def _open(self) -> None:
        if self._open_page is not None and self._open_page() is not None:
            self._later(_PATIENCE, self._look_for_page)

    def _look_for_page(self) -> None:
        """Show a view of the script beside the card, if nobody has answered.

        Colab gives each output a document of its own, VS Code makes a model when a view of it is
        shown. A request without a cell comes from a program, which shows neither.
        """
        cards = [card for cards in list(self._cards.values()) for card in cards]
        card = next((each for each in cards if self.has_cell(each.parent)), None)
        if self.heard or card is None:
            return
        self._needs_views = True
        display_id = self._show_view(card)

        def look() -> None:
            if not self.heard:  # it cannot show widgets at all
                self._needs_views = False
                self._send(card.parent, {"text/plain": ""}, display_id, update=True)

        self._later(2 * _PATIENCE, look)

    def _show_view(self, card: Card) -> str:
        display_id = uuid.uuid4().hex
        view = None if self._open_page is None else self._open_page()
        if view is not None:
            self._send(card.parent, {"text/plain": "", **view}, display_id, update=False)
        return display_id

    # News

    def changed(self, job: Record) -> None:
        """Bring the job's cards up to date, soon."""
        for card in self._cards.get(job.number, ()):
            if not self.heard or card.state != str(job.state):
                self._mark_changed(card)

    def _mark_changed(self, card: Card) -> None:
        hurries = card.is_over or time.time() - card.began < _INTERVAL
        with self._lock:
            self._changed[card] = None
        self._soon.within(_SOON if hurries else _RARELY if self.heard else _INTERVAL)

    def ended(self, job: Record) -> None:
        """Show on the job's cards that it has ended, and let go of it."""
        with self._lock:
            cards = self._cards.pop(job.number, [])
        for card in cards:
            card.settle(job, self._cells)
            if card.count == 1 or (card.is_over and time.monotonic() - card.sent > _INTERVAL):
                self._update_card(card)
            else:
                self._mark_changed(card)

    def discarded(self, job: Record) -> None:
        """Show that the job, one of several on a card, is kept no more: it cannot be fetched."""
        card = self.launch_card(job.origin)
        if card is not None and card.discarded(job):
            self._mark_changed(card)

    def _update(self) -> None:
        with self._lock:
            due = list(self._changed)[:_BUDGET]
            for card in due:
                del self._changed[card]
        if self._changed:
            self._soon.within(_INTERVAL)
        for card in due:
            # The end of a single job is sent by `ended`, at once but after its last text.
            if card.count > 1 or any(not job.done() for job in card.alive()):
                self._update_card(card)

    def _update_card(self, card: Card) -> None:
        """Update a card in all clients, if it looks different."""
        bundle = card.bundle(live=self.heard)
        if card.shown == bundle and not card.is_over:
            return
        # What it says may be ahead of `ended`. Of a job alone, that has sent the text already.
        left = card.alive()
        if all(job.done() for job in left) and (left or card.count > 1):
            self._flush()
        card.shown, card.sent = bundle, time.monotonic()
        self._send(card.parent, bundle, card.display_id, update=True)
        if not card.is_over or not self._repeats:
            return
        with self._lock:
            now = self._now
            if now is None:
                self._unseen.append(card)
                del self._unseen[:-_PLACES]
        if now is not None and key_of(now) != key_of(card.parent):
            self._send(now, bundle, card.display_id, update=True)
