"""The job control of one shell: what the magics call.

`Core` is what the shell keeps when the extension is unloaded, its jobs above all; a `Session` lasts
from loading to unloading, and shows the jobs in the front end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import cached_property, partial
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller
from ipy_bgtasks.frontends.installing import Sources
from ipy_bgtasks.platforms import has_kept_jobs, has_threads
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.stacks import unseen
from ipy_bgtasks.text import error_line, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.ipython.extension import Loaded
    from ipy_bgtasks.ipython.options import Options
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import Group
    from ipy_bgtasks.session.foreground import Foreground, Stopping
    from ipy_bgtasks.session.launching import Runners
    from ipy_bgtasks.session.notices import Notices, Requests
    from ipy_bgtasks.session.settings import BgTasks
    from ipy_bgtasks.views.describe import Row

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

        work = Work(_runs_already, label_of_cell(cell.code), cell.code, False)
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


def _runs_already() -> None:
    """Do nothing, in place of the call of a cell that was not started here."""


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
        self._claims: dict[int, Callable[[], None]] = {}

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
        runners.watch(self.front_end.print_at)
        runners.apply(self.settings)
        registry.host.exchange(self.front_end)
        registry.on_find = self._look_for
        self.loaded.prepare_for_jobs(runners)

    def disconnect(self, runners: Runners) -> None:
        """Undo `connect`."""
        from ipy_bgtasks.job.host import Absence

        runners.registry.on_find = str
        runners.stop_watching()
        runners.registry.host.exchange(Absence())

    def close_notices(self) -> None:
        """Send no more notices."""
        if (notices := vars(self).get("notices")) is not None:
            notices.close()

    # The foreground

    def sent_away(self) -> Record:
        """Return the job of the cell that `%bg` alone has just sent to the background.

        Raises `BadInput` if no such cell ran.
        """
        job = self.core.front_end.last_backgrounded()
        if self._blocks_loop(job) and any(j.where == "loop" for j in self.registry.alive()):
            self.print_line("coroutine jobs stand still while that cell computes")
        return job

    def _blocks_loop(self, job: Record) -> bool:
        return job.runner is not None and job.runner.blocks(threading.main_thread().ident)

    def _print_blocker(self, jobs: Sequence[Record]) -> None:
        """Say so if *jobs* cannot go on until a cell that was sent away has ended."""
        still = [job.number for job in jobs if job.where == "loop" and not job.done()]
        blocker = next((job for job in self.registry.alive() if self._blocks_loop(job)), None)
        if still and blocker is not None:
            who = numbered(still, "stands", "stand")
            self.print_line(f"{who} still until job {blocker.number} ({blocker.name}) ends")

    def claim(self, job: Record) -> None:
        """Have the foreground report the job's end, even if that comes before `attach`."""
        self._claims[job.number] = self.front_end.claim(job)

    def attach(self, jobs: Sequence[Record], options: Options, *, spec: str | None) -> Any:
        """Wait for jobs in the foreground: an awaitable in a rewritten cell, else the value.

        *spec* is what has named several, whose results are returned as a list.
        """
        for job in jobs:
            self.registry.touch(job)
            self.front_end.forget_notice(job)
            if job.pid is not None and self.is_paused(job):
                self.go_on(job)

        def follow(job: Record) -> Callable[[], None]:
            return self.front_end.follow(job, everything=options.all, among=len(jobs) > 1)

        self._print_blocker(jobs)

        def wait() -> asyncio.Future[Any]:
            return self.foreground.attach(
                jobs,
                follow,
                every=spec is not None,
                first=options.any,
                settled=options.settled,
                timeout=options.timeout,
                budget=options.budget,
                on_budget=self.print_line,
                on_failure=lambda failed: self._print_how_to_get_the_rest(failed, len(jobs), spec),
            )

        try:
            if not options.awaited:
                return self.foreground.block(wait)
            if (job := caller()) is not None:
                self.print_line(f"job {job.number} waits here: %cancel {job.number} ends the wait")
            elif not self.foreground.interruptible():
                self.print_line("this wait cannot be interrupted: it is in a subshell")
            return wait()
        finally:  # it has begun, and sees all that follows
            for job in jobs:
                if (release := self._claims.pop(job.number, None)) is not None:
                    release()

    def _print_how_to_get_the_rest(self, failed: int, count: int, spec: str | None) -> None:
        if failed < count:
            rest = "%fg all returns the results of the others"
            if spec != "all":
                rest = f"%fg --settled {spec} returns all, with exceptions in the place of results"
            self.print_line(f"{failed:,} of {count:,} jobs did not finish: {rest}")

    # Stopping, pruning, showing

    def stop(self, jobs: Sequence[Record], *, force: bool) -> Stopping:
        """Ask *jobs* to stop, and return what reports what became of them."""
        from ipy_bgtasks.session.foreground import Stopping

        cells, running = self.core.sources.cell, self.registry.alive
        return Stopping(jobs, self.front_end, force=force, cells=cells, running=running)

    def pause(self, jobs: Sequence[Record], groups: Sequence[Group]) -> None:
        """Stop the processes of jobs where they are, and start no more of *groups*.

        Raises `BadInput` if one of *jobs* cannot be paused; of a group all are that can be.
        """
        from ipy_bgtasks.errors import BadInput

        for group in groups:
            group.paused = True
        members = {job.number for group in groups for job in group.jobs()}
        for job in jobs:
            if job.done() or (job.number in members and job.started is None):
                continue
            try:
                job.pause()
            except BadInput as error:
                if job.number not in members:
                    raise
                self.print_line(str(error))
            else:
                n = job.number
                self.print_line(f"job {n} ({job.name}) is paused: %bg {n} or %fg {n} go on with it")
        for group in groups:
            name = group.name
            self.print_line(f"no more jobs of @{name} start until %bg @{name}")

    def is_paused(self, job: Record) -> bool:
        """Return whether the job was paused, by `%cancel --pause` or by somebody else."""
        from ipy_bgtasks.job.outcome import JobState

        job.look_for_pause()
        return job.state is JobState.PAUSED

    def go_on(self, job: Record) -> None:
        """Let a paused job go on, and say so."""
        job.pause(False)
        self.print_line(f"job {job.number} ({job.name}) goes on")

    def report(self, stopping: Stopping, *, awaited: bool) -> Any:
        """Wait a moment where that is possible, then report the state of the jobs."""

        async def wait_and_report() -> None:
            try:
                await stopping.wait(self.settings.cancel_wait)
            except (KeyboardInterrupt, asyncio.CancelledError):
                if caller() is not None:
                    raise
                raise stopping.detached() from None  # by the user, who sees what was done
            finally:
                self._print_report(stopping)

        return self.wait(wait_and_report(), awaited, instead=lambda: self._print_report(stopping))

    def prune(self, chosen: list[Record] | None = None) -> None:
        """Discard the jobs that have ended, or those of *chosen*; `BadInput` if one has not."""
        if chosen is None:
            count = self.core.runners.finder.prune() if has_kept_jobs() else 0
            count += self.registry.prune()
        else:
            for job in chosen:
                self.registry.check_ended(job)
            for job in chosen:
                self.registry.discard(job)
            count = len(chosen)
        self.print_line(f"forgot {count} job{'s' * (count != 1)}")

    def show_job(self, job: Record) -> None:
        """Display a single job in full."""
        from ipy_bgtasks.views.display import detail

        self.front_end.show(detail(job, self.core.sources.cell))

    def look_inside(self, jobs: Sequence[Record], options: Options) -> Any:
        """Print what an expression is in the code of each job, or show where its time goes."""
        from ipy_bgtasks.errors import BadInput
        from ipy_bgtasks.stacks import parsed_expression
        from ipy_bgtasks.views.describe import frame_line

        if options.profile:
            if len(jobs) != 1:
                raise BadInput(f"--profile takes one job, not {len(jobs)}: %jobs 3 --profile 5")
            if why := _hidden(jobs[0]):
                raise BadInput(f"job {jobs[0].number} {why}")
            return self._profile(jobs[0], options.profile, options.awaited)
        parsed_expression(expression := str(options.show))
        for job in jobs:
            value, site = _hidden(job), None
            if not value and job.runner is not None:
                value, site = job.runner.evaluate(job, expression)
            at = None if site is None else FrameSummary(*site, lookup_line=False)
            line = frame_line(at, self.core.sources.cell)
            self.front_end.print_line(f"[{job.number}] {value}{line and f'  ({line})'}")
        return asyncio.sleep(0) if options.awaited else None

    def _profile(self, job: Record, seconds: float, awaited: bool) -> Any:
        """Sample the job's stack for *seconds*, or until an interrupt, and show what was seen."""
        from ipy_bgtasks.errors import BadInput
        from ipy_bgtasks.stacks import Times, aside, sample
        from ipy_bgtasks.views.pictures import profile

        times: Times = {}
        over = threading.Event()

        async def wait_and_show() -> None:
            sampling = aside(partial(sample, job, seconds, times, over), "bg-profile")
            try:
                await asyncio.wrap_future(sampling)
            except (KeyboardInterrupt, asyncio.CancelledError):
                if caller() is not None:
                    raise
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()  # by the user, who wants to see what there is
            finally:
                over.set()
            self.front_end.show(profile(job, dict(times), self.core.sources.cell))

        if not has_threads():
            raise BadInput("--profile needs threads, which a browser does not have")
        if not awaited and asyncio._get_running_loop() is not None:
            raise BadInput("--profile cannot wait here: use it at the top level of a cell")
        return self.wait(wait_and_show(), awaited, instead=lambda: None)

    def show_jobs(
        self,
        chosen: list[Record] | None,
        groups: Sequence[Group] = (),
        *,
        every: bool,
        verbose: bool,
    ) -> None:
        """Display the table; of *chosen* jobs with a line on *groups*."""
        from ipy_bgtasks.views.tables import left_out, table

        if chosen is None:
            self.look_for_kept()
        jobs = self.visible(every) if chosen is None else chosen
        if chosen is None:
            names = {job.group for job in jobs}
            groups = [group for group in self.registry.groups() if group.name in names]
        running, waiting = self._cell_rows() if chosen is None else ([], [])
        self.front_end.show(
            table(
                self.registry,
                jobs,
                groups=groups,
                verbose=verbose,
                cells=self.core.sources.cell,
                notes=left_out(self.registry, jobs) if chosen is None else [],
                running=running,
                waiting=waiting,
            )
        )

    def _cell_rows(self) -> tuple[list[Row], list[Row]]:
        """Return a row for each cell that runs, without the one that calls, and that waits."""
        from ipy_bgtasks.views.describe import running_cell, waiting_cell

        if (cells := self.front_end.cells) is None:
            return [], []
        waiting = [waiting_cell(each.code, each.place) for each in cells.waiting()]
        number, now = self.core.sources.cell, time.time()
        running = [
            running_cell(each.code, now - each.began, each.stack(), number)
            for each in cells.others()
        ]
        return running, waiting

    def take_out(self, places: set[int] | None) -> None:
        """Take waiting cells out of the kernel's queue, by their numbers, or all, and say which.

        Raises `BadInput` if one of them does not wait.
        """
        from ipy_bgtasks.errors import BadInput
        from ipy_bgtasks.work.reading import label_of_cell

        cells = self.front_end.cells
        if cells is None:
            raise BadInput("the cells that wait can be reached in a kernel only")
        there = {each.place for each in cells.waiting()}
        if places is not None and (missing := sorted(places - there)):
            known = ", ".join(f"q{each}" for each in sorted(there)) or "none"
            raise BadInput(f"no cell q{missing[0]} waits: there is {known}")
        for cell in cells.take_out(places):
            self.print_line(f"q{cell.place} ({label_of_cell(cell.code)}) will not run")
        if not there:
            self.print_line("no cell waits")

    def show_data(self, chosen: list[Record] | None, *, every: bool, since: int) -> None:
        """Print one line of JSON: of *chosen* jobs with their output from *since* on."""
        from ipy_bgtasks.views.describe import report

        if chosen is None:
            self.look_for_kept()
        print(
            report(
                self.visible(every) if chosen is None else chosen,
                active=len(self.registry.alive()),
                full=chosen is not None,
                since=since,
                cells=self.core.sources.cell,
                cell_rows=self._cell_rows(),
            )
        )

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

    def _print_report(self, stopping: Stopping) -> None:
        lines = stopping.report() or [self._nothing_to_stop()]
        self.print_line("\n".join(lines))

    def _nothing_to_stop(self) -> str:
        registry = self.registry
        others = [job.number for job in registry.alive() if job.number in registry.adopted]
        if not others:
            return "no job to stop: none is running or queued"
        listed = ", ".join(map(str, others))
        return (
            f"no job of this session to stop; left alone: {listed} (%cancel {others[0]} stops it)"
        )


def _hidden(job: Record) -> str:
    """Return why nobody can look into the job's code; empty if that is possible."""
    from ipy_bgtasks.job.outcome import JobState

    job.look_for_pause()
    if job.done():
        return f"has ended: {job.state}"
    if job.started is None:
        return "has not started"
    if job.where == "shell" or (job.where == "kept" and job.code.startswith("!")):
        return "is a command: only Python code can be looked into"
    paused = f"is paused: %bg {job.number} lets it go on"
    return paused if job.state is JobState.PAUSED else ""
