"""A registry around one runner, for jobs that run elsewhere; waits for what it is told of."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import launch_job

from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work import Scope, read

#: Seconds that bound a failure.
PATIENCE = 60

#: What jobs on executors call.
COMMON = """
import os
base = 40
def add(n): return base + n
def wait(path):
    with open(path) as gate:
        gate.read()
    return "went on"
async def later(): return "later"
class Own(Exception): pass
def fail(): raise Own("mine")
def die(): os._exit(3)
"""


class House(Host):
    """Launches CODE over a namespace, as `%bg` does, and hears what becomes of the jobs."""

    def __init__(self, source: str = "") -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(source, self.namespace)
        self.registry = Registry({}, ServiceLoop())
        self.registry.host.exchange(self)
        self.states: dict[int, list[str]] = {}
        self._changed = threading.Condition()

    def launch(self, runner: Any, code: str, *, cell: bool = False, **options: Any) -> Record:
        """Launch CODE on a runner."""
        after = options.get("after", ())
        late = frozenset().union(*(job.assigns for job in after))
        work = read(code, Scope(self.namespace), cell=cell, late=late)
        if not after:
            work = runner.accept(work)
        return launch_job(self.registry, work, where=runner, **options)

    def changed(self, job: Record) -> None:
        """What the jobs tell."""
        with self._changed:
            self.states.setdefault(job.number, []).append(str(job.state))
            self._changed.notify_all()

    def write(self, job: Record, stream: str, text: str) -> None:
        """What runners hand on of a job's output."""
        job.log.write(stream, text)
        self.changed(job)

    def until(self, predicate: Callable[[], object]) -> None:
        """Wait until something holds that comes true when a job changes."""
        with self._changed:
            assert self._changed.wait_for(predicate, PATIENCE), "it never came true"

    def running(self, job: Record) -> Record:
        """Wait until a job has begun."""
        job.add_done_callback(self.changed)
        self.until(lambda: job.started is not None or job.done())
        return job


class Gate:
    """Holds a job in another process until it is opened: the job calls ``open(gate).read()``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def open(self) -> None:
        """Let one job through that waits, or will."""
        with open(self.path, "w"):
            pass


def stop(runner: ProcessRunner) -> None:
    """End all workers of a runner, and wait until nothing is left of them."""
    for worker in list(runner._workers):
        worker.kill()
        assert worker.closed.wait(PATIENCE)
