"""What a benchmark is: contenders that take turns, so that whatever else the machine does hits all.

Each round takes one value of every contender, in changing order. A figure compares the values of
the same round, and its spread is the middle half of the rounds.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

#: The contender that every other is compared with.
OURS = "ours"

#: One value of each contender: seconds, or what the benchmark's unit says.
Round: TypeAlias = Mapping[str, float]
Values: TypeAlias = Sequence[float]


class Unavailable(Exception):
    """A peer cannot be installed, loaded or run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to do: a part of the full count of rounds and of things in each."""

    part: float = 1.0

    def rounds(self, full: int) -> int:
        """So many rounds."""
        return max(3, round(full * self.part))

    def count(self, full: int) -> int:
        """So many things a round."""
        return max(10, round(full * self.part))


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with the middle half of what it was made of."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is made of, and how high (or low) it may be; no limit: for orientation."""

    kind: str
    limit: float | None = None
    least: bool = False

    def figure(self, ours: Values, theirs: Values) -> Figure:
        """The figure that these values, taken in pairs, give."""
        return _KINDS[self.kind](ours, theirs)

    def met(self, figure: Figure) -> bool:
        """Whether it is as good as it should be."""
        if self.limit is None:
            return True
        return figure.value >= self.limit if self.least else figure.value <= self.limit


def ratio(limit: float | None = None) -> Goal:
    """Ours divided by the other's."""
    return Goal("ratio", limit)


def throughput(limit: float) -> Goal:
    """How much ours does in the time in which the other does 1, at least."""
    return Goal("throughput", limit, least=True)


def excess(limit: float) -> Goal:
    """Ours less the other's."""
    return Goal("excess", limit)


def own(limit: float) -> Goal:
    """Ours alone; the other is there to compare."""
    return Goal("own", limit)


def own_p99(limit: float) -> Goal:
    """What 99 in 100 of ours stay below."""
    return Goal("p99", limit)


def p95_ratio(limit: float) -> Goal:
    """What 95 in 100 of ours stay below, divided by the same of the other's."""
    return Goal("p95 ratio", limit)


@dataclass(frozen=True, slots=True)
class Contest:
    """A benchmark: `take` yields the rounds, `goals` tells what is compared, and with whom."""

    name: str
    topic: str
    take: Callable[[Size], Iterator[Round]]
    goals: Mapping[str, Goal]
    unit: str = "second"
    note: str = ""


@dataclass(slots=True)
class Contests:
    """The benchmarks of one topic, collected by a decorator."""

    topic: str
    all: list[Contest] = field(default_factory=list)

    def add(
        self, name: str, goals: Mapping[str, Goal], *, unit: str = "second", note: str = ""
    ) -> Callable[[Callable[[Size], Iterator[Round]]], Callable[[Size], Iterator[Round]]]:
        """Make a benchmark of the function that yields its rounds."""

        def register(take: Callable[[Size], Iterator[Round]]) -> Callable[[Size], Iterator[Round]]:
            self.all.append(Contest(name, self.topic, take, goals, unit, note))
            return take

        return register


def turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[Round]:
    """Rounds of contenders that can be called one by one; the first round only warms up."""
    names = list(contenders)
    for number in range(rounds + 1):
        taken = {}
        for name in in_turn(names, number):
            gc.collect()
            taken[name] = contenders[name]()
        if number:
            yield taken


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The names in another order each round: each comes first as often, and after each other."""
    at = number // 2 % len(names)
    order = [*names[at:], *names[:at]]
    return order if number % 2 == 0 else order[::-1]


def _spread(values: Values) -> Figure:
    if len(values) < 2:
        return Figure(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(middle, low, high)


def _ratio(ours: Values, theirs: Values) -> Figure:
    return _spread([a / b for a, b in zip(ours, theirs, strict=True)])


def _throughput(ours: Values, theirs: Values) -> Figure:
    return _ratio(theirs, ours)


def _excess(ours: Values, theirs: Values) -> Figure:
    return _spread([a - b for a, b in zip(ours, theirs, strict=True)])


def _own(ours: Values, theirs: Values) -> Figure:
    return _spread(ours)


def _percentile(values: Values, percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _p99(ours: Values, theirs: Values) -> Figure:
    middle = _spread(ours)
    return Figure(_percentile(ours, 99), middle.low, middle.high)


def _p95_ratio(ours: Values, theirs: Values) -> Figure:
    value = _percentile(ours, 95) / _percentile(theirs, 95)
    return Figure(value, value, value)


_KINDS: Mapping[str, Callable[[Values, Values], Figure]] = {
    "ratio": _ratio,
    "throughput": _throughput,
    "excess": _excess,
    "own": _own,
    "p99": _p99,
    "p95 ratio": _p95_ratio,
}
