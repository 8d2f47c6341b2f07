"""How far a job is: what it reported itself, as by `track`, or what its progress bars show."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ipy_bgtasks.context import current
from ipy_bgtasks.stacks import hide
from ipy_bgtasks.text import short_repr, strip_ansi

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record


_BAR_WITHIN = 2000  # characters of a line in which a bar is looked for

# desc:  45%|####      | 45/100 [00:01<00:01, 42.1it/s]
_BAR = re.compile(r"(?:^|(?<=\s))(\d{1,3})%\|[^|]*\|?")
_COUNTS = re.compile(r"\s*([\d.]+)/([\d.]+)(?=\s|$)")
# Working... ━━━━━━━╸━━━━━━  45% 0:00:12   or, with a column that counts, 45/100
_RICH = re.compile(r"\s*[━╸╺]{4,}(?=\s|$)")
_PERCENT = re.compile(r"(?:^|(?<=\s))(\d{1,3})%(?=\s|$)")
_OF = re.compile(r"(?:^|(?<=\s))([\d.]+)/\s*([\d.]+)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: `done` of `total` (None if nobody knows how much there is).

    `text` is shown beside the bar. Any real number counts, `fractions`, `decimal` and NumPy's
    included. Raises `TypeError` if `done` is not one, `ValueError` if it is not finite, or if
    `total` is not one of 0 or more.
    """

    done: float
    total: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        check_total(self.total)
        if not _is_number(self.done):
            kind = ValueError if _is_real(self.done) else TypeError
            raise kind(f"what is done must be a number, not {short_repr(self.done)}")
        # Plain from here on: what reads it calls nothing of the user's.
        object.__setattr__(self, "done", _plain(self.done))
        if self.total is not None:
            object.__setattr__(self, "total", _plain(self.total))
        if type(self.text) is not str:
            object.__setattr__(self, "text", str(self.text))

    @classmethod
    def of(cls, value: Progress | float | None) -> Progress | None:
        """Return what was assigned to a job's `progress`: a number is the part that is done.

        Raises `TypeError` for anything else, and `ValueError` for a number that is not finite.
        """
        if value is None or isinstance(value, cls):
            return value
        if not _is_real(value):
            wanted = "a number from 0 to 1, a Progress or None"
            raise TypeError(f"progress must be {wanted}, not {short_repr(value)}")
        return cls(done=value, total=1)  # type: ignore[arg-type]

    @property
    def fraction(self) -> float | None:
        """Return the part that is done, from 0 to 1; None if that is not known."""
        if not self.total:
            return None
        return min(1.0, max(0.0, float(self.done / self.total)))


def from_line(line: str) -> Progress | None:
    """Return the progress that a line shows as tqdm or rich do; None if it shows none."""
    if "%|" in line:
        return _from_tqdm(strip_ansi(line[:_BAR_WITHIN]))
    if "━" in line or "╸" in line:
        return _from_rich(strip_ansi(line[:_BAR_WITHIN]))
    return None


def _from_tqdm(line: str) -> Progress | None:
    if (bar := _BAR.search(line)) is None:
        return None
    text = " ".join((line[: bar.start()] + line[bar.end() :]).split())
    counts = _counted(_COUNTS.match(line, bar.end()), text)
    return counts or Progress(min(100, int(bar[1])), 100, text)


def _from_rich(line: str) -> Progress | None:
    if (bar := _RICH.search(line)) is None:
        return None
    rest = line[: bar.start()] + " " + line[bar.end() :]
    percent = _PERCENT.search(rest)
    text = " ".join((_PERCENT.sub("", rest, count=1) if percent else rest).split())
    if counts := _counted(_OF.search(rest), text):
        return counts
    return None if percent is None else Progress(min(100, int(percent[1])), 100, text)


