"""The cards of jobs as widgets. Imports anywidget, so it is imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.replies import let_page_choose_shell
from ipy_bgtasks.live.page import script, style
from ipy_bgtasks.live.panel import log_ignored
from ipy_bgtasks.live.tail import OpenLog
from ipy_bgtasks.live.widget import view_of
from ipy_bgtasks.text import one_line
from ipy_bgtasks.views.card import card_data
from ipy_bgtasks.views.groups import group_data
from ipy_bgtasks.views.rows import row

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.front_end import ForegroundCells
    from ipy_bgtasks.frontends.kernel.places import Card
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.feed import Feed
    from ipy_bgtasks.live.watching import Watching

_ROWS = 300  # of an open list
_READERS = 50  # pages that have one list open
_LAST = 120  # characters
#: Those who run or failed come first, for whom a reader looks.
_ORDER = ("running", "cancelling", "failed", "queued", "finished", "cancelled")


class CardWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """The card of one job, with a button that stops it."""

    _esm = script("elements", "card", "one")
    _css = style("card")
    #: What `views.card.card_data` says.
    card: Any = traitlets.Dict().tag(sync=True)


class ManyWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """The card of several jobs, with a button that stops them."""

    _esm = script("elements", "card", "many")
    _css = style("card")
    #: What `views.groups.group_data` says.
    many: Any = traitlets.Dict().tag(sync=True)
    #: The open list, a row for each job.
    rows: Any = traitlets.List().tag(sync=True)


class _LiveCard:
    """A card in the browser. Any thread may call.

    *answered* is called when a page has taken the widget in.
    """

    def __init__(
        self, widget: Any, answered: Callable[[], None], cells: ForegroundCells | None
    ) -> None:
        self._widget = widget
        self._answered: Callable[[], None] | None = answered
        self._cells = cells
        self.view = view_of(widget)
        widget.on_msg(lambda _widget, content, _buffers: self.receive(content))
        let_page_choose_shell(widget)
        if cells is not None:
            cells.hear(widget.model_id)

    def close(self) -> None:
        """Leave the page."""
        if self._cells is not None:
            self._cells.hear_no_more(self._widget.model_id)
        self._widget.close()

    def receive(self, content: object) -> None:
        """Take one message from a page."""
        if content == {"kind": "hello"}:
            answered, self._answered = self._answered, None
            if answered is not None:
                answered()
        elif not self._act(content):
            log_ignored("card", content)

    def _act(self, content: object) -> bool:
        """Do what a button asks for; return whether there is such a button."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        self._send({"kind": "said", "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._widget.send(message)
        let_page_choose_shell(self._widget)


class JobCard(_LiveCard):
    """The card of one job in the browser."""

    def __init__(
        self,
        job: Record,
        feed: Feed,
        actions: Watching,
        answered: Callable[[], None],
        cells: ForegroundCells | None,
    ) -> None:
        self._job = job
        self._actions = actions
        self._log = OpenLog(job, feed, self._send)
        super().__init__(CardWidget(card=self._data()), answered, cells)

    def refresh(self) -> None:
        """Show the job as it is now."""
        self._widget.card = self._data()
        let_page_choose_shell(self._widget)

    def _data(self) -> dict[str, Any]:
        return card_data(self._job) | self._actions.aside(self._job)

    @property
    def is_read(self) -> bool:
        """Whether its log is open on a page."""
        return self._log.is_open

    def close(self) -> None:
        """Leave the page."""
        self._log.close()
        super().close()

    def _act(self, content: object) -> bool:
        match content:
            case {"kind": "cancel", "force": bool(force)}:
                self._actions.cancel(self._job, force, self._say)
            case {"kind": "log", "client": str(client), "open": bool(wanted)}:
                self._log.show(client, wanted)
            case {"kind": "notify", "on": bool(wanted)}:
                self._actions.notify(self._job, wanted)
                self.refresh()
            case _:
                return False
        return True

    def _say(self, text: str) -> None:
        if not self._job.done():  # else the card says it
            super()._say(text)


class ManyCard(_LiveCard):
    """The card of the jobs of one cell in the browser. *job* finds one by its number."""

    def __init__(
        self,
        card: Card,
        job: Callable[[int], Record | None],
        actions: Watching,
        answered: Callable[[], None],
        cells: ForegroundCells | None,
    ) -> None:
        self._card = card
        self._job = job
        self._actions = actions
        self._readers: dict[str, None] = {}
        super().__init__(ManyWidget(many=group_data(*card.facts())), answered, cells)

    def refresh(self) -> None:
        """Show the jobs as they are now."""
        with self._widget.hold_sync():
            self._widget.many = group_data(*self._card.facts())
            self._widget.rows = self._rows() if self._readers else []
        let_page_choose_shell(self._widget)

    @property
    def is_read(self) -> bool:
        """Whether its list is open on a page."""
        return bool(self._readers)

    def _act(self, content: object) -> bool:
        match content:
            case {"kind": "cancel"}:
                self._actions.cancel_all(self._card.alive(), self._say)
            case {"kind": "list", "client": str(client), "open": bool(wanted)}:
                self._readers.pop(client[:64], None)
                if wanted and len(self._readers) < _READERS:
                    self._readers[client[:64]] = None
                self.refresh()
            case _:
                return False
        return True

    def _rows(self) -> list[list[Any]]:
        jobs = [job for n in self._card.all_numbers() if (job := self._job(n)) is not None]
        jobs.sort(key=lambda job: (_ORDER.index(str(job.state)), job.number))
        seen = [row(job) for job in jobs[:_ROWS]]
        return [[r.number, r.state, r.name, r.elapsed, one_line(r.last, _LAST)] for r in seen]
