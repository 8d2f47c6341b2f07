"""What jobs display: by `display`, as figures they leave open, and as the value of a job.

`route_displays` sends what jobs display to them, and all else where it went before.

pyplot has one table of open figures, and the inline backend shows and closes all of them at the
end of every cell: a figure that a job is just drawing would appear, half done, under the cell
that ends next. With a table for each job, a figure belongs to the job that drew it: `Figures`.
Nothing is imported for it before the user imports it.

The value of a job is shown below its card as a cell would show it. Its display is made by the
user's objects: it may raise, print, block or be enormous. So it is made in a thread of its own, in
the job's context, when the job has ended: only the display can be lost. Plain text that the card
shows already is not repeated.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away, current

if TYPE_CHECKING:
    from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

_INLINE = "matplotlib_inline.backend_inline"
_TABLE = "matplotlib._pylab_helpers"
_PATIENCE = 5.0  # seconds for the display of a value
_IN_CARD = 100  # characters of a plain value that the card shows


def route_displays(changes: Installation, publisher: Any, front_end: KernelFrontEnd) -> None:
    """Let *publisher*, the shell's own, pass to *front_end* what jobs display."""

    def publish(original: Any, data: Any, metadata: Any = None, *args: Any, **kwargs: Any) -> None:
        if (job := current.get()) is not None:
            front_end.display(job, data, metadata, **kwargs)
            return
        if cells_away and (cell := caller()) is not None:
            # It is shown like that of any cell.
            cell.log.display(data, metadata)
        original(data, metadata, *args, **kwargs)

    def clear_output(original: Any, wait: bool = False) -> None:
        if (job := current.get()) is not None:
            front_end.clear(job, wait)
        else:
            original(wait)

    changes.wrap(publisher, "publish", publish)
    changes.wrap(publisher, "clear_output", clear_output)


class Figures(MutableMapping[Any, Any]):
    """The caller's table of open figures, in place of pyplot's only one.

    It takes that place as soon as the inline backend is in use.
    """

    def __init__(self) -> None:
        self._foreground: OrderedDict[Any, Any] | None = None  # while it is in that place
        self._of_jobs: dict[int, OrderedDict[Any, Any]] = {}

    def install(self, changes: Installation, events: Any) -> None:
        """Keep figures apart from now on; *events* are the shell's."""

        def register(original: Any, event: str, function: Callable[..., Any]) -> None:
            original(event, function)
            if getattr(function, "__module__", "") == _INLINE:
                self._split(changes)

        changes.wrap(events, "register", register)
        if any(getattr(f, "__module__", "") == _INLINE for f in events.callbacks["post_execute"]):
            self._split(changes)

    def _split(self, changes: Installation) -> None:
        if self._foreground is None:
            holder = sys.modules[_TABLE].Gcf
            self._foreground = holder.figs
            changes.attribute(holder, "figs", self)
            changes.add(self._forget)

    def _forget(self) -> None:
        self._foreground = None

    def show_left_open(self, job: Record) -> None:
        """Show and close what *job* left open; called in the job's own context."""
        if self._of_jobs.get(job.number):
            try:
                sys.modules[_INLINE].show(close=True)
            finally:
                self._of_jobs.pop(job.number, None)

    def give(self, job: Record) -> None:
        """Give the foreground's open figures to *job*: its cell goes on in the background."""
        if self._foreground is not None:
            self._of_jobs[job.number], self._foreground = self._foreground, OrderedDict()

    def _own(self) -> OrderedDict[Any, Any]:
        job = caller()
        # Code that runs on after its job has ended uses the foreground's.
        if job is not None and (job.number in self._of_jobs or not job.done()):
            return self._of_jobs.setdefault(job.number, OrderedDict())
        return OrderedDict() if self._foreground is None else self._foreground

    def __getitem__(self, key: Any) -> Any:
        return self._own()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._own()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._own()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own())

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(self._own())

    def __len__(self) -> int:
        return len(self._own())

    def values(self) -> Any:  # that of a MutableMapping cannot be reversed
        return self._own().values()

    def move_to_end(self, key: Any, last: bool = True) -> None:
        self._own().move_to_end(key, last)


# Values


def show_value(job: Record, front_end: KernelFrontEnd, later: Callable[..., object]) -> None:
    """Show the value with which a job has finished; returns immediately. Any thread may call."""
    value = None if job.outcome is None else job.outcome.value
    if value is None or _fits_in_card(value):
        return
    from ipy_bgtasks.views.describe import summary
    from ipy_bgtasks.views.value import keep_kind, run_as

    keep_kind(job)
    limit = front_end.settings.log_limit  # characters of a display
    undecided = [True]  # the one that pops it decides

    def say(text: str) -> None:
        front_end.show_value(job, {"text/plain": f"{text}: %fg {job.number} returns the value"}, {})

    def make() -> None:
        data, metadata = _bundle_of(front_end.shell, value)
        size = sum(len(part) for part in data.values() if isinstance(part, str | bytes))
        if not undecided or not undecided.pop():
            return
        if size > limit:
            say(f"its display of {size:,} characters is longer than BgTasks.log_limit")
        elif data and data != {"text/plain": summary(job, _IN_CARD)}:
            front_end.show_value(job, data, metadata)

    def give_up() -> None:
        if undecided and undecided.pop():
            say(f"its display takes longer than {_PATIENCE:g} s")

    if run_as(job, make, f"bg-value-{job.number}") is not None:
        later(_PATIENCE, give_up)


def _fits_in_card(value: Any) -> bool:
    from ipy_bgtasks.views.value import is_plain

    if not is_plain(value) or (hasattr(value, "__len__") and len(value) > _IN_CARD):
        return False
    return len(repr(value)) <= _IN_CARD


def _bundle_of(shell: Any, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a cell would show of a value: data and metadata by MIME type.

    A formatter that raises is skipped silently: IPython would print a traceback, under an
    unrelated cell.
    """
    formatter = shell.display_formatter
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if _made_by(formatter.ipython_display_formatter, value):
        return data, metadata  # it has displayed itself
    whole = _made_by(formatter.mimebundle_formatter, value)
    if isinstance(whole, tuple) and len(whole) == 2:
        metadata.update(whole[1] or {})
        whole = whole[0]
    if isinstance(whole, dict):
        data.update(whole)
    for kind, one in formatter.formatters.items():
        if kind in data:
            continue
        made = _made_by(one, value)
        if isinstance(made, tuple) and len(made) == 2:
            made, metadata[kind] = made
        if made is not None:
            data[kind] = made
    return data, metadata


def _made_by(formatter: Any, value: Any) -> Any:
    """Return what a formatter makes of a value, without IPython's wrapper that shows its errors."""
    call = type(formatter).__call__
    try:
        return getattr(call, "__wrapped__", call)(formatter, value)
    except BaseException:
        return None
