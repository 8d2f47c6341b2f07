"""rich's consoles in jobs: each job has its own live displays on the shared console.

`rich.progress` and `rich.print` use one console for the whole process, unless told otherwise. It
keeps its live displays in one list, and the first of them draws them all: the second job's bar
would be drawn by the first job, under that job's cell. rich has no public way to choose another
console for some of its callers.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.patching import Installation

#: The attributes in which a `Console` keeps its live displays, by version, with initial values.
_STATE: dict[str, Callable[[], Any]] = {
    "_live_stack": list,  # from rich 14.1 on
    "_live": lambda: None,
    "_render_hooks": list,
}


def isolate_consoles(changes: Installation) -> None:
    """Keep jobs' displays apart, now or once rich is imported."""

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
