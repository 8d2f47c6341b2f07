"""Widgets that jobs show: progress bars, and outputs that capture other output.

`tqdm.notebook` and others draw bars as widgets and print nothing. A job's display names the
widget; ipywidgets, which the job has imported by then, resolves it, and reports its changes.

What is shown within an ``ipywidgets.Output`` is in a place of its own. A `clear_output` there, such
as rich's bars do ten times a second, clears that widget and nothing else: the job's log must not
lose what the job printed beside it.
"""

from __future__ import annotations

import html
import re
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.frontends.installing import open_widgets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ipy_bgtasks.job.progress import Progress
    from ipy_bgtasks.job.record import Record


VIEW = "application/vnd.jupyter.widget-view+json"

_BARS = 50  # of one job that are read; the newest
_DEEP = 5  # levels of nested boxes searched for a bar
_TAG = r"<[^>]*>"
_PERCENT = r"(?:^|(?<=\s))\d{1,3}%(?=\s|$)"
_TEXT = 4000  # characters of a display searched for a bar
_COUNT = r"(?:^|(?<=\s))(\d+)(?=\D*\[)"


class _Bar(NamedTuple):
    """A progress bar that a job shows, and the texts beside it."""

    widget: Any
    beside: list[Any]

    def read(self) -> Progress | None:
        """Return its progress; None if it was taken away, or that makes no sense."""
        from ipy_bgtasks.job.progress import Progress

        if getattr(self.widget, "comm", None) is None:
            return None
        widget = self.widget
        words = [str(getattr(widget, "description", ""))]
        words += [str(getattr(each, "value", "")) for each in self.beside]
        text = " ".join(html.unescape(re.sub(_TAG, " ", " ".join(words)[:4000])).split())
        try:
            start, end, value = widget.min, widget.max, widget.value
            if getattr(widget, "bar_style", "") == "info" and (value, end) == (1, 1):
                # This is how tqdm draws an unknown total.
                counted = re.search(_COUNT, text)
                return Progress(int(counted[1]) if counted else 0, None, text)
            return Progress(
                value - start, end - start, " ".join(re.sub(_PERCENT, "", text).split())
            )
        except (TypeError, ValueError, AttributeError):
            return None


class WidgetBars:
    """The bars that the running jobs of one kernel show. Any thread may call."""

    def __init__(self) -> None:
        self._bars: dict[int, list[_Bar]] = {}
        #: The widgets with bars that a job has displayed, as its log holds them.
        self._displayed: dict[int, dict[str, tuple[Any, Mapping[str, Any]]]] = {}

    def watch(
        self, job: Record, data: Mapping[str, Any], changed: Callable[[Record], None]
    ) -> None:
        """Watch what a job displays: a progress bar gives the job's progress.

        *changed* is called, on the job's own thread, with each step of it.
        """
        text = data.get("text/plain")
        if isinstance(text, str) and ("━" in text or "╸" in text):
            self._read_text(job, text, changed)
        root = _widget(data.get(VIEW))
        if root is None or job.done():
            return
        found = list(_bars_in(root, [], _DEEP))
        if not found:
            return
        self._record_closed(job)
        shown = self._displayed.setdefault(job.number, {})
        shown[data[VIEW]["model_id"]] = root, data
        bars = self._bars.setdefault(job.number, [])
        bars += found
        del bars[:-_BARS]
        job.bars = lambda: _progress(bars)

        for bar in found:
            for widget in (bar.widget, *bar.beside):
                widget.observe(lambda _change: changed(job), "value")
        changed(job)

    def _read_text(self, job: Record, text: str, changed: Callable[[Record], None]) -> None:
        from ipy_bgtasks.job.progress import first_unfinished

        seen = first_unfinished(text[:_TEXT].splitlines())
        if seen is not None and job.number not in self._bars:
            job.bars = lambda: seen
            changed(job)

    def _record_closed(self, job: Record) -> None:
        """Take out of the log the bars that were taken away: `tqdm(…, leave=False)`."""
        shown = self._displayed.get(job.number, {})
        for model in [m for m, (root, _) in shown.items() if getattr(root, "comm", 0) is None]:
            del shown[model]
            job.log.display({}, update_of=model)

    def forget(self, job: Record) -> None:
        """Record how the bars of a job that has ended look now, and let go of them."""
        self._record_closed(job)
        for model, (root, data) in self._displayed.pop(job.number, {}).items():
            with suppress(Exception):  # it is somebody's class
                job.log.display({**data, "text/plain": repr(root)}, update_of=model)
        if (bars := self._bars.pop(job.number, None)) is not None:
            last = _progress(bars)
            job.bars = lambda: last


def _progress(bars: list[_Bar]) -> Progress | None:
    """Return the progress of the first unfinished bar: inner ones are parts of its step."""
    last = None
    for bar in bars:
        if (seen := bar.read()) is not None:
            if seen.fraction != 1:
                return seen
            last = seen
    return last


def _widget(view: Any) -> Any:
    ipywidgets = sys.modules.get("ipywidgets")
    if ipywidgets is None or not isinstance(view, dict):
        return None
    try:
        resolve = ipywidgets.widget_serialization["from_json"]
        found = resolve(f"IPY_MODEL_{view.get('model_id')}", None)
    except Exception:  # another kind of widget
        return None
    return None if isinstance(found, str) else found


def _bars_in(widget: Any, beside: list[Any], deep: int) -> Iterator[_Bar]:
    def model(widget: Any) -> str:
        return str(getattr(widget, "_model_name", ""))

    if model(widget).endswith("ProgressModel"):
        yield _Bar(widget, [each for each in beside if model(each) in ("HTMLModel", "LabelModel")])
    children = list(getattr(widget, "children", ()) or ()) if deep else []
    for child in children:
        yield from _bars_in(child, [each for each in children if each is not child], deep - 1)


@dataclass(slots=True)
class _Recorded:
    """How many displays of one widget a log holds, and which of them is replaced next.

    *thread* cleared it last. What another thread of the job prints meanwhile, beside a bar that is
    being drawn, also appears within the widget until that is cleared; the log keeps it.
    """

    count: int = 0
    next: int = 0
    thread: int = 0


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
