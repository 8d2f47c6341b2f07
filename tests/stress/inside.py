"""Looks into running jobs without end: ``python tests/stress/inside.py [LOOKS]``.

A thread and a coroutine job make, change and delete variables, in functions, closures, generators
and a recursion, and check their own results. Meanwhile `%jobs --show` evaluates expressions in
them, 50,000 times as a rule. Fails if the kernel or a job did, or if a look gave anything but a
value or a name that is not there at that moment.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel

SETUP = """\
import asyncio, sys, time
%load_ext ipy_bgtasks
sys.setswitchinterval(0.0001)
go_on = True
def down(level):
    here = [level] * 3
    return sum(here) + (down(level - 1) if level else 0)
def numbers(count):
    for each in range(count):
        yield each
def closure(base):
    def add(value):
        return base + value
    return add
def work():
    rounds = 0
    while go_on:
        rounds += 1
        big = {n: str(n) for n in range(20)}
        total = down(10) + sum(numbers(20)) + closure(5)(len(big))
        try:
            missing = big[rounds + 100]
        except KeyError as error:
            kind = type(error).__name__
        del big
        assert (total, kind) == (380, 'KeyError'), (total, kind)
    return 'well'
async def steps():
    rounds = 0
    while go_on:
        rounds += 1
        values = [await one() async for each in many(3)]
        assert values == [1, 1, 1]
        del values
    return 'well'
async def one():
    mine = object()
    await asyncio.sleep(0)
    return 1
async def many(count):
    for each in range(count):
        await asyncio.sleep(0)
        yield each
"""
LAUNCH = "a = %bg work()\nb = %bg -t steps()\nc = %bg steps()"
LOOK = """\
import random
names = {{'a': ['rounds', 'big', 'level, here', 'each', 'base', 'error'],
         'b': ['rounds', 'values', 'each', 'mine'], 'c': ['rounds', 'values', 'each', 'mine']}}
for n in range({count}):
    job = random.choice('abc')
    what = random.choice(names[job])
    get_ipython().run_line_magic('jobs', f'{{job}} --show "{{what}}"')
    if n % 10 == 0: await asyncio.sleep(0)
"""
UNSEEN = "] nothing of its code can be seen right now"
WRONG = re.compile(r"\[\d+\] ((?!NameError)\w+: |no answer)")


def main(looks: int = 50_000) -> int:
    """Look so often; returns 1 if anything was wrong."""
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        kernel = Kernel(Path(home))
        try:
            kernel.ok(SETUP)
            kernel.ok(LAUNCH)
            while counts["looks"] < looks:
                reply = kernel.ok(LOOK.format(count=500), timeout=600)
                for line in reply.stdout.splitlines():
                    counts["looks"] += 1
                    if WRONG.match(line):
                        counts["wrong"] += 1
                        print(line)
                    elif UNSEEN in line:
                        counts["not seen"] += 1
                    else:
                        counts["no such name now" if " NameError: " in line else "values"] += 1
            ends = "print(a.result(), b.result(), await c, a.state)"
            counts["wrong"] += kernel.ok(f"go_on = False\n{ends}").stdout != (
                "well well well finished\n"
            )
        finally:
            kernel.close()
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s")
    return int(counts["wrong"] > 0 or counts["looks"] < looks)


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
