"""The panel and notices as widgets. Imports anywidget, so it is imported when first needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.cell_queue import let_page_choose_shell
from ipy_bgtasks.live.page import script, style
from ipy_bgtasks.live.panel import Panel
from ipy_bgtasks.live.tail import cell_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.frontends.kernel.background_cells import BackgroundCells
    from ipy_bgtasks.live.feed import Feed
    from ipy_bgtasks.live.watching import Watching
    from ipy_bgtasks.registry.collection import Registry

_LONG = 0.3  # seconds after which a cell in the foreground is shown; most are over before


class PanelWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """A panel in the browser, however many pages and cells show it."""

    _esm = script("elements", "store", "timeline", "panel")
    _css = style("panel")
    #: What there was at the time of display, which is shown where no kernel answers.
    rows: Any = traitlets.List().tag(sync=True)
    timeline: Any = traitlets.Dict().tag(sync=True)


class NoticesWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """What hears notices in a page; it has no view."""

    _esm = script("notices")

    def hear(self, notice: dict[str, Any]) -> None:
        """Send the parts of a notice to all pages."""
        self.send({"kind": "notice", **notice})
        let_page_choose_shell(self)


def view_of(widget: Any) -> dict[str, Any]:
    """Return what displays a widget, as a MIME bundle."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def show_panel(
    registry: Registry,
    feed: Feed,
    actions: Watching,
    only: Iterable[int] | None,
    cells: BackgroundCells | None,
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
    widget = PanelWidget(**panel.snapshot())
    widget.on_msg(lambda _widget, content, _buffers: panel.receive(content))
    let_page_choose_shell(widget)
    if cells is not None:
        cells.hear(widget.model_id)
    return panel, view_of(widget)
