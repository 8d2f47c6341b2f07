"""The panel and the card as widgets. Imports anywidget, so it is imported when first needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.replies import let_page_choose_shell
from ipy_bgtasks.live.page import script, style
from ipy_bgtasks.live.panel import Panel, log_ignored
from ipy_bgtasks.live.tail import OpenLog, cell_row
from ipy_bgtasks.views.card import card_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipy_bgtasks.frontends.front_end import ForegroundCells
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.feed import Feed
    from ipy_bgtasks.live.panel import Actions
    from ipy_bgtasks.registry.collection import Registry

_LONG = 0.3  # seconds after which a cell in the foreground is shown; most are over before


class PanelWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """A panel in the browser, however many pages and cells show it."""

    _esm = script("elements", "store", "timeline", "panel")
    _css = style("panel")
    #: The rows at the time of display: what is shown where no kernel answers.
    rows: Any = traitlets.List().tag(sync=True)


class CardWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """The card of one job, with a button that stops it."""

    _esm = script("elements", "card")
    _css = style("card")
    #: What `views.card.card_data` says.
    card: Any = traitlets.Dict().tag(sync=True)


class NoticesWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """What hears notices in a page; it has no view."""

    _esm = script("notices")

    def hear(self, notice: dict[str, Any]) -> None:
        """Send the parts of a notice to all pages."""
        self.send({"kind": "notice", **notice})
        let_page_choose_shell(self)


class LiveCard:
    """One job's card in the browser. *answered* is called when a page has taken it in."""

    def __init__(
        self,
        job: Record,
        feed: Feed,
        actions: Actions,
        answered: Callable[[], None],
        cells: ForegroundCells | None,
    ) -> None:
        self._job = job
        self._cells = cells
        self._actions = actions
        self._log = OpenLog(job, feed, self._send)
        self._answered: Callable[[], None] | None = answered
        self._widget: Any = CardWidget(card=self._data())
        self._widget.on_msg(lambda _widget, content, _buffers: self.receive(content))
        self.view = view_of(self._widget)
        let_page_choose_shell(self._widget)
        if cells is not None:
            cells.hear(self._widget.model_id)

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
            case {"kind": "cancel", "force": bool(force)}:
                self._actions.cancel(self._job, force, self._say)
            case {"kind": "log", "client": str(client), "open": bool(wanted)}:
                self._log.show(client, wanted)
            case {"kind": "notify", "on": bool(wanted)}:
                self._actions.notify(self._job, wanted)
                self.refresh()
            case _:
                log_ignored("card", content)

    def _say(self, text: str) -> None:
        if not self._job.done():  # else the card says it
            self._send({"kind": "said", "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._widget.send(message)
        let_page_choose_shell(self._widget)


def view_of(widget: Any) -> dict[str, Any]:
    """Return what displays a widget, as a MIME bundle."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def show_panel(
    registry: Registry,
    feed: Feed,
    actions: Actions,
    only: Iterable[int] | None,
    cells: ForegroundCells | None,
) -> tuple[Panel, dict[str, Any]]:
    """Make a panel; returns it and what displays it, a MIME bundle."""
    widget: Any = None

    def send(message: dict[str, Any]) -> None:
        widget.send(message)
        let_page_choose_shell(widget)

    def cell() -> dict[str, Any] | None:
        now = None if cells is None else cells.now()
        return None if now is None or time.time() - now.began < _LONG else cell_row(now)

    panel = Panel(registry, feed, actions, send, only, cell)
    widget = PanelWidget(rows=panel.rows()[:200])
    widget.on_msg(lambda _widget, content, _buffers: panel.receive(content))
    let_page_choose_shell(widget)
    if cells is not None:
        cells.hear(widget.model_id)
    return panel, view_of(widget)
