"""Attributes of others, replaced for a while."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING = object()


class Attribute:
    """An attribute of *owner*, replaced by *value* until `restore`."""

    def __init__(self, owner: Any, name: str, value: object) -> None:
        self._owner = owner
        self._name = name
        self._value = value
        self._before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

    def restore(self) -> None:
        """Put back what was there, unless somebody has replaced ours since."""
        if vars(self._owner).get(self._name) is not self._value:
            return
        if self._before is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


def ways_to_threads(start: Callable[..., Any], submit: Callable[..., Any]) -> Callable[[], None]:
    """Replace the two ways to a thread, `Thread.start` and `ThreadPoolExecutor.submit`.

    Returns what puts back those of them that nobody has replaced since.
    """
    started = Attribute(threading.Thread, "start", start)
    submitted = Attribute(ThreadPoolExecutor, "submit", submit)

    def put_back() -> None:
        started.restore()
        submitted.restore()

    return put_back
