"""When a job was launched, began and ended."""

from __future__ import annotations

import time

#: Added to a monotonic time, gives seconds since the epoch: elapsed times survive clock changes.
EPOCH = time.time() - time.monotonic()


class Times:
    """The times of one job, which `Record` notes. Any thread may read them."""

    __slots__ = ("_began", "_ended", "launched")

    #: When it was launched, in seconds since the epoch.
    launched: float
    _began: float | None
    _ended: float | None

    @property
    def started(self) -> float | None:
        """When it, or its latest attempt, started, in seconds since the epoch; None if not yet."""
        return None if self._began is None else self._began + EPOCH

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None if it has not."""
        return None if self._ended is None else self._ended + EPOCH

    @property
    def elapsed(self) -> float:
        """Seconds for which it, or its latest attempt, has run, or ran; 0.0 if it never started."""
        if self._began is None:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._began
