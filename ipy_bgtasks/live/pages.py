"""Notices on the pages that show a notebook: one widget, without a view, hears them all."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.notify import Notice


class PageNotices:
    """The notices of one session's jobs on its pages. Any thread may call.

    Without widgets nothing happens. A page decides by itself whether it shows a notice: it knows
    whether somebody looks at it, and whether the browser was allowed to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._widget: Any = None
        self._closed = False

    def prepare(self) -> None:
        """Make the widget: a page takes a moment to load it."""
        with self._lock:
            if self._widget is None and not self._closed and find_spec("anywidget") is not None:
                from ipy_bgtasks.live.widget import NoticesWidget

                self._widget = NoticesWidget()

    def tell(self, notice: Notice, place: Any) -> None:
        """Send *notice* to all pages; *place* is the cell to which a click on it leads."""
        self.prepare()
        if (widget := self._widget) is not None:
            widget.hear({"title": notice.title, "body": notice.body, "place": place})

    def close(self) -> None:
        """Leave the pages."""
        with self._lock:
            self._closed = True
            widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()
