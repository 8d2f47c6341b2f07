"""`%jobs -w`: what shows the jobs live, in each kind of front end."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.live.feed import Feed
from ipy_bgtasks.live.pages import PageNotices
from ipy_bgtasks.session.foreground import Stopping
from ipy_bgtasks.views.show import live_table, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipy_bgtasks.frontends.kernel.cards import Card, CardWidget
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.panel import Panel
    from ipy_bgtasks.session.control import Session

_TABLES = 4  # plain tables that are kept up to date; the newest
_PANELS = 20  # panels that a table takes the place of in the end; the newest


class Watching:
    """The live views of one session, until it is closed. Any thread may call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._registry = session.registry
        self._screen = session.screen
        self._service = session.core.service
        front_end = session.core.front_end
        self._cells = None if front_end is None else front_end.cells
        self.feed = Feed(self._registry, self._screen, self._service.later, self._cells)
        self._tables: list[Callable[[], None]] = []
        self._panels: dict[frozenset[int] | None, tuple[Panel, dict[str, Any]]] = {}
        self._shown: list[Callable[[], None]] = []
        self.pages = PageNotices()

    def watch(self, chosen: list[Record] | None, *, every: bool, awaited: bool) -> Any:
        """Display jobs live: in a notebook from now on, in a terminal until Ctrl-C.

        *chosen* are the jobs to show; None for those that `%jobs` shows, or with *every* all.
        Returns what a cell that was rewritten awaits.
        """

        def jobs() -> list[Record]:
            return self._session.visible(every) if chosen is None else chosen

        if not self._screen.live and not jobs():
            self._screen.say("no jobs")
            return _nothing() if awaited else None
        if self._screen.live:
            self.show(chosen, jobs)
            return _nothing() if awaited else None
        return self._session.wait(
            self.follow(jobs),
            awaited,
            instead=lambda: self._screen.show(table(self._registry, jobs())),
        )

    def close(self) -> None:
        """Bring nothing up to date any more.

        Where a panel was there is a table now: nobody answers it, and a notebook that is saved
        from here on shows the last state.
        """
        self.pages.close()
        for panel, _ in self._panels.values():
            panel.close()
        while self._tables:
            self._tables.pop()()
        while self._shown:
            self._shown.pop()()

    def show(self, chosen: Sequence[Record] | None, visible: Callable[[], list[Record]]) -> None:
        """Display jobs live in a notebook; returns at once.

        *chosen* are the jobs to show, None for all; *visible* tells which a plain table shows.
        """
        if find_spec("anywidget") is None:
            self._show_table(visible)
        else:
            self._show_panel(chosen, visible)

    async def follow(self, visible: Callable[[], list[Record]]) -> None:
        """Keep the table at the bottom of a terminal until Ctrl-C, which ends it quietly.

        Where lines cannot be replaced, print it once.
        """
        if not sys.stdout.isatty() or threading.current_thread() is not threading.main_thread():
            self._screen.show(table(self._registry, visible()))
            return
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_: object) -> None:
            loop.call_soon_threadsafe(changed.set)

        unlisten = self.feed.listen(wake)
        try:
            while True:
                changed.clear()
                jobs = visible()
                self._screen.footer(self._terminal_table(jobs))
                ticks = any(job.started is not None and not job.done() for job in jobs)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1 if ticks else None):
                        await changed.wait()
        except KeyboardInterrupt:
            pass
        finally:
            unlisten()
            self._screen.footer(None)

    def _terminal_table(self, jobs: list[Record]) -> str:
        lines = table(self._registry, jobs)["text/plain"].split("\n")
        room = max(1, shutil.get_terminal_size().lines - 3)
        if len(lines) > room:
            lines = [f"… {len(lines) - room:,} more above", *lines[-room:]]
        return "\n".join([*lines, "Ctrl-C returns to the prompt"])

    def _show_table(self, visible: Callable[[], list[Record]]) -> None:
        shown = live_table(self._registry, visible())
        update = self._screen.show_live(shown)

        def news(_: object) -> None:
            nonlocal shown
            before, shown = shown, live_table(self._registry, visible())
            if shown != before:
                update(shown)

        self._tables.append(self.feed.listen(news))
        while len(self._tables) > _TABLES:
            self._tables.pop(0)()

    def _show_panel(
        self, chosen: Sequence[Record] | None, visible: Callable[[], list[Record]]
    ) -> None:
        from ipy_bgtasks.live.widget import show_panel

        only = None if chosen is None else frozenset(job.number for job in chosen)
        if only not in self._panels:
            self._panels[only] = show_panel(self._registry, self.feed, self, only, self._cells)
        _, view = self._panels[only]
        # Where there are no widgets, and in a page without a kernel, the table stands for it.
        update = self._screen.show_live({**table(self._registry, visible()), **view})
        self._shown.append(lambda: update(table(self._registry, visible())))
        del self._shown[:-_PANELS]

    def card(self, card: Card, answered: Callable[[], None]) -> CardWidget | None:
        """Return buttons for a card; None where there are no widgets."""
        if find_spec("anywidget") is None:
            return None
        from ipy_bgtasks.live.cards import LiveCard

        return LiveCard(card, self._registry.get, self.feed, self, answered, self._cells)

    # The buttons

    def cancel_all(
        self, jobs: Sequence[Record], say: Callable[[str], None], *, force: bool = False
    ) -> None:
        """Ask jobs to stop; what became of them is said a moment later."""
        stopping = Stopping(jobs, self._screen, force=force)

        async def report() -> None:
            await stopping.wait(self._session.settings.cancel_wait)
            say("\n".join(stopping.report()))

        self._service.submit(report())

    def cancel(self, job: Record, force: bool, say: Callable[[str], None]) -> None:
        """Ask the job to stop; what became of it is said a moment later."""
        self.cancel_all([job], say, force=force)

    def discard(self, job: Record, say: Callable[[str], None]) -> None:
        """Forget the job, if it has ended."""
        try:
            self._registry.discard(job)
        except BadInput as error:
            say(str(error))
        else:
            say(f"job {job.number} ({job.name}) is forgotten")

    def notify(self, job: Record, wanted: bool) -> None:
        """Ask for a notice of the job's end, or take that back."""
        if wanted:
            self._session.notices.ask([job])
        else:
            self._session.notices.take_back(job)

    def aside(self, job: Record) -> dict[str, Any]:
        """Return whether there will be a notice of the job, and the place of its launch."""
        asked = self._session.core.asked
        notify = asked is not None and job in asked
        return {"notify": notify, "place": self._screen.place_of(job)}

    def send_away(self, cell: str, say: Callable[[str], None]) -> None:
        """Send the cell of that id to the background, if it runs in the foreground."""
        if self._cells is None or not self._cells.send_away_by_id(cell):
            say("that cell does not run in the foreground any more")


async def _nothing() -> None:
    """Return at once, for a cell that awaits this and need not wait."""
