"""What shows jobs live: the script of the page, `%jobs -w`, and what their buttons do.

They are brought up to date by a `Feed`: in batches, and not at all while nothing changes.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import on_main_thread
from ipy_bgtasks.service import Soon
from ipy_bgtasks.views.tables import live_table, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.frontends.kernel.cards import Cards
    from ipy_bgtasks.frontends.kernel.cell_queue import CellRun
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.pages import Pages
    from ipy_bgtasks.notify import Notice
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.session.control import Session

_TABLES = 4  # that are kept up to date; the newest
_LONG = 0.3  # seconds after which a cell in the foreground is shown; most are over before
_INTERVAL = 0.5  # seconds between two batches, at least
_SOON = 0.03  # seconds until the first one after a while in which nothing changed


@dataclass(frozen=True, slots=True)
class News:
    """The jobs that have changed, and the numbers of those that were forgotten.

    Both may be empty: the cell in the foreground may be another one.
    """

    jobs: list[Record]
    gone: list[int]


class Feed:
    """The news of one registry's jobs. Any thread may call.

    While nobody listens it is connected to nothing, and costs nothing. It also tells when the cell
    that runs for a while is another one, or none. *later* calls a function after some seconds.
    """

    def __init__(
        self,
        registry: Registry,
        front_end: FrontEnd,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._registry = registry
        self._front_end = front_end
        self._cells = front_end.cells
        self.later = later
        self._lock = threading.Lock()
        self._listeners: list[Callable[[News], None]] = []
        # Filled by any thread and emptied by one, item by item: no lock on the way of a print.
        self._changed: dict[int, Record] = {}
        self._gone: dict[int, None] = {}
        self._cell_changed = False
        self._soon = Soon(later, self._deliver)
        self._sent = 0.0

    def subscribe(self, call: Callable[[News], None]) -> Callable[[], None]:
        """Have *call* get the news, on the service thread; returns what ends that."""
        with self._lock:
            self._listeners.append(call)
            if len(self._listeners) == 1:
                self._registry.on_discard.append(self._mark_gone)
                self._watch(self._mark, self._mark_cell)

        def end() -> None:
            with self._lock:
                if call in self._listeners:
                    self._listeners.remove(call)
                    if not self._listeners:
                        self._registry.on_discard.remove(self._mark_gone)
                        self._watch(None, None)

        return end

    def _watch(self, jobs: Callable[[Record], None] | None, cell: Any) -> None:
        self._front_end.watcher = jobs
        if self._cells is not None:
            self._cells.watcher = cell

    def _mark_cell(self, begins: bool) -> None:
        if begins:  # most are over before anybody could want to know
            self.later(_LONG + 0.2, self._cell_changes)  # it is seen to be long by then
        else:
            self._cell_changes()

    def _cell_changes(self) -> None:
        self._cell_changed = True
        self._arm()

    def _mark(self, job: Record) -> None:
        self._changed[job.number] = job
        self._arm()

    def _mark_gone(self, job: Record) -> None:
        self._gone[job.number] = None
        self._arm()

    def _arm(self) -> None:
        self._soon.within(max(_SOON, self._sent + _INTERVAL - time.monotonic()))

    def _deliver(self) -> None:
        self._sent = time.monotonic()
        changed: dict[int, Record] = {}
        while self._changed:
            number, job = self._changed.popitem()
            changed[number] = job
        gone: list[int] = []
        while self._gone:
            gone.append(self._gone.popitem()[0])
            changed.pop(gone[-1], None)
        if not changed and not gone and not self._cell_changed:
            return
        self._cell_changed = False
        news = News([changed[number] for number in sorted(changed)], gone)
        for call in list(self._listeners):
            call(news)


class Watching:
    """The live views of one session, until it is closed. Any thread may call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.registry = session.registry
        self._front_end = session.front_end
        self._service = session.core.service
        self._cells = session.front_end.cells
        #: Which cell a file name in a traceback stands for.
        self.sources = session.core.sources.cell
        self.feed: Feed = Feed(self.registry, self._front_end, self._service.later)
        self._tables: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._page: tuple[Pages, Any] | None = None

    # The script of the page

    def open_page(self) -> dict[str, Any] | None:
        """Send the script to the pages, once; returns what shows a view of it, which is empty.

        None where there are no widgets.
        """
        if (page := self._opened()) is None:
            return None
        from ipy_bgtasks.frontends.kernel.widgets import VIEW

        model = {"version_major": 2, "version_minor": 0, "model_id": page[1].model_id}
        return {VIEW: model}

    def show_notice(self, notice: Notice, job: Record) -> None:
        """Show a notice about a job on the pages where nobody looks."""
        if (page := self._opened()) is not None:
            page[0].show_notice(notice, job)

    def _opened(self) -> tuple[Pages, Any] | None:
        with self._lock:
            if self._page is None and not self._closed and self.has_page:
                self._page = self._make_page()
            return self._page

    @property
    def has_page(self) -> bool:
        """Whether there are widgets here, and so a script."""
        return find_spec("anywidget") is not None

    @property
    def cards(self) -> Cards:
        """The cards that the script brings to life."""
        return self._front_end.cards

    def _make_page(self) -> tuple[Pages, Any]:
        from ipy_bgtasks.frontends.kernel.cell_queue import let_page_choose_shell
        from ipy_bgtasks.live.pages import Pages, page_widget

        def send(message: dict[str, Any]) -> None:
            widget.send(message)
            let_page_choose_shell(widget)

        widget = page_widget(self.cards.key)
        pages = Pages(self, send)
        widget.on_msg(lambda _widget, content, _buffers: pages.receive(content))
        if self._cells is not None:
            self._cells.urgent_comms.add(widget.model_id)
        # A page answers as soon as it knows of the model, which may have been before this thread
        # had said who listens.
        send({"kind": "again"})
        return pages, widget

    def front(self) -> tuple[CellRun, list[CellRun]] | None:
        """Return the cell that runs in the foreground for a while, and those that wait for it."""
        now = None if self._cells is None else self._cells.now()
        if self._cells is None or now is None or now.elapsed < _LONG:
            return None
        return now, self._cells.waiting()

    # %jobs -w

    def watch(self, chosen: list[Record] | None, *, every: bool, awaited: bool) -> Any:
        """Display jobs live: in a notebook from now on, in a terminal until Ctrl-C.

        *chosen* are the jobs to show; None for those that `%jobs` shows, or with *every* all.
        Returns what a cell that was rewritten awaits.
        """

        def jobs() -> list[Record]:
            return self._session.visible(every) if chosen is None else chosen

        if self._front_end.live:
            self._show(chosen, jobs)
        elif not jobs():
            self._front_end.print_line("no jobs")
        else:
            once = partial(self._show_once, jobs)
            return self._session.wait(self._follow(jobs), awaited, instead=once)
        return asyncio.sleep(0) if awaited else None

    def close(self) -> None:
        """Bring nothing up to date any more.

        A notebook that is saved from here on shows the last state.
        """
        with self._lock:
            self._closed = True
            page, self._page = self._page, None
        while self._tables:
            unsubscribe, last = self._tables.pop()
            unsubscribe()
            last()
        if page is not None:
            page[0].close()
            if self._cells is not None:
                self._cells.urgent_comms.discard(page[1].model_id)
            page[1].close()

    async def _follow(self, visible: Callable[[], list[Record]]) -> None:
        """Keep the table at the bottom of a terminal until Ctrl-C, which ends it quietly.

        Where lines cannot be replaced, print it once.
        """
        if not sys.stdout.isatty() or not on_main_thread():
            self._show_once(visible)
            return
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_: object) -> None:
            loop.call_soon_threadsafe(changed.set)

        unsubscribe = self.feed.subscribe(wake)
        try:
            while True:
                changed.clear()
                jobs = visible()
                self._front_end.footer(self._terminal_table(jobs))
                ticks = any(job.started is not None and not job.done() for job in jobs)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1 if ticks else None):
                        await changed.wait()
        except KeyboardInterrupt:
            pass
        finally:
            unsubscribe()
            self._front_end.footer(None)

    def _show_once(self, visible: Callable[[], list[Record]]) -> None:
        self._front_end.show(table(self.registry, visible()))

    def _terminal_table(self, jobs: list[Record]) -> str:
        lines = table(self.registry, jobs)["text/plain"].split("\n")
        room = max(1, shutil.get_terminal_size().lines - 3)
        if len(lines) > room:
            lines = [f"… {len(lines) - room:,} more above", *lines[-room:]]
        return "\n".join([*lines, "Ctrl-C returns to the prompt"])

    def _show(self, chosen: Sequence[Record] | None, visible: Callable[[], list[Record]]) -> None:
        """Display the table of *visible* in a notebook, and keep it up to date; returns at once.

        The script of a page shows a panel in its place, of the jobs *chosen*, or of all. There the
        table is brought up to date only as jobs come, go and change their state, so that a
        notebook that is saved or exported has them.
        """
        only = "" if chosen is None else " ".join(str(job.number) for job in chosen)
        cards = self.cards

        def now() -> dict[str, str]:
            key = cards.key if self.has_page else ""
            note = "" if self.has_page else "pip install 'ipy_bgtasks[panel]' gives it buttons"
            return live_table(self.registry, visible(), key=key, only=only, note=note)

        def states() -> list[Any]:
            return [(job.number, job.state) for job in visible()]

        shown, known = now(), states()
        update = self._front_end.show_live(shown)

        def news(_: object) -> None:
            nonlocal shown, known
            if cards.heard and known == (known := states()):
                return
            before, shown = shown, now()
            if shown != before:
                update(shown)

        def last() -> None:
            update(table(self.registry, visible()))

        self._tables.append((self.feed.subscribe(news), last))
        while len(self._tables) > _TABLES:
            self._tables.pop(0)[0]()
        self._service.later(0, self.open_page)

    # The buttons

    def cancel(
        self, jobs: Sequence[Record], say: Callable[[str], None], *, force: bool = False
    ) -> None:
        """Ask jobs to stop; what became of them is said a moment later."""
        stopping = self._session.stop(jobs, force=force)

        async def report() -> None:
            await stopping.wait(self._session.settings.cancel_wait)
            say("\n".join(stopping.report()))

        self._service.submit(report())

    def discard(self, job: Record, say: Callable[[str], None]) -> None:
        """Forget the job, if it has ended."""
        try:
            self.registry.discard(job)
        except BadInput as error:
            say(str(error))
        else:
            say(f"job {job.number} ({job.name}) is forgotten")

    def notify(self, job: Record, wanted: bool) -> None:
        """Ask for a notice of the job's end, or take that back."""
        if wanted:
            self._session.notices.request([job])
        elif (requests := self._session.core.requests) is not None:
            requests.remove(job)

    def is_asked(self, job: Record) -> bool:
        """Return whether there will be a notice of the job's end."""
        requests = self._session.core.requests
        return requests is not None and job in requests

    def take_out(self, place: int, say: Callable[[str], None]) -> None:
        """Take a cell that waits out of the queue."""
        if self._cells is None or not self._cells.take_out({place}):
            say(f"q{place} does not wait any more")

    def send_away(self, cell: str, say: Callable[[str], None]) -> None:
        """Send the cell of that id to the background, if it runs in the foreground."""
        if self._cells is None or not self._cells.send_away_by_id(cell):
            say("that cell does not run in the foreground any more")
