"""Folding of carriage returns, backspaces and erasures."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipy_bgtasks.log.fold import Fold, Screen
from ipy_bgtasks.text import strip_ansi

BINARY = random.Random(1).randbytes(100_000).decode(errors="replace")


def folded(*pieces: str) -> str:
    """What a reader has after all edits."""
    screen = Screen()
    for piece in pieces:
        screen.feed(piece)
    return screen.text


def shown(*pieces: str) -> str:
    """That without colours, and without marks, of which one at the start of a line may go."""
    return strip_ansi(folded(*pieces)).replace("\u0301", "")


@pytest.mark.parametrize(
    ("text", "screen"),
    [
        ("plain\nlines\n", "plain\nlines\n"),
        ("10%\r20%\r100%\n", "100%\n"),
        ("longer\rab", "abnger"),
        ("dos\r\nends\r\n", "dos\nends\n"),
        ("abc\b\bX", "aXc"),
        ("|\b/\b-", "-"),
        ("\b\bx", "x"),
        ("abc\r\x1b[Kz", "z"),
        ("abc\r\x1b[2Kz", "z"),
        ("abcdef\b\b\x1b[K", "abcd"),
        ("gcc: \x1b[Kerror\x1b[K\n", "gcc: error\n"),
        ("日本\rab", "ab本"),
        ("日本\ra", "a 本"),
        ("e\u0301a\rx", "xa"),
        ("\x1b[31mred\x1b[0m\rblue", "blue"),
        ("\x1b[31mred\x1b[0m\rb", "b\x1b[31med\x1b[0m"),
        ("abc\x1b[2Dx", "axc"),
        ("abc\x1b[1Gx", "xbc"),
        ("ab\x1b[2Cx", "ab  x"),
        ("kept\r", "kept"),
    ],
)
def test_text_is_folded_as_a_terminal_shows_it(text: str, screen: str) -> None:
    """What stays on the screen stays in the log."""
    assert folded(text) == screen


@given(st.text(alphabet="ab日\u0301\r\b\n\x1b[Km3\t", max_size=40), st.data())
def test_pieces_fold_as_the_whole_does(text: str, data: st.DataObject) -> None:
    """It does not matter where a write ends, in the middle of an escape sequence included."""
    cut = data.draw(st.integers(0, len(text)))
    assert shown(text[:cut], text[cut:]) == shown(text)


_UP = "\x1b[A"


@given(st.lists(st.sampled_from(["a", "b", " ", "\r", "\n", _UP, "\x1b[2A"]), max_size=60))
def test_lines_are_redrawn_as_a_screen_would(text: list[str]) -> None:
    """Against a model that keeps one list a line; only erased lines at the end may go."""
    lines: list[list[str]] = [[]]
    column = row = 0
    for char in text:
        if char == "\n":
            row, column = row + 1, 0
            lines += [[]] * (row == len(lines))
        elif char == "\r":
            column = 0
        elif char in ("\x1b[B", _UP, "\x1b[2A"):
            row += {"\x1b[B": 1, _UP: -1}.get(char, -2)
            row = min(max(row, 0), len(lines) - 1)
        else:
            lines[row] = lines[row] + [" "] * (column - len(lines[row]))
            lines[row][column : column + 1] = char
            column += 1
    screen = "\n".join("".join(line).rstrip() for line in lines).rstrip()
    for pieces in (text, ["".join(text)]):
        assert "\n".join(line.rstrip() for line in folded(*pieces).split("\n")).rstrip() == screen


def test_bars_below_each_other_are_a_line_each() -> None:
    """As tqdm draws an inner bar, and as rich redraws its tasks; the cursor is in the first."""
    inner = "".join(f"\n\rinner {n}%\x1b[A" for n in (0, 50, 100))
    text = f"begin\n\router 0%{inner}\router 50%"
    assert folded(*text) == folded(text) == "begin\nouter 50%\ninner 100%"
    text += "\n\r          \x1b[A\router 100%\nend\n"
    assert folded(*text) == folded(text) == "begin\nouter 100%\nend\n"
    tasks = [f"one {n}%\ntwo {n}%\nthree {n}%" for n in (0, 50, 100)]
    up = "\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K"
    assert folded(up.join(tasks) + "\n") == tasks[-1] + "\n"


@given(st.text(alphabet="ab \r\n", max_size=60))
def test_plain_text_folds_as_a_simple_screen_would(text: str) -> None:
    """Against a model that keeps one list a line."""
    lines: list[list[str]] = [[]]
    column = 0
    for char in text:
        if char == "\n":
            lines.append([])
            column = 0
        elif char == "\r":
            column = 0
        else:
            lines[-1][column : column + 1] = char
            column += 1
    assert folded(text) == "\n".join("".join(line) for line in lines)
    assert folded(*text) == folded(text)


def test_a_bar_in_colour_keeps_its_colours() -> None:
    """Colours in force go on after a rewritten line."""
    bar = "".join(f"\r\x1b[32m{n:3}%\x1b[0m done" for n in range(101))
    assert folded(bar) == "\x1b[32m100%\x1b[0m done"
    assert folded("\x1b[31mab\rc", "d\n", "e") == "\x1b[31mcd\ne"


def test_a_line_without_end_costs_no_more_than_the_part_a_terminal_rewrites() -> None:
    """A carriage return after megabytes goes back to the start of the last row only."""
    fold = Fold(str)
    for _ in range(100):
        assert fold.feed("x" * 10_000) == (0, "x" * 10_000)
    back, _ = fold.feed("\rdone")
    assert back <= 10_000


def test_what_follows_a_rewritten_line_knows_where_the_cursor_is() -> None:
    """A replayed line is continued as the job does."""
    fold = Fold(str)
    fold.feed("100%\r")
    assert fold.resume() == "\r"
    fold.feed("abc\rab")
    assert fold.resume() == "\rab"
    fold.feed("\n")
    assert fold.resume() == ""


@pytest.mark.parametrize(
    ("text", "bound"),
    [("日本語 caf\u0301\r\n", 5), ("\x1b[32mok\x1b[0m\r\n", 10), (BINARY, 10)],
    ids=["wide", "colours", "binary"],
)
def test_what_rewrites_nothing_costs_a_few_times_what_plain_text_does(
    text: str, bound: float
) -> None:
    """A line that ends in CR LF is not rewritten; and binary output is no text on a screen."""

    def seconds(text: str) -> float:
        whole = (text * (200_000 // len(text) + 1))[:200_000]
        best = 1.0
        for _ in range(5):
            fold, start = Fold(str), time.process_time()
            fold.feed(whole)
            best = min(best, time.process_time() - start)
        return best

    # Before, these were 100 to 400 times as slow.
    assert seconds(text) < bound * seconds("x" * 79 + "\n") + 0.01
