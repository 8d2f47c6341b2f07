"""Short, safe text for anything."""

from __future__ import annotations

import time
from collections import Counter, deque
from enum import StrEnum
from typing import Any

import pytest
from wcwidth import width

from ipy_bgtasks.text import (
    bar,
    cut_end,
    cut_middle,
    elapsed_text,
    error_line,
    one_line,
    short_repr,
    visible,
)


class Raises:
    """Its repr and its text raise whatever it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


class Colour(StrEnum):
    """A str with a repr of its own."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (42, "42"),
        ("a'b", '"a\'b"'),
        ([1, [2, [3, [4, [5]]]]], "[1, [2, [3, […]]]]"),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        ({"a": 1}, "{'a': 1}"),
        ([0] * 10**6, "[0, 0, 0, 0, 0, 0, … 1,000,000 in all]"),
        (Counter(range(10**4)), "<Counter of 10,000 items>"),
        (deque(range(10**4)), "<deque of 10,000 items>"),
        (range(10**30), f"range(0, {10**30})"),
        (10**1000, "<int of 3,322 bits>"),
        (True, "True"),
        (Colour.RED, "<Colour.RED: 'red'>"),
        ("\x1b[31m\u202e\ud800", r"'\x1b[31m\u202e\ud800'"),
        (Raises(ValueError("x")), "<Raises object, its repr failed: ValueError>"),
        (Raises(KeyboardInterrupt()), "<Raises object, its repr failed: KeyboardInterrupt>"),
    ],
)
def test_a_repr_is_short_and_never_raises(value: object, shown: str) -> None:
    """Whatever the value is."""
    assert short_repr(value) == shown


def test_a_repr_is_one_line_within_its_limit() -> None:
    """Line feeds become blanks, what is left out an ellipsis."""

    class Table:
        def __repr__(self) -> str:
            return "a  b\n1  2\n" * 100

    assert short_repr(Table(), 20) == "a b 1 2 a b 1 2 a b…"
    assert len(short_repr("x" * 10**6, 30)) == 30


@pytest.mark.parametrize(
    "value",
    ["x" * 10**8, b"x" * 10**8, [b"x" * 10**8], set(range(10**6)), dict.fromkeys(range(10**6))],
    ids=["str", "bytes", "nested", "set", "dict"],
)
def test_a_repr_of_something_huge_costs_nothing(value: Any) -> None:
    """The bound is far above what it takes, and far below what the whole repr would."""
    start = time.process_time()
    assert len(short_repr(value)) <= 60
    assert time.process_time() - start < 0.05


def test_a_repr_of_100_mb_is_cut() -> None:
    """When the value's own repr makes it."""

    class Huge:
        def __repr__(self) -> str:
            return " " * 10**3 + "x" * 10**8

    assert short_repr(Huge()) == "x" * 59 + "…"


def test_an_error_is_one_line() -> None:
    """Type and message; without a message the type alone."""
    assert error_line(ValueError("bad\n thing")) == "ValueError: bad thing"
    assert error_line(KeyError("k")) == "KeyError: 'k'"
    wrapped = "Traceback (most recent call last):\n  File 'a', line 1, in f\nKeyboardInterrupt\n"
    assert error_line(RuntimeError(wrapped)) == "RuntimeError: KeyboardInterrupt"
    assert error_line(RuntimeError()) == "RuntimeError"
    assert len(error_line(ValueError("x" * 10**7), 80)) == 80

    class Odd(Exception):
        def __str__(self) -> str:
            raise OSError

    assert error_line(Odd()) == "Odd: <its message failed: OSError>"


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("  a\n\tb  ", 10, "a b"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("abc", 0, ""),
        ("", 5, ""),
        ("\x1b[1mbold\x1b[0m", 4, "bold"),
        ("a\x00\x07b", 20, r"a\x00\x07b"),
        ("\u202eevil", 20, r"\u202eevil"),
    ],
)
def test_text_becomes_one_line(text: str, limit: int, line: str) -> None:
    """Blanks collapsed, colours gone, controls shown."""
    assert one_line(text, limit) == line


def test_visible_text_can_be_encoded_and_acts_on_nothing() -> None:
    """Every character that exists."""
    everything = "".join(map(chr, range(0x110000)))
    shown = visible(everything)
    shown.encode()
    assert "\x1b" not in shown
    assert "\u2067" not in shown
    assert "\r" not in shown
    assert "\t\n" in shown
    assert "日é" in visible("日é")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.3, "0.3s"),
        (1.24, "1.2s"),
        (9.97, "10s"),
        (12.4, "12s"),
        (59.7, "1m00s"),
        (185, "3m05s"),
        (3599.8, "1h00m"),
        (7380, "2h03m"),
        (360_000, "100h00m"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    """In the largest two units that matter."""
    assert elapsed_text(seconds) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "  0%           "),
        (0.45, " 45% ████▌     "),
        (0.999, " 99% █████████▉"),
        (1.0, "100% ██████████"),
    ],
)
def test_a_bar_is_always_as_wide(fraction: float, text: str) -> None:
    """And says 100% only when all is done."""
    assert bar(fraction) == text
    assert width(text) == 15


def test_text_is_cut_by_columns() -> None:
    """A wide character takes two; the middle goes first where ends tell names apart."""
    assert cut_end("abcdef", 4) == "abc…"
    assert cut_end("日本語", 5) == "日本…"
    assert cut_middle("abcdefghij", 7) == "abc…hij"
    assert cut_middle("日本語日本語", 7) == "日…語"
    assert cut_middle("same", 4) == "same"
    assert width("日e\u0301") == 3
