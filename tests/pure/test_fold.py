"""Folding of carriage returns, backspaces and erasures."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipy_bgtasks.log.fold import Fold
from ipy_bgtasks.text import strip_ansi

BINARY = random.Random(1).randbytes(100_000).decode(errors="replace")


def folded(*pieces: str) -> str:
    """What a reader has after all edits."""
    fold, kept = Fold(), ""
    for piece in pieces:
        back, more = fold.feed(piece)
        kept = kept[: len(kept) - back] + more
        assert kept.endswith(fold.line)
    return kept


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
    fold = Fold()
    for _ in range(100):
        assert fold.feed("x" * 10_000) == (0, "x" * 10_000)
    back, _ = fold.feed("\rdone")
    assert back <= 10_000


def test_what_follows_a_rewritten_line_knows_where_the_cursor_is() -> None:
    """A replayed line is continued as the job does."""
    fold = Fold()
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
            fold, start = Fold(), time.process_time()
            fold.feed(whole)
            best = min(best, time.process_time() - start)
        return best

    # Before, these were 100 to 400 times as slow.
    assert seconds(text) < bound * seconds("x" * 79 + "\n") + 0.01
