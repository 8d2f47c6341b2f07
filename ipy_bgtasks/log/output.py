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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from itertools import groupby, repeat, starmap
from time import time
from typing import Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.log.fold import Fold
from ipy_bgtasks.sigint import Shielded
from ipy_bgtasks.text import short_repr, strip_ansi

_LAST_LINES = 4000  # characters searched for the last lines
_TOGETHER = 0.01  # seconds within which what is written is one entry: print writes text and "\n"
_ENTRY = 1024  # characters at which an entry is full
_GLANCE = 128  # pieces that are looked at together, at most
_PART = 65_536  # a single long write is folded and trimmed in parts of this many characters
_DRAIN_AT = 256 * 1024  # characters; with more than this queued the writer drains


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded piece of output.

    `stream` is ``"stdout"``, ``"stderr"`` or ``"display"``; `time` is when its first character
    was written, as `time.time` gives it. A display has its MIME bundle in `bundle` and its plain
    text in `text`.
    """

    stream: str
    time: float
    text: str
    bundle: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


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
        self._recording = _Recording(limit)
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
        text = _plain(bundle)
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

    def follow(
        self, call: Callable[[list[Piece]], None], chars: int = 0
    ) -> tuple[list[Entry], Callable[[], None]]:
        """Have `call` get each new piece, raw and in order; return the tail, and what ends that.

        Nothing is lost or repeated between the tail, of `chars` characters, and the first piece;
        where the last line is to be overwritten next, a last entry moves the cursor there.

        `call` runs in the subscriber's context, in whichever thread drains. That may be the
        writing one, so it must not wait for another thread. One that raises is dropped. Ending the
        subscription first hands over what was written before.
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
            texts = (kept.text for kept in reversed(recording.retained) if kept.text.strip())
            return next(texts, "")[-_LAST_LINES:].rstrip().splitlines()

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
            return recording.folds[stream].line if stream in recording.folds else ""

    def tail(self, chars: int) -> list[Entry]:
        """Return the last entries, up to `chars` characters, the oldest of them cut to fit."""
        with self._stored() as recording:
            return recording.tail(chars)

    def __iter__(self) -> Iterator[Entry]:
        with self._stored() as recording:
            return iter([kept.entry() for kept in recording.retained])

    def __len__(self) -> int:
        with self._stored() as recording:
            return len(recording.retained)

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
    def _stored(self) -> Iterator[_Recording]:
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
            self._recording.display(piece)
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


@dataclass(slots=True, eq=False)
class _OpenEntry:
    """An entry that may still change; a display weighs more than its text."""

    stream: str
    time: float
    text: str
    size: int
    bundle: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: str | None = None

    def entry(self) -> Entry:
        return Entry(self.stream, self.time, self.text, self.bundle, self.metadata)


