"""Text of jobs for kernels whose streams know one parent for all that is written.

There a job's text would appear under the cell that runs at the moment it is sent. So it does not
go to the kernel's stream: here it is gathered and sent, as often as the kernel sends its own,
under the cell of the job.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    #: Sends a text to a stream of the cell with that header.
    SendText = Callable[[Any, str, str], None]

#: Seconds between two sendings, as in ipykernel.
_INTERVAL = 0.2


class Texts:
    """Gathers and sends what jobs write. Any thread may call.

    *later* calls a function after some seconds.
    """

    def __init__(
        self, send: SendText, later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._send = send
        self._later = later
        self._lock = threading.RLock()
        self._texts: list[tuple[Any, str, list[str]]] = []
        self._armed = False

    def writer(self, job: Record, name: str) -> Callable[[str], int]:
        """Return what stands in for the `write` of the stream *name*, for that job."""
        header = job.origin

        def write(text: str) -> int:
            self._put(header, name, text)
            return len(text)

        return write

    def flush(self) -> None:
        """Send everything now."""
        with self._lock:  # kept while sending: another thread's flush must not overtake
            texts, self._texts = self._texts, []
            self._armed = False
            for header, name, parts in texts:
                self._send(header, name, "".join(parts))

    def _put(self, header: Any, name: str, text: str) -> None:
        with self._lock:
            last = self._texts[-1] if self._texts else None
            if last is not None and last[0] is header and last[1] == name:
                last[2].append(text)
            else:
                self._texts.append((header, name, [text]))
            if self._armed:
                return
            self._armed = True
        self._later(_INTERVAL, self.flush)
