"""Cells that are sent to the background at random moments: is anything lost, doubled, misplaced?

    python tests/stress/running_cell.py --rounds 1000 --seed 1

Each round starts a cell, sends `%bg` at a random moment (perhaps before the cell has begun or
after it has ended), runs other cells meanwhile, interrupts some of them, and lets the first end.
Prints counts; those of what must not happen are all to be 0.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel, Pending

SETUP = """
import asyncio, threading, time
order = []
def busy(n, seconds):
    print(f'<{n}>')
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    print(f'</{n}>')
    return n
def naps(n, seconds):
    print(f'<{n}>')
    time.sleep(seconds)
    print(f'</{n}>')
    return n
async def waits(n, seconds):
    print(f'<{n}>')
    await asyncio.sleep(seconds)
    print(f'</{n}>')
    return n
def front(n):
    order.append(n)
    print(f'({n})')
    return n
"""
#: Rounds after which all that is kept has been made.
_WARM = 50
CELLS = ("busy({n}, {s})", "naps({n}, {s})", "await waits({n}, {s})")


class Stress:
    """One kernel, and what went wrong in it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.kernel = Kernel(Path(tempfile.mkdtemp()))
        self.kernel.load()
        self.kernel.ok(SETUP)
        self.counts: Counter[str] = Counter()
        self.fronts = 0

    def round(self, n: int) -> None:
        """One cell, `%bg`, and some others."""
        dice, k = self.dice, self.kernel
        seconds = dice.choice([0, 0.001, 0.01, 0.05])
        cell = k.start(dice.choice(CELLS).format(n=n, s=seconds))
        self._pause(dice.choice([0, 0, 0.001, seconds, seconds * 2]))
        asked = k.start("%bg", queue=True, stop_on_error=False)
        fronts = [self._front() for _ in range(dice.randrange(3))]
        stopped = None
        if dice.random() < 0.2:
            stopped = k.start("print('here')\nwhile True: pass", queue=True)
            k.until(lambda: "here" in stopped.reply.stdout)
            k.interrupt()
        for pending in (cell, asked, *fronts, *([stopped] if stopped else [])):
            pending.wait(60)
        self.counts["rounds"] += 1
        self.counts["sent away"] += asked.reply.status == "ok"
        k.until(lambda: f"</{n}>" in cell.reply.stdout and cell.reply.result)
        self._check(n, cell, asked, fronts, stopped)

    def _check(
        self, n: int, cell: Pending, asked: Pending, fronts: list[Pending], stopped: Pending | None
    ) -> None:
        self.counts["wrong output of the cell"] += cell.reply.stdout != f"<{n}>\n</{n}>\n"
        self.counts["wrong value of the cell"] += cell.reply.result != str(n)
        for pending in fronts:
            number = pending.reply.result
            self.counts["wrong output elsewhere"] += pending.reply.stdout != f"({number})\n"
        if stopped is not None:
            self.counts["interrupts"] += 1
            self.counts["interrupts missed"] += stopped.reply.ename != "KeyboardInterrupt"
        for pending in (cell, asked, *fronts, *([stopped] if stopped else [])):
            replies = len(pending.reply.contents("execute_reply"))
            states = [c["execution_state"] for c in pending.reply.contents("status")]
            self.counts["requests"] += 1
            self.counts["replies lost or doubled"] += replies != 1
            self.counts["idle lost or doubled"] += states.count("idle") != 1

    def _front(self) -> Pending:
        self.fronts += 1
        return self.kernel.start(f"front({self.fronts})", queue=True)

    def used(self) -> str:
        """What the kernel's process has open: descriptors, threads, second shells."""
        inside = self.kernel.ok("threading.active_count()").result
        files = len(list(Path(f"/proc/{self.kernel.pid}/fd").iterdir()))
        return f"descriptors {files}, threads {inside}, second shells {self._shells()}"

    def _shells(self) -> int:
        """How many threads run cells, the main one aside; ipykernel 6 has none of its own."""
        names = ("subshell", "bg-shell-")
        count = f"sum(t.name.startswith({names}) and t.name != 'bg-shell-channel'"
        return int(self.kernel.ok(f"{count} for t in threading.enumerate())").result or 0)

    def _pause(self, seconds: float) -> None:
        if seconds:
            time.sleep(self.dice.uniform(0, seconds))  # the stimulus: at any moment

    def finish(self) -> None:
        """What can be told at the end only."""
        k = self.kernel
        in_order = k.ok(f"order == list(range(1, {self.fronts + 1}))").result
        self.counts["cells out of order"] += in_order != "True"
        main = k.ok("threading.current_thread() is threading.main_thread()").result
        self.counts["not back on the main thread"] += main != "True"
        self.counts["more than three second shells"] += self._shells() > 3
        k.close()


def main() -> None:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    stress = Stress(options.seed)
    try:
        for n in range(options.rounds):
            if n == _WARM:
                print(f"after {n} rounds: {stress.used()}")
            stress.round(n)
        print(f"after {options.rounds} rounds: {stress.used()}")
        stress.finish()
    except AssertionError as error:  # a reply that never came
        stress.counts["replies lost or doubled"] += 1
        tail = "\n".join(line[:200] for line in str(error).splitlines()[-40:])
        print(f"round {stress.counts['rounds']}: {tail}")
        stress.kernel.close()
    for name, count in stress.counts.items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
