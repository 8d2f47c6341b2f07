"""How far a job is: reported, or read off a bar."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ipy_bgtasks.context import current
from ipy_bgtasks.job.progress import Progress, from_line, progress_of, track
from ipy_bgtasks.log.output import Log


class Recorder:
    """A job that remembers every report."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    @property
    def progress(self) -> Progress | None:
        """The last report."""
        return self.seen[-1] if self.seen else None

    @progress.setter
    def progress(self, value: Progress) -> None:
        self.seen.append(value)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """The current job."""
    recorder = Recorder()
    token = current.set(recorder)
    yield recorder
    current.reset(token)


@pytest.mark.parametrize(
    ("done", "total", "fraction"),
    [(45, 100, 0.45), (0.5, 1, 0.5), (3, None, None), (0, 0, None), (9, 3, 1.0), (-1, 3, 0.0)],
)
def test_a_fraction_is_between_nothing_and_all(
    done: float, total: float | None, fraction: float | None
) -> None:
    """Or unknown."""
    assert Progress(done, total).fraction == fraction


@pytest.mark.parametrize("total", [-1, math.nan, math.inf, "many", [3], True])
def test_a_total_that_is_none_is_refused_in_one_line(total: Any) -> None:
    """At the call of `track`, not at its first item."""
    with pytest.raises(ValueError, match="0 or more, or None, not") as caught:
        track([1, 2], total=total)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="0 or more"):
        Progress(1, total)


def test_what_is_done_is_a_number() -> None:
    """Anything else is refused in one line."""
    with pytest.raises(TypeError, match="must be a number, not 'half'"):
        Progress("half", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a number, not nan"):
        Progress(math.nan, 1)


@pytest.mark.parametrize(
    "half", [0.5, Fraction(1, 2), Decimal("0.5"), np.float32(0.5), np.float64(0.5)]
)
def test_every_real_number_counts(half: Any) -> None:
    """Whatever the library it comes from; what is kept is a plain one."""
    progress = Progress.of(half)
    assert progress == Progress(0.5, 1)
    assert progress is not None
    assert type(progress.done) is float
    assert Progress(np.int64(3), Decimal(4)) == Progress(3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["50%", "0.5", object(), [0.5], 0.5j, True, np.array([0.5])])
def test_what_is_no_number_is_no_progress(value: Any) -> None:
    """It raises where it is assigned, and is never kept."""
    with pytest.raises(TypeError, match="a number from 0 to 1, a Progress or None, not") as caught:
        Progress.of(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, np.float32("nan"), Decimal("nan"), Decimal("snan"), 10**400]
)
def test_a_number_that_is_not_finite_is_refused(value: Any) -> None:
    """Nothing can be drawn of it."""
    with pytest.raises(ValueError, match="must be a number, not"):
        Progress.of(value)


def test_track_reports_what_is_done_before_each_item(recorder: Recorder) -> None:
    """And the end; the total comes from `len`."""
    assert [recorder.seen[-1].done for _ in track("abc")] == [0, 1, 2]
    assert recorder.seen[-1] == Progress(3, 3)


def test_track_takes_the_total_it_is_told(recorder: Recorder) -> None:
    """Where there is no `len`, or one that refuses; a total of None is unknown."""

    class Refuses:
        def __len__(self) -> int:
            raise NotImplementedError

        def __iter__(self) -> Iterator[int]:
            return iter((1, 2))

    assert list(track(Refuses(), total=4)) == [1, 2]
    assert recorder.seen[-1].fraction == 0.5
    assert list(track(Refuses())) == [1, 2]
    assert recorder.seen[-1] == Progress(2, None)


def test_track_does_not_report_more_often_than_anybody_sees(recorder: Recorder) -> None:
    """About a thousand times, however many items there are; more only if nobody knows."""
    for _ in track(range(100_000)):
        pass
    assert len(recorder.seen) <= 1001
    recorder.seen.clear()
    for _ in track(iter(range(100_000))):
        pass
    assert len(recorder.seen) <= 7000


def test_track_outside_a_job_only_iterates() -> None:
    """Whatever can be iterated, by index too."""

    class ByIndex:
        def __getitem__(self, at: int) -> int:
            return [7, 8][at]

    assert list(track(ByIndex())) == [7, 8]  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="something to iterate over, not 42"):
        track(42)  # type: ignore[call-overload]


async def test_track_follows_an_asynchronous_iterable(recorder: Recorder) -> None:
    """With `async for`."""

    async def items() -> AsyncIterator[str]:
        for char in "abc":
            yield char

    assert [(x, recorder.seen[-1].done) async for x in track(items(), total=3)] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]
    assert recorder.seen[-1].fraction == 1.0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "load:  45%|####      | 45/100 [00:01<00:01, 42.1it/s]",
            Progress(45, 100, "load: 45/100 [00:01<00:01, 42.1it/s]"),
        ),
        ("\x1b[32m  7%|▋    |\x1b[0m 3/41 [?it/s]", Progress(3, 41, "3/41 [?it/s]")),
        (
            " 12%|█▎  | 1.2M/10.0M [00:01<00:09, 1MB/s]",
            Progress(12, 100, "1.2M/10.0M [00:01<00:09, 1MB/s]"),
        ),
        ("100%|", Progress(100, 100, "")),
        ("  3%|#| 1.5/50 [x]", Progress(1.5, 50, "1.5/50 [x]")),
        ("999%|##| 0/0 [x]", Progress(100, 100, "0/0 [x]")),
        ("Working... ━━━━━╸━━━━━━━  45% 0:00:12", Progress(45, 100, "Working... 0:00:12")),
        ("\x1b[35mfit\x1b[0m \x1b[38m━━━━━━\x1b[0m 3/8 0:00:01", Progress(3, 8, "fit 3/8 0:00:01")),
        ("━━━━━ a rule ━━━━━", None),
        ("45% of people", None),
        ("a45%|b", None),
        ("17it [00:01, 9it/s]", None),
        ("", None),
    ],
)
def test_a_bar_is_read_off_a_line(line: str, expected: Progress | None) -> None:
    """As tqdm prints it; anything else is just a line."""
    assert from_line(line) == expected


@pytest.mark.parametrize("between", ["", "some other output\n"])
def test_a_bar_that_is_just_printed_tells_the_progress(between: str) -> None:
    """Also when the job prints something else meanwhile; what the job reports itself wins."""
    log = Log()
    log.write("stderr", "\r 10%|# | 1/10 [x]")
    log.write("stderr", "\r 20%|# | 2/10 [x]")
    log.write("stdout", between)
    seen: Callable[[Any], Progress | None] = progress_of
    assert seen(SimpleNamespace(progress=None, bars=None, has_output=True, log=log)) == Progress(
        2, 10, "2/10 [x]"
    )
    assert seen(SimpleNamespace(progress=Progress(1), log=log)) == Progress(1)


def test_a_real_bar_is_read() -> None:
    """What tqdm writes today."""
    tqdm = pytest.importorskip("tqdm")
    log = Log()
    file = SimpleNamespace(write=lambda text: log.write("stderr", text), flush=lambda: None)
    bar = tqdm.tqdm(total=40, file=file, desc="fit", ascii=False, mininterval=0)
    try:
        bar.update(10)
        progress = from_line(log.unfinished("stderr"))
    finally:
        bar.close()
    assert progress is not None
    assert (progress.done, progress.total, progress.fraction) == (10, 40, 0.25)
    assert progress.text.startswith("fit: 10/40 [")
    assert log.stderr.count("\n") == 1
