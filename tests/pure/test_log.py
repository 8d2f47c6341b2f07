"""A job's recorded output."""

from __future__ import annotations

import contextvars
import threading
import tracemalloc

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.log.output import Entry, Log, Piece, dropped_mark


def raw(pieces: list[Piece]) -> list[tuple[str, str]]:
    """The pieces without their times."""
    return [(piece.kind, piece.text) for piece in pieces]


def test_a_log_keeps_streams_times_and_order() -> None:
    """What is written together is one entry; another stream begins another."""
    log = Log()
    for stream, text in ("stdout", "a"), ("stdout", "\n"), ("stderr", "oops\n"), ("stdout", "b\n"):
        log.write(stream, text, at=0.001 * len(log))
    entries = list(log)
    assert [(e.stream, e.text) for e in entries] == [
        ("stdout", "a\n"),
        ("stderr", "oops\n"),
        ("stdout", "b\n"),
    ]
    assert [e.time for e in entries] == sorted(e.time for e in entries)
    assert (log.text, log.stdout, log.stderr) == ("a\noops\nb\n", "a\nb\n", "oops\n")
    assert len(log) == 3
    assert log.last_line == "b"


def test_an_empty_log_is_still_a_log() -> None:
    """It has no text, and is true."""
    log = Log()
    assert (log.text, log.last_line, len(log), log.tail(10)) == ("", "", 0, [])
    assert log


def test_an_entry_takes_about_a_kilobyte() -> None:
    """Long output is many entries, so that the oldest can go one by one."""
    log = Log()
    for _ in range(1000):
        log.write("stdout", "x" * 20 + "\n")
    assert len(log) >= 10
    assert max(len(entry.text) for entry in log) <= 2048
    assert log.text == ("x" * 20 + "\n") * 1000


def test_a_progress_bar_is_one_line() -> None:
    """However often it is rewritten, and whatever comes in between."""
    log = Log()
    for n in range(101):
        log.write("stderr", f"\r{n}%")
        if n == 50:
            log.write("stdout", "half\n")
            assert log.unfinished("stderr") == "50%"
    assert log.stderr == "100%"
    assert log.text == "half\n100%"
    assert log.last_line == "100%"


def test_the_last_line_is_not_blank_and_has_no_colours() -> None:
    """Of the stream that was last written to."""
    log = Log()
    log.write("stderr", "\r bar")
    log.write("stdout", "one\n\x1b[31mtwo")
    assert log.last_line == "two"
    log.write("stdout", "!\x1b[0m\n\n  \n")
    assert log.last_line == "two!"


def test_what_exceeds_the_limit_goes_from_the_front_with_one_mark() -> None:
    """The mark says how many characters went; nothing is lost in between."""
    log = Log(limit=1000)
    whole = "".join(f"line {n}\n" for n in range(1000))
    for line in whole.splitlines(keepends=True):
        log.write("stdout", line)
    mark, _, kept = log.text.partition("\n")
    assert mark + "\n" == dropped_mark(len(whole) - len(kept))
    assert whole.endswith(kept)
    assert 700 <= len(kept) <= 1000
    assert log.stdout == kept
    assert log.size == len(kept)
    assert log.dropped == len(whole) - len(kept)


def test_one_write_longer_than_the_limit_keeps_its_end() -> None:
    """And exactly as much as fits."""
    log = Log(limit=1000)
    log.write("stdout", "a" * 5000 + "b" * 500)
    assert log.stdout == "a" * 500 + "b" * 500
    assert log.text.startswith("[… 4,500 characters dropped …]\n")


def test_a_limit_of_nothing_keeps_nothing() -> None:
    """And fewer than nothing is refused."""
    log = Log(limit=0)
    log.write("stdout", "a\n")
    assert (log.stdout, log.dropped) == ("", 2)
    with pytest.raises(BadInput, match="not -1"):
        Log(limit=-1)


def test_a_flood_costs_no_more_memory_than_the_limit() -> None:
    """Nobody drains but the writer itself."""
    log = Log(limit=100_000)
    line = "x" * 99 + "\n"
    tracemalloc.start()
    try:
        for _ in range(100_000):
            log.write("stdout", line[:50] + line[50:])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    assert log.dropped + log.size == 10_000_000


def test_many_tiny_entries_are_bounded_too() -> None:
    """An entry costs memory however short it is."""
    log = Log(limit=10_000)
    for _ in range(5000):
        log.write("stdout", "a")
        log.write("stderr", "b")
    assert len(log) <= 1000
    assert log.dropped + log.size == 10_000


