"""Which of the jobs that have ended are kept, and which are discarded first.

What belongs together is kept, and discarded, as one: the jobs of a group, or all that one cell has
launched, for whoever launches three hundred in a loop wants three hundred results. Of these units
`Retention.most` are kept. First go those of which somebody has all results, the oldest of them
first. Two bounds hold for all jobs, so that one loop cannot fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import RETURNED_NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.specs import JobId

#: The most jobs that have ended, unless `Retention.most` is more.
MOST = 20_000
#: The most characters in all their logs: as much as 200 jobs have at the default of `log_limit`.
_CHARACTERS = 200_000_000


class Unit:
    """Jobs that are kept as one, of which some may go on."""

    def __init__(self, name: Any) -> None:
        self.name = name
        self._jobs: dict[int | JobId, Record] = {}
        self._open: set[int | JobId] = set()
        #: Those that have ended with something that nobody has fetched yet.
        self.unfetched: set[int | JobId] = set()
        #: How many of its results were discarded before anybody saw them.
        self.lost = 0

    def jobs(self) -> list[Record]:
        """Return its jobs, in order of number. Any thread may call."""
        return sorted(self._jobs.values(), key=lambda job: job.number)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no job any more."""
        return not self._jobs

    @property
    def is_over(self) -> bool:
        """Whether all its jobs have ended."""
        return not self._open

    def add(self, job: Record) -> None:
        """Take in a job."""
        self._jobs[job.number] = job
        self._open.add(job.number)

    def ended(self, job: Record) -> bool:
        """Note that the job has ended; return whether all have."""
        self._open.discard(job.number)
        return not self._open

    def remove(self, job: Record) -> None:
        """Let go of a job that has ended."""
        self._jobs.pop(job.number, None)
        self.unfetched.discard(job.number)


class Retention:
    """The ended jobs of one registry, whose lock is held whenever a method is called.

    *discard* is called with each job that is to go.
    """

    def __init__(self, most: int, discard: Callable[[Record], object]) -> None:
        #: How many units are kept that are over.
        self.most = most
        #: How many results were discarded before anybody saw them, and nobody was told so.
        self.lost = 0
        self._discard = discard
        # OrderedDicts, as a dict is slow to give its first.
        self._units: OrderedDict[Unit, None] = OrderedDict()
        self._fetched: OrderedDict[Unit, None] = OrderedDict()
        self._jobs: OrderedDict[int | JobId, Record] = OrderedDict()
        self._logs: OrderedDict[int | JobId, int] = OrderedDict()  # their sizes
        self._characters = 0

    def jobs(self) -> list[Record]:
        """Return the ended jobs, in the order in which they ended."""
        return list(self._jobs.values())

    def add(self, job: Record, unit: Unit) -> None:
        """Add a job that begins to a unit, which may have been over."""
        unit.add(job)
        job.unit = unit
        self._forget(unit)

    def _forget(self, unit: Unit) -> None:
        self._units.pop(unit, None)
        self._fetched.pop(unit, None)

    def ended(self, job: Record, *, oldest: bool = False) -> None:
        """Keep a job that has ended, as the *oldest* or the last, and discard what is too much."""
        unit = job.unit
        self._jobs[job.number] = job
        if job.is_unseen and job.outcome is not RETURNED_NONE:
            unit.unfetched.add(job.number)
        if unit.ended(job):
            self._file(unit, oldest)
        if oldest:
            self._jobs.move_to_end(job.number, last=False)
        elif size := job.log_size:
            self._logs[job.number] = size
            self._characters += size
        while len(self._units) + len(self._fetched) > self.most:
            first = next(iter(self._fetched or self._units))
            for each in first.jobs():
                self._lose(each)
        while len(self._jobs) > max(MOST, self.most):
            self._lose(next(iter(self._jobs.values())))
        while self._characters > _CHARACTERS:
            number, size = self._logs.popitem(last=False)
            self._characters -= size
            self._jobs[number].log.empty()

    def fetched(self, job: Record) -> None:
        """Note that somebody has the result of a job."""
        job.unit.unfetched.discard(job.number)
        self._look_again(job.unit)

    def dropped(self, job: Record) -> None:
        """Let go of a job that is kept no more."""
        self._jobs.pop(job.number, None)
        self._characters -= self._logs.pop(job.number, 0)
        job.unit.remove(job)
        if job.unit.is_empty:
            self._forget(job.unit)
        else:
            self._look_again(job.unit)

    def _look_again(self, unit: Unit) -> None:
        if not unit.unfetched and unit in self._units:
            del self._units[unit]
            self._fetched[unit] = None

    def _file(self, unit: Unit, oldest: bool) -> None:
        units = self._units if unit.unfetched else self._fetched
        units[unit] = None
        if oldest:
            units.move_to_end(unit, last=False)

    def _lose(self, job: Record) -> None:
        if job.is_unseen:
            self.lost += 1
            job.unit.lost += 1
        self._discard(job)
