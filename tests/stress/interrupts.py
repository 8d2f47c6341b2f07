"""Interrupts at random moments while jobs run and foreground cells come and go.

    python tests/stress/interrupts.py [kernel] [terminal] [--interrupts N] [--jobs N] [--seed N]

Every job must finish with its right result, every line they print must arrive, in order, and
the kernel or prompt must answer each time. Prints the counts, and fails if any is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

for ring in ("", "kernel", "terminal"):
    sys.path.append(str(Path(__file__).parents[1] / ring))

#: Seconds between two interrupts: at least, and at most.
APART = 0.05, 0.2

SETUP = """\
import asyncio, random, threading, time, ipy_bgtasks
jobs = ipy_bgtasks.jobs()
stop = threading.Event()
def step(i, j, total):
    for k in range(2_000): total += k
    print(f'<{i}:{j}>')
    return total
async def coroutine(i):
    j = total = 0
    while not stop.is_set():
        total = step(i, j, total); j += 1
        await asyncio.sleep(0.2 + 0.01 * (i % 7))
    return i, j, total == j * sum(range(2_000))
def call(i):
    j = total = 0
    while not stop.is_set():
        total = step(i, j, total); j += 1
        stop.wait(0.2 + 0.01 * (i % 7))
    return i, j, total == j * sum(range(2_000))
async def busy(i):
    j = total = 0
    while not stop.is_set():
        if j < 20: total = step(i, j, total); j += 1
        await asyncio.sleep(0)
        for k in range(5_000): pass
    return i, j, total == j * sum(range(2_000))