def test_a_long_flood_of_one_rewritten_line_stays_one_line() -> None:
    """A bar that is printed without end drops nothing."""
    log = Log(limit=1000)
    log.write("stdout", "begin\n" + "".join(f"\r{n:6}" for n in range(100_000)))
    assert log.text == "begin\n 99999"


def test_any_kind_of_str_is_taken() -> None:
    """A subclass that lies about its length, lone surrogates, nothing at all."""

    class Odd(str):
        def __len__(self) -> int:
            raise ZeroDivisionError

        def __str__(self) -> str:
            return "not me"

    log = Log()
    log.write("stdout", Odd("odd"))
    log.write("stdout", "\ud800")
    log.write("stdout", "")
    assert log.text == "odd\ud800"
    assert type(log.text) is str


def test_a_display_is_recorded_with_its_bundle() -> None:
    """Its plain text stands in the text, on a line of its own."""
    log = Log()
    bundle = {"text/plain": "<Figure>", "image/png": "aGk="}
    log.display(bundle, {"image/png": {"width": 1}})
    log.write("stdout", "after\n")
    first = next(iter(log))
    assert first == Entry("display", first.time, "<Figure>", bundle, {"image/png": {"width": 1}})
    assert log.text == "<Figure>\nafter\n"
    assert log.stdout == "after\n"
    assert log.size == 8 + 4 + 6


def test_an_update_takes_the_place_of_what_it_updates() -> None:
    """Of every output with its id; where there is none it is one of its own."""
    log = Log()
    log.display({"text/plain": "0%"}, display_id="bar")
    log.write("stdout", "between\n")
    log.display({"text/plain": "99%"}, update_of="bar")
    log.display({"text/plain": "new"}, update_of="unknown")
    log.display({"text/plain": "newer"}, update_of="unknown")
    assert log.text == "99%\nbetween\nnewer\n"


def test_a_rich_output_counts_with_its_whole_bundle() -> None:
    """Nested data included; one that is too large leaves its plain text."""
    log = Log(limit=1000)
    log.write("stdout", "first\n")
    log.display({"text/plain": "plot", "application/json": {"points": ["x" * 100] * 100}})
    assert log.size < 1000
    assert [entry.bundle for entry in log] == [None, {"text/plain": "plot"}]
    log.display({"image/png": b"x" * 900})
    log.display({"image/png": b"y" * 900})
    assert [entry.bundle for entry in log] == [{"image/png": b"y" * 900}]


def test_clear_output_forgets_at_once_or_when_something_comes() -> None:
    """As `clear_output` does, with `wait` and without."""
    log = Log()
    log.write("stdout", "old\n")
    log.clear(wait=True)
    assert log.text == "old\n"
    log.write("stdout", "new\n")
    assert log.text == "new\n"
    log.clear()
    assert (log.text, len(log)) == ("", 0)


def test_a_tail_is_cut_to_fit() -> None:
    """At the start of a line where there is one."""
    log = Log()
    log.write("stdout", "one\ntwo\nthree\n")
    log.write("stderr", "four\n")
    assert [(e.stream, e.text) for e in log.tail(12)] == [
        ("stdout", "three\n"),
        ("stderr", "four\n"),
    ]
    assert log.tail(0) == []
    assert "".join(e.text for e in log.tail(10_000)) == log.text


def test_subscribers_get_raw_pieces_in_order() -> None:
    """Neighbours of one stream joined, nothing folded, from the subscription on."""
    log = Log()
    log.write("stdout", "before")
    got: list[Piece] = []
    _, stop = log.follow(got.extend)
    for text in ("1%", "\r", "2%"):
        log.write("stderr", text)
    log.write("stdout", "x\n")
    log.display({"text/plain": "fig"}, display_id="a")
    log.display({"text/plain": "fog"}, update_of="a")
    log.clear(wait=True)
    log.drain()
    assert raw(got) == [
        ("stderr", "1%\r2%"),
        ("stdout", "x\n"),
        ("display", "fig"),
        ("update", "fog"),
        ("clear", ""),
    ]
    assert (got[3].display_id, got[4].wait) == ("a", True)
    log.write("stdout", "last")
    stop()
    log.write("stdout", "too late")
    log.drain()
    assert raw(got[5:]) == [("stdout", "last")]


def test_reading_hands_nothing_over() -> None:
    """A subscriber runs where somebody drains, not where somebody looks."""
    log = Log()
    got: list[Piece] = []
    log.follow(got.extend)
    log.write("stdout", "a")
    assert log.text == "a"
    assert got == []
    log.drain()
    assert raw(got) == [("stdout", "a")]


