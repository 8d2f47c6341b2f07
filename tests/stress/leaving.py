"""How long a session with a hundred jobs takes to be gone: ``python tests/stress/leaving.py 5``.

Every way out of a kernel and of a terminal is measured that often, and the same kernel without
jobs beside it. The kernel's time is from the request to the end of the process; the terminal's,
for what is typed, is from when the command is executed.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / ring) for ring in ("", "kernel", "terminal")]

import test_kernel_leaving as in_kernel
import test_terminal_leaving as in_terminal
from forks import EXECUTED
from kernels import Kernel
from terminals import CTRL_D, Terminal


def kernel(way: str, jobs: bool) -> tuple[float, str]:
    """Seconds until a kernel is gone, and what is wrong with its end."""
    home = Path(tempfile.mkdtemp())
    session = Kernel(home)
    try:
        session.load()
        session.ok(in_kernel.JOBS.format(here=str(home)))
        if jobs:
            session.ok("%config BgTasks.max_threads = 70")
            session.ok(in_kernel.MIX)
        session.ok("gate.set()")
        began = time.monotonic()
        in_kernel.WAYS[way][0](session)
        session.status()
        seconds = time.monotonic() - began
        missing = 8 - len(list(home.glob("coroutine-*"))) if jobs else 0
        return seconds, _wrong(missing, in_kernel.NOISE.findall(session.output))
    finally:
        session.close()


def terminal(way: str, jobs: bool) -> tuple[float, str]:
    """The same for a terminal."""
    home = Path(tempfile.mkdtemp())
    session = Terminal(home)
    try:
        in_terminal.load(session)
        session.run("%config BgTasks.max_threads = 70\n%config BgTasks.confirm_exit = False")
        session.run(EXECUTED)
        if jobs:
            session.run(in_terminal.MIX)
        session.run("gate.set()")
        mark, began = len(session.text), time.monotonic()
        if way == "SIGTERM":
            os.kill(session.pid, signal.SIGTERM)
        else:
            session.send(CTRL_D) if way == "Ctrl-D" else session.start("exit")
        session.leave()
        ended = time.monotonic()
        if way != "SIGTERM":
            began = float((home / "executed").read_text().split()[0])
        missing = 9 - len(list(home.glob("coroutine-*"))) if jobs else 0
        return ended - began, _wrong(missing, in_terminal.NOISE.findall(session.text[mark:]))
    finally:
        session.close()


def _wrong(missing: int, noise: list[str]) -> str:
    return "; ".join(filter(None, [f"{missing} clean-ups missing" * (missing > 0), *noise]))


def main(runs: int) -> int:
    """Measure, print a line for each way out; the exit status counts what went wrong."""
    ways: list[tuple[Callable[[str, bool], tuple[float, str]], str]] = [
        *((kernel, way) for way in in_kernel.WAYS),
        *((terminal, way) for way in ("exit", "Ctrl-D", "SIGTERM")),
    ]
    bad = 0
    print(f"{'':20}{'no jobs':>9}{'fastest':>9}{'median':>9}{'slowest':>9}  seconds, {runs} runs")
    for leave, way in ways:
        bare, _ = leave(way, False)
        measured = [leave(way, True) for _ in range(runs)]
        seconds = [one for one, _ in measured]
        wrong = [text for _, text in measured if text]
        bad += len(wrong)
        figures = bare, min(seconds), statistics.median(seconds), max(seconds)
        columns = "".join(f"{one:9.2f}" for one in figures)
        print(f"{leave.__name__ + ', ' + way:20}{columns}  {' | '.join(wrong)}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
