"""How long a thread may keep the interpreter to itself while others want it."""

from __future__ import annotations

import sys

#: Seconds for a turn where many threads take turns. Python's own is 5 ms: where 64 threads
#: compute, whoever else wants a turn waits for a third of a second, at each step.
SHORT = 0.0005


class Turns:
    """Shortens the turns and puts back what was there; its owner serializes the calls."""

    def __init__(self) -> None:
        self._before: float | None = None

    def short(self, yes: bool) -> None:
        """Take short turns from now on, or no longer."""
        if yes and self._before is None:
            now = sys.getswitchinterval()
            if now > SHORT:
                self._before = now
                sys.setswitchinterval(SHORT)
        elif not yes and self._before is not None:
            before, self._before = self._before, None
            if abs(sys.getswitchinterval() - SHORT) < SHORT / 2:  # nobody has changed it since
                sys.setswitchinterval(before)
