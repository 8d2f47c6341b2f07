"""What is kept of a job's output: folded, bounded, in order. Not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ipy_bgtasks.log.fold import Fold
from ipy_bgtasks.text import strip_ansi

_TOGETHER = 0.01  # seconds within which what is written is one entry: print writes text and "\n"
_ENTRY = 1024  # characters at which an entry is full
_GLANCE = 128  # pieces that are looked at together, at most
_PART = 65_536  # a single long write is folded and trimmed in parts of this many characters


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


class _OpenEntry:
    """An entry that may still change."""

    __slots__ = ("bundle", "display_id", "metadata", "size", "stream", "text", "time")

    def __init__(self, stream: str, time: float, text: str) -> None:
        self.stream = stream
        self.time = time
        self.text = text
        self.size = len(text)
        self.bundle: dict[str, Any] | None = None
        self.metadata: dict[str, Any] | None = None
        self.display_id: str | None = None

    def entry(self) -> Entry:
        return Entry(self.stream, self.time, self.text, self.bundle, self.metadata)


class Recording:
    """Entries up to `limit` characters; what exceeds it is dropped, the oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # characters kept; a display counts with its whole bundle
        self.dropped = 0  # characters dropped so far
        self._retained: deque[_OpenEntry] = deque()
        self._folds: dict[str, Fold] = {}
        self._clear_before_next = False
        # Small if the limit is, so that trimming whole entries does not overshoot by much.
        self._entry = max(1, min(_ENTRY, limit // 8))
        # An entry costs some 200 bytes whatever its text: many tiny ones are bounded as well.
        self._most = max(1000, limit // 40)

    def write(self, stream: str, time: float, text: str) -> None:
        """Record text of a stream."""
        self._begin()
        if (fold := self._folds.get(stream)) is None:
            fold = self._folds[stream] = Fold(partial(self._last_of, stream))
        for start in range(0, len(text), _PART):
            part = text if len(text) <= _PART else text[start : start + _PART]
            back, part = fold.feed(part)
            if back:
                time = self._take_back(stream, back) or time
            if part:
                self._append(stream, time, part)

    def display(
        self,
        time: float,
        bundle: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
        display_id: str | None,
        update: bool,
    ) -> None:
        """Record a rich output, or replace those that have `display_id` by it."""
        self._begin()
        same = [k for k in self._retained if k.display_id == display_id] if update else []
        if not same:
            same = [_OpenEntry("display", time, "")]
            self._retained.append(same[0])
        size = _weight(bundle, self.limit)
        text = _plain(bundle)
        if size > self.limit and len(text) < self.limit // 2:
            # It would push out everything, and then itself: keep its plain text only.
            self.dropped += size - len(text)
            bundle, size = {"text/plain": text}, len(text)
        for kept in same:
            self.size += size - kept.size
            kept.size = size
            kept.text = text
            kept.bundle, kept.metadata = dict(bundle), dict(metadata or {})
            kept.display_id = display_id
        self._trim()

    def clear(self, wait: bool) -> None:
        """Discard everything, now or when the next output comes."""
        self._clear_before_next = wait
        if not wait:
            self._retained.clear()
            self._folds.clear()
            self.size = self.dropped = 0

    def entries(self) -> list[Entry]:
        """Return all entries, the oldest first."""
        return [kept.entry() for kept in self._retained]

    def count(self) -> int:
        """Return the number of entries."""
        return len(self._retained)

    def text(self, stream: str | None = None) -> str:
        """Return the text of one stream, or of everything."""
        return "".join(_as_text(k) for k in self._retained if stream is None or k.stream == stream)

    def tail(self, chars: int) -> list[Entry]:
        """Return the last entries, the first of them cut so that they have `chars` characters."""
        last: list[Entry] = []
        for kept in reversed(self._retained):
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
        for kept in reversed(self._retained):
            if kept.stream not in seen and not kept.text.isspace():
                seen.add(kept.stream)
                if line := self._last_line_of(kept.stream):
                    return line
        return ""

    def last_text(self) -> str:
        """Return the text of the last entry that has any."""
        for kept in reversed(self._retained):
            if kept.text and not kept.text.isspace():
                return kept.text
        return ""

    def resume(self) -> Entry | None:
        """Return what moves the cursor to where the next text of the last stream goes."""
        last = self._retained[-1] if self._retained else None
        fold = self._folds.get(last.stream) if last else None
        text = fold.resume() if fold else ""
        return Entry(last.stream, last.time, text) if last and text else None

    def unfinished(self, stream: str) -> str:
        """Return a stream's partial line: a progress bar, as a rule."""
        fold = self._folds.get(stream)
        return fold.line if fold else ""

    def _last_line_of(self, stream: str) -> str:
        text = ""
        for kept in reversed(self._retained):
            if kept.stream == stream:
                text = kept.text + text
                _, newline, line = strip_ansi(text).rstrip().rpartition("\n")
                if (newline and line.strip()) or len(text) > _PART:
                    break
        return strip_ansi(text).rstrip().rpartition("\n")[2].rstrip()

    def _last_of(self, stream: str, chars: int) -> str:
        """Return the last characters of a stream."""
        texts: list[str] = []
        for kept in reversed(self._retained):
            if kept.stream == stream:
                texts.append(kept.text)
                chars -= len(kept.text)
                if chars <= 0:
                    break
        return "".join(reversed(texts))

    def _begin(self) -> None:
        if self._clear_before_next:
            self.clear(wait=False)

    def _append(self, stream: str, time: float, text: str) -> None:
        self.size += len(text)
        last = self._retained[-1] if self._retained else None
        if (
            last is not None
            and last.stream == stream
            and last.size < self._entry
            and time - last.time < _TOGETHER
        ):
            last.text += text
            last.size += len(text)
        else:
            self._retained.append(_OpenEntry(stream, time, text))
        self._trim()

    def _take_back(self, stream: str, count: int) -> float | None:
        """Remove the last characters of a stream; return when the first of them was written.

        What replaces them is appended: a bar that is rewritten after other output came moves to
        the end, as a reader expects.
        """
        time = None
        for at in range(len(self._retained) - 1, -1, -1):
            kept = self._retained[at]
            if kept.stream != stream:
                continue
            gone = min(count, len(kept.text))
            kept.text = kept.text[: len(kept.text) - gone]
            kept.size -= gone
            self.size -= gone
            count -= gone
            if not kept.text:
                time = kept.time if at == len(self._retained) - 1 else None
                del self._retained[at]
            if not count:
                break
        return time

    def _trim(self) -> None:
        while self._retained and (self.size > self.limit or len(self._retained) > self._most):
            oldest = self._retained[0]
            excess = self.size - self.limit
            if oldest.bundle is not None or oldest.size <= max(excess, 2 * self._entry):
                self._retained.popleft()
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
