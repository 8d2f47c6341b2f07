"""What jobs write and display in a kernel, on its way to the cell that launched them.

`WholeLines` holds back a thread's partial line until it is complete, or for a fraction of a
second: `print` writes a line in two pieces, and between the two another thread may write to the
same cell, as the foreground does right after it launched a job, and split it.

`Texts` buffers text for other cells, and sends it as often as the kernel sends its own. It is for
what `%fg` shows of jobs, as many as there may be: servers drop what a kernel sends beyond 1,000
messages a second, and whatever else it sends then. And for kernels whose streams have one parent
for all that is written (ipykernel before 6.29), where a job's text would appear under the cell that
runs at the moment it is sent: it goes to the stream only while that cell is the job's own.
"""

from __future__ import annotations

import threading
import time
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.service import Soon, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

    Write = Callable[[str], Any]

    #: Sends a text to a stream of the cell with that header.
    SendText = Callable[[Any, str, str], None]
    Later = Callable[[float, Callable[[], None]], object]


def key_of(header: Any) -> str | None:
    """Return what stands for the place of a request, given its header."""
    return header.get("msg_id") if isinstance(header, dict) else None


#: Seconds after which a partial line is shown as it is. Kernels send text as often.
_PATIENCE = 0.2
#: Most characters of a partial line that are held.
_LONG = 4096


@dataclass(slots=True)
class _Held:
    job: Record
    text: str
    write: Write
    context: Context
    fresh: bool = True


class WholeLines:
    """Writes a job's text line by line; any thread may call.

    *prepare* binds the calling context to a job's place. What is held too long is shown by a
    thread of our own: waking it is the release of a lock, so that a job which has just started
    keeps the interpreter until its first line is written.
    """

    def __init__(self, prepare: Callable[[Record], object]) -> None:
        self._prepare = prepare
        self._lock = threading.RLock()
        self._held: dict[tuple[int, str, int], _Held] = {}
        self._wake = threading.Lock()
        self._wake.acquire()
        self._started = self._ticking = False
        self._patient = True

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        with self._lock:
            if self._started:
                return
            self._started = True
        try:
            in_thread("bg-lines", self._run)
        except RuntimeError:
            self._patient = False  # no threads here: nothing can be held back

    def write(self, job: Record, name: str, text: str, write: Write) -> None:
        """Write the complete lines of the calling thread's text, and hold the rest."""
        key = (job.number, name, threading.get_ident())
        if not self._started:
            self.start()
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                if "\n" not in text and len(held.text) < _LONG:
                    held.text += text
                    return
                del self._held[key]
                text = held.text + text
            if text.endswith("\n") or len(text) > _LONG or not self._patient:
                write(text)
                return
            lines, newline, rest = text.rpartition("\n")
            if newline:
                write(lines + newline)
            if rest:
                self._held[key] = _Held(job, rest, write, copy_context())
                if not self._ticking:
                    self._ticking = True
                    self._wake.release()

    def release(self, job: Record) -> None:
        """Write everything that is held of a job."""
        if not self._held:
            return
        with self._lock:
            for key in [key for key in self._held if key[0] == job.number]:
                self._put(self._held.pop(key))

    def release_all(self) -> None:
        """Write everything that is held."""
        with self._lock:
            while self._held:
                self._put(self._held.popitem()[1])

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            time.sleep(_PATIENCE / 2)  # most lines are complete by then: few wake-ups for all jobs
            while self._tick():
                time.sleep(_PATIENCE / 2)

    def _tick(self) -> bool:
        """Show what was held for a whole tick; return whether there may be more."""
        with self._lock:
            for key, held in list(self._held.items()):
                if held.fresh:
                    held.fresh = False
                else:
                    self._put(self._held.pop(key))
            self._ticking = bool(self._held)
            return self._ticking

    def _put(self, held: _Held) -> None:
        held.context.run(self._prepare, held.job)
        held.context.run(held.write, held.text)


#: Seconds between two sendings, as in ipykernel.
_INTERVAL = 0.2
#: With more texts than this to be sent at once, those of one stream of a cell are joined.
_MANY = 20


class Texts:
    """Buffers and sends what jobs write to *streams*. Any thread may call.

    *later* calls a function after some seconds. *request_here* returns the request that the calling
    thread serves, if that is not the streams'.
    """

    def __init__(
        self,
        streams: dict[str, Any],
        send: SendText,
        later: Later,
        request_here: Callable[[], Any] = lambda: None,
    ) -> None:
        self._streams = streams
        self._send = send
        self._soon = Soon(later, self.flush)
        self._request_here = request_here
        self._lock = threading.RLock()
        self._texts: list[tuple[Any, str, list[str]]] = []
        #: What stands for the last text of each stream, and for the last that was surely sent: a
        #: flush waits for another thread, so there is one only if they differ.
        self._latest: dict[str, object] = {name: object() for name in streams}
        self._flushed: dict[str, object] = {}
        self._sent = 0.0  # when something was, on the monotonic clock

    def install(self, changes: Installation) -> None:
        """Let each stream send what it holds before it changes to another cell."""
        for name, stream in self._streams.items():

            def set_parent(
                original: Any, parent: Any, stream: Any = stream, name: str = name
            ) -> None:
                if self._request_here() is None:
                    with self._lock:
                        if self._latest[name] is not self._flushed.get(name):
                            stream.flush()
                        original(parent)

            def flush(original: Any, name: str = name) -> None:
                if self._request_here() is not None:
                    self.flush()
                latest = self._latest[name]
                original()
                self._flushed[name] = latest

            changes.wrap(stream, "set_parent", set_parent)
            changes.wrap(stream, "flush", flush)
        changes.add(self.flush)

    def foreground(self, name: str, write: Write) -> Write:
        """Return the stand-in of cells for *write*, that of the stream *name*."""

        def write_here(text: str) -> Any:
            if (request := self._request_here()) is None:
                try:
                    return write(text)
                finally:  # and not before: a flush could come between
                    self._latest[name] = object()
            self.put(request["header"], name, text)
            return len(text)

        return write_here

    def writer(self, job: Record, name: str, write: Write) -> Write:
        """Return the job's stand-in for *write*, that of the stream *name*."""
        header, stream = job.origin, self._streams.get(name)

        def write_there(text: str) -> None:
            with self._lock:
                mine = stream is not None and key_of(stream.parent_header) == key_of(header)
                if mine and not self._texts:
                    write(text)
                    self._latest[name] = object()
                else:
                    self.put(header, name, text)

        return write_there

    def flush(self) -> None:
        """Send everything now."""
        with self._lock:  # kept while sending: another thread's flush must not overtake
            texts, self._texts = self._texts, []
            self._sent = time.monotonic()
            if len(texts) > _MANY:
                joined: dict[Any, tuple[Any, str, list[str]]] = {}
                for header, name, parts in texts:
                    joined.setdefault((key_of(header), name), (header, name, []))[2].extend(parts)
                texts = list(joined.values())
            for header, name, parts in texts:
                self._send(header, name, "".join(parts))

    def flush_if_due(self) -> None:
        """Send everything now, unless something was sent a moment ago."""
        if time.monotonic() - self._sent > _INTERVAL:
            self.flush()

    def put(self, header: Any, name: str, text: str) -> None:
        """Send text to a stream of the cell with that header, soon."""
        with self._lock:
            last = self._texts[-1] if self._texts else None
            if last is not None and last[0] is header and last[1] == name:
                last[2].append(text)
            else:
                self._texts.append((header, name, [text]))
            self._soon.within(_INTERVAL)
