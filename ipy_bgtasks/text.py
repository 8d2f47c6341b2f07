"""Short, safe text for anything: values, errors, output. Nothing here raises or runs long."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence, Sized
from itertools import islice
from typing import Any

from ipy_bgtasks.foreign import type_name

# What moves the cursor, hides, reorders or cannot be encoded: controls, the bidirectional
# controls, line and paragraph separators, tags, lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_COMMAND = re.compile(
    r"Command '(.*)' (?:returned non-zero exit status (-?\d+)|died with <Signals\.(\w+): \d+>)\.",
    re.DOTALL,
)
#: What stands for our own signs where there is only ASCII.
_PLAIN = str.maketrans("…×·→━█▏▎▍▌▋▊▉○●‖◐✓✕–", "~x->=# ---===o*|~vx-")  # noqa: RUF001
_FEW = 6  # items shown of a list or a dict
_DEEP = 3  # levels of collections in collections
_MANY = 1000  # items; a collection of another type with more is not asked for its repr
_LONG_INT = 1000  # bits


def strip_ansi(text: str) -> str:
    """Return `text` without escape sequences."""
    if "\x1b" not in text:
        return text
    from wcwidth import strip_sequences  # a third of what loading would cost, where it is needed

    return strip_sequences(text).replace("\x1b", "")


def visible(text: str) -> str:
    r"""Return `text` without colours, with control characters escaped, as ``\x1b``.

    Line feeds and tabs stay. The result can be encoded as UTF-8.
    """
    return _HIDDEN.sub(_escaped, strip_ansi(text).replace("\r\n", "\n"))


def encodable(text: str) -> str:
    """Return `text` with a `?` for each lone surrogate, which no message can carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def printable(text: str, stream: Any = None) -> str:
    """Return `text` as `stream`, by default `sys.stdout`, can take it, whatever its encoding.

    What stands for one of our own signs is as wide, so that tables stay aligned.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None)
    if text.isascii() or not isinstance(encoding, str):
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    except LookupError:  # of a stream that somebody has made up
        pass
    return text


def sendable(content: Any) -> Any:
    """Return what a message is made of, a dict as a rule, with all its texts `encodable`."""
    if isinstance(content, str):
        return encodable(content)
    if isinstance(content, dict):
        return {sendable(key): sendable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [sendable(item) for item in content]
    return content


def one_line(text: str, limit: int) -> str:
    """Return `text` as one visible line of at most `limit` characters."""
    start = text[: 20 * limit + 4096]  # enough, with colours and indentation
    line = visible(" ".join(start.split()))
    if len(line) <= limit and len(start) == len(text):
        return line
    return line[: limit - 1] + "…" if limit > 0 else ""


def short_repr(value: object, limit: int = 60) -> str:
    """Return the repr of `value` as one line of at most `limit` characters; never raises."""
    try:
        shown = _bounded(value, limit, _DEEP)
    except BaseException as exc:  # whatever it is, it is the value's and not the reader's
        shown = f"<{type_name(value)} object, its repr failed: {type_name(exc)}>"
    return one_line(shown, limit)


def numbered(numbers: Sequence[object], one: str, several: str) -> str:
    """Return what jobs do: ``job 3 goes`` or ``jobs 3, 4 go``."""
    verb = one if len(numbers) == 1 else several
    return f"job{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))} {verb}"


def error_line(error: BaseException, limit: int = 200) -> str:
    """Return an exception as one line, ``ValueError: message``; never raises.

    Of a command that has failed the exit status comes first, which would be cut off at the end; of
    a message that is a traceback, as duckdb wraps what it catches, the end.
    """
    name, message = type_name(error), message_of(error)
    if message.startswith("Traceback (most recent call last)"):
        message = message.rstrip().rpartition("\n")[2]
    if name == "CalledProcessError" and (found := _COMMAND.fullmatch(message)):
        command, status, signal = found.groups()
        how = f"exit status {status}" if status else f"killed by {signal}"
        return one_line(f"{how}: {command}", limit)
    return one_line(f"{name}: {message[: 40 * limit]}" if message else name, limit)


def message_of(error: BaseException) -> str:
    """Return the text of an exception; never raises."""
    try:
        return str.__str__(str(error))
    except BaseException as exc:
        return f"<its message failed: {type_name(exc)}>"


def elapsed_text(seconds: float) -> str:
    """Return a time in seconds as ``0.3s``, ``12s``, ``3m05s`` or ``2h03m``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def bar(fraction: float, columns: int = 10) -> str:
    """Return a progress bar as text: `` 45% ████▌     ``."""
    # Rounded down: a bar is full when there is nothing left.
    eighths = int(min(max(fraction, 0.0), 1.0) * columns * 8 + 1e-9)
    full, part = divmod(eighths, 8)
    blocks = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return f"{int(fraction * 100 + 1e-9):3d}% {blocks.ljust(columns)}"


