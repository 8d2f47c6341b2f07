"""Holds back a thread's partial line until it is complete, or for a fraction of a second.

`print` writes a line in two pieces. Between the two another thread may write to the same cell,
as the foreground does right after it launched a job, and split it.

Text of jobs for kernels whose streams have one parent for all that is written.

There a job's text would appear under the cell that runs at the moment it is sent. So it goes to
the kernel's stream only while that cell is the job's own; at all other times it is buffered here
and sent, as often as the kernel sends its own, under the cell of the job.

Routing of displays: a job's go to the job, all others where they went before.
"""

from __future__ import annotations

import threading
import time
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.patching import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    Write = Callable[[str], Any]

    #: Sends a text to a stream of the cell with that header.
    SendText = Callable[[Any, str, str], None]
    Later = Callable[[float, Callable[[], None]], object]


#: Seconds after which a partial line is shown as it is. Kernels send text as often.
_PATIENCE = 0.2
#: Most characters of a partial line that are held.
_LONG = 4096


class _Held:
    __slots__ = ("context", "fresh", "job", "text", "write")

    def __init__(self, job: Record, text: str, write: Write, context: Context) -> None:
        self.job, self.text, self.write, self.context = job, text, write, context
        self.fresh = True


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
        self._wake: threading.Lock | None = None
        self._ticking = False
        self._patient = True

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        with self._lock:
            if self._wake is not None:
                return
            self._wake = threading.Lock()
            self._wake.acquire()
        thread = threading.Thread(target=self._run, args=(self._wake,), daemon=True)
        thread.name = "bg-lines"
        try:
            Context().run(thread.start)
        except RuntimeError:
            self._patient = False  # no threads here: nothing can be held back

    def write(self, job: Record, name: str, text: str, write: Write) -> None:
        """Write the complete lines of the calling thread's text, and hold the rest."""
        key = (job.number, name, threading.get_ident())
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
                if self._wake is None:
                    self.start()
                if not self._patient:
                    self._put(self._held.pop(key))
                elif not self._ticking and self._wake is not None:
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

    def _run(self, wake: threading.Lock) -> None:
        while True:
            wake.acquire()
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


class JobDisplays(Protocol):
    """A receiver of what jobs display."""

    def display(self, job: Record, data: Any, metadata: Any = None, **options: Any) -> None:
        """Take a MIME bundle that a job displayed, or updated."""

    def overhear_display(self, job: Record, data: Any, metadata: Any) -> None:
        """Record what a cell that was sent away displays; it is shown like that of any cell."""

    def clear(self, job: Record, wait: bool) -> None:
        """Clear the job's output, at its request."""


def route_displays(publisher: Any, displays: JobDisplays) -> Callable[[], None]:
    """Let *publisher*, the shell's own, pass to *displays* what jobs display.

    Returns what undoes it.
    """
    publish, clear_output = publisher.publish, publisher.clear_output

    def publish_routed(data: Any, metadata: Any = None, *args: Any, **kwargs: Any) -> None:
        job = current.get()
        if job is None:
            if cells_away and (away := caller()) is not None:
                displays.overhear_display(away, data, metadata)
            publish(data, metadata, *args, **kwargs)
        else:
            displays.display(job, data, metadata, **kwargs)

    def clear_routed(wait: bool = False) -> None:
        job = current.get()
        if job is None:
            clear_output(wait)
        else:
            displays.clear(job, wait)

    return _replace(publisher, publish=publish_routed, clear_output=clear_routed)


def _replace(publisher: Any, **functions: Callable[..., None]) -> Callable[[], None]:
    for name, function in functions.items():
        setattr(publisher, name, function)

    def undo() -> None:
        for name, function in functions.items():
            if vars(publisher).get(name) is function:
                delattr(publisher, name)

    return undo
