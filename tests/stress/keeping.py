"""Kept jobs whose kernel, watcher or process is killed: ``python tests/stress/keeping.py 50``.

Each round starts a kernel, has it launch three kept jobs, and sends SIGKILL at a random moment:
to the kernel always, in two rounds of five to a watcher or to a job's process as well. Then
whoever looks must see nothing but the truth. Prints the counts, and fails if any is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel

from ipy_bgtasks.runners.kept.directory import JobDirectory, directories
from ipy_bgtasks.runners.kept.files import OutputReader
from ipy_bgtasks.runners.sessions import sessions_with

#: What must be 0.
WRONG = "untrue states", "lost lines", "orphans", "values wrong"
LINES = 200
#: Seconds from the launch within which the kernel is killed, and the others after that.
WITHIN = 1.2
BOUND = 60.0

SETUP = f"""\
import time
from pathlib import Path
%load_ext ipy_bgtasks

def talks(name):
    (here / name).touch()
    for i in range({LINES}):
        print("line", i)
        time.sleep(0.002)
    return list(range(1000))

def gives(name):
    (here / name).touch()
    return bytes(range(256)) * 100_000
"""
LAUNCH = """\
%bg --keep -n talks talks('talks')
%bg --keep -n gives gives('gives')
%bg --keep -n command !sh script
"""
SCRIPT = f"touch command; for i in $(seq 0 {LINES - 1}); do echo line $i; done; sleep 0.3; echo end"
VALUES = {"talks": list(range(1000)), "gives": bytes(range(256)) * 100_000, "command": 0}
OUTPUT = {
    "talks": "".join(f"line {i}\n" for i in range(LINES)),
    "gives": "",
    "command": "".join(f"line {i}\n" for i in range(LINES)) + "end\n",
}


def round_of(number: int, dice: random.Random, counts: Counter[str]) -> None:
    """Run one round."""
    home = Path(tempfile.mkdtemp(prefix="keeping-"))
    os.environ["XDG_STATE_HOME"] = str(home)
    (home / "script").write_text(SCRIPT)
    kernel = Kernel(home)
    victim = {3: "watcher", 4: "pid"}.get(number % 5)
    try:
        kernel.ok(f"here = __import__('pathlib').Path({str(home)!r})\n{SETUP}")
        kernel.start(LAUNCH)
        time.sleep(dice.uniform(0, WITHIN))  # the stimulus: at any moment
        kernel.kill()
    finally:
        kernel.close()
    hit = _kill(victim, dice) if victim else None
    deadline = time.monotonic() + BOUND
    for place in directories():
        _check(place, home, hit == place.path, deadline, counts)


def _kill(victim: str, dice: random.Random) -> str | None:
    """Kill the watcher or the process of one job that runs, at a random moment."""
    time.sleep(dice.uniform(0, 0.3))  # the stimulus: at any moment
    there = [place for place in directories() if place.job()]
    dice.shuffle(there)
    for place in there:
        state = place.settle()
        if state["state"] == "running" and victim in state:
            with suppress(ProcessLookupError):
                os.kill(state[victim], signal.SIGKILL)
                return place.path
    return None


def _check(
    place: JobDirectory, home: Path, was_hit: bool, deadline: float, counts: Counter[str]
) -> None:
    told = place.job()
    if told is None:  # killed before it became a job
        counts["never a job"] += 1
        return
    name = told["name"]
    while (state := place.settle()).get("ended") is None:
        if time.monotonic() > deadline:
            counts["untrue states"] += 1
            print(f"{place.path}: {state} for ever")
            return
        time.sleep(0.02)  # what is on a disk tells nobody of a change
    time.sleep(0.05)  # a killed process is gone a moment later
    counts["orphans"] += len(sessions_with(told["token"]))
    ran = (home / name).exists()
    counts[f"{state['state']}, {'hit' if was_hit else 'not hit'}"] += 1
    written = _output(place)
    if state["state"] == "finished":
        counts["lost lines"] += OUTPUT[name].count("\n") - written.count("\n")
        if written != OUTPUT[name] or not ran:
            counts["untrue states"] += 1
            print(place.path, state, ran, repr(written[-80:]))
        counts["values wrong"] += place.outcome(state).get() != VALUES[name]
    elif state["state"] == "cancelled":
        counts["untrue states"] += ran
    else:
        counts["untrue states"] += not was_hit
        counts["lost lines"] += not OUTPUT[name].startswith(written)
        if not was_hit:
            print(place.path, state)


def _output(place: JobDirectory) -> str:
    reader, texts = OutputReader(place.path), []
    while pieces := reader.read():
        texts += [text for _, stream, text in pieces if stream == "stdout"]
    return "".join(texts)


def run(rounds: int, seed: int) -> Counter[str]:
    """Run so many rounds; returns the counts."""
    counts: Counter[str] = Counter(dict.fromkeys(WRONG, 0))
    dice = random.Random(seed)
    before = os.environ.get("XDG_STATE_HOME")
    try:
        for number in range(rounds):
            round_of(number, dice, counts)
            counts["rounds"] += 1
    finally:
        if before is None:
            os.environ.pop("XDG_STATE_HOME", None)
        else:
            os.environ["XDG_STATE_HOME"] = before
    return counts


def main() -> int:
    """Print the counts; the exit status tells whether one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    counts = run(given.rounds, given.seed)
    for name, count in counts.items():
        print(f"{count:6}  {name}")
    return int(any(counts[name] for name in WRONG))


if __name__ == "__main__":
    sys.exit(main())
