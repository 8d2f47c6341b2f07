"""A place for shell commands without IPython, and what tests do with it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fakes import launch_job
from processes import TREE_SIZE, pids_in

from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.log.output import Log
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work.reading import command_work

LONG = 10


class Place(Host):
    """A registry whose only place is the shell; hears what its commands write."""

    def __init__(self, service: ServiceLoop) -> None:
        self.supervisor = Supervisor()
        self.runner = ShellRunner(service, self.supervisor, grace=LONG)
        self.registry = Registry({"shell": self.runner}, service)
        self.written = threading.Condition()
        self.limit = 1_000_000
        self.registry.host.exchange(self)

    def new_log(self, job: Record) -> Log:
        """Make one that keeps so many characters."""
        return Log(self.limit)

    def write(self, job: Record, name: str, text: str) -> None:
        with self.written:
            job.log.write(name, text)
            self.written.notify_all()

    def launch(self, command: str, timeout: float | None = None, limit: int = 1_000_000) -> Record:
        work = command_work(command, f"!{command}")
        self.limit = limit
        return launch_job(self.registry, work, where="shell", timeout=timeout)


def said(place: Place, job: Record, text: str, stream: str = "stdout") -> None:
    """Wait until the job has written *text*."""
    with place.written:
        there = place.written.wait_for(lambda: text in getattr(job.log, stream), LONG)
    assert there, f"only {job.log.text!r}"


def tree_of(place: Place, job: Record) -> list[int]:
    """The processes of a tree, when all of them run."""
    with place.written:
        assert place.written.wait_for(lambda: len(pids_in(job.log.stdout)) == TREE_SIZE, LONG)
    return pids_in(job.log.stdout)


def on_service(service: ServiceLoop, fn: Callable[[], object]) -> object:
    """What *fn* returns on the service thread."""

    async def call() -> object:
        return fn()

    return service.submit(call()).result(LONG)
