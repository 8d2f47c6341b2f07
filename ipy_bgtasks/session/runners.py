"""The runners of one shell's jobs, and the registry of those jobs; made for the first job.

Importing and making them takes longer than all else that a session needs, and a session in which
nothing is launched needs none of it.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

import ipy_bgtasks.log.output  # noqa: F401 - or the first line of the first job waits for it
from ipy_bgtasks.platforms import has_threads
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.loop import LoopRunner, Watchdog
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import MemoryLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.executors import Executors
    from ipy_bgtasks.runners.kept.runner import Finder, KeptRunner
    from ipy_bgtasks.session.control import Core
    from ipy_bgtasks.session.settings import BgTasks


class Runners:
    """The runners of one shell, and its registry. Any thread may call."""

    def __init__(self, core: Core) -> None:
        supervisor = Supervisor()
        self.loop = LoopRunner(core.loop, threading.main_thread().ident)
        self.threads = ThreadRunner(self.loop, service=core.service)
        self.commands = ShellRunner(core.service, supervisor)
        self.processes = ProcessRunner(supervisor, live=core.front_end.live)
        self.registry = Registry(
            {
                "loop": self.loop,
                "thread": self.threads,
                "shell": self.commands,
                "process": self.processes,
            },
            core.service,
        )
        if not has_threads():
            del self.registry.runners["thread"]
        self.registry.on_discard += [core.sources.release, self.processes.discard]
        self.registry.on_discard.append(core.front_end.discarded)
        self.limits = MemoryLimits(core.service.later)
        self._core = core
        self._settings: BgTasks | None = None
        self._watchdog: Watchdog | None = None

    @cached_property
    def executors(self) -> Executors:
        """The user's own executors as places, imported when one is first named."""
        from ipy_bgtasks.runners.executors import Executors

        return Executors()

    @cached_property
    def kept(self) -> KeptRunner:
        """The runner of jobs that outlive the session; raises `BadInput` on Windows."""
        from ipy_bgtasks.runners.kept.runner import KeptRunner

        runner = KeptRunner(self._core.service, lambda job: self.registry.host.changed(job))
        self._apply_to_kept(runner)
        return runner

    @cached_property
    def finder(self) -> Finder:
        """What finds the kept jobs of other sessions; raises `BadInput` on Windows."""
        from ipy_bgtasks.runners.kept.runner import Finder

        return Finder(
            self.registry,
            self.kept,
            lambda: 30.0 if self._settings is None else self._settings.keep_days,
        )

    def watch(self, tell: Callable[[Record, str], object]) -> None:
        """Report the jobs for which others have to wait through *tell*, until `stop_watching`."""
        core = self._core
        dog = Watchdog(self.loop, self.threads, core.service, tell, cells=core.sources.cell)
        self._watchdog = dog
        self.loop.on_active = self.threads.on_begin = dog.wake

    def stop_watching(self) -> None:
        """Report no such jobs any more."""
        self.loop.on_active = self.threads.on_begin = int
        if self._watchdog is not None:
            self._watchdog.limit = 0

    def apply(self, settings: BgTasks) -> None:
        """Use these settings from now on."""
        self._settings = settings
        self.threads.max_threads = settings.max_threads
        self.threads.grace = self.commands.grace = settings.cancel_grace
        self.processes.max_processes = settings.max_processes
        self.registry.max_finished = settings.max_finished
        if "kept" in vars(self):
            self._apply_to_kept(self.kept)
        if self._watchdog is not None:
            self._watchdog.limit = settings.watchdog
            if self.loop.active or self.threads.busy():
                self._watchdog.wake()

    def _apply_to_kept(self, runner: KeptRunner) -> None:
        if (settings := self._settings) is not None:
            runner.grace = settings.cancel_grace
            runner.log_limit = settings.keep_log_limit
            runner.urls = [address.reveal() for address in settings.notify]
