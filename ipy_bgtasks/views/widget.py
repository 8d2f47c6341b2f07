"""The panel as a widget. Imports anywidget, and so is imported when a panel is first shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ipy_bgtasks.views.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.feed import Feed
    from ipy_bgtasks.registry import Registry
    from ipy_bgtasks.views.panel import Actions


class PanelWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """A panel in the browser, however many pages and cells show it."""

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")
    #: The rows at the time of display: what is shown where no kernel answers.
    rows: Any = traitlets.List().tag(sync=True)


def show_panel(
    registry: Registry, feed: Feed, actions: Actions, only: Iterable[int] | None
) -> tuple[Panel, dict[str, Any]]:
    """Make a panel; returns it and what displays it, a MIME bundle."""
    widget: Any = None

    def send(message: dict[str, Any]) -> None:
        widget.send(message)

    panel = Panel(registry, feed, actions, send, only)
    widget = PanelWidget(rows=panel.rows()[:200])
    widget.on_msg(lambda _widget, content, _buffers: panel.receive(content))
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return panel, {"application/vnd.jupyter.widget-view+json": view}
