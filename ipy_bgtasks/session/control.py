"""The job control of one shell: what the magics and the live views act on.

`Core` is what the shell keeps when the extension is unloaded, its jobs above all; a `Session` lasts
from loading to unloading, and shows the jobs in the front end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.installing import Sources
from ipy_bgtasks.platforms import has_kept_jobs
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.stacks import unseen
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.ipython.extension import Loaded
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.session.foreground import Foreground, Stopping
    from ipy_bgtasks.session.launching import Runners
    from ipy_bgtasks.session.notices import Notices, Requests
    from ipy_bgtasks.session.settings import BgTasks

#: How many ended jobs `%jobs` shows.
_RECENT = 10
#: How many of those that run.
_RUNNING = 50
#: How many queued jobs of a group it shows.
_QUEUED = 10
#: How many of the jobs that end with the session are named.
_NAMED = 8


class Core:
    """The jobs of one shell, from the first loading on. Any thread may call."""

    #: The front end, made at the first loading: jobs that outlive a reload keep their cards.
    front_end: FrontEnd

    def __init__(self, shell: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.service = ServiceLoop(substitute=loop)
        self.sources = Sources(shell)
        #: The notices that were asked for, once one was.
        self.requests: Requests | None = None
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._runners: Runners | None = None

    @property
    def runners(self) -> Runners:
        """Where jobs run; imported and made when it is first needed. Any thread may call."""
        if self._runners is None:
            from ipy_bgtasks.session.launching import Runners

            with self._lock:
                if self._runners is None:
                    runners = Runners(self)
                    if self._session is not None:
                        self._session.connect(runners)
                    self._runners = runners  # an interrupt until here: the next one begins anew
        return self._runners

    @property
    def registry(self) -> Registry:
        """All jobs of the shell."""
        return self.runners.registry

    @property
    def has_runners(self) -> bool:
        """Whether anything has asked for a job yet."""
        return self._runners is not None

    def use(self, session: Session | None) -> None:
        """Put *session* in charge of the jobs there are and will be; None for no session."""
        with self._lock:
            before, self._session = self._session, session
            if self._runners is not None:
                if before is not None:
                    before.disconnect(self._runners)
                if session is not None:
                    session.connect(self._runners)

    def own_jobs(self) -> list[Record]:
        """Return the jobs that run, or wait, and would end with the session."""
        if self._runners is None:
            return []
        from ipy_bgtasks.registry.specs import goes_on

        return [job for job in self.registry.alive() if not goes_on(job)]

    def launch_cell(self, cell: RunningCell, interrupt: Callable[[], object]) -> Record:
        """Make a job of a cell that runs already; *interrupt* interrupts it where it is."""
        from ipy_bgtasks.runners.loop import CellRunner
        from ipy_bgtasks.work import Work
        from ipy_bgtasks.work.reading import label_of_cell

        # Its call is never made: the cell was not started here.
        work = Work(lambda: None, label_of_cell(cell.code), cell.code, False)
        runner = CellRunner(cell, interrupt)
        return self.registry.launch(work, where=runner, origin=cell.origin)


def _named(jobs: Sequence[Record]) -> str:
    """Return the first of *jobs*, with the errors of those that failed, and how many follow."""
    named = [f"[{job.number}] {job.name}" for job in jobs[:_NAMED]]
    for i, job in enumerate(jobs[:_NAMED]):
        if (outcome := job.outcome) is not None and outcome.error is not None:
            named[i] += f" ({error_line(outcome.error)})"
    more = [f"{len(jobs) - _NAMED:,} more"] if len(jobs) > _NAMED else []
    return ", ".join([*named, *more])


class Session:
    """Job control of one shell, from loading to unloading. Any thread may call."""

    def __init__(self, loaded: Loaded, core: Core, settings: BgTasks) -> None:
        self.loaded = loaded
        self.shell = loaded.shell
        self.core = core
        self.settings = settings
        self.front_end = core.front_end
        self.print_line = core.front_end.print_line
        self._foreground: Foreground | None = None

    @cached_property
    def registry(self) -> Registry:
        """All jobs of the shell."""
        return self.core.registry

    @property
    def foreground(self) -> Foreground:
        """What waits for jobs; it comes with the runners."""
        _ = self.core.runners
        assert self._foreground is not None
        return self._foreground

    @cached_property
    def notices(self) -> Notices:
        """What tells the user that jobs have ended; imported when that is first asked for."""
        from ipy_bgtasks.session.notices import Notices, Requests

        self.core.requests = self.core.requests or Requests()
        return Notices(self)

    # Kept jobs

    def look_for_kept(self) -> None:
        """Take in the kept jobs of other sessions, if there are any."""
        if has_kept_jobs():
            self.core.runners.finder.look()

    def _look_for(self, spec: str) -> None:
        from ipy_bgtasks.registry.specs import JobId

        if JobId.read(spec) is not None:
            self.look_for_kept()

    def print_kept(self) -> None:
        """Say how many jobs other sessions have kept, in one line, if there are any."""
        if has_kept_jobs():
            from ipy_bgtasks.runners.kept.directory import startup_summary

            known = {job.number for job in self.registry} if self.core.has_runners else set()
            if line := startup_summary(known):
                self.front_end.print_aside(line)

    def report_leaving(self) -> None:
        """Print which jobs go on when the session ends, and which end with it if nobody asked."""
        from ipy_bgtasks.registry.specs import goes_on

        registry, front_end = self.registry, self.front_end
        own = [job for job in registry if job.number not in registry.adopted]
        ended, failed = self.core.own_jobs(), []
        strict = self.settings.strict and not front_end.attended
        if ended and (strict or not front_end.interactive):
            which = "1 job was" if len(ended) == 1 else f"{len(ended):,} jobs were"
            front_end.print_last(f"{which} ended with the session: {_named(ended)}")
        if strict:
            failed = [job for job in own if job.state == "failed" and job.is_unseen]
        if failed:
            which = "1 job" if len(failed) == 1 else f"{len(failed):,} jobs"
            front_end.print_last(f"{which} failed, and nobody asked why: {_named(failed)}")
        if strict and (ended or failed):
            from ipy_bgtasks.hooks import fail_at_exit

            fail_at_exit()
        if left := [f"{job.number} ({job.name})" for job in own if goes_on(job)]:
            verb = "job goes" if len(left) == 1 else "jobs go"
            front_end.print_aside(f"kept {verb} on: {', '.join(left)}")

    # From loading to unloading

    def open(self) -> None:
        """Use the settings, and take charge of the jobs there are."""
        self._apply()
        if self.settings.notify:
            self.notices.check()
        self.settings.observe(self._apply)
        self.core.use(self)

    def close(self) -> None:
        """Leave the jobs to themselves."""
        self.settings.unobserve(self._apply)
        self.close_notices()
        self.core.use(None)

    def _apply(self, _change: object = None) -> None:
        settings = self.settings
        self.front_end.labels.on = settings.labels
        if self.core.has_runners:
            self.core.runners.apply(settings)
        if settings.notify_after or settings.on_end or self.core.requests is not None:
            self.notices.listen()

    def connect(self, runners: Runners) -> None:
        """Show the jobs in the front end; called once, when there are runners."""
        from ipy_bgtasks.session.foreground import Foreground

        front_end, registry = self.core.front_end, runners.registry
        self._foreground = Foreground(self.core.loop, front_end.reaches, self.loaded.is_loading)
        front_end.interrupt_wait = self._foreground.interrupt
        runners.apply(self.settings)
        registry.host.exchange(self.front_end)
        registry.on_find = self._look_for
        self.loaded.prepare_for_jobs(runners)

    def disconnect(self, runners: Runners) -> None:
        """Undo `connect`."""
        from ipy_bgtasks.job.host import Absence

        runners.registry.on_find = str
        runners.watchdog.limit = 0
        runners.registry.host.exchange(Absence())

    def close_notices(self) -> None:
        """Send no more notices."""
        if (notices := vars(self).get("notices")) is not None:
            notices.close()

    # For the magics and the live views

    def stop(self, jobs: Sequence[Record], *, force: bool) -> Stopping:
        """Ask *jobs* to stop, and return what reports what became of them."""
        from ipy_bgtasks.session.foreground import Stopping

        cells, running = self.core.sources.cell, self.registry.alive
        return Stopping(jobs, self.front_end, force=force, cells=cells, running=running)

    def visible(self, every: bool) -> list[Record]:
        """Return the jobs that `%jobs` shows: with *every* all, else the recent ones.

        Of hundreds that run those that were launched last are left out, and of a group that is
        queued by the hundred those whose turn is far away.
        """
        if every:
            return list(self.registry)
        from ipy_bgtasks.job.outcome import JobState

        recent = {job.number for job in self.registry.ended()[-_RECENT:]}
        queued: Counter[str] = Counter()
        running = 0
        found = []
        for job in self.registry:
            if job.group is not None and job.state is JobState.QUEUED:
                queued[job.group] += 1  # the group's line counts them all
                if queued[job.group] > _QUEUED:
                    continue
            elif not job.done():
                running += 1
                if running > _RUNNING:
                    continue
            if not job.done() or job.number in recent:
                found.append(job)
        return found

    def wait(
        self,
        coro: Coroutine[Any, Any, Any],
        awaited: bool,
        instead: Callable[[], None],
    ) -> Any:
        """Return *coro* for a cell that awaits it, else run it; if that cannot be, *instead*."""
        if awaited:
            return unseen(coro)
        if asyncio._get_running_loop() is not None:
            coro.close()
            instead()
            return None
        return self.foreground.run(coro)
