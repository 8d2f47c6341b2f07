"""The registry of one shell's jobs and the runners of its places, made for the first job.

Importing and making them takes longer than all else that a session needs, and a session in which
nothing is launched needs none of it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import ipy_bgtasks.log.output  # noqa: F401 - or the first line of the first job waits for it
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.loop import LoopRunner, Watchdog
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.cells import Sources
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.session.settings import BgTasks


class Places:
    """Where the jobs of one shell run, and all of its jobs. Any thread may call."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, service: ServiceLoop, sources: Sources
    ) -> None:
        supervisor = Supervisor()
        self.loop = LoopRunner(loop, threading.main_thread().ident)
        self.threads = ThreadRunner(self.loop, service=service)
        self.commands = ShellRunner(service, supervisor)
        self.processes = ProcessRunner(supervisor)
        self.registry = Registry(
            {
                "loop": self.loop,
                "thread": self.threads,
                "shell": self.commands,
                "process": self.processes,
            },
            service,
        )
        self.registry.on_discard += [sources.release, self.processes.discard]
        self._service = service
        self._cells = sources.cell
        self._watchdog: Watchdog | None = None

    def watch(self, tell: Callable[[Record, str], object]) -> Callable[[], None]:
        """Report through *tell* the jobs that block the loop; returns what ends that."""
        watchdog = Watchdog(self.loop, self._service, tell, cells=self._cells)
        self._watchdog, self.loop.on_active = watchdog, watchdog.wake

        def end() -> None:
            self.loop.on_active = None
            watchdog.limit = 0

        return end

    def apply(self, settings: BgTasks) -> None:
        """Use these settings from now on."""
        self.threads.max_threads = settings.max_threads
        self.threads.grace = self.commands.grace = settings.cancel_grace
        self.processes.max_processes = settings.max_processes
        self.registry.max_finished = settings.max_finished
        if self._watchdog is not None:
            self._watchdog.limit = settings.watchdog
            if self.loop.active:
                self._watchdog.wake()