async def quick(i): return i
def also_quick(i): return i
"""

#: What the user does meanwhile; `{j}` is the number of one of the long jobs.
CELLS = (
    "time.sleep(5)",
    "while True: pass",
    "await asyncio.sleep(5)",
    "await asyncio.Event().wait()",
    "%fg {j}",
    "x = %fg {j}",
    "%fg --timeout 5 {j}",
    "await jobs[{j}]",
    "await asyncio.gather(jobs[{j}], jobs[1])",
    "%fg asyncio.sleep(0.1)",
    "x = %fg also_quick(3)",
    "for i in range(10):\n    %bg -q quick(i)\n    %bg -q also_quick(i)",
    "for i in range(10):\n    %fg -- also_quick(i)",
    "%jobs",
    "print('here')",
    "1 + 1",
)

#: Evaluated at the end, when all have ended: states, results of the long ones, lines recorded.
REPORT = (
    "long = [jobs[n] for n in range(1, {n} + 1)]\n"
    "print('STATES', *sorted({{str(j.state) for j in jobs}}))\n"
    "print('UNDONE', *[j.number for j in jobs if not j.done()])\n"
    "wrong = [j.number for j in long if j.state != 'finished' or j.result()[0] != j.number"
    " or not j.result()[2]]\n"
    "print('WRONG', *wrong)\n"
    "counts = [j.result()[1] if j.state == 'finished' else 0 for j in long]\n"
    "logged = [j.log.text == ''.join(f'<{{j.number}}:{{k}}>\\n' for k in range(n))"
    " for j, n in zip(long, counts)]\n"
    "print('UNLOGGED', *[j.number for j, good in zip(long, logged) if not good])\n"
    "print('QUICK', len(jobs) - len(long))\n"
    "print('LINES', *counts)"
)


@dataclass
class Counts:
    """What happened."""

    place: str
    interrupts: int = 0
    cells: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    slowest: float = 0.0
    jobs: int = 0
    quick: int = 0
    undone: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    unlogged: list[int] = field(default_factory=list)
    lines: int = 0
    lost: int = 0
    misplaced: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (
            self.unlogged
            or self.unanswered
            or self.undone
            or self.wrong
            or self.lost
            or self.misplaced
        )

    def __str__(self) -> str:
        outcomes = ", ".join(f"{n} {name}" for name, n in self.outcomes.most_common())
        return (
            f"{self.place}: {self.interrupts} interrupts, {self.cells} cells ({outcomes}), "
            f"{self.unanswered} without a reply, "
            f"slowest answer to an interrupt {self.slowest:.2f} s\n"
            f"  {self.jobs} jobs throughout and {self.quick} short ones: "
            f"{len(self.wrong)} wrong outcomes, {len(self.undone)} never ended\n"
            f"  {self.lines} lines printed: {self.lost} lost, {self.misplaced} jobs out of order, "
            f"{len(self.unlogged)} jobs with another log"
        )


class Place(Protocol):
    """A session under test."""

    counts: Counts

    def begin(self, count: int) -> None:
        """Launch the jobs."""

    def round(self, cell: str, chance: random.Random) -> None:
        """Execute *cell*, and interrupt until it is over."""

    def finish(self, count: int) -> None:
        """Let the jobs end, and count."""


def launches(count: int) -> list[str]:
    """The lines that launch the jobs: coroutines, threads, coroutines in threads, and two busy."""
    codes = ["coroutine({i})", "call({i})", "-t coroutine({i})"]
    lines = [f"%bg {codes[i % 3].format(i=i)};" for i in range(1, count - 1)]
    return [*lines, f"%bg busy({count - 1});", f"%bg busy({count});"]


def pause(chance: random.Random) -> float:
    """Seconds until the next interrupt."""
    return chance.uniform(*APART)


class InKernel:
    """A kernel, interrupted as the stop button does."""

    def __init__(self, home: Path) -> None:
        from kernels import Kernel, Reply

        self.counts = Counts("kernel")
        self.kernel = Kernel(home)
        self.kernel.load()
        self.kernel.ok(SETUP)
        self.launched: list[Reply] = []
        self._next = 0.0

    def begin(self, count: int) -> None:
        self.counts.jobs = count
        self.kernel.ok("%config BgTasks.max_finished = 100_000")
        self.launched = [self.kernel.ok(line) for line in launches(count)]

    def round(self, cell: str, chance: random.Random) -> None:
        pending = self.kernel.start(cell)
        reply, interrupted = pending.reply, 0.0
        deadline = time.monotonic() + 60
        while not reply.done:
            left = self._next - time.monotonic()
            if left <= 0:
                self.kernel.interrupt()
                self.counts.interrupts += 1
                interrupted = interrupted or time.monotonic()
                self._next = time.monotonic() + pause(chance)
                continue
            self.kernel.wait_a_moment(left)
            if reply.idle and not reply.content and self.kernel.abandon(reply):
                self.counts.unanswered += 1
                break
            assert time.monotonic() < deadline, f"no answer to {cell!r}\n{self.kernel.dump()}"
        if interrupted:
            self.counts.slowest = max(self.counts.slowest, time.monotonic() - interrupted)
        self.counts.cells += 1
        self.counts.outcomes[reply.ename or "ok"] += 1

    def finish(self, count: int) -> None:
        kernel, counts = self.kernel, self.counts
        kernel.run("1")  # the last interrupt may hit a cell that was not there when it was sent
        kernel.ok("stop.set()\nwhile not all(j.done() for j in jobs): await asyncio.sleep(0.01)")
        text = kernel.ok(REPORT.format(n=count)).stdout
        per_job = _counted(counts, text)
        kernel.ok("%fg all;" if not counts.wrong else "1")
        for i, (reply, n) in enumerate(zip(self.launched, per_job, strict=True), start=1):
            expected = [f"<{i}:{k}>" for k in range(n)]
            kernel.until(lambda r=reply, n=n: r.stdout.count("\n") >= n, 30)
            shown = reply.stdout.splitlines()
            counts.lost += len(set(expected) - set(shown))
            counts.misplaced += shown != expected

    def close(self) -> None:
        """End it."""
        self.kernel.close()


class InTerminal:
    """A terminal, interrupted as Ctrl-C in a cell does, at the prompt as well."""

    def __init__(self, home: Path) -> None:
        from terminals import Terminal

        self.counts = Counts("terminal")
        self.terminal = Terminal(home, "--ext", "ipy_bgtasks")
        self.terminal.timeout = 60
        self.terminal.run(SETUP)

    def begin(self, count: int) -> None:
        self.counts.jobs = count
        self.terminal.run("%config BgTasks.max_finished = 100_000")
        for line in launches(count):
            self.terminal.run(line)

    def round(self, cell: str, chance: random.Random) -> None:
        terminal, before = self.terminal, len(self.terminal.text)
        # Mostly the interrupts are to hit the cell, not the prompt that reads it.
        terminal.start(f"print('beg' 'un {self.counts.cells}')\n{cell}")
        if chance.random() < 0.8:
            terminal.expect(f"begun {self.counts.cells}")
        for _ in range(chance.randint(1, 4)):
            time.sleep(pause(chance))  # the stimulus: an interrupt at any moment
            os.kill(terminal.pid, signal.SIGINT)
            self.counts.interrupts += 1
        began = time.monotonic()
        terminal.sync()
        self.counts.slowest = max(self.counts.slowest, time.monotonic() - began)
        self.counts.cells += 1
        shown = re.search(r"KeyboardInterrupt|Detached|[A-Z]\w+Error", terminal.text[before:])
        self.counts.outcomes[shown[0] if shown else "ok"] += 1

    def finish(self, count: int) -> None:
        terminal, counts = self.terminal, self.counts
        terminal.run("stop.set()")
        terminal.run("while not all(j.done() for j in jobs): await asyncio.sleep(0.01)")
        per_job = _counted(counts, terminal.run(REPORT.format(n=count)))
        shown: dict[int, list[int]] = {i: [] for i in range(1, count + 1)}
        # The rows of %jobs end with a job's last line.
        text = re.sub(r"(running|finished) +(loop|thread) .*", "", terminal.text)
        for i, k in re.findall(r"<(\d+):(\d+)>\n", text):
            shown[int(i)].append(int(k))
        for i, n in enumerate(per_job, start=1):
            counts.lost += len(set(range(n)) - set(shown[i]))
            counts.misplaced += shown[i] != list(range(n))

    def close(self) -> None:
        """End it."""
        self.terminal.close()


def _counted(counts: Counts, text: str) -> list[int]:
    """Read the report; returns the number of lines of each long job."""

    def numbers(word: str) -> list[int]:
        found = re.findall(rf"^{word}((?: \d+)*)$", text, re.MULTILINE)
        assert found, text
        return [int(n) for n in found[-1].split()]

    counts.undone = numbers("UNDONE")
    counts.wrong, counts.unlogged = numbers("WRONG"), numbers("UNLOGGED")
    counts.quick = numbers("QUICK")[0]
    states = re.findall(r"^STATES (.*)$", text, re.MULTILINE)[-1]
    if states != "finished":
        counts.wrong.append(-1)
        print("states:", states)
    lines = numbers("LINES")
    counts.lines = sum(lines)
    return lines


def run(place: str, home: Path, *, interrupts: int, jobs: int, seed: int) -> Counts:
    """One session; returns the counts."""
    chance = random.Random(seed)
    session = InKernel(home) if place == "kernel" else InTerminal(home)
    try:
        session.begin(jobs)
        while session.counts.interrupts < interrupts:
            # Not the last two, which are busy: a cell that waits for one is as good as any.
            cell = chance.choice(CELLS).format(j=chance.randint(1, jobs))
            session.round(cell, chance)
        session.finish(jobs)
    finally:
        session.close()
    return session.counts


def main() -> int:
    """Run it as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", nargs="*", default=["kernel", "terminal"])
    parser.add_argument("--interrupts", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    status = 0
    print("seed", given.seed)
    for place in given.place:
        with tempfile.TemporaryDirectory() as home:
            counts = run(
                place,
                Path(home),
                interrupts=given.interrupts,
                jobs=given.jobs,
                seed=given.seed,
            )
        print(counts, flush=True)
        status |= not counts.good
    return status


if __name__ == "__main__":
    sys.exit(main())
