"""The job control of one shell: what the magics call."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller
from ipy_bgtasks.platforms import has_kept_jobs
from ipy_bgtasks.stacks import unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from ipy_bgtasks.frontends.front_end import Screen
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import Group
    from ipy_bgtasks.session.core import Core, Kept
    from ipy_bgtasks.session.foreground import Foreground, Stopping
    from ipy_bgtasks.session.launching import Launcher, LaunchOptions
    from ipy_bgtasks.session.notices import Notices, Pages
    from ipy_bgtasks.session.places import Places
    from ipy_bgtasks.session.settings import BgTasks

#: How many ended jobs `%jobs` shows.
_RECENT = 10
#: How many queued jobs of a group it shows.
_QUEUED = 10


class Session:
    """Job control of one shell, from loading to unloading. Any thread may call."""

    def __init__(self, shell: Any, core: Core, settings: BgTasks, screen: Screen) -> None:
        self.shell = shell
        self.core = core
        self.settings = settings
        self.screen = screen
        #: Called, before the first job, to install what concerns only jobs.
        self.on_first_job: Callable[[Places], object] = lambda _places: None
        self._foreground: Foreground | None = None
        #: The pages that show the notebook, for notices; None where there are none.
        self.pages: Callable[[], Pages] | None = None
        self._claims: dict[int, Callable[[], None]] = {}

    @property
    def registry(self) -> Registry:
        """All jobs of the shell."""
        return self.core.registry

    @property
    def foreground(self) -> Foreground:
        """What waits for jobs; it comes with the places in which they run."""
        _ = self.core.places
        assert self._foreground is not None
        return self._foreground

    @cached_property
    def launcher(self) -> Launcher:
        """What turns CODE into jobs; imported when the first job is launched."""
        from ipy_bgtasks.session.launching import Launcher

        core = self.core
        return Launcher(
            self.shell,
            core.registry,
            self.screen,
            self.settings,
            core.sources,
            core.places.processes,
            lambda: core.executors,
            # Those of a group are told together.
            lambda job: self.notices.ask([job], f"group {job.group}" if job.group else ""),
            lambda: self.kept.runner,
        )

    @cached_property
    def notices(self) -> Notices:
        """What tells the user that jobs have ended; imported when that is first asked for."""
        from ipy_bgtasks.session.notices import Asked, Notices

        core = self.core
        core.asked = core.asked or Asked()
        later = core.service.later
        return Notices(self.settings, self.screen, core.asked, later, self.pages)

    @property
    def kept(self) -> Kept:
        """What runs and finds kept jobs, with the current settings."""
        self.core.kept.apply(self.settings)
        return self.core.kept

    def look_for_kept(self) -> None:
        """Take in the kept jobs of other sessions, if there are any."""
        if has_kept_jobs():
            self.kept.finder.look()

    def _look_for(self, spec: str) -> None:
        from ipy_bgtasks.registry.specs import JobId

        if JobId.read(spec) is not None:
            self.look_for_kept()

    def say_what_is_kept(self) -> None:
        """Say how many jobs other sessions have kept, in one line, if there are any."""
        if has_kept_jobs():
            from ipy_bgtasks.runners.kept.directory import startup_summary

            known = {job.number for job in self.registry} if self.core.has_places else set()
            if line := startup_summary(known):
                self.screen.say(line)

    def say_what_goes_on(self) -> None:
        """Say which jobs go on when the session ends, in one line, if any do."""
        if "kept" not in vars(self.core):
            return
        from ipy_bgtasks.registry.specs import goes_on

        registry = self.registry
        own = (job for job in registry if job.number not in registry.adopted)
        if left := [f"{job.number} ({job.name})" for job in own if goes_on(job)]:
            verb = "job goes" if len(left) == 1 else "jobs go"
            self.screen.say(f"kept {verb} on: {', '.join(left)}")

    def start(self) -> Callable[[], None]:
        """Use the settings, and take charge of the jobs there are; returns what undoes it."""
        core, settings = self.core, self.settings
        ends: list[Callable[[], None]] = []

        def apply(_change: object = None) -> None:
            self.screen.log_limit = settings.log_limit
            self.screen.labels.on = settings.labels
            if core.has_places:
                core.places.apply(settings)
            if settings.notify_after or settings.on_end or core.asked is not None:
                self.notices.listen()

        apply()
        if settings.notify:
            self.notices.check()
        settings.observe(apply)
        core.connect(lambda places: ends.append(self._connect(places)))

        def undo() -> None:
            core.connect(None)
            settings.unobserve(apply)
            self.close_notices()
            while ends:
                ends.pop()()

        return undo

    def _connect(self, places: Places) -> Callable[[], None]:
        """Show the jobs of *places* on the screen, with the settings; returns what ends that."""
        from ipy_bgtasks.job.host import Absence
        from ipy_bgtasks.session.foreground import Foreground

        front_end, screen, registry = self.core.front_end, self.screen, places.registry
        assert front_end is not None
        self._foreground = Foreground(
            self.core.loop, lambda job: screen.follow(job, everything=False), front_end.reaches
        )
        front_end.waits = self._foreground.interrupt
        end_watching = places.watch(screen.tell)
        places.apply(self.settings)
        registry.host.exchange(screen)
        registry.on_find = self._look_for
        self.on_first_job(places)

        def end() -> None:
            registry.on_find = str
            end_watching()
            registry.host.exchange(Absence())

        return end

    def close_notices(self) -> None:
        """Tell nobody any more that jobs have ended."""
        if (notices := vars(self).get("notices")) is not None:
            notices.close()

    def sent_away(self) -> Record:
        """Return the job of the cell that `%bg` alone has just sent to the background.

        Raises `BadInput` if no such cell ran.
        """
        assert self.core.front_end is not None
        job = self.core.front_end.sent_away()
        if self._blocks_loop(job) and any(j.where == "loop" for j in self.registry.alive()):
            self.screen.say("coroutine jobs stand still while that cell computes")
        return job

    def _blocks_loop(self, job: Record) -> bool:
        return job.runner is not None and job.runner.blocks(threading.main_thread().ident)

    def _say_who_stands_still(self, jobs: Sequence[Record]) -> None:
        """Say so if *jobs* cannot go on until a cell that was sent away has ended."""
        still = [str(job.number) for job in jobs if job.where == "loop" and not job.done()]
        if not still:
            return
        blocker = next((job for job in self.registry.alive() if self._blocks_loop(job)), None)
        if blocker is not None:
            which = (
                f"job {still[0]} stands" if len(still) == 1 else f"jobs {', '.join(still)} stand"
            )
            self.screen.say(f"{which} still until job {blocker.number} ({blocker.name}) ends")

    def launch_attached(
        self,
        code: str,
        options: LaunchOptions,
        *,
        local: Mapping[str, Any] | None,
        cell: bool,
        awaited: bool,
    ) -> Record:
        """Launch CODE for `%fg` and `%%fg`, having made sure that waiting is possible."""
        if not awaited:
            self.foreground.refuse_to_block()

        def claim(job: Record) -> None:
            # The foreground reports its end, even if that comes before the wait begins.
            self._claims[job.number] = self.screen.claim(job)

        return self.launcher.launch(code, options, local=local, cell=cell, prepare=claim)

    def _let_go(self, jobs: Sequence[Record]) -> None:
        """Release the claims on *jobs*: the wait has begun, and sees all that follows."""
        for job in jobs:
            if (release := self._claims.pop(job.number, None)) is not None:
                release()

    def attach(
        self,
        jobs: Sequence[Record],
        *,
        every: bool,
        first: bool = False,
        timeout: float | None,
        all_output: bool,
        awaited: bool,
    ) -> Any:
        """Wait for jobs in the foreground: an awaitable in a rewritten cell, else the value."""
        for job in jobs:
            self.registry.touch(job)
            self.screen.forget_notice(job)

        def follow(job: Record) -> Callable[[], None]:
            return self.screen.follow(job, everything=all_output, among=len(jobs) > 1)

        self._say_who_stands_still(jobs)
        if not awaited:
            try:
                return self.foreground.block(
                    jobs, every=every, first=first, timeout=timeout, follow=follow
                )
            finally:
                self._let_go(jobs)
        if (job := caller()) is not None:
            self.screen.say(f"job {job.number} waits here: %cancel {job.number} ends the wait")
        elif not self.foreground.interruptible():
            self.screen.say("this wait cannot be interrupted: it is in a subshell")
        try:
            return self.foreground.attach(
                jobs, every=every, first=first, timeout=timeout, follow=follow
            )
        finally:
            self._let_go(jobs)

    def report(self, stopping: Stopping, *, awaited: bool) -> Any:
        """Wait a moment where that is possible, then report the state of the jobs."""

        async def wait_and_say() -> None:
            try:
                await stopping.wait(self.settings.cancel_wait)
            finally:
                self._say(stopping)

        return self.wait(wait_and_say(), awaited, instead=lambda: self._say(stopping))

    def prune(self) -> None:
        """Discard the jobs that have ended."""
        count = self.kept.finder.prune() if has_kept_jobs() else 0
        count += self.registry.prune()
        self.screen.say(f"forgot {count} job{'s' * (count != 1)}")

    def show_jobs(
        self,
        chosen: list[Record] | None,
        groups: Sequence[Group] = (),
        *,
        every: bool,
        verbose: bool,
    ) -> None:
        """Display the table, or a single job in full; of *chosen* jobs with a line on *groups*."""
        from ipy_bgtasks.views.show import detail, table

        cells = self.core.sources.cell
        if chosen is None:
            self.look_for_kept()
        if chosen is not None and len(chosen) == 1 and not groups:
            self.screen.show(detail(chosen[0], cells=cells))
            return
        jobs = self.visible(every) if chosen is None else chosen
        if chosen is None:
            names = {job.group for job in jobs}
            groups = [group for group in self.registry.groups() if group.name in names]
        self.screen.show(table(self.registry, jobs, groups=groups, verbose=verbose, cells=cells))

    def visible(self, every: bool) -> list[Record]:
        """Return the jobs that `%jobs` shows: with *every* all, else the recent ones.

        Of a group that is queued by the hundred those are left out whose turn is far away.
        """
        if every:
            return list(self.registry)
        from ipy_bgtasks.job.outcome import JobState

        recent = {job.number for job in self.registry.ended()[-_RECENT:]}
        queued: Counter[str] = Counter()
        found = []
        for job in self.registry:
            if job.group is not None and job.state is JobState.QUEUED:
                queued[job.group] += 1  # the group's line counts them all
                if queued[job.group] > _QUEUED:
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

    def _say(self, stopping: Stopping) -> None:
        lines = stopping.report()
        self.screen.say("\n".join(lines) if lines else "no job to stop: none is running or queued")
