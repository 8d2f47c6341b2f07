"""Moments in which an interrupt has to wait: books must not be left half written.

Python raises ``KeyboardInterrupt`` between any two steps of the main thread. Between a job's
number and its start it would leave a job that never ends; in the middle of recording output it
would lose a line.
"""

from __future__ import annotations

import signal
import threading

# The public functions turn handlers into enums and back, at thirty times the cost.
from _signal import getsignal as _get  # type: ignore[import-not-found, unused-ignore]
from _signal import signal as _set  # type: ignore[import-not-found, unused-ignore]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_SIGINT = int(signal.SIGINT)


class Shielded:
    """``with Shielded():`` lets SIGINT wait until the end of the block. Any thread may use it.

    Only the main thread is ever interrupted; elsewhere it does nothing. For short moments in
    which nothing of the user's runs; a second interrupt is raised at once, should that fail.
    """

    __slots__ = ("_before", "_seen")

    def __enter__(self) -> None:
        self._before: Any = None
        self._seen = 0
        if threading.get_ident() == threading.main_thread().ident:
            self._before = _get(_SIGINT)
            if self._before is not None:  # else it is no Python function, and raises nothing
                _set(_SIGINT, self._sigint)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _set(_SIGINT, self._before)
            if self._seen:
                signal.raise_signal(signal.SIGINT)

    def _sigint(self, _: int, __: FrameType | None) -> None:
        self._seen += 1
        if self._seen > 1:
            raise KeyboardInterrupt