def cut_end(text: str, columns: int) -> str:
    """Return `text` cut to `columns`, with an ellipsis if anything was cut."""
    from wcwidth import clip, width

    return text if width(text) <= columns else clip(text, 0, columns - 1, fillchar="") + "…"


def cut_middle(text: str, columns: int) -> str:
    """Return `text` cut to `columns`, with an ellipsis in its middle: names differ at the end."""
    from wcwidth import clip, width

    whole, tail = width(text), max(columns - 1, 0) // 2
    if whole <= columns:
        return text
    start = clip(text, 0, columns - 1 - tail, fillchar="")
    return start + "…" + clip(text, whole - tail, whole, fillchar="")


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")


def _bounded(x: Any, limit: int, level: int) -> str:
    """Return a repr that looks at the first few items only and makes no long string.

    `reprlib` would sort a whole set or dict first, and hand bytes and long integers to `repr`.
    """
    own: object = type(x).__repr__
    if own in _TEXTS or (isinstance(x, str | bytes | bytearray) and len(x) > _MANY):
        return repr(x[: limit + 1])  # one extra, so that the cut shows that it goes on
    if isinstance(x, int) and x.bit_length() > _LONG_INT:
        return f"<{type_name(x)} of {x.bit_length():,} bits>"
    if own in _BRACKETS and len(x):
        return _items(x, limit, level, *_BRACKETS[own])
    if _is_collection(x) and len(x) > _MANY:
        return f"<{type_name(x)} of {len(x):,} items>"
    return repr(x)


def _items(x: Any, limit: int, level: int, start: str, end: str) -> str:
    if level <= 0:
        return f"{start}…{end}"

    def one(item: object) -> str:
        return _bounded(item, limit, level - 1)

    if isinstance(x, dict):
        parts = [f"{one(key)}: {one(value)}" for key, value in islice(x.items(), _FEW)]
    else:
        parts = [one(item) for item in islice(x, _FEW)]
    if len(x) > _FEW:
        parts.append(f"… {len(x):,} in all")
    comma = "," if len(x) == 1 and isinstance(x, tuple) else ""
    return f"{start}{', '.join(parts)}{comma}{end}"


def _is_collection(x: object) -> bool:
    if isinstance(x, list | tuple | dict | set | frozenset):
        return True
    # Also the views of a dict, Counter, deque, array, …
    known = type(x).__module__ in ("builtins", "collections", "array")
    return known and isinstance(x, Sized) and not isinstance(x, range | memoryview)


_TEXTS: tuple[object, ...] = (str.__repr__, bytes.__repr__, bytearray.__repr__)
_BRACKETS: dict[object, tuple[str, str]] = {
    list.__repr__: ("[", "]"),
    tuple.__repr__: ("(", ")"),
    dict.__repr__: ("{", "}"),
    set.__repr__: ("{", "}"),
    frozenset.__repr__: ("frozenset({", "})"),
}
