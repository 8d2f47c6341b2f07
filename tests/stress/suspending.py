"""Ctrl-Z, Ctrl-C and cells at random in a real terminal.

    python tests/stress/suspending.py [--rounds N] [--seed N]

Every cell that was sent to the background must end with its right value, every line it prints
must be shown once and in order, Ctrl-C must hit the cell in front alone, the prompt must come back
each time, and while a cell runs the terminal must be in line mode, with echo. Prints the counts,
and fails if any is wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

for ring in ("", "terminal"):
    sys.path.append(str(Path(__file__).parents[1] / ring))

from terminals import CTRL_C, Terminal  # noqa: E402 - found by what is above

CTRL_Z = "\x1a"

#: A signal key makes the terminal drop what nobody has read yet, which is no matter of ours;
#: programs that show a terminal read more quickly than this one.
SETUP = """\
import termios
modes = termios.tcgetattr(0)
modes[3] |= termios.NOFLSH
termios.tcsetattr(0, termios.TCSANOW, modes)
import asyncio, ipy_bgtasks, threading, time
def long(r, lines):
    for k in range(lines):
        print(f"<{r}:{k}>")
        time.sleep(0.01)
    return r, lines
def busy(r, lines):
    for k in range(lines):
        print(f"<{r}:{k}>")
        for _ in range(300_000): pass
    return r, lines
async def awaiting(r, lines):
    for k in range(lines):
        print(f"<{r}:{k}>")
        await asyncio.sleep(0.01)
    return r, lines
"""
#: What goes to the background …
LONG = ("long({r}, {n})", "busy({r}, {n})", "await awaiting({r}, {n})")
#: … and what Ctrl-C ends.
ENDLESS = (
    "while True: pass",
    "time.sleep(1000)",
    "await asyncio.sleep(1000)",
    "threading.Event().wait()",
)
#: At the end: the states, and the jobs with another value or log than they should have.
REPORT = """\
jobs = [j for j in ipy_bgtasks.jobs() if j.where == "cell"]
while not all(j.done() for j in jobs): time.sleep(0.05)
print("UNFINISHED", *[f"{j.number}:{j.state}" for j in jobs if j.state != "finished"])
print("VALUES", *[f"{j.result()[0]}:{j.result()[1]}" for j in jobs if j.state == "finished"])
print("MAIN", threading.current_thread() is threading.main_thread())
"""


@dataclass
class Counts:
    """What happened."""

    rounds: int = 0
    backgrounded: int = 0
    interrupted: int = 0
    stuck: int = 0
    wrong: list[str] = field(default_factory=list)
    lines: int = 0
    lost: int = 0
    misplaced: int = 0
    modes: int = 0
    slowest: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.stuck or self.wrong or self.lost or self.misplaced or self.modes)

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds: {self.backgrounded} cells sent to the background, "
            f"{self.interrupted} interrupted; {self.stuck} stuck prompts, slowest "
            f"{self.slowest:.2f} s; {len(self.wrong)} wrong outcomes {self.wrong}; "
            f"{self.lines} lines: {self.lost} lost, {self.misplaced} cells out of order; "
            f"{self.modes} times a wrong mode of the terminal"
        )


class Session:
    """One terminal under test."""

    def __init__(self, home: Path) -> None:
        self.counts = Counts()
        self.terminal = Terminal(home, "--ext", "ipy_bgtasks")
        self.terminal.run(SETUP)
        self.terminal.run("%config BgTasks.max_finished = 100_000")
        #: The lines that each cell prints which was sent to the background.
        self.expected: dict[int, int] = {}
        #: The values of those that had shown them already when they were sent there.
        self.late: set[str] = set()

    def round(self, chance: random.Random) -> None:
        """One cell, and what is typed while it runs."""
        terminal, counts = self.terminal, self.counts
        counts.rounds += 1
        r, kind = counts.rounds, chance.random()
        if kind < 0.4:
            n = chance.randint(20, 60)
            good = self._start(chance.choice(LONG).format(r=r, n=n), r)
            time.sleep(chance.uniform(0, 0.1))  # the stimulus: Ctrl-Z at any moment
            began = time.monotonic()
            terminal.send(CTRL_Z)
            # It may have ended in that very moment.
            ended = rf"Out\[\d+\]: (?:\^Z)?\({r}, "
            if terminal.expect(rf"goes on in the background|{ended}")[0][0] == "g":
                self.expected[r] = n
                counts.backgrounded += 1
                counts.modes += not good  # else it may have been over when its mode was looked at
            else:
                self.late.add(f"{r}:{n}")
        elif kind < 0.8:
            counts.modes += not self._start(chance.choice(ENDLESS), r)
            time.sleep(chance.uniform(0, 0.1))  # the stimulus: Ctrl-C at any moment
            began = time.monotonic()
            terminal.send(CTRL_C)
            terminal.expect("KeyboardInterrupt")
            counts.interrupted += 1
        else:
            began = time.monotonic()
            self._start(f"{r} * 2", r)
        terminal.prompt()
        counts.slowest = max(counts.slowest, time.monotonic() - began)

    def _start(self, code: str, r: int) -> bool:
        """Run a cell; return whether the terminal is in line mode, with echo, while it does."""
        self.terminal.start(f"print('beg' 'un {r}')\n{code}")
        self.terminal.expect(rf"begun {r}\b")
        modes = termios.tcgetattr(self.terminal._child.child_fd)[3]
        return bool(modes & termios.ICANON and modes & termios.ECHO)

    def finish(self) -> None:
        """Let all end, and count."""
        terminal, counts = self.terminal, self.counts
        shown = terminal.run(REPORT)
        report = {w: rest.split() for w, rest in re.findall(r"^([A-Z]{4,})(.*)$", shown, re.M)}
        counts.wrong += report["UNFINISHED"]
        values = {f"{r}:{n}" for r, n in self.expected.items()}
        counts.wrong += sorted(values ^ (set(report["VALUES"]) - self.late))
        if "True" not in terminal.run(REPORT.splitlines()[-1]):
            counts.wrong.append("cells do not run on the main thread")
        found: dict[int, list[int]] = {r: [] for r in self.expected}
        # A key may be shown behind one. Rows of %jobs end with a job's last line, and otherwise.
        for r, k in re.findall(r"<(\d+):(\d+)>(?:\^[ZC])?\n", terminal.text):
            if int(r) in found:
                found[int(r)].append(int(k))
        for r, n in self.expected.items():
            counts.lines += n
            counts.lost += len(set(range(n)) - set(found[r]))
            counts.misplaced += found[r] != list(range(n))


def run(home: Path, rounds: int, seed: int) -> Counts:
    """One session; returns the counts."""
    chance, session = random.Random(seed), Session(home)
    try:
        for _ in range(rounds):
            try:
                session.round(chance)
            except AssertionError as error:
                session.counts.stuck += 1
                print(f"round {session.counts.rounds}:", error)
                break
        session.finish()
    finally:
        session.terminal.close()
    return session.counts


def main() -> int:
    """Run it as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print("seed", given.seed)
    with tempfile.TemporaryDirectory() as home:
        counts = run(Path(home), given.rounds, given.seed)
    print(counts)
    return not counts.good


if __name__ == "__main__":
    sys.exit(main())
