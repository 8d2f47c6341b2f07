"""A job that may not start yet: it waits for others of its group, or for its next attempt.

Groups: jobs that were launched with one name, seen as one, a limited number at a time.

Retries: a job that has failed is run again, after a pause that doubles each time.

`--after`: jobs that start when others have finished.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict, deque
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job.host import Runner
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Attempts, note_in_log
from ipy_bgtasks.sigint import Shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context

    from ipy_bgtasks.job.host import Runner
    from ipy_bgtasks.job.record import Record

    #: Starts a job on its runner.
    Start = Callable[[Runner, Record], None]


class Line(Protocol):
    """What a queued job waits in."""

    def drop(self, queued: Queued) -> bool:
        """Remove it; return False if it was let go before."""

    def make_room(self, queued: Queued) -> None:
        """Let it go now if the calling job would otherwise keep it from starting."""


class Queued(Runner):
    """The runner of one job until it may start; then it is that of its place.

    So it is cancelled at once, whatever its place is busy with. Any thread may call.
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

    def go(self, start: Start) -> None:
        """Start it, unless it has ended meanwhile; who waits for it looks at it anew."""
        job = self.job
        if not job.done():
            job.move(self.runner)
            self.context.run(start, self.runner, job)
            job.poke()

    def start(self, job: Record) -> None:
        """Do nothing: `go` starts it."""

    def stop(self, job: Record, force: bool) -> None:
        """End it at once, or leave that to its place if it has just been let go."""
        if self.line.drop(self):
            job.end_cancelled()
        else:
            self.runner.stop(job, force)

    def needs_this_thread(self) -> bool:
        """Return whether its place does."""
        return self.runner.needs_this_thread()

    def make_room(self, job: Record) -> None:
        """Let it go if a job that waits for it has its place in the group."""
        self.line.make_room(self)


#: A group that was idle for longer begins anew, as far as its time is concerned; in seconds.
_IDLE = 2.0


class GroupName(NamedTuple):
    """What `-g NAME:N` says: a group, and how many of it may run at a time, if that is said."""

    name: str
    limit: int | None = None

    @classmethod
    def read(cls, text: str) -> GroupName:
        """Read ``NAME`` or ``NAME:N``; raises `BadInput` for anything else."""
        name, colon, limit = text.partition(":")
        if not re.fullmatch(r"[^\s,:;@%?'\"-][^\s,:;@%?'\"]*", name):
            raise BadInput(
                f"-g takes the name of a group, a word such as crawl or crawl:8, not {text!r}"
            )
        if not colon:
            return cls(name)
        if not (limit.isascii() and limit.isdecimal() and int(limit) > 0):
            raise BadInput(
                f"-g {name}:N takes how many may run at a time, 1 or more, not {limit!r}"
            )
        return cls(name, int(limit))


