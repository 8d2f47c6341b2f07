"""The registry: the jobs of one shell, bound to one event loop, and how each is launched."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, NoSuchJob
from ipy_bgtasks.job.host import HostSwitch
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry import specs
from ipy_bgtasks.registry.queueing import Dependents, Group, Queued, Retries
from ipy_bgtasks.registry.retention import Retention, Unit
from ipy_bgtasks.registry.specs import goes_on
from ipy_bgtasks.sigint import Shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from ipy_bgtasks.job.host import Runner
    from ipy_bgtasks.registry.queueing import GroupName
    from ipy_bgtasks.registry.specs import JobId
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.work import Work


@dataclass(slots=True, kw_only=True)
class LaunchOptions:
    """How to launch a job: the options of `%bg`. What was not given is None, or empty.

    It is made where the user's words are read, and passed on as it is to the registry.
    """

    #: The place that was asked for: "loop", "thread" or "process"; None for the default …
    place: str | None = None
    #: … or the expression that names an executor, or the executor itself, in place of that.
    on: Any = None
    #: The job's name; None for the code, shortened.
    name: str | None = None
    #: Whether output is recorded only, and not shown.
    quiet: bool = False
    #: Seconds after which the job is stopped: from its launch; in a group, and with `retries`, from
    #: when it could start, for each attempt.
    timeout: float | None = None
    #: Bytes of memory that its processes may use; more ends the job.
    memory: int | None = None
    #: The specs of the jobs that must finish well first.
    after: Sequence[str] = ()
    #: The file to which output is appended as well.
    log: str | None = None
    #: The group that the job joins, whose limit it may change.
    group: GroupName | None = None
    #: Whether the first failure of one of that group's jobs stops all others.
    halt: bool = False
    #: How many times it is run again if it fails.
    retries: int = 0
    #: Whether the user is to be told, wherever that is, when it has ended.
    notify: bool = False
    #: Whether the job outlives the session.
    keep: bool = False


class Registry(Collection[Record]):
    """The jobs of one shell: numbers, launches and finds them, and discards the oldest ended ones.

    A `Collection` of the jobs it keeps, in order of number: all that have not ended, and of those
    that have the last, *max_finished* of them. What one cell has launched counts as one, and so do
    the jobs of a group (`retention`). Any thread may call any method.
    """

    def __init__(
        self, runners: Mapping[str, Runner], service: ServiceLoop, *, max_finished: int = 200
    ) -> None:
        self.runners = dict(runners)
        self.service = service
        #: The host to which events are reported.
        self.host = HostSwitch()
        #: Called with each job that is no longer kept.
        self.on_discard: list[Callable[[Record], object]] = []
        #: Called with each spec before it is looked up; by default nothing comes of that.
        self.on_find: Callable[[str], object] = str
        self.adopted: set[int] = set()  # numbers of jobs that other sessions have launched
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._jobs: dict[int | JobId, Record] = {}
        self._recent: dict[int | JobId, None] = {}
        self._retention = Retention(max_finished, lambda job: self._drop(job.number))
        self._cells: dict[Any, Unit] = {}
        self._groups: dict[str, Group] = {}
        self._retries = Retries(self)
        self._dependents = Dependents(self)
        self._timers: dict[int | JobId, Callable[[], None]] = {}
        self._shut_down = False

    @property
    def max_finished(self) -> int:
        """How many ended jobs are kept, where those of a cell or a group count as one."""
        return self._retention.most

    @max_finished.setter
    def max_finished(self, value: int) -> None:
        self._retention.most = value

    # A collection of jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Record]:
        with self._lock:
            return iter(list(self._jobs.values()))

    def __contains__(self, job: object) -> bool:
        return isinstance(job, Record) and self._jobs.get(job.number) is job

    def get(self, number: int | JobId) -> Record | None:
        """Return the job with that number, or None if it is not kept."""
        return self._jobs.get(number)

    def find(self, spec: str, variables: Mapping[str, Any] | None = None) -> Record:
        """Return the job that a spec names; raises `BadInput` unless there is exactly one."""
        self.on_find(spec)
        return specs.find(self, spec, variables)

    def find_all(self, spec: str, variables: Mapping[str, Any] | None = None) -> list[Record]:
        """Return the jobs that a spec names: those of a group, or one; `BadInput` if none."""
        if specs.is_group(spec):
            return self.group(spec).jobs()
        return [self.find(spec, variables)]

    def group(self, spec: str) -> Group:
        """Return the group that ``@NAME`` names; raises `NoSuchJob` if it has no jobs."""
        name = spec.strip()[1:]
        if (group := self._groups.get(name)) is None:
            known = ", ".join(f"@{name}" for name in list(self._groups)[-8:])
            there = f"there is {known}" if known else "there are none"
            raise NoSuchJob(f"no group {name!r}: {there}")
        return group

    def groups(self) -> list[Group]:
        """Return the groups that have jobs, in the order in which they were first used."""
        return list(self._groups.values())

    @property
    def current(self) -> Record | None:
        """The job last launched or foregrounded, ended or not."""
        return self._nth_recent(0)

    @property
    def previous(self) -> Record | None:
        """The job that was current before."""
        return self._nth_recent(1)

    def alive(self) -> list[Record]:
        """Return the jobs that have not ended."""
        with self._lock:
            return [job for job in self._jobs.values() if not job.done()]

    def ended(self) -> list[Record]:
        """Return the jobs that have ended, in the order in which they did."""
        with self._lock:
            return self._retention.jobs()

    def touch(self, job: Record) -> None:
        """Make *job* the current one, as launching and foregrounding do."""
        with self._lock:
            if job.number in self._jobs:
                self._recent.pop(job.number, None)
                self._recent[job.number] = None

    # Launching

    def launch(
        self,
        work: Work,
        options: LaunchOptions | None = None,
        *,
        where: str | Runner | None = None,
        after: Sequence[Record] = (),
        origin: object = None,
        cell: Hashable = None,
        prepare: Callable[[Record], object] | None = None,
        number: int | JobId | None = None,
    ) -> Record:
        """Turn *work* into a job and start it; returns the job.

        *where* and *after* are what the options of these names stand for. *where* is a runner, or
        the name of one; by default async work goes to the loop and anything else to a thread. With
        *after* it starts when those have finished, and is cancelled if one fails or is cancelled.
        *prepare* is called with the job before it can start. *origin* is passed to the job;
        *number*, if it has one already. All that are launched with one *cell* are kept as one.
        """
        if self._shut_down:
            raise BadInput("the session is ending: nothing is launched any more")
        options = options or LaunchOptions()
        where = where or ("loop" if work.is_async else "thread")
        runner = self.runners[where] if isinstance(where, str) else where
        with Shielded():  # a job that gets a number must start
            number = next(self._numbers) if number is None else number
            job = Record(
                number,
                work,
                runner,
                name=options.name or "",
                origin=origin,
                quiet=options.quiet,
                group=None if options.group is None else options.group.name,
                host=self.host,
                registry=self,
            )
            if prepare is not None:
                prepare(job)
            self._add(job, cell)
            self._arrange(job, runner, options)
            if after:
                self._dependents.wait(job, runner, after)
            else:
                self.start(runner, job)
            if job.started is None:  # else that was reported
                job.notify(self.host.changed)
            return job

    def adopt(self, job: Record) -> None:
        """Take in a job that another session has launched, as the oldest of all."""
        self.adopted.add(job.number)
        with self._lock:
            self._add(job)
            self._recent = {job.number: None, **self._recent}
            if job.done():
                self._retention.ended(job, oldest=True)
            else:
                job.add_done_callback(self.job_ended)

    def _add(self, job: Record, cell: Hashable = None) -> None:
        number = job.number
        with self._lock:
            unit: Unit
            if (name := job.group) is not None:
                unit = self._groups[name] = self._groups.get(name) or Group(name, self)
            elif cell is not None:
                unit = self._cells[cell] = self._cells.get(cell) or Unit(cell)
            else:
                unit = Unit(None)
            self._retention.add(job, unit)
            overtaken = bool(self._jobs) and next(reversed(self._jobs)) > number
            self._jobs[number] = job
            self._recent[number] = None
            if overtaken:  # by a launch in another thread
                self._jobs = dict(sorted(self._jobs.items()))

    def _arrange(self, job: Record, runner: Runner, options: LaunchOptions) -> None:
        """Have the job wait for its turn, run again if it fails, and stop when its time is up."""
        timeout = None if options.keep else options.timeout  # its watcher keeps it
        if options.group is not None or options.retries:
            job.timeout = timeout
        elif timeout is not None:
            later = self.service.later(timeout, self._time_out, job, timeout)
            self._timers[job.number] = later
        if options.group is not None:
            group = self._groups[options.group.name]
            group.halts |= options.halt
            if options.group.limit is not None:
                group.lends, group.limit = options.group.lends, options.group.limit
            job.add_done_callback(self.leave_group)
        if options.retries:
            self._retries.grant(job, runner, options.retries)

    def leave_group(self, job: Record) -> None:
        """Free the job's slot in its group, if it has one."""
        if job.group is not None and (group := self._groups.get(job.group)) is not None:
            group.leave(job)

    def start(self, runner: Runner, job: Record) -> None:
        """Start a job on its runner, when it is its turn in its group."""
        if job.group is None:
            self.start_now(runner, job)
        else:
            self._groups[job.group].enter(job, runner)

    def start_queued(self, queued: Queued) -> None:
        """Start a job that has waited, when it is its turn in its group."""
        if (name := queued.job.group) is None:
            queued.go(self)
        else:
            self._groups[name].enter(queued.job, queued.runner, queued.context)

    def start_now(self, runner: Runner, job: Record) -> None:
        """Start a job on its runner; if that cannot be, it fails."""
        if self._shut_down:
            job.end_cancelled(f"job {job.number} never started: the session ended")
            return
        if job.timeout is not None:
            self.set_timer(job, job.timeout, partial(self._time_out, job, job.timeout))
        try:
            runner.start(job)
        except Exception as error:  # no more threads, a closed loop: not queued forever
            job.fail(error)

    def set_timer(self, job: Record, seconds: float, fn: Callable[[], object]) -> None:
        """Give the job its one timer; it is called off when it ends."""
        self._call_off(job)
        self._timers[job.number] = self.service.later(seconds, fn)
        if job.done():  # meanwhile
            self._call_off(job)

    def _time_out(self, job: Record, seconds: float, counted: float = 0.0) -> None:
        """Stop a job whose time is up, or give it as much more as it was paused meanwhile."""
        idle = job.idle
        if idle - counted > 0.01:
            again = partial(self._time_out, job, seconds, idle)
            self.set_timer(job, idle - counted, again)
        else:
            n = job.number
            job.stop_for(TimeoutError(f"job {n} took longer than {seconds:g} s"))

    def _call_off(self, job: Record) -> None:
        if (call_off := self._timers.pop(job.number, None)) is not None:
            call_off()

    # Ending

    def shutdown(self) -> list[Record]:
        """Launch nothing more, stop all but the kept jobs, and return those that still run."""
        with self._lock:
            self._shut_down, was_shut_down = True, self._shut_down
        if not was_shut_down:
            alive = [job for job in self.alive() if not goes_on(job)]
            for job in alive:  # nothing of these runs, and there may be thousands
                if isinstance(job.runner, Queued):
                    _end(job)
            # The loop comes first, so that it can run while many threads are being stopped.
            own = (job.runner for job in alive if job.runner is not None)
            for runner in dict.fromkeys([*self.runners.values(), *own]):
                with suppress(Exception):  # the others must still be shut down
                    runner.shutdown()
                for job in alive:
                    if job.runner is runner:
                        _end(job)
        return [job for job in self.alive() if not goes_on(job)]

    def prune(self) -> int:
        """Discard all jobs that have ended; returns how many."""
        with self._lock:
            ended = [number for number, job in self._jobs.items() if job.done()]
            for number in ended:
                self._drop(number)
        return len(ended)

    def discard(self, *jobs: Record) -> None:
        """Discard jobs that have ended; raises `BadInput`, and discards none, if one has not."""
        for job in jobs:
            if not job.done():
                raise BadInput(f"job {job.number} is {job.state}: %cancel {job.number} stops it")
        with self._lock:
            for job in jobs:
                self._drop(job.number)

    def job_ended(self, job: Record) -> None:
        """Keep a job that has just ended, and start what waited for it; called by the job."""
        if self._timers:
            self._call_off(job)
        with self._lock:
            if job.number in self._jobs:  # it may have been discarded meanwhile
                self._retention.ended(job)
        job.notify(self.host.ended)
        self._dependents.ended(job)
        if isinstance(job.unit, Group):
            job.unit.halt(job)

    def job_paused(self, job: Record) -> None:
        """Note that a job was paused, or goes on; called by the job."""
        if isinstance(job.unit, Group):
            job.unit.lend(job)

    def job_fetched(self, job: Record) -> None:
        """Note that somebody has a job's result; called by the job."""
        with self._lock:
            if job.number in self._jobs:
                self._retention.fetched(job)

    def pop_lost(self) -> int:
        """Return how many results were discarded unseen, since the last call."""
        with self._lock:
            lost, self._retention.lost = self._retention.lost, 0
            return lost

    def _drop(self, number: int | JobId) -> None:
        job = self._jobs.pop(number, None)
        self._recent.pop(number, None)
        if job is None:
            return
        self._retention.dropped(job)
        if job.unit.is_empty:
            named = self._groups if isinstance(job.unit, Group) else self._cells
            named.pop(job.unit.name, None)
        for fn in self.on_discard:
            fn(job)

    def _nth_recent(self, n: int) -> Record | None:
        with self._lock:
            number = next(itertools.islice(reversed(self._recent), n, None), None)
            return None if number is None else self._jobs.get(number)


def _end(job: Record) -> None:
    if job.started is None:
        job.end_cancelled(f"job {job.number} never started: the session ended")
    elif not job.cancel_requested:  # one that was asked may be cleaning up
        with suppress(Exception):
            job.cancel()