class _Recording:
    """Entries up to `limit` characters; what exceeds it is dropped, the oldest first.

    Not thread-safe: the log holds its lock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # characters kept; a display counts with its whole bundle
        self.dropped = 0  # characters dropped so far
        self.retained: deque[_OpenEntry] = deque()
        self.folds: dict[str, Fold] = {}
        self._clear_before_next = False
        # Small if the limit is, so that trimming whole entries does not overshoot by much.
        self._entry = max(1, min(_ENTRY, limit // 8))
        # An entry costs some 200 bytes whatever its text: many tiny ones are bounded as well.
        self._most = max(1000, limit // 40)

    def write(self, stream: str, time: float, text: str) -> None:
        """Record text of a stream."""
        if self._clear_before_next:
            self.clear(wait=False)
        if (fold := self.folds.get(stream)) is None:
            fold = self.folds[stream] = Fold(partial(self._last_of, stream))
        for start in range(0, len(text), _PART):
            part = text if len(text) <= _PART else text[start : start + _PART]
            back, part = fold.feed(part)
            if back:
                time = self._take_back(stream, back) or time
            if part:
                self._append(stream, time, part)

    def display(self, piece: Piece) -> None:
        """Record a rich output, or replace those that have its `display_id`."""
        if self._clear_before_next:
            self.clear(wait=False)
        known, update = piece.display_id, piece.kind == "update"
        same = [k for k in self.retained if k.display_id == known] if update else []
        if not same:
            same = [_OpenEntry("display", piece.time, "", 0)]
            self.retained.append(same[0])
        text, bundle = piece.text, piece.bundle or {}
        size = _weight(bundle, self.limit)
        if size > self.limit and len(text) < self.limit // 2:
            # It would push out everything, and then itself: keep its plain text only.
            self.dropped += size - len(text)
            bundle, size = {"text/plain": text}, len(text)
        for kept in same:
            self.size += size - kept.size
            kept.size, kept.text, kept.display_id = size, text, known
            kept.bundle, kept.metadata = dict(bundle), dict(piece.metadata or {})
        self._trim()

    def clear(self, wait: bool) -> None:
        """Discard everything, now or when the next output comes."""
        self._clear_before_next = wait
        if not wait:
            self.retained.clear()
            self.folds.clear()
            self.size = self.dropped = 0

    def text(self, stream: str | None = None) -> str:
        """Return the text of one stream, or of everything."""
        return "".join(_as_text(k) for k in self.retained if stream is None or k.stream == stream)

    def tail(self, chars: int) -> list[Entry]:
        """Return the last entries, the first of them cut so that they have `chars` characters."""
        last: list[Entry] = []
        for kept in reversed(self.retained):
            if kept.size > chars:
                if kept.bundle is None and chars > 0:
                    text = _from_line_start(kept.text[-chars:])
                    last.append(Entry(kept.stream, kept.time, text))
                break
            chars -= kept.size
            last.append(kept.entry())
        return last[::-1]

    def last_line(self) -> str:
        """Return the last line that is not blank, of the stream that was last written to."""
        seen: set[str] = set()
        for kept in reversed(self.retained):
            if kept.stream not in seen and not kept.text.isspace():
                seen.add(kept.stream)
                if line := self._last_line_of(kept.stream):
                    return line
        return ""

    def resume(self) -> Entry | None:
        """Return what moves the cursor to where the next text of the last stream goes."""
        last = self.retained[-1] if self.retained else None
        fold = self.folds.get(last.stream) if last else None
        text = fold.resume() if fold else ""
        return Entry(last.stream, last.time, text) if last and text else None

    def _last_line_of(self, stream: str) -> str:
        text = ""
        for kept in reversed(self.retained):
            if kept.stream == stream:
                text = kept.text + text
                _, newline, line = strip_ansi(text).rstrip().rpartition("\n")
                if (newline and line.strip()) or len(text) > _PART:
                    break
        return strip_ansi(text).rstrip().rpartition("\n")[2].rstrip()

    def _last_of(self, stream: str, chars: int) -> str:
        """Return the last characters of a stream."""
        texts: list[str] = []
        for kept in reversed(self.retained):
            if kept.stream == stream:
                texts.append(kept.text)
                chars -= len(kept.text)
                if chars <= 0:
                    break
        return "".join(reversed(texts))

    def _append(self, stream: str, time: float, text: str) -> None:
        self.size += len(text)
        last = self.retained[-1] if self.retained else None
        if (
            last is not None
            and last.stream == stream
            and last.size < self._entry
            and time - last.time < _TOGETHER
        ):
            last.text += text
            last.size += len(text)
        else:
            self.retained.append(_OpenEntry(stream, time, text, len(text)))
        self._trim()

    def _take_back(self, stream: str, count: int) -> float | None:
        """Remove the last characters of a stream; return when the first of them was written.

        What replaces them is appended: a bar that is rewritten after other output came moves to
        the end, as a reader expects.
        """
        time = None
        for at in range(len(self.retained) - 1, -1, -1):
            kept = self.retained[at]
            if kept.stream != stream:
                continue
            gone = min(count, len(kept.text))
            kept.text = kept.text[: len(kept.text) - gone]
            kept.size -= gone
            self.size -= gone
            count -= gone
            if not kept.text:
                time = kept.time if at == len(self.retained) - 1 else None
                del self.retained[at]
            if not count:
                break
        return time

    def _trim(self) -> None:
        while self.retained and (self.size > self.limit or len(self.retained) > self._most):
            oldest = self.retained[0]
            excess = self.size - self.limit
            if oldest.bundle is not None or oldest.size <= max(excess, 2 * self._entry):
                self.retained.popleft()
                gone = oldest.size
            else:
                oldest.text = oldest.text[excess:]
                oldest.size -= excess
                gone = excess
            self.size -= gone
            self.dropped += gone


def next_group(pieces: Sequence[tuple[str, float, Any]], start: int) -> tuple[int, str]:
    """Return where the text that is one entry with ``pieces[start]`` ends, and that text."""
    stream, began, first = pieces[start]
    # Neighbours are much alike: text, "\n", text, "\n". So guess how many fill an entry.
    second = pieces[start + 1][2] if start + 1 < len(pieces) else ""
    per_pair = len(first) + (len(second) if isinstance(second, str) else 0)
    glance = min(_GLANCE, 1 + 2 * _ENTRY // (per_pair + 1))
    streams, times, texts = zip(*pieces[start : start + glance], strict=True)
    if streams.count(stream) == len(streams) and times[-1] - began < _TOGETHER:
        text = "".join(texts)
        if len(text) <= 2 * _ENTRY:  # as a rule: no loop in Python over pieces
            return start + len(texts), text
    size = 0
    end = start
    while end < len(pieces) and pieces[end][0] == stream:
        if end > start and (size >= _ENTRY or pieces[end][1] - began >= _TOGETHER):
            break
        size += len(pieces[end][2])
        end += 1
    return end, "".join([piece[2] for piece in pieces[start:end]])


def dropped_mark(count: int) -> str:
    """Return the line that stands for `count` characters that were not kept or not shown."""
    return f"[… {count:,} characters dropped …]\n"


def _as_text(kept: _OpenEntry) -> str:
    # A display is a block of its own even if its text has no line feed.
    block = kept.bundle is not None and kept.text and not kept.text.endswith("\n")
    return f"{kept.text}\n" if block else kept.text


def _from_line_start(text: str) -> str:
    head, newline, rest = text.partition("\n")
    return rest if newline and rest else head + newline


def _plain(bundle: Mapping[str, Any]) -> str:
    text = bundle.get("text/plain", "")
    return text if isinstance(text, str) else ""


def _weight(bundle: Mapping[str, Any], enough: int) -> int:
    """Return the characters and bytes in a bundle; counting stops soon after `enough`."""
    weight = 0
    rest: list[Any] = list(bundle.values())
    while rest and weight <= enough:
        value = rest.pop()
        if isinstance(value, str | bytes | bytearray):
            weight += len(value)
        elif isinstance(value, Mapping):
            weight += len(value)
            if weight <= enough:
                rest += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            weight += len(value)
            if weight <= enough:
                rest += value
        else:
            weight += 8
    return weight
