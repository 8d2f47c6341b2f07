"""The card of several jobs as a widget: one button stops them all, another opens the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.replies import let_page_choose_shell
from ipy_bgtasks.live.page import script, style
from ipy_bgtasks.live.panel import log_ignored
from ipy_bgtasks.live.widget import view_of
from ipy_bgtasks.text import one_line
from ipy_bgtasks.views.groups import group_data
from ipy_bgtasks.views.rows import row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipy_bgtasks.frontends.front_end import ForegroundCells
    from ipy_bgtasks.frontends.kernel.places import Card
    from ipy_bgtasks.job.record import Record

_ROWS = 300  # of an open list
_READERS = 50  # pages that have one list open
_LAST = 120  # characters
#: Those who run or failed come first, for whom a reader looks.
_ORDER = ("running", "cancelling", "failed", "queued", "finished", "cancelled")


class Actions(Protocol):
    """What the buttons do; *say* is called with what came of it."""

    def cancel_all(self, jobs: Sequence[Record], say: Callable[[str], None]) -> None:
        """Ask the jobs to stop."""


class ManyWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """The card of several jobs, with a button that stops them."""

    _esm = script("elements", "many")
    _css = style("card")
    #: What `views.groups.group_data` says.
    many: Any = traitlets.Dict().tag(sync=True)
    #: The open list, a row for each job.
    rows: Any = traitlets.List().tag(sync=True)


class ManyCard:
    """The card of the jobs of one cell in the browser. Any thread may call.

    *job* finds one by its number. *answered* is called when a page has taken it in.
    """

    def __init__(
        self,
        card: Card,
        job: Callable[[int], Record | None],
        actions: Actions,
        answered: Callable[[], None],
        cells: ForegroundCells | None,
    ) -> None:
        self._card = card
        self._job = job
        self._actions = actions
        self._cells = cells
        self._answered: Callable[[], None] | None = answered
        self._readers: dict[str, None] = {}
        self._widget: Any = ManyWidget(many=group_data(*card.facts()))
        self._widget.on_msg(lambda _widget, content, _buffers: self.receive(content))
        self.view = view_of(self._widget)
        let_page_choose_shell(self._widget)
        if cells is not None:
            cells.hear(self._widget.model_id)

    def refresh(self) -> None:
        """Show the jobs as they are now."""
        with self._widget.hold_sync():
            self._widget.many = group_data(*self._card.facts())
            self._widget.rows = self._rows() if self._readers else []
        let_page_choose_shell(self._widget)

    @property
    def is_read(self) -> bool:
        """Return whether its list is open on a page, which must not lose it then."""
        return bool(self._readers)

    def close(self) -> None:
        """Leave the page."""
        if self._cells is not None:
            self._cells.hear_no_more(self._widget.model_id)
        self._widget.close()

    def receive(self, content: object) -> None:
        """Take one message from a page."""
        match content:
            case {"kind": "hello"}:
                answered, self._answered = self._answered, None
                if answered is not None:
                    answered()
            case {"kind": "cancel"}:
                self._actions.cancel_all(self._card.alive(), self._say)
            case {"kind": "list", "client": str(client), "open": bool(wanted)}:
                self._readers.pop(client[:64], None)
                if wanted and len(self._readers) < _READERS:
                    self._readers[client[:64]] = None
                self.refresh()
            case _:
                log_ignored("card", content)

    def _rows(self) -> list[list[Any]]:
        jobs = [job for n in self._card.all_numbers() if (job := self._job(n)) is not None]
        jobs.sort(key=lambda job: (_ORDER.index(str(job.state)), job.number))
        seen = [row(job) for job in jobs[:_ROWS]]
        return [[r.number, r.state, r.name, r.elapsed, one_line(r.last, _LAST)] for r in seen]

    def _say(self, text: str) -> None:
        self._widget.send({"kind": "said", "text": text})
        let_page_choose_shell(self._widget)
