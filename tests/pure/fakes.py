"""A place where nothing runs by itself, and a clock that stands still: for tests of the house."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ipy_bgtasks.job.host import Runner
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import LaunchOptions, Registry
from ipy_bgtasks.work import Work


def work(
    call: Callable[[], Any] = lambda: None,
    *,
    label: str = "f()",
    is_async: bool = False,
    store: Callable[[Any], None] | None = None,
) -> Work:
    """Work that calls *call*."""
    return Work(call, label, label, is_async, store=store)


def launch_job(registry: Registry, work: Work, **options: Any) -> Record:
    """Launch *work* with some of the launch options, and of what else the registry takes."""
    known = {field.name for field in fields(LaunchOptions)} - {"after"}
    rest = {name: options.pop(name) for name in set(options) - known}
    return registry.launch(work, LaunchOptions(**options), **rest)


class FakeRunner(Runner):
    """Keeps what it was told; the test says what happens: `begin`, `finish`, `fail`, …."""

    where = "fake"

    def __init__(self, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.queued: list[Record] = []
        self.running: list[Record] = []
        self.stopped: list[tuple[Record, bool]] = []
        self.blocks = False
        self.rooms: list[Record] = []

    def start(self, job: Record) -> None:
        """Begin it, or queue it where all places are taken."""
        self.queued.append(job)
        self._fill()

    def stop(self, job: Record, force: bool) -> None:
        """Drop what has not begun; note the wish for what has."""
        self.stopped.append((job, force))
        if job.started is None:
            if job in self.queued:
                self.queued.remove(job)
            job.end_cancelled()

    def needs_this_thread(self) -> bool:
        """As the test says."""
        return self.blocks

    def make_room(self, job: Record) -> None:
        """Note that somebody waits."""
        self.rooms.append(job)

    def finish(self, job: Record, value: Any = None) -> None:
        """The job's code returned."""
        self._leave(job)
        job.finish(value)
        self._fill()

    def fail(self, job: Record, error: BaseException) -> None:
        """The job's code raised."""
        self._leave(job)
        job.fail(error)
        self._fill()

    def obey(self, job: Record) -> None:
        """The job's code has ended because it was asked to."""
        self._leave(job)
        job.end_cancelled()
        self._fill()

    def _leave(self, job: Record) -> None:
        self.running.remove(job)

    def _fill(self) -> None:
        while self.queued and (self.capacity is None or len(self.running) < self.capacity):
            job = self.queued.pop(0)
            if job.begin():
                self.running.append(job)


class FakeClock:
    """Stands in for the service loop: time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._called_off: set[int] = set()

    def later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Callable[[], None]:
        """Call ``fn(*args)`` when *seconds* have passed; returns what calls it off."""
        number = next(self._order)
        heapq.heappush(self._timers, (self.now + seconds, number, lambda: fn(*args)))
        return lambda: self._called_off.add(number)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            _, number, call = heapq.heappop(self._timers)
            if number not in self._called_off:
                call()

    @property
    def pending(self) -> int:
        """How many timers have neither struck nor been called off."""
        return sum(number not in self._called_off for _, number, _ in self._timers)
