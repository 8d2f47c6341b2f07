"""Results as a `pyperf` suite: kept, shown, compared with a saved one.

pyperf keeps the values with what it knows of machine and versions, and its own commands
(``python -m pyperf show FILE``) read the file. Its runner times one function after the other in
processes of their own, so the taking of turns is ours (`contest`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import pyperf

from .contest import OURS, Contest, Figure, Goal, Round

_PACKAGES = (
    "ipython",
    "ipykernel",
    "aiojobs",
    "ipython-bg",
    "Pebble",
    "distributed",
    "ipyparallel",
)
_TINY = 1e-12  # pyperf takes nothing that is not above zero


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    contest: str
    peer: str
    goal: Goal
    figure: Figure
    ours: float
    theirs: float
    unit: str


class Results:
    """The values of all contests that were run."""

    def __init__(self, benchmarks: dict[tuple[str, str], pyperf.Benchmark] | None = None) -> None:
        self._benchmarks = benchmarks or {}

    def add(self, contest: Contest, rounds: Iterable[Round]) -> None:
        """Keep the rounds of one contest."""
        rounds = list(rounds)
        for contender in rounds[0]:
            values = [max(taken[contender], _TINY) for taken in rounds]
            about = {"name": f"{contest.name} | {contender}", "unit": contest.unit} | _versions()
            run = pyperf.Run(values, metadata=about, collect_metadata=not self._benchmarks)
            self._benchmarks[contest.name, contender] = pyperf.Benchmark([run])

    def lines(self, contest: Contest) -> Iterator[Line]:
        """The lines of one contest, one for each peer."""
        ours = self._benchmarks.get((contest.name, OURS))
        for peer, goal in contest.goals.items():
            theirs = self._benchmarks.get((contest.name, peer), ours)
            if ours is None or theirs is None:
                continue
            figure = goal.figure(ours.get_values(), theirs.get_values())
            values = ours.median(), theirs.median()
            yield Line(contest.name, peer, goal, figure, *values, contest.unit)

    def save(self, path: Path) -> None:
        """Write everything to a file of pyperf's format."""
        suite = pyperf.BenchmarkSuite(list(self._benchmarks.values()))
        suite.dump(str(path), replace=True)

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` wrote."""
        suite = pyperf.BenchmarkSuite.load(str(path))
        named = [(benchmark.get_name().partition(" | "), benchmark) for benchmark in suite]
        return cls({(name[0], name[2]): benchmark for name, benchmark in named})


def heading(spread: str = "middle half") -> str:
    """The titles of the columns."""
    return _columns("what", "against", "figure", spread, "goal", "", "ours", "other")


def typical(lines: Sequence[Line]) -> Line:
    """The line of several runs whose figure is in the middle, with the lowest and the highest."""
    middle = sorted(lines, key=lambda line: line.figure.value)[len(lines) // 2]
    values = [line.figure.value for line in lines]
    return replace(middle, figure=Figure(middle.figure.value, min(values), max(values)))


def text(line: Line, before: Line | None = None) -> str:
    """One line of the table; with *before*, how it changed."""
    goal, figure = line.goal, line.figure
    limit = "" if goal.limit is None else f"{'≥' if goal.least else '≤'} {_shown(goal.limit, line)}"
    verdict = "" if goal.limit is None else "met" if goal.met(figure) else "MISSED"
    spread = f"{_shown(figure.low, line)} … {_shown(figure.high, line)}"
    shown = _columns(
        line.contest,
        line.peer,
        f"{goal.kind} {_shown(figure.value, line)}",
        spread,
        limit,
        verdict,
        _amount(line.ours, line.unit),
        _amount(line.theirs, line.unit),
    )
    return shown if before is None else f"{shown}  {_change(line, before)}"


def _change(line: Line, before: Line) -> str:
    now, then = line.figure, before.figure
    clear = now.low > then.high or now.high < then.low
    return f"was {_shown(then.value, before)}{' (clearly)' if clear else ''}"


def _columns(*texts: str) -> str:
    widths = (66, 20, 18, 18, 10, 6, 8, 8)
    return " ".join(part.ljust(width) for part, width in zip(texts, widths, strict=True)).rstrip()


def _shown(value: float, line: Line) -> str:
    if "ratio" in line.goal.kind or line.goal.kind == "throughput":
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return _amount(value, line.unit)


def _amount(value: float, unit: str) -> str:
    if unit != "second":
        return f"{value:.0f} {'B' if unit == 'byte' else ''}".strip()
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e9:.0f} ns"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
