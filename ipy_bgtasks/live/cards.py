"""The cards of jobs as widgets. Imports anywidget, so it is imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.cell_queue import let_page_choose_shell
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

    from ipy_bgtasks.frontends.kernel.background_cells import BackgroundCells
    from ipy_bgtasks.frontends.kernel.cards import Card
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.feed import Feed
    from ipy_bgtasks.live.watching import Watching

_ROWS = 300  # of an open list
_READERS = 50  # pages that have one list open
_LAST = 120  # characters
#: Those who run or failed come first, for whom a reader looks.
_ORDER = ("running", "cancelling", "failed", "queued", "finished", "cancelled")


class CardWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """A card with buttons, of one job or of several."""

    _esm = script("elements", "card", "one", "many")
    _css = style("card")
    #: What `views.card.card_data` says of the only job; empty where there are several …
    card: Any = traitlets.Dict().tag(sync=True)
    #: … and what `views.groups.group_data` says of these, with a row for each if the list is open.
    many: Any = traitlets.Dict().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)


class LiveCard:
    """A card in the browser. Any thread may call. *find* finds a job by its number.

    *answered* is called when a page has taken the widget in.
    """

    def __init__(
        self,
        card: Card,
        find: Callable[[int], Record | None],
        feed: Feed,
        actions: Watching,
        answered: Callable[[], None],
        cells: BackgroundCells | None,
    ) -> None:
        self._card = card
        self._find = find
        self._actions = actions
        self._answered: Callable[[], None] | None = answered
        self._cells = cells
        self._readers: dict[str, None] = {}
        self._job = card.only  # looked at as long as there is no other
        self._log = None if self._job is None else OpenLog(self._job, feed, self._send)
        self._widget: Any = CardWidget(**self._state())
        self.view = view_of(self._widget)
        self._widget.on_msg(lambda _widget, content, _buffers: self.receive(content))
        let_page_choose_shell(self._widget)
        if cells is not None:
            cells.hear(self._widget.model_id)

    def close(self) -> None:
        """Leave the page."""
        if self._log is not None:
            self._log.close()
        if self._cells is not None:
            self._cells.hear_no_more(self._widget.model_id)
        self._widget.close()

    def refresh(self) -> None:
        """Show the jobs as they are now."""
        with self._widget.hold_sync():
            for name, value in self._state().items():
                setattr(self._widget, name, value)
        let_page_choose_shell(self._widget)

    @property
    def is_read(self) -> bool:
        """Whether its log or its list is open on a page."""
        return bool(self._readers) or (self._log is not None and self._log.is_open)

    def receive(self, content: object) -> None:
        """Take one message from a page."""
        if content == {"kind": "hello"}:
            answered, self._answered = self._answered, None
            if answered is not None:
                answered()
        elif not (self._act(content) if self._only is None else self._act_on(self._only, content)):
            log_ignored("card", content)

    @property
    def _only(self) -> Record | None:
        return self._job if self._card.count == 1 else None

    def _state(self) -> dict[str, Any]:
        if (job := self._only) is not None:
            return {"card": card_data(job) | self._actions.aside(job), "many": {}, "rows": []}
        rows = self._rows() if self._readers else []
        return {"card": {}, "many": group_data(*self._card.facts()), "rows": rows}

    def _act_on(self, job: Record, content: object) -> bool:
        """Do what a button of the only job asks for; return whether there is such a button."""
        match content:
            case {"kind": "cancel", "force": bool(force)}:
                self._actions.cancel(job, force, self._say)
            case {"kind": "log", "client": str(client), "open": bool(wanted)} if self._log:
                self._log.show(client, wanted)
            case {"kind": "notify", "on": bool(wanted)}:
                self._actions.notify(job, wanted)
                self.refresh()
            case _:
                return False
        return True

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

    def _say(self, text: str) -> None:
        if self._only is None or not self._only.done():  # else the card says it
            self._send({"kind": "said", "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._widget.send(message)
        let_page_choose_shell(self._widget)

    def _rows(self) -> list[list[Any]]:
        jobs = [job for n in self._card.all_numbers() if (job := self._find(n)) is not None]
        jobs.sort(key=lambda job: (_ORDER.index(str(job.state)), job.number))
        seen = [row(job) for job in jobs[:_ROWS]]
        return [[r.number, r.state, r.name, r.elapsed, one_line(r.last, _LAST)] for r in seen]
