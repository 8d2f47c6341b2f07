"""Jobs that may not start yet, and what they wait for.

A `Group` lets a limited number of its jobs run at a time. `Retries` run a job again that has
failed, after a pause that doubles each time. `Dependents` start, as `--after` says, when other
jobs have finished. All of them belong to one registry, which starts the jobs.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict, deque
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job.host import Runner
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Attempts
from ipy_bgtasks.registry.retention import Unit
from ipy_bgtasks.sigint import Shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry


class Line:
    """What a queued job waits in."""

    def drop(self, queued: Queued) -> bool:
        """Remove the job; return False if it has left already."""
        raise NotImplementedError

    def make_room(self, queued: Queued) -> None:
        """Start the job now if the calling job, which waits for it, keeps it from starting."""

    def position(self, queued: Queued) -> str:
        """Return where in it the job is, in words; empty if there is nothing to say."""
        return ""


class Queued(Runner):
    """The runner of one job until it may start; then the job moves to *runner*.

    So a queued job is cancelled at once, whatever *runner* is busy with. Any thread may call.
    """

    __slots__ = ("context", "job", "line", "runner", "where")

    def __init__(
        self, job: Record, runner: Runner, line: Line, context: Context | None = None
    ) -> None:
        self.job = job
        self.runner = runner
        #: The place in which it will run.
        self.where = runner.where
        self.line = line
        #: Where it was launched, and will start.
        self.context = copy_context() if context is None else context

    def go(self, registry: Registry) -> None:
        """Start it, unless it has ended meanwhile; whoever waits for it looks at it anew."""
        job = self.job
        if not job.done():
            job.move(self.runner)
            self.context.run(registry.start_now, self.runner, job)
            job.poke()

    def start(self, job: Record) -> None:
        """Do nothing: `go` starts it."""

    def stop(self, job: Record, force: bool) -> None:
        """End it at once, or leave that to its runner if it has just started."""
        if self.line.drop(self):
            job.end_cancelled()
        else:
            self.runner.stop(job, force)

    def needs_this_thread(self) -> bool:
        """Return whether its runner does."""
        return self.runner.needs_this_thread()

    def make_room(self, job: Record) -> None:
        """Start it if a job that waits for it has the slot that it needs."""
        self.line.make_room(self)

    def waits(self, job: Record) -> str:
        """Return where in its line it is."""
        return self.line.position(self)


#: Seconds of idleness after which a group's elapsed time begins anew with its next job.
_IDLE = 2.0
_COUNTED = 100  # of those that wait in a group, to tell the place of one


class GroupName(NamedTuple):
    """What `-g NAME:N+` names: a group, and how many of it may run at a time."""

    name: str
    limit: int | None = None
    #: Whether those that are paused do not count (the ``+``).
    lends: bool = False

    @classmethod
    def read(cls, text: str) -> GroupName:
        """Read ``NAME``, ``NAME:N`` or ``NAME:N+``; raises `BadInput` for anything else."""
        name, colon, most = text.partition(":")
        limit = most.removesuffix("+")
        if not re.fullmatch(r"[^\s,:;@%?'\"-][^\s,:;@%?'\"]*", name):
            raise BadInput(
                f"-g takes the name of a group, a word such as crawl or crawl:8, not {text!r}"
            )
        if not colon:
            return cls(name)
        if not (limit.isascii() and limit.isdecimal() and int(limit) > 0):
            raise BadInput(f"-g {name}:N takes how many may run at a time, 1 or more, not {most!r}")
        return cls(name, int(limit), limit != most)


class Group(Unit, Line):
    """The kept jobs of one group; at most `limit` of them run at a time, the rest is queued.

    A job has a slot from the moment it may start to its end, or to the end of an attempt that
    is followed by another; while it is paused another may have it, if the group `lends`. A job that
    goes on does not wait for one. If it `halts`, no job starts after one has failed, until the
    group has been idle for a moment: the loop that launches them may go on. Any thread may call.
    """

    def __init__(self, name: str, registry: Registry) -> None:
        super().__init__(name)
        self._registry = registry
        self._limit: int | None = None
        self._lock = threading.RLock()
        self._slots: set[int] = set()
        self._lent: set[int] = set()  # of these, those that do not count
        #: `popitem(last=False)` takes constant time here, unlike `next(iter(dict))`.
        self._queue: OrderedDict[int, Queued] = OrderedDict()
        self._filling = False
        self._paused = self.halts = self.lends = False
        self._failed: Record | None = None  # the one that halted it
        self._began = time.monotonic()
        self._idle: float | None = None

    def __repr__(self) -> str:
        return f"<Group {self.name}: {len(self._jobs)} jobs>"

    @property
    def limit(self) -> int | None:
        """How many may run at a time; None for any number. Those that run already go on."""
        return self._limit

    @limit.setter
    def limit(self, value: int | None) -> None:
        with self._lock:
            before, self._limit = self._limit, value
        if value != before:
            self.fill()

    @property
    def paused(self) -> bool:
        """Whether no more of its jobs start for the time being."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        with self._lock:
            self._paused = value
        if not value:
            self.fill()

    @property
    def elapsed(self) -> float:
        """Seconds since its first job was launched, up to the end of its last one."""
        end = self._idle
        return (time.monotonic() if end is None else end) - self._began

    # Its jobs come and go; the registry's lock is held

    def add(self, job: Record) -> None:
        """Take in a job."""
        if self._idle is not None and time.monotonic() - self._idle > _IDLE:
            self._began = time.monotonic()
            self.halts, self._failed = False, None
        self._idle = None
        super().add(job)

    def ended(self, job: Record) -> bool:
        """Note that the job has ended; return whether all have."""
        if is_over := super().ended(job):
            self._idle = time.monotonic()
        return is_over

    # Any thread may call the rest

    def halt(self, job: Record) -> None:
        """Stop all others if the job has failed and the group halts then."""
        with self._lock:
            if not self.halts or self._failed is not None or job.state is not JobState.FAILED:
                return
            self._failed = job
            self._queue.clear()
        for other in (each for each in self.jobs() if not each.done()):
            if other.started is None:
                other.end_cancelled(_never_started(other, job))
            else:
                other.cancel()

    # Slots

    def enter(self, job: Record, runner: Runner, context: Context | None = None) -> None:
        """Start the job on its runner, or queue it behind those that wait already."""
        if self._failed is not None:
            job.end_cancelled(_never_started(job, self._failed))
            return
        queued = None
        with self._lock:
            if self._queue or self._filling or self._is_full or context is not None:
                queued = self._queue[job.number] = Queued(job, runner, self, context)
                job.move(queued)
            else:
                self._filling = True
                self._slots.add(job.number)
        if queued is None:  # as most: there is nobody before it
            self._fill(lambda: self._registry.start_now(runner, job))
            return
        if job.cancel_requested:  # by somebody who found it on its way here
            queued.stop(job, False)
        self.fill()

    def leave(self, job: Record) -> None:
        """Free the job's slot, if it has one, and start the next."""
        with self._lock:
            self._slots.discard(job.number)
            self._lent.discard(job.number)
        if self._queue:
            with Shielded():
                self.fill()

    def lend(self, job: Record) -> None:
        """Lend the job's slot to the next while it is paused, if the group lends."""
        with self._lock:
            if self.lends and job.state is JobState.PAUSED and job.number in self._slots:
                self._lent.add(job.number)
            else:
                self._lent.discard(job.number)
        self.fill()

    def drop(self, queued: Queued) -> bool:
        """Remove a job from the queue; return False if it has left already."""
        with self._lock:
            return self._queue.pop(queued.job.number, None) is not None

    def make_room(self, queued: Queued) -> None:
        """Start a queued job beyond the limit when a job that has a slot waits for it."""
        waiter: Record | None = current.get()
        if waiter is None or waiter.number not in self._slots:
            return
        with self._lock:
            if self._queue.pop(queued.job.number, None) is None:
                return
            self._slots.add(queued.job.number)
        with Shielded():
            self._let_go(queued)

    def position(self, queued: Queued) -> str:
        """Return how many are before it; nobody counts very far."""
        with self._lock:
            first = list(islice(self._queue, _COUNTED))
        if queued.job.number not in first:
            return f"in @{self.name}"
        return f"{_ordinal(first.index(queued.job.number) + 1)} of @{self.name}"

    def fill(self) -> None:
        """Start queued jobs while slots are free.

        One thread at a time does so, that they start in order; others leave it to that thread.
        """
        with self._lock:
            if self._filling:
                return
            self._filling = True
        self._fill()

    def _fill(self, first: Callable[[], None] | None = None) -> None:
        try:
            if first is not None:
                first()
            while (queued := self._next()) is not None:
                self._let_go(queued)
        except BaseException:  # a second interrupt: the others must not wait for it
            self._filling = False
            raise

    @property
    def _is_full(self) -> bool:
        taken = len(self._slots) - len(self._lent)
        return self._paused or (self._limit is not None and taken >= self._limit)

    def _next(self) -> Queued | None:
        with self._lock:
            if self._is_full or not self._queue:
                self._filling = False
                return None
            number, queued = self._queue.popitem(last=False)
            self._slots.add(number)
            return queued

    def _let_go(self, queued: Queued) -> None:
        queued.go(self._registry)
        if queued.job.done():  # before it got its slot, perhaps
            with self._lock:
                self._slots.discard(queued.job.number)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def _never_started(job: Record, because: Record) -> str:
    which = f"job {because.number} ({because.name}) {because.state}"
    return f"job {job.number} never started: {which}"


