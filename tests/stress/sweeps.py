"""Mixed jobs in limited groups, cancelled at random from several threads.

Checks that no limit was exceeded, that no job is forgotten or hangs, and that those of one place
started in order.

python tests/stress/sweeps.py [ROUNDS [JOBS]]
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "pure"))

from fakes import launch_job, work

from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.executors import Executors
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work.reading import command_work

LIMITS = {"a": 1, "b": 2, "c": 3, "d": 5, "e": 8}
BOUND = 120.0  # seconds for all jobs together
IN_ORDER = ("loop", "thread", "shell")  # where a job begins as it is started


class Sweep:
    """One registry with every place, and what its jobs saw from inside."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.service = ServiceLoop()
        self.supervisor = Supervisor()
        loop = LoopRunner(asyncio.get_running_loop())
        self.threads = ThreadRunner(loop, max_threads=12, service=self.service)
        self.processes = ProcessRunner(self.supervisor, 3)
        self.pool = ThreadPoolExecutor(4)
        places: dict[str, Any] = {
            "loop": loop,
            "thread": self.threads,
            "shell": ShellRunner(self.service, self.supervisor, grace=0.5),
            "process": self.processes,
            "executor": Executors().runner_for(self.pool, "pool"),
        }
        self.registry = Registry(places, self.service)
        self.places = [*places] * 3 + ["loop", "thread"] * 10
        self.lock = threading.Lock()
        self.inside: defaultdict[str, int] = defaultdict(int)
        self.most: defaultdict[str, int] = defaultdict(int)

    def count(self, group: str, step: int) -> None:
        """One more of the group's jobs, or one fewer, is in its code."""
        with self.lock:
            self.inside[group] += step
            self.most[group] = max(self.most[group], self.inside[group])

    def launch(self) -> Record:
        """One job of some kind."""
        group = self.random.choice([*LIMITS])
        where = self.random.choice(self.places)
        seconds = self.random.choice((0, 0, 0.001, 0.005, 0.02))
        fails = self.random.random() < 0.1
        retries = int(self.random.random() < 0.05)

        def call() -> None:
            self.count(group, 1)
            try:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.001)  # its work, in steps between which a stop may come
                if fails:
                    raise ValueError(group)
            finally:
                self.count(group, -1)

        async def coroutine() -> None:
            self.count(group, 1)
            try:
                await asyncio.sleep(seconds)  # its work
                if fails:
                    raise ValueError(group)
            finally:
                self.count(group, -1)

        is_async = where == "loop" or (where == "thread" and self.random.random() < 0.2)
        one = work(coroutine if is_async else call, is_async=is_async)
        if where == "shell":
            one = command_work(f"sleep {seconds}; exit {int(fails)}", "!sleep")
        elif where == "process":
            one = self.processes.accept(work(_Sleep(seconds, fails)))
        limit = GroupName(group, LIMITS[group])
        return launch_job(self.registry, one, where=where, group=limit, retries=retries)

    async def run(self, jobs: int) -> list[str]:
        """Launch all, cancel at random, and return what was wrong."""
        over = threading.Event()
        launched: list[Record] = []

        def cancel_some() -> None:
            chance = random.Random(self.random.random())
            while not over.wait(chance.random() * 0.02):
                if launched:
                    chance.choice(launched).cancel(force=chance.random() < 0.2)

        cancelling = [threading.Thread(target=cancel_some) for _ in range(2)]
        for thread in cancelling:
            thread.start()
        for _ in range(jobs):
            launched.append(self.launch())
            if self.random.random() < 0.1:
                await asyncio.sleep(self.random.random() * 0.01)  # launches come at any moment
        try:
            async with asyncio.timeout(BOUND):
                await asyncio.gather(*(job.job for job in launched), return_exceptions=True)
        except TimeoutError:
            pass
        over.set()
        for thread in cancelling:
            thread.join()
        found = [*self.wrong(launched)]
        self.registry.shutdown()
        self.pool.shutdown()
        self.supervisor.close(wait=5)
        return found

    def wrong(self, launched: list[Record]) -> Iterable[str]:
        """Return what is not as it should be, one line each."""
        for job in launched:
            if not job.done():
                yield f"job {job.number} of {job.group} ({job.where}) hangs: {job.state}"
        if list(self.registry) != launched:
            yield f"{len(launched) - len(self.registry)} jobs are forgotten"
        for name, limit in LIMITS.items():
            mine = [job for job in launched if job.group == name and job.started is not None]
            if self.most[name] > limit:
                yield f"{name}: {self.most[name]} of {limit} were in their code at a time"
            if (most := overlap(mine)) > limit:
                yield f"{name}: {most} of {limit} ran at a time"
            for where in IN_ORDER:
                here = [j for j in mine if j.where == where and j.attempts is None]
                if sorted(here, key=_start) != here:
                    yield f"{name}: jobs of the {where} did not start in order"


class _Sleep:
    """A call that can be sent to a process."""

    def __init__(self, seconds: float, fails: bool) -> None:
        self.seconds, self.fails = seconds, fails

    def __call__(self) -> None:
        time.sleep(self.seconds)  # its work
        if self.fails:
            raise ValueError(self.seconds)


def overlap(jobs: list[Record]) -> int:
    """Return how many of these ran at the same time, at the most."""
    events = [(job.started, 1) for job in jobs] + [(job.ended, -1) for job in jobs]
    now = most = 0
    for _, step in sorted(events, key=lambda event: (event[0] or 0.0, event[1])):
        now += step
        most = max(most, now)
    return most


def _start(job: Record) -> float:
    return job.started or 0.0


def main(rounds: int, jobs: int, show: Callable[[str], object] = print) -> int:
    """Run so many sweeps; returns how many faults there were."""
    faults = 0
    for seed in range(rounds):

        async def one(seed: int = seed) -> tuple[list[str], dict[str, int]]:
            sweep = Sweep(seed)
            found = await sweep.run(jobs)
            counts: defaultdict[str, int] = defaultdict(int)
            for job in sweep.registry:
                counts[str(job.state)] += 1
            return found, counts

        began = time.perf_counter()
        found, counts = asyncio.run(one())
        faults += len(found)
        said = ", ".join(f"{count} {state}" for state, count in counts.items())
        show(f"round {seed}: {said}; {time.perf_counter() - began:.1f} s")
        for line in found:
            show(f"  {line}")
    return faults


if __name__ == "__main__":
    rounds, jobs = (int(each) for each in [*sys.argv[1:], *["3", "500"][len(sys.argv) - 1 :]])
    sys.exit(1 if main(rounds, jobs) else 0)
