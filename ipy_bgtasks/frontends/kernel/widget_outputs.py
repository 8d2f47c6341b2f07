"""What jobs show within an ``ipywidgets.Output``, which is a place of its own.

A `clear_output` there, such as rich's bars do ten times a second, clears that widget and nothing
else: the job's log must not lose what the job printed beside it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.versions import open_widgets

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record


class _Recorded:
    """How many displays of one widget a log holds, and which of them is replaced next.

    *thread* cleared it last. What another thread of the job prints meanwhile, beside a bar that is
    being drawn, also appears within the widget until that is cleared; the log keeps it.
    """

    __slots__ = ("count", "next", "thread")

    def __init__(self) -> None:
        self.count = self.next = self.thread = 0


class WidgetOutputs:
    """The displays within widgets, kept in the logs of jobs. Any thread may call."""

    def __init__(self) -> None:
        self._recorded: weakref.WeakKeyDictionary[Record, dict[str, _Recorded]] = (
            weakref.WeakKeyDictionary()
        )

    def around(self, request: Any) -> str | None:
        """Return the id of the widget that captures the output of a request now, or None."""
        output = getattr(sys.modules.get("ipywidgets.widgets.widget_output"), "Output", None)
        if output is None or not request:
            return None
        for widget in open_widgets():
            if isinstance(widget, output) and widget.msg_id == request:
                return str(widget.model_id)
        return None

    def display(self, job: Record, widget: str, data: Any, metadata: Any) -> None:
        """Record a display, in place of what was cleared."""
        recorded = self._of(job, widget)
        if recorded.thread != threading.get_ident():
            job.log.display(data, metadata)
            return
        name = f"{widget} {recorded.next}"
        if recorded.next < recorded.count:
            job.log.display(data, metadata, update_of=name)
        else:
            job.log.display(data, metadata, display_id=name)
            recorded.count += 1
        recorded.next += 1

    def clear(self, job: Record, widget: str) -> None:
        """Have the next displays replace the present ones."""
        recorded = self._of(job, widget)
        recorded.next, recorded.thread = 0, threading.get_ident()

    def _of(self, job: Record, widget: str) -> _Recorded:
        return self._recorded.setdefault(job, {}).setdefault(widget, _Recorded())