#: The longest pause before an attempt, in seconds.
_LONGEST = 60


def pause_after(attempt: int) -> int:
    """Return the seconds between an attempt that failed and the next: 1, 2, 4, … 60."""
    return int(min(_LONGEST, 2 ** min(attempt - 1, 10)))


class Retries(Line):
    """Runs the jobs of one registry again that have failed. Any thread may call."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._resting: set[int] = set()

    def grant(self, job: Record, runner: Runner, retries: int) -> None:
        """Let a job that is about to start be run again on *runner*, *retries* times at most."""
        context = copy_context()
        job.attempts = Attempts(
            retries + 1,
            lambda n, line: self._rest(Queued(job, runner, self, context.copy()), n, line),
        )

    def drop(self, queued: Queued) -> bool:
        """Give a job no further attempt; return False if that has begun already."""
        with self._lock:
            if queued.job.number not in self._resting:
                return False
            self._resting.discard(queued.job.number)
            return True

    def _rest(self, queued: Queued, failed: int, line: str) -> None:
        job = queued.job
        seconds = pause_after(failed)
        self._registry.host.retrying(job, f"{line}; again in {seconds} s")
        with self._lock:
            self._resting.add(job.number)
        job.rest(queued)
        self._registry.set_timer(job, seconds, lambda: self._run_again(queued))
        self._registry.leave_group(job)

    def _run_again(self, queued: Queued) -> None:
        if self.drop(queued):
            self._registry.start_queued(queued)


@dataclass(slots=True)
class _Waiting:
    """A job that starts when *left* others have ended; its launch counts as one of them."""

    job: Record
    runner: Runner
    left: int
    context: Context


class Dependents:
    """The jobs of one registry that wait for others of it. Any thread may call."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._waiting: dict[int, list[_Waiting]] = {}
        self._ended: deque[Record] = deque()
        self._going_on = False

    def wait(self, job: Record, runner: Runner, others: Sequence[Record]) -> None:
        """Start *job* when the others have finished; cancel it if one of them does not."""
        waiting = _Waiting(job, runner, len(others) + 1, copy_context())
        job.after = tuple(others)
        for other in others:
            with self._lock:
                if not other.done():
                    self._waiting.setdefault(other.number, []).append(waiting)
                    continue
            self._advance(waiting, other)
        self._advance(waiting, None)

    def ended(self, job: Record) -> None:
        """Start, or cancel, those that have waited for *job* alone."""
        with self._lock:  # or one that is just being added would be missed
            if job.number not in self._waiting:
                return
            self._ended.append(job)
            if self._going_on:  # ending a dependent leads here: thousands must not become a stack
                return
            self._going_on = True
        while True:
            with self._lock:
                if not self._ended:
                    self._going_on = False
                    return
                job = self._ended.popleft()
                waiting = self._waiting.pop(job.number, [])
            for each in waiting:
                self._advance(each, job)

    def _advance(self, waiting: _Waiting, ended: Record | None) -> None:
        """Count one that *waiting* waits for as ended; None stands for its own launch."""
        job = waiting.job
        if ended is not None and ended.state is not JobState.FINISHED:
            job.end_cancelled(_never_started(job, ended))
            return
        with self._lock:
            waiting.left -= 1
            ready = waiting.left == 0
        if ready:
            job.after = ()
        if ready and not job.done():
            # Where it was launched, not in the context of the job that happened to end last.
            waiting.context.run(self._registry.start, waiting.runner, job)
            job.poke()
