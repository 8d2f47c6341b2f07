"""Kept jobs as a session sees them: its own, and those of other sessions that it looks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipy_bgtasks.registry.numbers import goes_on
from ipy_bgtasks.runners.kept.finding import Finder
from ipy_bgtasks.runners.kept.runner import KeptRunner

if TYPE_CHECKING:
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.session.settings import BgTasks


class Kept:
    """What runs kept jobs and finds them. Any thread may call; raises `BadInput` on Windows."""

    def __init__(self, registry: Registry, service: ServiceLoop) -> None:
        self._days = 30.0
        self.runner = KeptRunner(service, lambda job: registry.host.changed(job))
        self.finder = Finder(registry, self.runner, lambda: self._days)

    def apply(self, settings: BgTasks) -> None:
        """Use these settings from now on."""
        self._days = settings.keep_days
        self.runner.grace = settings.cancel_grace
        self.runner.log_limit = settings.keep_log_limit
        self.runner.urls = [address.reveal() for address in settings.notify]


def goes_on_line(registry: Registry) -> str:
    """Return which jobs of this session go on without it, in a line; empty if none do."""
    own = [job for job in registry if job.number not in registry.adopted]
    left = [f"{job.number} ({job.name})" for job in own if goes_on(job)]
    if not left:
        return ""
    verb = "job goes" if len(left) == 1 else "jobs go"
    return f"kept {verb} on: {', '.join(left)}"
