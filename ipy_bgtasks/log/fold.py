"""Folding: carriage returns, backspaces and erasures take effect as in a terminal.

A progress bar rewrites its line a thousand times; a later reader of the log wants one
line, not a thousand. `Fold` follows one stream and turns each piece of raw text into an edit of
what is kept so far: remove some characters, then append some others. Several bars, one below the
other, are redrawn by moving the cursor up into lines that were complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ipy_bgtasks.text import strip_ansi

# A terminal wraps, and a carriage return goes back to the start of the last row only. Beyond
# this many characters of one line the older part is taken as wrapped, which bounds the work.
_LONGEST_LINE = 10_000
# When one piece rewrites a line many times with colours or wide characters, only this many of the
# last rewrites are processed: each costs some 30 µs.
_LAST_REWRITES = 64
_LONGEST_PEN = 64
# How far up the cursor moves at most.
_ROWS = 50

_TOKEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # an escape sequence that acts, such as a colour
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # one that carries a string, such as a title
    r"|[\r\b]|[^\x1b\r\b]+|\x1b[ -~]?"
)
_MOVING = re.compile(r"[\r\b]|\x1b\[(?:[0-9;]*[CDG]|[12]K)")
_UP_OR_DOWN = re.compile(r"\x1b\[\d{0,3}[ABEF]")
_VERTICAL = re.compile(r"(\n|\x1b\[\d{0,3}[ABEF])")
_ESCAPES = re.compile("\x1b+")
_LINE_END = re.compile(r"\r+\n")
# Nobody rewrites a line by what no terminal shows: this is a file, decoded as well as it went.
_BINARY = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\ufffd]")
_PEN = re.compile(r"\x1b\[([0-9;:]*)m")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,200}\x1b?)?\Z")
_ERASED_LINE = re.compile(r"\r\x1b\[(?:0?K|2K)")
_ERASED_END = re.compile(r"\x1b\[0?K")
# Anything that may be wider or narrower than one column, or move the cursor.
_NOT_SIMPLE = re.compile("[^\t\r -~\xa0-\xac\xae-\u02ff\u2010-\u2027\u2190-\u2199\u2500-\u25fc]")

Cell = tuple[str, str]
"""One column: the characters in it ("" for the right half of a wide one) and their pen."""


class Fold:
    """The line of one stream in which the cursor is. Not thread-safe.

    *earlier* returns so many of the last characters that are kept.
    """

    __slots__ = ("_column", "_earlier", "_held", "_line_pen", "_pen", "below", "line")

    def __init__(self, earlier: Callable[[int], str]) -> None:
        self._earlier = earlier
        self.line = ""  # as it was handed out; the last one, unless the cursor was moved up
        self.below = 0  # how many lines are below it
        self._column: int | None = None  # where the cursor is; None is at the end of the line
        self._pen = ""  # the colours in force, as escape sequences since the last reset
        self._line_pen = ""  # those in force where the line begins
        self._held = ""  # an incomplete escape sequence

    def feed(self, text: str) -> tuple[int, str]:
        """Return how many of the last characters to take back, and the text to append."""
        if self._held:
            text, self._held = self._held + text, ""
        if "\x1b" in text:
            # A second one begins anew; what is taken out must not join the first to what follows.
            text = _ESCAPES.sub("\x1b", text)
            if unfinished := _UNFINISHED.search(text, max(0, len(text) - 256)):
                self._held, text = unfinished.group(), text[: unfinished.start()]
        if "\r\n" in text:
            text = _LINE_END.sub("\n", text)
        if self.below or ("\x1b" in text and _UP_OR_DOWN.search(text)):
            return self._redraw(text)
        if self._column is not None or _MOVING.search(text):
            return self._refold(text)
        if "\x1b" in text:
            text = _ERASED_END.sub("", text)  # nothing stands to the right of the cursor
        self._follow(text)
        return 0, text

    def resume(self) -> str:
        """Return what to write after `line` to move the cursor to where it is here."""
        up = f"\x1b[{self.below}A" if self.below else ""
        if self._column is None:
            return up and f"{up}\r{self.line}"
        simple = not _NOT_SIMPLE.search(self.line)
        return f"{up}\r" + (self.line[: self._column].ljust(self._column) if simple else "")

    def _follow(self, text: str) -> None:
        """Keep up with text that was appended as it is."""
        head, newline, rest = text.rpartition("\n")
        if newline:
            if "\x1b" in head:
                self._pen = _pen_after(self._pen, head)
            self._line_pen = self._pen
            self.line = rest
        else:
            self.line += rest
        if "\x1b" in rest:
            self._pen = _pen_after(self._pen, rest)
        self._shorten()

    def _refold(self, text: str) -> tuple[int, str]:
        before = self.line
        *whole, last = text.split("\n")
        out: list[str] = []
        for part in whole:
            self._fold_part(part)
            out += self.line, "\n"
            self.line, self._column, self._line_pen = "", None, self._pen
        self._fold_part(last)
        out.append(self.line)
        self._shorten()
        folded = "".join(out)
        if folded.startswith(before):  # as "text\r\n" does: nothing was rewritten
            return 0, folded[len(before) :]
        return len(before), folded

    def _redraw(self, text: str) -> tuple[int, str]:
        """Fold text that moves the cursor up, or begins above the last line."""
        before = self._earlier(_LONGEST_LINE).split("\n")[-_ROWS:]
        rows = list(before)
        at = max(0, len(rows) - 1 - self.below)
        for part in _VERTICAL.split(text):
            if not _VERTICAL.fullmatch(part):
                self._fold_part(part)
                continue
            rows[at] = self.line
            column = len(strip_ansi(self.line)) if self._column is None else self._column
            count = int(part[2:-1] or 1) if part[0] == "\x1b" else 1
            at = max(0, at - count) if part[-1] in "AF" else at + count
            if part == "\n" and at == len(rows):
                rows.append("")
            at = min(at, len(rows) - 1)
            self.line, self._line_pen = rows[at].rstrip(), ""  # of a bar that was erased: nothing
            column = column if part[-1] in "AB" else 0
            self._column = None if column == len(strip_ansi(self.line)) else column
        rows[at] = self.line
        while at < len(rows) - 1 and not strip_ansi(rows[-1]).strip():
            del rows[-1]
        self.below = len(rows) - 1 - at
        same, most = 0, min(len(before), len(rows)) - 1
        while same < most and before[same] == rows[same]:
            same += 1
        return len("\n".join(before[same:])), "\n".join(rows[same:])

    def _shorten(self) -> None:
        cut = len(self.line) - _LONGEST_LINE
        if cut <= 0:
            return
        cut += _LONGEST_LINE // 2  # not again for every character that follows
        head = self.line[:cut]
        self.line = self.line[cut:]
        if "\x1b" in head:
            self._line_pen = _pen_after(self._line_pen, head)
        if self._column is not None:
            self._column = max(0, self._column - len(strip_ansi(head)))

    def _fold_part(self, part: str) -> None:
        """Write `part`, which has no line feed, into the line."""
        if not part:
            return
        if _BINARY.search(part):
            part = _MOVING.sub("", part)
            self._column = None
        if self._column is None and not _MOVING.search(part):
            # Most lines are not rewritten, whatever is in them: only the others pay.
            part = _ERASED_END.sub("", part)
            self.line += part
            self._pen = _pen_after(self._pen, part)
        elif not _NOT_SIMPLE.search(part) and not _NOT_SIMPLE.search(self.line):
            self._fold_simple(part)
        else:
            self._fold_cells(part)

    def _fold_simple(self, part: str) -> None:
        """Write text in which one character is one column, without colours: slices suffice."""
        line, column = self.line, self._column
        first, *rewrites = part.split("\r")
        if column is None:
            line += first
            column = len(line)
        elif first:
            line = line.ljust(column)
            line = line[:column] + first + line[column + len(first) :]
            column += len(first)
        for text in rewrites:
            line = text + line[len(text) :]
            column = len(text)
        self.line, self._column = line, None if column == len(line) else column

    def _fold_cells(self, part: str) -> None:
        row = _Row(self._line_pen)
        # What was written before the last erasure of the whole line is gone.
        if erased := max((match.end() for match in _ERASED_LINE.finditer(part)), default=0):
            self._pen = _pen_after(self._pen, part[:erased])
            part = part[erased:]
        else:
            row.write(self.line)
            if self._column is not None:
                row.column = self._column
        row.pen = self._pen
        rewrites = part.split("\r")
        for skipped in rewrites[1:-_LAST_REWRITES]:
            row.pen = _pen_after(row.pen, skipped)
        row.write(rewrites[0])
        for text in rewrites[1:][-_LAST_REWRITES:]:
            row.column = 0
            row.write(text)
        self._pen = row.pen
        self.line = row.render(self._line_pen)
        self._column = None if row.column == len(row.cells) else row.column


class Screen:
    """Text of one stream as it stands. Not thread-safe."""

    def __init__(self) -> None:
        self.text = ""
        #: Whether somebody waits to see what of it stays.
        self.watched = False
        self._fold = Fold(lambda count: self.text[-count:])

    def feed(self, text: str) -> None:
        """Take more."""
        back, more = self._fold.feed(text)
        self.text = self.text[: len(self.text) - back] + more

    @property
    def at_end(self) -> bool:
        """Whether the cursor is in the last line."""
        return not self._fold.below


class _Row:
    """A line as columns, for text with colours, wide characters or erasures."""

    __slots__ = ("cells", "column", "pen")

    def __init__(self, pen: str) -> None:
        self.cells: list[Cell] = []
        self.column = 0
        self.pen = pen

    def write(self, text: str) -> None:
        for token in _TOKEN.findall(text):
            if token[0] == "\x1b":
                self._escape(token)
            elif token == "\r":
                self.column = 0
            elif token == "\b":
                self.column = max(0, self.column - 1)
            elif _NOT_SIMPLE.search(token):
                from wcwidth import wcwidth  # many sessions never need it

                for char in token:
                    self._put(char, 1 if char == "\t" else wcwidth(char))
            else:
                self._put_cells([(char, self.pen) for char in token])

    def _put(self, char: str, width: int) -> None:
        if width > 0:
            self._put_cells([(char, self.pen), ("", self.pen)][:width])
        elif 0 < self.column <= len(self.cells):  # a combining mark, or a control character
            at = self.column - 1
            while at and not self.cells[at][0]:
                at -= 1
            base, pen = self.cells[at]
            if len(base) < 32:
                self.cells[at] = base + char, pen

    def _put_cells(self, new: list[Cell]) -> None:
        cells, column, end = self.cells, self.column, self.column + len(new)
        if column > len(cells):
            cells += [(" ", "")] * (column - len(cells))
        if column < len(cells) and not cells[column][0]:  # the right half of a wide character
            cells[column - 1] = " ", cells[column - 1][1]
        if end < len(cells) and not cells[end][0]:
            cells[end] = " ", cells[end][1]
        cells[column:end] = new
        self.column = end

    def _escape(self, token: str) -> None:
        if not token.startswith("\x1b["):
            return
        kind, argument = token[-1], token[2:-1]
        if kind == "m":
            self.pen = _pen_after(self.pen, token)
        elif kind == "K":
            self._erase(argument)
        elif kind in "CDG" and (argument or "1").isdecimal():
            count = min(int((argument or "1")[:6]), _LONGEST_LINE)
            move = {"C": self.column + max(count, 1), "D": self.column - max(count, 1)}
            self.column = max(0, move.get(kind, count - 1))

    def _erase(self, argument: str) -> None:
        if argument in ("", "0"):
            del self.cells[self.column :]
        elif argument == "2":
            self.cells.clear()
        elif argument == "1":
            upto = min(self.column + 1, len(self.cells))
            self.cells[:upto] = [(" ", "")] * upto

    def render(self, pen: str) -> str:
        """Return the line as text that starts with `pen` in force and ends with `self.pen`."""
        out: list[str] = []
        for text, wanted in self.cells:
            if wanted != pen:
                out.append(_change(pen, wanted))
                pen = wanted
            out.append(text)
        if pen != self.pen:
            out.append(_change(pen, self.pen))
        return "".join(out)


def _change(pen: str, wanted: str) -> str:
    if wanted.startswith(pen):
        return wanted[len(pen) :]
    return "\x1b[0m" + wanted


def _pen_after(pen: str, text: str) -> str:
    for match in _PEN.finditer(text):
        if match[1] in ("", "0", "00"):
            pen = ""
        elif match[1].startswith("0;"):
            pen = match.group()
        elif not pen.endswith(match.group()):
            pen += match.group()
            if len(pen) > _LONGEST_PEN:
                pen = match.group()
    return pen
