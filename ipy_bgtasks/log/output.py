"""A job's recorded output, which any thread may read, or write to at next to no cost.

Writing only queues. `Log.drain` does the rest, later and for many pieces at once: it records
them, folded and bounded, and hands the raw pieces to the subscribers. A `FileSink` gets the text
at once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import groupby, repeat, starmap
from time import time
from typing import Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.log.transcript import Entry, Recording, dropped_mark, next_group
from ipy_bgtasks.sigint import Shielded
from ipy_bgtasks.text import short_repr

_LAST_LINES = 4000  # characters searched for the last lines
_DRAIN_AT = 256 * 1024  # characters; with more than this queued the writer drains


@dataclass(frozen=True, slots=True)
class Piece:
    """Output as the job produced it, nothing folded, for those who follow it live.

    `kind` is ``"stdout"``, ``"stderr"``, ``"display"``, ``"update"`` (of the displays with
    `display_id`) or ``"clear"`` (with `wait`: when the next output comes).
    """

    kind: str
    time: float
    text: str = ""
    bundle: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: str | None = None
    wait: bool = False


class _Subscriber:
    """A subscriber, called in the context in which it subscribed."""

    __slots__ = ("alive", "call", "context")

    def __init__(self, call: Callable[[list[Piece]], None]) -> None:
        self.call = call
        self.context: Context = copy_context()
        self.alive = True


class Log:
    """A job's output: entries of stream, time and text or rich bundle, in order.

    `limit` bounds what is kept, in characters (a rich output counts with its whole bundle); the
    oldest is dropped first, and `text` begins with a mark that says how much. Carriage returns,
    backspaces and erasures are folded as a terminal would, each stream for itself, so that a
    progress bar is one line.

    Everything may be called from any thread.
    """

    def __init__(
        self, limit: int = 1_000_000, pending: Callable[[Log], None] | None = None
    ) -> None:
        if limit < 0:
            raise BadInput(f"a log is limited to 0 characters or more, not {limit}")
        self._recording = Recording(limit)
        self._queue: deque[tuple[str, float, str | Piece]] = deque()
        self._pending = 0  # characters in the queue, roughly: threads may lose an addition
        self._asked = False  # whether a drain was asked for since the last one
        self._pending_hook = pending
        self._sink: FileSink | None = None
        self._lock = threading.RLock()  # the recording, the batch, the subscribers
        self._batch: list[tuple[str, float, str | Piece]] = []
        self._storing = False
        self._subscribers: tuple[_Subscriber, ...] = ()
        self._outbox: deque[tuple[tuple[_Subscriber, ...], Piece]] = deque()
        self._delivering = threading.RLock()
        self._deliverer: int | None = None  # the thread that holds it

    def __repr__(self) -> str:
        return f"<Log of {self.size:,} characters that ends with {short_repr(self.last_line)}>"

    def __str__(self) -> str:
        return self.text

    def write(self, stream: str, text: str, at: float | None = None) -> None:
        """Record what was written to ``"stdout"`` or ``"stderr"``, now or then. Takes no lock."""
        if type(text) is not str:
            text = str.__str__(text)  # a subclass may override `len`
        self._queue.append((stream, time() if at is None else at, text))
        if self._sink is not None:
            self._sink.write(text)
        self._pending += len(text)
        if self._pending > _DRAIN_AT:
            self.drain()
        elif not self._asked:
            self._ask()

    def missing(self, characters: int) -> None:
        """Record that *characters* were lost before they reached this log."""
        with self._stored() as recording:
            recording.dropped += characters

    def display(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update_of: str | None = None,
    ) -> None:
        """Record a rich output, a MIME bundle.

        With `update_of` it replaces the outputs that were recorded under that display id; if there
        are none left, it is recorded as a new one.
        """
        bundle = dict(data)
        kind, known_as = ("display", display_id) if update_of is None else ("update", update_of)
        text = bundle.get("text/plain", "")
        text = text if isinstance(text, str) else ""
        self._add(Piece(kind, time(), text, bundle, dict(metadata or {}), known_as))
        if self._sink is not None and text:
            self._sink.write(text + "\n")

    def empty(self) -> None:
        """Discard what is recorded, as if the limit had been reached: a mark says how much."""
        with self._stored() as recording:
            gone = recording.dropped + recording.size
            recording.clear(wait=False)
            recording.dropped = gone

    def publish(self, data: Mapping[str, Any], metadata: Any, transient: Any, update: bool) -> None:
        """Record a rich output as IPython's publisher is given it."""
        known = (transient or {}).get("display_id")
        if update:
            self.display(data, metadata, update_of=known)
        else:
            self.display(data, metadata, display_id=known)

    def clear(self, *, wait: bool = False) -> None:
        """Discard what is recorded; with `wait`, when the next output comes."""
        self._add(Piece("clear", time(), wait=wait))

    def drain(self) -> None:
        """Record what was written so far and hand it to the subscribers.

        When it returns, all that was written before has been handed over; if a subscriber
        calls it, that happens when the subscriber returns.
        """
        self._asked = False
        self._store()
        self._deliver()

    def subscribe(self, call: Callable[[list[Piece]], None]) -> Callable[[], None]:
        """Have `call` get each new piece, raw and in order; return what ends that.

        `call` runs in the subscriber's context, in whichever thread drains. That may be the
        writing one, so it must not wait for another thread. One that raises is dropped. Ending the
        subscription first hands over what was written before.
        """
        return self.follow(call, 0)[1]

    def follow(
        self, call: Callable[[list[Piece]], None], chars: int
    ) -> tuple[list[Entry], Callable[[], None]]:
        """Return the log's tail and subscribe, with nothing lost or repeated in between.

        Where the last line is to be overwritten next, a last entry moves the cursor there.
        """
        subscriber = _Subscriber(call)
        with self._lock:
            self._store()
            entries = self._recording.tail(chars)
            if entries and (resume := self._recording.resume()):
                entries.append(resume)
            self._subscribers += (subscriber,)

        def unsubscribe() -> None:
            if subscriber.alive:
                self.drain()
            self._drop(subscriber)

        return entries, unsubscribe

    def attach_file(self, sink: FileSink) -> None:
        """Have everything written from now on go to `sink` as well, at once."""
        self._sink = sink

    def on_pending(self, hook: Callable[[Log], None] | None) -> None:
        """Have `hook` called, by the writing thread, when there is something to drain again."""
        self._pending_hook = hook
        self._asked = False  # any earlier request went to another hook
        if self._queue or self._outbox:
            self._ask()

    @property
    def file_error(self) -> str:
        """What keeps the log file from taking more; empty if nothing does."""
        return "" if self._sink is None else self._sink.problem()

    @property
    def text(self) -> str:
        """The recorded text, with displays as plain text; a mark in front says what was dropped."""
        with self._stored() as recording:
            mark = dropped_mark(recording.dropped) if recording.dropped else ""
            return mark + recording.text()

    @property
    def stdout(self) -> str:
        """The recorded standard output."""
        with self._stored() as recording:
            return recording.text("stdout")

    @property
    def stderr(self) -> str:
        """The recorded standard error."""
        with self._stored() as recording:
            return recording.text("stderr")

    @property
    def last_line(self) -> str:
        """The last line that is not blank, without colours; empty if there is none."""
        with self._stored() as recording:
            return recording.last_line()

    def last_lines(self) -> list[str]:
        """Return the last lines that belong together: those of the last entry."""
        with self._stored() as recording:
            return recording.last_text()[-_LAST_LINES:].rstrip().splitlines()

    @property
    def dropped(self) -> int:
        """The number of characters that are no longer kept."""
        with self._stored() as recording:
            return recording.dropped

    @property
    def size(self) -> int:
        """The number of characters kept, rich outputs counted with their bundles."""
        with self._stored() as recording:
            return recording.size

    def unfinished(self, stream: str) -> str:
        """Return a stream's partial line: a progress bar, as a rule."""
        with self._stored() as recording:
            return recording.unfinished(stream)

    def tail(self, chars: int) -> list[Entry]:
        """Return the last entries, up to `chars` characters, the oldest of them cut to fit."""
        with self._stored() as recording:
            return recording.tail(chars)

    def __iter__(self) -> Iterator[Entry]:
        with self._stored() as recording:
            return iter(recording.entries())

    def __len__(self) -> int:
        with self._stored() as recording:
            return recording.count()

    def __bool__(self) -> bool:
        return True  # an empty log is a log

    def _add(self, piece: Piece) -> None:
        self._queue.append((piece.kind, piece.time, piece))
        self._pending += 1024 + len(piece.text)
        if self._pending > _DRAIN_AT:
            self.drain()
        elif not self._asked:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        if self._pending_hook is not None:
            with contextlib.suppress(Exception):  # a failing display must not fail the job
                self._pending_hook(self)

    @contextlib.contextmanager
    def _stored(self) -> Iterator[Recording]:
        # A reader records but does not deliver: it must not run subscribers.
        with self._lock:
            self._store()
            yield self._recording

    def _store(self) -> None:
        with Shielded(), self._lock:
            if self._storing:  # a signal handler or a finalizer wrote in the middle of it
                return
            self._storing = True
            done = 0
            try:
                self._pending = 0
                # In C from end to end, so that an exception sent to this thread, which may be
                # a job that is being cancelled, cannot come between taking and keeping.
                taken = repeat((), len(self._queue))
                self._batch.extend(starmap(self._queue.popleft, taken))
                while done < len(self._batch):
                    done = self._record(done)
            finally:
                del self._batch[:done]
                self._storing = False

    def _record(self, start: int) -> int:
        """Record the piece at `start` of the batch, and what goes with it; return what is next."""
        kind, began, piece = self._batch[start]
        end = start + 1
        if isinstance(piece, str):
            end, text = next_group(self._batch, start)
            self._recording.write(kind, began, text)
            if self._subscribers:
                piece = Piece(kind, began, text)
        elif kind == "clear":
            self._recording.clear(piece.wait)
        else:
            self._recording.display(
                began, piece.bundle or {}, piece.metadata, piece.display_id, kind == "update"
            )
        if isinstance(piece, Piece) and self._subscribers:
            self._outbox.append((self._subscribers, piece))
        return end

    def _deliver(self) -> None:
        nothing_to_do = not self._outbox and self._deliverer is None
        if nothing_to_do or self._deliverer == threading.get_ident():
            return
        # Never under the lock of the recording: a subscriber may take locks of its own. And by
        # `with`: an exception sent to this thread must not come between taking and releasing.
        with self._delivering:
            try:
                self._deliverer = threading.get_ident()
                self._deliver_all()
            finally:
                self._deliverer = None

    def _deliver_all(self) -> None:
        while self._outbox:
            batch: list[tuple[tuple[_Subscriber, ...], Piece]] = []
            batch.extend(starmap(self._outbox.popleft, repeat((), len(self._outbox))))
            for subscribers, addressed in groupby(batch, key=lambda item: item[0]):
                pieces = joined([piece for _, piece in addressed])
                for subscriber in subscribers:
                    if subscriber.alive:
                        self._call(subscriber, list(pieces))

    def _call(self, subscriber: _Subscriber, pieces: list[Piece]) -> None:
        try:
            subscriber.context.run(subscriber.call, pieces)
        except Exception:
            self._drop(subscriber)

    def _drop(self, subscriber: _Subscriber) -> None:
        subscriber.alive = False
        with self._lock:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)


def joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours that are text of the same stream."""
    out: list[Piece] = []
    for kind, run in groupby(pieces, key=lambda piece: piece.kind):
        same = list(run)
        if kind in ("stdout", "stderr") and len(same) > 1:
            same = [Piece(kind, same[0].time, "".join([piece.text for piece in same]))]
        out += same
    return out


class FileSink:
    """A file to which output is appended as it comes; it survives a SIGKILL of this process.

    Raises `BadInput` if the file cannot be opened. A later failure, such as a full disk, never
    reaches the job: it is kept in `error`, and nothing more is written. Any thread may write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.expanduser(os.fspath(path))
        self.error: OSError | None = None
        #: Called at once, in the thread that writes, when there is one.
        self.on_error: Callable[[], object] = lambda: None
        self._lock = threading.RLock()  # a signal handler may write in the middle of a write
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open while the job runs)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise BadInput(f"cannot write to the log file {self.path!r}: {reason}") from None

    def write(self, text: str) -> None:
        """Append `text` and return when the system has it."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with self._lock:
            try:
                while data and self.error is None and not self._file.closed:
                    data = data[self._file.write(data) :]
                return
            except OSError as exc:
                self.error = exc
        self.on_error()

    def problem(self) -> str:
        """Return why no more is written; empty if nothing went wrong."""
        if self.error is None:
            return ""
        reason = self.error.strerror or self.error
        return f"nothing more is written to the log file {self.path!r}: {reason}"

    def close(self) -> None:
        """Close the file; what is written afterwards is left out."""
        with self._lock, contextlib.suppress(OSError):
            self._file.close()
