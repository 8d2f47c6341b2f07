"""Groups: jobs that were launched with one name, seen as one, a limited number at a time."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.registry.queueing import Queued
from ipy_bgtasks.sigint import Shielded

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.job.runner import Runner
    from ipy_bgtasks.registry.queueing import Start

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
        if job.asked:  # by somebody who found it on its way here
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
