"""Cells that are queued, run ahead, taken out, failed and interrupted at random: is any lost?

    python tests/stress/cell_queue.py --rounds 1000 --seed 1

Each round starts a cell, queues others behind it, runs some of our magics beside it, takes a
waiting one out, interrupts, or lets it fail. Prints counts; those of what must not happen are to
be 0, and if one is not, the exit status is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel, Pending

SETUP = """
import os, threading, time
order = []
def wait():
    while not os.path.exists(GATE): time.sleep(0.001)
def other(n): return n
def front(n):
    order.append(n)
    print(f'({n})')
    return n
"""
ENDS = {"ok": "wait()", "error": "wait()\n1 / 0", "interrupt": "while True: pass"}
WRONG = (
    "replies lost or doubled",
    "idle lost or doubled",
    "wrong status",
    "wrong output",
    "wrong value",
    "wrong number",
    "cells out of order",
    "interrupts missed",
    "run though taken out",
    "jobs lost",
    "not back on the main thread",
)


class Stress:
    """One kernel, and what went wrong in it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        home = Path(tempfile.mkdtemp())
        self.gate = home / "gate"
        self.kernel = Kernel(home)
        self.kernel.load()
        self.kernel.ok(SETUP.replace("GATE", repr(str(self.gate))))
        self.counts: Counter[str] = Counter(dict.fromkeys(WRONG, 0))
        self.fronts = self.launched = self.seconds = 0
        self.expected: list[int] = []
        self.latest = 0
        self.times: list[float] = []
        self._make = self.kernel.session.msg
        self.kernel.session.msg = self._later  # type: ignore[method-assign]

    def _later(self, *args: Any, **kwargs: Any) -> Any:
        """Make a request a second later than the one before, as a user would who types it."""
        message = self._make(*args, **kwargs)
        self.seconds += 1
        message["header"]["date"] += timedelta(seconds=self.seconds)
        return message

    def round(self) -> None:
        """One cell, others behind it and beside it, and its end."""
        dice, k = self.dice, self.kernel
        end = dice.choice([*ENDS])
        self.gate.unlink(missing_ok=True)
        first = k.start(f"print('here')\n{ENDS[end]}", queue=True, stop_on_error=True)
        k.until(lambda: "here" in first.reply.stdout)
        behind: dict[int, Pending] = {}
        beside: list[tuple[str, Pending]] = []
        for _ in range(dice.randrange(6)):
            if dice.random() < 0.5:
                self.fronts += 1
                behind[self.fronts] = k.start(f"front({self.fronts})", queue=True)
            else:
                code = dice.choice(["%jobs", "%bg -q other({n})", "%fg -", "%jobs --json"])
                beside.append(self._beside(code))
        taken: set[int] = set()
        if behind and dice.random() < 0.4:
            taken = set(behind) if dice.random() < 0.3 else {dice.choice([*behind])}
            names = {n: f"q{at}" for at, n in enumerate(behind, 1)}
            which = "queue" if taken == set(behind) else names[taken.copy().pop()]
            beside.append(self._beside(f"%cancel {which}"))
        beside.append(self._beside("%jobs"))  # all that wait are there when it has run
        if end == "interrupt":
            self.counts["interrupts"] += 1
            k.interrupt()
        else:
            self.gate.touch()
        pending = [first, *behind.values(), *(each for _, each in beside)]
        for each in pending:
            each.wait(60)
        self._check(end, first, behind, taken, beside)

    def _beside(self, code: str) -> tuple[str, Pending]:
        if code == "%fg -" and self.launched < 2:
            code = "%jobs"
        if "{n}" in code:
            self.launched += 1
        began = time.monotonic()
        pending = self.kernel.start(code.format(n=self.launched), queue=True)
        pending.wait(60)
        self.times.append(time.monotonic() - began)
        return code, pending

    def _check(
        self,
        end: str,
        first: Pending,
        behind: dict[int, Pending],
        taken: set[int],
        beside: list[tuple[str, Pending]],
    ) -> None:
        counts = self.counts
        status = first.reply.status
        counts["wrong status"] += status != ("ok" if end == "ok" else "error")
        counts["interrupts missed"] += (
            end == "interrupt" and first.reply.ename != "KeyboardInterrupt"
        )
        numbers = [first.reply.content["execution_count"]]
        for _, each in beside:
            counts["wrong status"] += each.reply.status != "ok"
            numbers.append(each.reply.content.get("execution_count", 0))
        for n, each in behind.items():
            runs = end == "ok" and n not in taken
            counts["wrong status"] += each.reply.status != ("ok" if runs else "aborted")
            counts["wrong output"] += each.reply.stdout != (f"({n})\n" if runs else "")
            counts["wrong value"] += each.reply.result != (str(n) if runs else None)
            counts["run though taken out"] += n in taken and each.reply.status == "ok"
            if runs:
                self.expected.append(n)
                numbers.append(each.reply.content["execution_count"])
        counts["wrong number"] += numbers != sorted(set(numbers)) or numbers[0] <= self.latest
        self.latest = numbers[-1]
        for each in (first, *behind.values(), *(each for _, each in beside)):
            states = [c["execution_state"] for c in each.reply.contents("status")]
            counts["requests"] += 1
            counts["replies lost or doubled"] += len(each.reply.contents("execute_reply")) != 1
            counts["idle lost or doubled"] += states.count("idle") != 1
        counts["rounds"] += 1

    def finish(self) -> None:
        """What can be told at the end only."""
        k = self.kernel
        in_order = k.ok(f"order == {self.expected}").result
        self.counts["cells out of order"] += in_order != "True"
        main = k.ok("threading.current_thread() is threading.main_thread()").result
        self.counts["not back on the main thread"] += main != "True"
        jobs = k.ok("max(job.number for job in __import__('ipy_bgtasks').jobs())").result
        self.counts["jobs lost"] += jobs != str(self.launched)
        k.close()


def main() -> None:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    stress = Stress(options.seed)
    try:
        for _ in range(options.rounds):
            stress.round()
        stress.finish()
    except AssertionError as error:  # a reply that never came
        stress.counts["replies lost or doubled"] += 1
        tail = "\n".join(line[:200] for line in str(error).splitlines()[-40:])
        print(f"round {stress.counts['rounds']}: {tail}")
        stress.kernel.close()
    for name, count in stress.counts.items():
        print(f"{name}: {count}")
    times = sorted(stress.times)
    if times:
        p99 = times[int(len(times) * 0.99)]
        print(f"beside a cell: median {times[len(times) // 2]:.4f} s, p99 {p99:.4f} s")
    sys.exit(any(stress.counts[name] for name in WRONG))


if __name__ == "__main__":
    main()
