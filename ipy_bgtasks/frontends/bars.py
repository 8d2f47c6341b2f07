"""Progress bars of tqdm and rich in jobs: each job has its own, in its own place.

Both keep the bars of the whole process together, and have no public way to tell some callers from
others.

rich draws all live displays of a console by the first of them: the second job's bar would appear
under the first job's cell. So each job has its own state of the shared console.

tqdm gives each open bar a line of its own, one below the other: the second job's bar would write
empty lines and move the cursor up, in its own place, where nothing stands above it. So each job
sees only its own bars among the open ones, and begins with the first line.
"""

from __future__ import annotations

import threading
import weakref
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipy_bgtasks.patching import Installation

#: The attributes in which a `Console` keeps its live displays, by version, with initial values.
_STATE: dict[str, Callable[[], Any]] = {
    "_live_stack": list,  # from rich 14.1 on
    "_live": lambda: None,
    "_render_hooks": list,
}


def isolate_consoles(changes: Installation) -> None:
    """Keep the displays of jobs on rich's consoles apart, now or once rich is imported."""

    def isolate(module: Any) -> None:
        console = module.Console
        for name, initial in _STATE.items():
            if name not in vars(console) and name in console.__init__.__code__.co_names:
                changes.attribute(console, name, _OfJob(name, initial))

    changes.when_imported("rich.console", isolate)


class _OfJob:
    """An attribute with a value for each job; the foreground's stays where it was."""

    def __init__(self, name: str, begin: Callable[[], Any]) -> None:
        self._name = name
        self._begin = begin
        self._of_jobs: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, Any]] = (
            weakref.WeakKeyDictionary()
        )

    def __get__(self, console: Any, _: Any = None) -> Any:
        if console is None:
            return self
        values, key = self._values(console)
        if key not in values:
            values[key] = self._begin()
        return values[key]

    def __set__(self, console: Any, value: Any) -> None:
        values, key = self._values(console)
        values[key] = value

    def _values(self, console: Any) -> tuple[Any, Any]:
        job = current.get()
        if job is not None:
            # The foreground needs a value, too, when this ends.
            vars(console).setdefault(self._name, self._begin())
            return self._of_jobs.setdefault(job, weakref.WeakKeyDictionary()), console
        return vars(console), self._name


def isolate_bars(changes: Installation) -> None:
    """Keep the bars of jobs apart among those of tqdm, now or once tqdm is imported."""

    def isolate(module: Any) -> None:
        cls = module.tqdm
        bars = _OpenBars(cls._instances)
        draw = cls.refresh

        def refresh(bar: Any, *args: Any, **kwargs: Any) -> Any:
            # tqdm's monitor draws all bars, and is a thread of whichever job opened the first.
            if (place := bars.opened.get(bar)) is None or place.job is caller():
                return draw(bar, *args, **kwargs)
            return place.context.copy().run(draw, bar, *args, **kwargs)

        changes.attribute(cls, "_instances", bars)
        changes.attribute(cls, "refresh", refresh)

    changes.when_imported("tqdm.std", isolate)


class _Place:
    """Where a bar was opened."""

    def __init__(self) -> None:
        self.context: Context = copy_context()
        self._thread = threading.get_ident()

    @property
    def job(self) -> Any:
        """The record of its job; the cell around it may have become one since."""
        return self.context.get(current) or cells_away.get(self._thread)


class _OpenBars:
    """What tqdm has for the set of open bars: those of its caller, who holds its lock."""

    def __init__(self, opened_before: Any) -> None:
        self.opened: weakref.WeakKeyDictionary[Any, _Place] = weakref.WeakKeyDictionary()
        for bar in opened_before:
            self.add(bar)

    def add(self, bar: Any) -> None:
        self.opened[bar] = _Place()

    def remove(self, bar: Any) -> None:
        del self.opened[bar]

    def copy(self) -> set[Any]:
        """Return those of all, for the monitor."""
        return set(self.opened)

    def __iter__(self) -> Iterator[Any]:
        own = caller()
        return iter([bar for bar, place in list(self.opened.items()) if place.job is own])
