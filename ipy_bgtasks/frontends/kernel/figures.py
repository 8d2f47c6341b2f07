"""pyplot's open figures, kept apart for each job.

pyplot has one table of open figures, and the inline backend shows and closes all of them at the
end of every cell: a figure that a job is just drawing would appear, half done, under the cell
that ends next. With a table for each job, a figure belongs to the job that drew it. Nothing is
imported here before the user imports it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

_INLINE = "matplotlib_inline.backend_inline"
_TABLE = "matplotlib._pylab_helpers"


class Figures:
    """Keeps jobs' figures apart as soon as the inline backend is in use, and shows them."""

    def __init__(self) -> None:
        self._table: _Tables | None = None

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
        if self._table is None:
            holder = sys.modules[_TABLE].Gcf
            self._table = _Tables(holder.figs)
            changes.attribute(holder, "figs", self._table)
            changes.add(self._forget)

    def _forget(self) -> None:
        self._table = None

    def show_left_open(self, job: Record) -> None:
        """Show and close what *job* left open; called in the job's own context."""
        table = self._table
        if table is None or not table.has_any(job):
            return
        try:
            sys.modules[_INLINE].show(close=True)
        finally:
            table.forget(job)

    def give(self, job: Record) -> None:
        """Give the foreground's open figures to *job*: its cell goes on in the background."""
        if self._table is not None:
            self._table.give(job)


class _Tables(MutableMapping[Any, Any]):
    """The caller's table of open figures, in place of pyplot's only one."""

    def __init__(self, foreground: OrderedDict[Any, Any]) -> None:
        self._foreground = foreground
        self._of_jobs: dict[int, OrderedDict[Any, Any]] = {}

    def has_any(self, job: Record) -> bool:
        return bool(self._of_jobs.get(job.number))

    def forget(self, job: Record) -> None:
        self._of_jobs.pop(job.number, None)

    def give(self, job: Record) -> None:
        self._of_jobs[job.number], self._foreground = self._foreground, OrderedDict()

    def _own(self) -> OrderedDict[Any, Any]:
        job = caller()
        if job is None:
            return self._foreground
        if (table := self._of_jobs.get(job.number)) is None:
            # Code that runs on after its job has ended uses the foreground's.
            if job.done():
                return self._foreground
            table = self._of_jobs.setdefault(job.number, OrderedDict())
        return table

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