class Group:
    """The kept jobs of one group; at most `limit` of them run at a time, the rest is queued.

    A job has a place from the moment it may start to its end, or to the end of an attempt that
    is followed by another. *start* starts a job on its runner. Any thread may call.
    """

    def __init__(self, name: str, start: Start) -> None:
        self.name = name
        self._start = start
        self._limit: int | None = None
        self._lock = threading.RLock()
        self._jobs: dict[int, Record] = {}
        self._open: set[int] = set()
        self._places: set[int] = set()
        self._queue: OrderedDict[int, Queued] = OrderedDict()  # a dict is slow to give its first
        self._filling = False
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

    def jobs(self) -> list[Record]:
        """Return its jobs, in order of number."""
        with self._lock:
            return [job for _, job in sorted(self._jobs.items())]

    @property
    def is_over(self) -> bool:
        """Whether all its jobs have ended."""
        return not self._open

    @property
    def elapsed(self) -> float:
        """Seconds since its first job was launched, up to the end of its last one."""
        end = self._idle
        return (time.monotonic() if end is None else end) - self._began

    # Its jobs come and go

    def add(self, job: Record) -> None:
        """Note that the job belongs to it."""
        with self._lock:
            if self._idle is not None and time.monotonic() - self._idle > _IDLE:
                self._began = time.monotonic()
            self._idle = None
            self._jobs[job.number] = job
            self._open.add(job.number)

    def ended(self, job: Record) -> bool:
        """Note that the job has ended; return whether all have."""
        with self._lock:
            self._open.discard(job.number)
            if not self._open:
                self._idle = time.monotonic()
            return not self._open

    def remove(self, job: Record) -> bool:
        """Forget the job; return whether that was the last one."""
        with self._lock:
            self._jobs.pop(job.number, None)
            return not self._jobs

    # Places

    def enter(self, job: Record, runner: Runner, context: Context | None = None) -> None:
        """Start the job on its runner, or queue it behind those that wait already."""
        queued = None
        with self._lock:
            if self._queue or self._filling or self._is_full or context is not None:
                queued = self._queue[job.number] = Queued(job, runner, self, context)
                job.move(queued)
            else:
                self._filling = True
                self._places.add(job.number)
        if queued is None:  # as most: there is nobody before it
            self._fill(lambda: self._start(runner, job))
            return
        if job.cancel_requested:  # by somebody who found it on its way here
            queued.stop(job, False)
        self.fill()

    def leave(self, job: Record) -> None:
        """Take the job's place, if it has one, and start the next."""
        with self._lock:
            self._places.discard(job.number)
        if self._queue:
            with Shielded():
                self.fill()

    def drop(self, queued: Queued) -> bool:
        """Remove a job from the queue; return False if it was let go before."""
        with self._lock:
            return self._queue.pop(queued.job.number, None) is not None

    def make_room(self, queued: Queued) -> None:
        """Start a queued job beyond the limit when a job that has a place waits for it."""
        waiter: Record | None = current.get()
        if waiter is None or waiter.number not in self._places:
            return
        with self._lock:
            if self._queue.pop(queued.job.number, None) is None:
                return
            self._places.add(queued.job.number)
        with Shielded():
            self._let_go(queued)

    def fill(self) -> None:
        """Start those who are next, as long as there are places.

        One thread at a time does, so that they start in order; others leave it to that one.
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
        return self._limit is not None and len(self._places) >= self._limit

    def _next(self) -> Queued | None:
        with self._lock:
            if self._is_full or not self._queue:
                self._filling = False
                return None
            number, queued = self._queue.popitem(last=False)
            self._places.add(number)
            return queued

    def _let_go(self, queued: Queued) -> None:
        queued.go(self._start)
        if queued.job.done():  # before it got its place, perhaps
            with self._lock:
                self._places.discard(queued.job.number)


#: The longest pause before an attempt, in seconds.
_LONGEST = 60


def pause_after(attempt: int) -> int:
    """Return the seconds between an attempt that failed and the next: 1, 2, 4, … 60."""
    return int(min(_LONGEST, 2 ** min(attempt - 1, 10)))


class Retries:
    """Gives the jobs that asked for it their next attempt. Any thread may call.

    *later* sets the one timer of a job, *released* is called when a job has left its place, and
    *enter* when its next attempt is due.
    """

    def __init__(
        self,
        *,
        later: Callable[[Record, float, Callable[[], None]], None],
        released: Callable[[Record], None],
        enter: Callable[[Queued], None],
    ) -> None:
        self._later = later
        self._released = released
        self._enter = enter
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

    def make_room(self, queued: Queued) -> None:
        """Do nothing: only time must pass."""

    def _rest(self, queued: Queued, failed: int, line: str) -> None:
        job = queued.job
        seconds = pause_after(failed)
        note_in_log(job, f"{line}; again in {seconds} s")
        with self._lock:
            self._resting.add(job.number)
        job.rest(queued)
        self._later(job, seconds, lambda: self._go_on(queued))
        self._released(job)

    def _go_on(self, queued: Queued) -> None:
        if self.drop(queued):
            note_in_log(queued.job, str(queued.job.attempts))
            self._enter(queued)


@dataclass(slots=True)
class _Waiting:
    """A job that starts when *left* others have ended; its launch counts as one of them."""

    job: Record
    runner: Runner
    left: int
    context: Context


class Dependents:
    """The jobs that wait for others; *start* starts one on its runner. Any thread may call."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._waiting: dict[int, list[_Waiting]] = {}
        self._ended: deque[Record] = deque()
        self._going_on = False

    def wait(self, job: Record, runner: Runner, others: Sequence[Record]) -> None:
        """Start *job* when the others have finished; cancel it if one of them does not."""
        waiting = _Waiting(job, runner, len(others) + 1, copy_context())
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
        """Note that a job that *waiting* waits for has ended, or, with None, that all are known."""
        job = waiting.job
        if ended is not None and ended.state is not JobState.FINISHED:
            job.end_cancelled(
                f"job {job.number} never started: job {ended.number} ({ended.name}) {ended.state}"
            )
            return
        with self._lock:
            waiting.left -= 1
            ready = waiting.left == 0
        if ready and not job.done():
            # Where it was launched, not in the context of the job that happened to end last.
            waiting.context.run(self._start, waiting.runner, job)
            job.poke()
