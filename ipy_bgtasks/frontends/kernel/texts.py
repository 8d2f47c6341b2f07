"""Text of jobs for kernels whose streams have one parent for all that is written.

There a job's text would appear under the cell that runs at the moment it is sent. So it goes to
the kernel's stream only while that cell is the job's own; at all other times it is buffered here
and sent, as often as the kernel sends its own, under the cell of the job.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    #: Sends a text to a stream of the cell with that header.
    SendText = Callable[[Any, str, str], None]
    Later = Callable[[float, Callable[[], None]], object]
    Write = Callable[[str], Any]

#: Seconds between two sendings, as in ipykernel.
_INTERVAL = 0.2


class Texts:
    """Buffers and sends what jobs write to *streams*. Any thread may call.

    *later* calls a function after some seconds.
    """

    def __init__(self, streams: dict[str, Any], send: SendText, later: Later) -> None:
        self._streams = streams
        self._send = send
        self._later = later
        self._lock = threading.RLock()
        self._texts: list[tuple[Any, str, list[str]]] = []
        self._armed = False

    def install(self) -> Callable[[], None]:
        """Let each stream send what it holds before it changes to another cell; returns an undo."""
        undo = [
            Attribute(stream, "set_parent", self._flushing(stream))
            for stream in self._streams.values()
        ]

        def undo_all() -> None:
            self.flush()
            for attribute in undo:
                attribute.restore()

        return undo_all

    def writer(self, job: Record, name: str, write: Write) -> Write:
        """Return the job's stand-in for *write*, that of the stream *name*."""
        header, stream = job.origin, self._streams.get(name)

        def write_there(text: str) -> None:
            with self._lock:
                if not self._texts and stream is not None and _parent(stream) == _id(header):
                    write(text)
                else:
                    self._put(header, name, text)

        return write_there

    def flush(self) -> None:
        """Send everything now."""
        with self._lock:  # kept while sending: another thread's flush must not overtake
            texts, self._texts = self._texts, []
            self._armed = False
            for header, name, parts in texts:
                self._send(header, name, "".join(parts))

    def _put(self, header: Any, name: str, text: str) -> None:
        last = self._texts[-1] if self._texts else None
        if last is not None and last[0] is header and last[1] == name:
            last[2].append(text)
        else:
            self._texts.append((header, name, [text]))
        if not self._armed:
            self._armed = True
            self._later(_INTERVAL, self.flush)

    def _flushing(self, stream: Any) -> Callable[[Any], None]:
        set_parent = stream.set_parent

        def flush_and_set_parent(parent: Any) -> None:
            with self._lock:
                stream.flush()
                set_parent(parent)

        return flush_and_set_parent


def _parent(stream: Any) -> Any:
    return _id(stream.parent_header)


def _id(header: Any) -> Any:
    return header.get("msg_id") if header else None