def _counted(counts: re.Match[str] | None, text: str) -> Progress | None:
    """Return how many of how many; None if it is something like 1.2.3/4."""
    if counts is not None:
        try:
            done, total = (_number(part) for part in counts.groups())
            if total:
                return Progress(done, total, text)
        except ValueError:
            pass
    return None


def progress_of(job: Record) -> Progress | None:
    """Return how far a job is: the one answer for all that show it.

    What the job reported counts first, then the widgets that it shows, then the bar that it is
    just printing. Any thread may call.
    """
    if job.progress is not None:
        return job.progress
    if job.bars is not None and (seen := job.bars()) is not None:
        return seen
    if not job.has_output:
        return None
    log = job.log
    for line in (log.unfinished("stderr"), log.unfinished("stdout")):
        if printed := from_line(line):
            return printed
    return first_unfinished(log.last_lines())


def first_unfinished(lines: list[str]) -> Progress | None:
    """Return the first of the bars in the last block of lines that goes on; else its last."""
    block: list[Progress] = []
    for line in reversed(lines):
        if (seen := from_line(line)) is None:
            break
        block.insert(0, seen)
    return next((seen for seen in block if seen.fraction != 1), block[-1] if block else None)


def check_total(total: object) -> None:
    """Raise `ValueError` for a total that nothing can have."""
    if total is not None and not (_is_number(total) and total >= 0):  # type: ignore[operator]
        raise ValueError(f"total must be a number of 0 or more, or None, not {short_repr(total)}")


def _is_real(value: object) -> bool:
    return isinstance(value, Real | Decimal) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not _is_real(value):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (ValueError, OverflowError):  # a signalling NaN; an integer beyond all floats
        return False


def _plain(value: Any) -> float:
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    return int(value) if isinstance(value, Integral) else float(value)


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


_T = TypeVar("_T")

# The most reports that a loop makes, roughly: finer steps are not visible in any bar, and a loop
# over millions of items must not pay for each.
_STEPS = 1000


@overload
def track(iterable: Iterable[_T], total: float | None = None) -> Iterator[_T]: ...
@overload
def track(iterable: AsyncIterable[_T], total: float | None = None) -> AsyncIterator[_T]: ...
def track(
    iterable: Iterable[_T] | AsyncIterable[_T], total: float | None = None
) -> Iterator[_T] | AsyncIterator[_T]:
    """Iterate, and report progress to the current job; outside a job, only iterate.

    `total` is how many items there will be; by default what `len` gives, if it is defined.
    An asynchronous iterable gives an asynchronous iterator. Raises `ValueError` for a total that
    is not a number of 0 or more, `TypeError` for what cannot be iterated.
    """
    check_total(total)
    if total is None:
        total = _length(iterable)
    if isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable):
        return _track_async(iterable, total)
    try:
        items = iter(iterable)  # also for what has only __getitem__
    except TypeError:
        message = f"track needs something to iterate over, not {short_repr(iterable)}"
        raise TypeError(message) from None
    return _track(items, total)


def _track(items: Iterator[_T], total: float | None) -> Iterator[_T]:
    with _Reports(total) as step:
        for item in items:
            step()
            yield item


async def _track_async(items: AsyncIterable[_T], total: float | None) -> AsyncIterator[_T]:
    with _Reports(total) as step:
        async for item in items:
            step()
            yield item


class _Reports:
    """Reports to the current job: before each item, unless a bar would not move, and at the end."""

    def __init__(self, total: float | None) -> None:
        self._job = current.get()
        self._total = total
        self._begun = self._due = 0

    def __enter__(self) -> Callable[[], None]:
        return self._step

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._report()
        else:
            hide(error)

    def _step(self) -> None:
        if self._begun >= self._due:
            self._report()
            self._due = self._begun + max(1, int(self._total or self._begun) // _STEPS)
        self._begun += 1

    def _report(self) -> None:
        if self._job is not None:
            self._job.progress = Progress(self._begun, self._total)


def _length(iterable: object) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except Exception:  # no `len`, or one that refuses: a data loader over a stream does
        return None
