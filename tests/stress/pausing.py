"""Jobs that are paused at random moments, by us and by others: ``python tests/stress/pausing.py``.

Each round launches a command, a worker's job and a kept one that print a thousand numbered lines,
pauses and continues them, and looks at their states. Prints the counts, and fails if a state was
untrue, a line lost or out of order, or a job did not end well.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel

LINES = 1000
CODE = f"for i in range({LINES}): print('line', i, flush=True); time.sleep(0.0005)"
SETUP = f"""\
import time
%load_ext ipy_bgtasks
def talks():
    for i in range({LINES}):
        print('line', i)
        time.sleep(0.0005)
    return 0
jobs = [None] * 3
"""
LAUNCH = f"""\
jobs[0] = %bg -q !{sys.executable} talks.py
jobs[1] = %bg -q -p talks()
jobs[2] = %bg -q --keep talks()
"""
OUTPUT = "".join(f"line {i}\n" for i in range(LINES))
WRONG = "untrue states", "lines lost or out of order", "ended otherwise"


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, as the system says."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stops(pid: int) -> None:
    """Wait until a process has stopped, or has ended: it does when it gets a turn."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if is_stopped(pid):
                return
        except FileNotFoundError:
            return
        time.sleep(0.001)  # a process does not tell that it has stopped


def pause_at_random(kernel: Kernel, dice: random.Random, counts: Counter[str]) -> None:
    """Pause one of the jobs and let it go on, by a magic or by a signal."""
    which = dice.randrange(3)
    pid = int(kernel.ok(f"print(jobs[{which}].pid or 0)").stdout)
    if not pid:
        return  # it has not begun, or has ended
    number = kernel.ok(f"print(jobs[{which}].number)").stdout.strip()
    if dice.random() < 0.7:
        status = kernel.run(f"%cancel --pause {number}").status
    else:
        try:
            os.killpg(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return
        status = "ok"
    time.sleep(dice.uniform(0, 0.02))  # the stimulus: at any moment
    if status == "ok":
        stops(pid)
    shown = kernel.ok(f"%jobs {number}\nprint(jobs[{which}].state)").stdout.split()[-1]
    if status == "ok" and shown not in ("finished", "cancelling"):
        counts["pauses"] += 1
        counts["untrue states"] += shown != "paused" or not is_stopped(pid)
    kernel.run(f"%bg {number}")
    shown = kernel.ok(f"%jobs {number}\nprint(jobs[{which}].state)").stdout.split()[-1]
    counts["untrue states"] += shown not in ("running", "finished")


def main(rounds: int) -> None:
    """Run the rounds and print the counts."""
    dice, counts = random.Random(1), Counter(dict.fromkeys(WRONG, 0))
    with tempfile.TemporaryDirectory() as home:
        kernel = Kernel(Path(home), env={"XDG_STATE_HOME": home})
        Path(home, "talks.py").write_text(f"import time\n{CODE}\n")
        kernel.ok(SETUP)
        for _ in range(rounds):
            kernel.ok(LAUNCH)
            for _ in range(10):
                time.sleep(dice.uniform(0, 0.1))  # the stimulus: at any moment
                pause_at_random(kernel, dice, counts)
            for which in range(3):
                ended = kernel.run(f"jobs[{which}].result(60)")
                counts["ended otherwise"] += ended.result != "0"
                text = kernel.ok(f"print(jobs[{which}].log.text, end='')").stdout
                counts["lines lost or out of order"] += text != OUTPUT
            counts["rounds"] += 1
        kernel.close()
    for name, count in counts.items():
        print(f"{count:6}  {name}")
    sys.exit(any(counts[name] for name in WRONG))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
