"""``python -m tests.benchmarks``: measure, print the table, save it, compare it."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from .contest import Contest, Size, Unavailable
from .results import Results, heading, text, typical

TOPICS = ("launch", "kernel", "printing", "memory", "loading", "cancel", "places", "sweeps")


def contests(words: list[str]) -> list[Contest]:
    """The contests whose topic or name contains one of the words; all, if there is no word."""
    every = [one for topic in TOPICS for one in import_module(f".{topic}", __package__).BENCH.all]
    return [c for c in every if not words or any(w in f"{c.topic}: {c.name}" for w in words)]


def main() -> int:
    """Run what was asked for; the exit status counts no missed goals, only what broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="topic or name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save what was measured")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="a saved run to compare with")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to try it out")
    parser.add_argument(
        "--times",
        type=int,
        default=1,
        metavar="N",
        help="run it all N times; the file has the last",
    )
    parser.add_argument("--list", action="store_true", help="only name the benchmarks")
    given = parser.parse_args()
    chosen = contests(given.only)
    if given.list or not chosen:
        print(*(f"{c.topic}: {c.name}" for c in chosen or contests([])), sep="\n")
        return 0 if chosen else 2
    before = Results.load(given.compare) if given.compare else None
    size = Size(0.1 if given.quick else 1.0)
    broken = 0
    runs = []
    for _ in range(given.times):
        print(heading())
        runs.append(results := Results())
        for contest in chosen:
            broken += not _run(contest, size, results, before)
        if given.json:
            results.save(given.json)
    if len(runs) > 1:
        print(f"\nmedians of {len(runs)} runs", heading(spread="lowest … highest"), sep="\n")
        for contest in chosen:
            for lines in zip(*(results.lines(contest) for results in runs), strict=True):
                print(text(typical(lines)))
    return 1 if broken else 0


def _run(contest: Contest, size: Size, results: Results, before: Results | None) -> bool:
    """Run one contest and print its lines; whether it could be measured."""
    try:
        results.add(contest, contest.take(size))
    except Unavailable as why:
        print(f"{contest.name}: {why}", flush=True)
        return True
    except Exception as error:
        print(f"{contest.name}: {type(error).__name__}: {error}"[:1000], flush=True)
        return False
    was = {line.peer: line for line in before.lines(contest)} if before else {}
    for line in results.lines(contest):
        print(text(line, was.get(line.peer)), flush=True)
    if contest.note:
        print(f"    {contest.note}")
    return True


if __name__ == "__main__":
    sys.exit(main())
