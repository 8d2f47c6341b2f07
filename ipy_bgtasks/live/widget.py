"""The script of the page as a widget. Imports anywidget, so it is imported when first needed."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from ipy_bgtasks.frontends.kernel.cell_queue import let_page_choose_shell
from ipy_bgtasks.live.page import script, style

#: What displays a widget.
VIEW = "application/vnd.jupyter.widget-view+json"


class PageWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """What brings all cards and panels of a kernel to life, in each page that shows them."""

    _esm = script()
    _css = style()
    #: What they are found by in the page.
    key: Any = traitlets.Unicode().tag(sync=True)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all pages."""
        self.send(message)
        let_page_choose_shell(self)

    @property
    def view(self) -> dict[str, Any]:
        """What shows a view of it, for a front end that needs one: it is empty."""
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