def test_following_continues_exactly_where_the_tail_ends() -> None:
    """Nothing lost or doubled, and the cursor where the job left it."""
    log = Log()
    got: list[Piece] = []
    log.write("stdout", "kept\n 50%\r")
    entries, stop = log.follow(got.extend, 1000)
    log.write("stdout", "100%\n")
    stop()
    assert "".join(e.text for e in entries) + "".join(p.text for p in got) == "kept\n 50%\r100%\n"


def test_a_subscriber_that_raises_is_dropped_and_hurts_nobody() -> None:
    """Neither the job nor the next subscriber."""
    log = Log()
    calls: list[int] = []
    got: list[Piece] = []

    def bad(pieces: list[Piece]) -> None:
        calls.append(len(pieces))
        raise ValueError

    log.follow(bad)
    log.follow(got.extend)
    for _ in range(2):
        log.write("stdout", "a")
        log.drain()
    assert calls == [1]
    assert raw(got) == [("stdout", "a"), ("stdout", "a")]


def test_a_subscriber_may_use_the_log() -> None:
    """What it writes or drains itself comes to it next, not in the middle."""
    log = Log()
    got: list[str] = []

    def reader(pieces: list[Piece]) -> None:
        got.append(log.text)
        if len(got) == 1:
            log.write("stdout", "b")
            log.drain()

    _, stop = log.follow(reader)
    log.write("stdout", "a")
    log.drain()
    stop()
    assert got == ["a", "ab"]


def test_a_subscription_ends_when_all_was_handed_over() -> None:
    """Also when another thread is just handing over."""
    log = Log()
    entered, go_on = threading.Event(), threading.Event()
    got: list[str] = []

    def slow(pieces: list[Piece]) -> None:
        entered.set()
        assert go_on.wait(10)
        got.extend(piece.text for piece in pieces)

    _, stop = log.follow(slow)
    log.write("stdout", "a")
    drainer = threading.Thread(target=log.drain)
    drainer.start()
    assert entered.wait(10)
    log.write("stdout", "b")
    stopper = threading.Thread(target=stop)
    stopper.start()
    go_on.set()
    stopper.join(10)
    assert got == ["a", "b"]
    drainer.join(10)


def test_a_subscriber_runs_in_its_own_context() -> None:
    """Not in the context of the job that happens to drain."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="subscriber")
    log = Log()
    seen: list[str] = []
    log.follow(lambda pieces: seen.append(whose.get()))

    def job() -> None:
        whose.set("job")
        log.write("stdout", "x" * 300_000)

    contextvars.copy_context().run(job)
    assert seen == ["subscriber"]


def test_a_drain_is_asked_for_once_a_cycle() -> None:
    """Whoever schedules it hears of the first piece only."""
    asked: list[Log] = []
    log = Log(pending=asked.append)
    log.write("stdout", "a")
    log.write("stdout", "b")
    assert asked == [log]
    log.drain()
    log.write("stdout", "c")
    assert asked == [log, log]


def test_a_hook_that_comes_later_hears_of_what_waits() -> None:
    """And one that raises does not hurt the job."""
    log = Log()
    log.write("stdout", "a")
    asked: list[Log] = []
    log.on_pending(asked.append)
    assert asked == [log]

    def bad(log: Log) -> None:
        raise ValueError

    log.on_pending(bad)
    log.drain()
    log.write("stdout", "b")
    assert log.text == "ab"


def test_threads_lose_nothing_and_keep_their_order() -> None:
    """Writers, a drainer and a reader at once."""
    log = Log(limit=10_000_000)
    got: list[Piece] = []
    _, stop = log.follow(got.extend)
    start = threading.Barrier(5)
    writing = threading.Event()
    writing.set()

    def write(name: int) -> None:
        start.wait()
        for n in range(5000):
            log.write("stdout", f"{name} {n}\n")

    def drain() -> None:
        start.wait()
        while writing.is_set():
            log.drain()
            assert log.last_line is not None

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    drainer = threading.Thread(target=drain)
    for thread in (*writers, drainer):
        thread.start()
    for thread in writers:
        thread.join()
    writing.clear()
    drainer.join()
    stop()
    followed = "".join(piece.text for piece in got)
    assert log.text == followed
    for name in range(4):
        mine = [line for line in followed.splitlines() if line.startswith(f"{name} ")]
        assert mine == [f"{name} {n}" for n in range(5000)]


def test_a_hook_that_comes_late_is_asked_for_what_is_written_then() -> None:
    """Also when nobody was there to be asked before."""
    log = Log()
    log.write("stdout", "before\n")
    _, end = log.follow(lambda _: None, 100)
    asked: list[Log] = []
    log.on_pending(asked.append)
    log.write("stdout", "after\n")
    assert asked == [log]
    end()
