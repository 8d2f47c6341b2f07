"""How far a job is: what it reported, or what is read off a progress bar that it prints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Protocol

from ipy_bgtasks.text import strip_ansi

if TYPE_CHECKING:
    from ipy_bgtasks.log.output import Log

_BAR_WITHIN = 2000  # characters of a line in which a bar is looked for

# desc:  45%|####      | 45/100 [00:01<00:01, 42.1it/s]
_BAR = re.compile(r"(?:^|(?<=\s))(\d{1,3})%\|[^|]*\|?")
_COUNTS = re.compile(r"\s*([\d.]+)/([\d.]+)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: `done` of `total` (None if nobody knows how much there is).

    `text` is shown beside the bar. Raises `ValueError` if `done` is not a number, or `total` is
    not one of 0 or more.
    """

    done: float
    total: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        check_total(self.total)
        if not _is_number(self.done):
            raise ValueError(f"what is done must be a number, not {shown(self.done)}")

    @classmethod
    def of(cls, value: Progress | float | None) -> Progress | None:
        """What was assigned to a job's `progress`, where a number is the part that is done."""
        return cls(done=value, total=1) if isinstance(value, int | float) else value

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1; None if that is not known."""
        if not self.total:
            return None
        return min(1.0, max(0.0, float(self.done / self.total)))


class _Reports(Protocol):
    """What of a job is looked at here."""

    @property
    def progress(self) -> Progress | None: ...
    @property
    def log(self) -> Log: ...


def from_line(line: str) -> Progress | None:
    """Return the progress that a line shows as tqdm does; None if it shows none."""
    if "%|" not in line:
        return None
    line = strip_ansi(line[:_BAR_WITHIN])
    if (bar := _BAR.search(line)) is None:
        return None
    text = " ".join((line[: bar.start()] + line[bar.end() :]).split())
    if counts := _COUNTS.match(line, bar.end()):
        try:
            done, total = (_number(part) for part in counts.groups())
            if total:
                return Progress(done, total, text)
        except ValueError:
            pass  # something like 1.2.3/4: the percentage has to do
    return Progress(min(100, int(bar[1])), 100, text)


def progress_of(job: _Reports) -> Progress | None:
    """Return what a job reported, or what the progress bar shows that it is just printing."""
    if job.progress is not None or not getattr(job, "has_output", True):
        return job.progress
    log = job.log
    for line in (log.unfinished("stderr"), log.unfinished("stdout"), log.last_line):
        if seen := from_line(line):
            return seen
    return None


def check_total(total: object) -> None:
    """Raise `ValueError` for a total that nothing can have."""
    if total is not None and not (_is_number(total) and total >= 0):  # type: ignore[operator]
        raise ValueError(f"total must be a number of 0 or more, or None, not {shown(total)}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


def shown(value: object) -> str:
    """Return a value as a message may show it."""
    from ipy_bgtasks.text import short_repr

    return short_repr(value)
