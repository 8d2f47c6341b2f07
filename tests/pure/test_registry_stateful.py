"""The registry driven at random against a simple model."""

from __future__ import annotations

import concurrent.futures
import contextlib
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from fakes import FakeClock, FakeRunner, launch_job, work
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)

from ipy_bgtasks.errors import BadInput, NoSuchJob
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName

KEPT = 4
PLACES = 2
NAMES = ("load(a)", "load(b)", "train(m)", "x", "12")
GROUPS = ("g", "h")
SPECS = ("@g", "1", "%2", "3", "", "+", "%%", "-", "%load", "?a", "%x", "?12", "j")
ENDED = ("finished", "failed", "cancelled")


@dataclass
class Model:
    """What the user may expect of one job."""

    number: int
    name: str
    state: str = "queued"
    deadline: float | None = None
    late: bool = False
    after: list[int] = field(default_factory=list)
    group: str | None = None
    timeout: float | None = None
    fetched: bool = False
    armed: int = 0  # which timer this is: of several that strike at a time the oldest comes first


class Registered(RuleBasedStateMachine):
    """Launches, ends, cancels, time, groups, limits, pruning and specs, in any order."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = FakeRunner(capacity=PLACES)
        self.clock = FakeClock()
        places = {"loop": self.runner, "thread": self.runner}
        self.registry = Registry(places, self.clock, max_finished=KEPT)  # type: ignore[arg-type]
        self.handles: dict[int, Record] = {}
        self.models: dict[int, Model] = {}
        self.recent: list[int] = []  # the current one last
        self.in_order: list[int] = []  # kept and ended, the oldest first
        self.waiting: list[int] = []  # what the place has queued
        self.units: list[int | str] = []  # what is forgotten at once, the oldest first …
        self.fetched_units: list[int | str] = []  # … and what goes before those
        self.limits: dict[str, int | None] = {}  # of the groups that there are
        self.lines: dict[str, list[int]] = {name: [] for name in GROUPS}
        self.places: dict[str, set[int]] = {name: set() for name in GROUPS}
        self.timers = 0

    # What happens

    @rule(
        target=jobs,
        name=st.sampled_from(NAMES),
        timeout=st.none() | st.sampled_from([1.0, 5.0]),
        group=st.none() | st.sampled_from(GROUPS),
        limit=st.none() | st.sampled_from([1, 2]),
        data=st.data(),
    )
    def launch(
        self,
        name: str,
        timeout: float | None,
        group: str | None,
        limit: int | None,
        data: st.DataObject,
    ) -> int:
        """One more job, perhaps after others that may have ended long ago, perhaps in a group."""
        known = list(self.handles)
        after = data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        number = len(self.handles) + 1
        model = Model(number, name, after=after, group=group, timeout=timeout)
        if group is None:
            self._arm(model)
        self.models[number] = model
        self.recent.append(number)
        self.handles[number] = launch_job(
            self.registry,
            work(label=name),
            timeout=timeout,
            after=[self.handles[n] for n in after],
            group=None if group is None else GroupName(group, limit),
        )
        if group is not None:
            self._join(group, limit)
        self._try_to_start(model)
        return number

    @rule(target=jobs, names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=6))
    def launch_a_chain(self, names: list[str]) -> object:
        """Each after the one before."""
        numbers = []
        for name in names:
            number = len(self.handles) + 1
            after = numbers[-1:]
            self.models[number] = model = Model(number, name, after=after)
            self.recent.append(number)
            self.handles[number] = self.registry.launch(
                work(label=name), after=[self.handles[n] for n in after]
            )
            self._try_to_start(model)
            numbers.append(number)
        return multiple(*numbers)

    @rule(
        target=jobs,
        group=st.sampled_from(GROUPS),
        limit=st.none() | st.sampled_from([1, 2]),
        timeouts=st.lists(st.none() | st.sampled_from([1.0, 5.0]), min_size=2, max_size=6),
    )
    def launch_a_sweep(self, group: str, limit: int | None, timeouts: list[float | None]) -> object:
        """Several of a group, of which some are queued."""
        numbers = []
        for timeout in timeouts:
            number = len(self.handles) + 1
            self.models[number] = model = Model(number, "x", group=group, timeout=timeout)
            self.recent.append(number)
            self.handles[number] = launch_job(
                self.registry, work(label="x"), timeout=timeout, group=GroupName(group, limit)
            )
            self._join(group, limit)
            self._try_to_start(model)
            numbers.append(number)
        return multiple(*numbers)

    @precondition(lambda self: self.runner.running)
    @rule(data=st.data(), good=st.booleans())
    def end(self, data: st.DataObject, good: bool) -> None:
        """The code of a running job returns or raises, asked to stop or not."""
        job = data.draw(st.sampled_from(self.runner.running))
        if good:
            self.runner.finish(job, job.number)
        else:
            self.models[job.number].late = False  # its own error says more
            self.runner.fail(job, ValueError(job.number))
        self._ended(self.models[job.number], "finished" if good else "failed")

    @precondition(lambda self: any(job.cancel_requested for job in self.runner.running))
    @rule(data=st.data())
    def obey(self, data: st.DataObject) -> None:
        """A job that was asked to stop does."""
        job = data.draw(
            st.sampled_from([job for job in self.runner.running if job.cancel_requested])
        )
        model = self.models[job.number]
        self.runner.obey(job)
        self._ended(model, "failed" if model.late else "cancelled")

    @rule(number=jobs, force=st.booleans())
    def cancel(self, number: int, force: bool) -> None:
        """Anything may be cancelled at any time."""
        model = self.models[number]
        assert self.handles[number].cancel(force) == (model.state not in ENDED)
        self._ask(model, "cancelled")

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)
        due = [m for m in self.models.values() if m.deadline is not None]
        for model in sorted(due, key=lambda m: (m.deadline, m.armed)):
            if model.deadline is not None and model.deadline <= self.clock.now:
                model.deadline = None
                if model.state not in ENDED:
                    model.late = model.state != "cancelling"
                    self._ask(model, "failed")

    @rule(number=jobs)
    def foreground(self, number: int) -> None:
        """Makes it current, if it is kept."""
        self.registry.touch(self.handles[number])
        if number in self.recent:
            self.recent.remove(number)
            self.recent.append(number)

    @rule(number=jobs)
    def fetch(self, number: int) -> None:
        """Somebody asks for the result, or the error."""
        if self.models[number].state in ENDED:
            with contextlib.suppress(concurrent.futures.CancelledError):
                self.handles[number].exception(0)
            self.models[number].fetched = True
            self._look_again(self.models[number])

    @rule()
    def prune(self) -> None:
        """Forgets what has ended."""
        assert self.registry.prune() == len(self.in_order)
        for number in list(self.in_order):
            self._drop(number)

    @rule(number=jobs)
    def forget(self, number: int) -> None:
        """Forgets one job; refused while it lives."""
        if self.models[number].state in ENDED:
            self.registry.discard(self.handles[number])
            if number in self.in_order:
                self._drop(number)
            return
        with pytest.raises(BadInput, match="stops it"):
            self.registry.discard(self.handles[number])

    @rule(spec=st.sampled_from(SPECS))
    def find(self, spec: str) -> None:
        """A spec names one job, or the error says why not, in one line."""
        variables = {"j": self.handles[max(self.handles)].job} if self.handles else {}
        wanted = self._named(spec)
        if spec.startswith("@"):
            if wanted:
                assert [job.number for job in self.registry.find_all(spec)] == wanted
            else:
                with pytest.raises(NoSuchJob):
                    self.registry.find_all(spec)
            return
        if len(wanted) == 1:
            assert [self.registry.find(spec, variables).number] == wanted
            return
        with pytest.raises(BadInput, match=r"\A.*\Z"):
            self.registry.find(spec, variables)

    # What the user may expect

    @invariant()
    def states_are_as_expected(self) -> None:
        """Of all jobs ever, kept or not."""
        seen = {n: str(job.state) for n, job in self.handles.items()}
        assert seen == {n: model.state for n, model in self.models.items()}
        for number, job in self.handles.items():
            assert job.done() == (seen[number] in ENDED)
            if seen[number] == "finished":
                assert job.outcome is not None
                assert job.outcome.get() == number
            elif seen[number] == "cancelled":
                assert job.outcome is not None
                assert isinstance(job.outcome.error, concurrent.futures.CancelledError)
            elif seen[number] == "failed":
                late = self.models[number].late
                assert job.outcome is not None
                assert isinstance(job.outcome.error, TimeoutError if late else ValueError)

    @invariant()
    def the_books_agree(self) -> None:
        """Kept: all that live, and the last that ended."""
        alive = [n for n, m in self.models.items() if m.state not in ENDED]
        assert [job.number for job in self.registry] == sorted({*alive, *self.in_order})
        assert [job.number for job in self.registry.alive()] == alive
        assert [job.number for job in self.registry.ended()] == self.in_order
        assert len(self.units) + len(self.fetched_units) <= KEPT
        assert {group.name: group.limit for group in self.registry.groups()} == self.limits
        marks = [job and job.number for job in (self.registry.current, self.registry.previous)]
        assert marks == [*reversed(self.recent), None, None][:2]
        timed = [m for m in self.models.values() if m.state not in ENDED and m.deadline is not None]
        assert len(timed) == self.clock.pending

    @invariant()
    def limits_hold(self) -> None:
        """More have a place than may only where the limit came later than they."""
        for name, limit in self.limits.items():
            if self.lines[name]:
                assert limit is not None
                assert len(self.places[name]) >= limit

    # The model's own rules

    def _arm(self, model: Model) -> None:
        if model.timeout is not None:
            self.timers += 1
            model.armed, model.deadline = self.timers, self.clock.now + model.timeout

    def _join(self, group: str, limit: int | None) -> None:
        for units in (self.units, self.fetched_units):
            if group in units:
                units.remove(group)  # it lives again
        self.limits.setdefault(group, None)
        if limit is not None:
            self.limits[group] = limit
            self._give_places(group)

    def _give_places(self, group: str) -> None:
        limit, line, places = self.limits.get(group), self.lines[group], self.places[group]
        while line and (limit is None or len(places) < limit):
            number = line.pop(0)
            places.add(number)
            self._arm(self.models[number])
            self.waiting.append(number)
            self._fill()

    def _try_to_start(self, model: Model) -> None:
        ends = [self.models[n].state for n in model.after]
        if any(end in ("failed", "cancelled") for end in ends):
            self._ended(model, "cancelled")
        elif all(end == "finished" for end in ends) and not self._is_in_line(model):
            if model.group is None:
                self.waiting.append(model.number)
                self._fill()
            else:
                self.lines[model.group].append(model.number)
                self._give_places(model.group)

    def _is_in_line(self, model: Model) -> bool:
        line = self.lines[model.group] if model.group is not None else []
        return model.number in self.waiting or model.number in line

    def _fill(self) -> None:
        running = [m for m in self.models.values() if m.state in ("running", "cancelling")]
        for number in list(self.waiting):
            if len(running) >= PLACES:
                return
            self.waiting.remove(number)
            self.models[number].state = "running"
            running.append(self.models[number])

    def _ask(self, model: Model, end: str) -> None:
        if model.state == "queued":
            self._ended(model, end)
        elif model.state == "running":
            model.state = "cancelling"

    def _ended(self, model: Model, state: str) -> None:
        """It ends; what comes of that, in the order in which it comes."""
        first = model
        ends = [(model, state)]
        while ends:
            model, state = ends.pop(0)
            if model.state in ENDED:
                continue
            if model.number in self.waiting:
                self.waiting.remove(model.number)
            if model.group is not None and model.number in self.lines[model.group]:
                self.lines[model.group].remove(model.number)
            model.state = state
            self.in_order.append(model.number)
            self._keep(model)
            for other in self.models.values():
                if other.state == "queued" and model.number in other.after:
                    if state == "finished":
                        self._try_to_start(other)
                    else:
                        ends.append((other, "cancelled"))
        self._fill()
        if first.group is not None:  # its place is free when all this has happened
            self.places[first.group].discard(first.number)
            self._give_places(first.group)

    def _keep(self, model: Model) -> None:
        mine = [m for m in self.models.values() if m.group == model.group]
        if model.group is None or all(each.state in ENDED for each in mine):
            units = self.fetched_units if self._has_all(model) else self.units
            units.append(model.group or model.number)
        while len(self.units) + len(self.fetched_units) > KEPT:
            unit = [*self.fetched_units, *self.units][0]
            for number in [n for n in self.in_order if unit in (n, self.models[n].group)]:
                self._drop(number)

    def _has_all(self, model: Model) -> bool:
        """Nothing of what is kept with it waits for somebody to fetch it."""
        group = [model.number] if model.group is None else self._kept(model.group)
        mine = [self.models[n] for n in group]
        return not any(m.state in ("finished", "failed") and not m.fetched for m in mine)

    def _look_again(self, model: Model) -> None:
        unit = model.group or model.number
        if unit in self.units and self._has_all(model):
            self.units.remove(unit)
            self.fetched_units.append(unit)

    def _drop(self, number: int) -> None:
        model = self.models[number]
        group = model.group
        self.in_order.remove(number)
        self.recent.remove(number)
        if group is None or not self._kept(group):
            for units in (self.units, self.fetched_units):
                if (group or number) in units:
                    units.remove(group or number)
            self.limits.pop(group or "", None)
        else:
            self._look_again(model)

    def _kept(self, group: str) -> list[int]:
        return [
            m.number
            for m in self.models.values()
            if m.group == group and (m.state not in ENDED or m.number in self.in_order)
        ]

    def _named(self, spec: str) -> list[int]:
        if spec in ("", "+", "%%"):
            return self.recent[-1:]
        if spec == "-":
            return self.recent[-2:-1]
        if spec == "j":
            return [max(self.handles)] if self.handles else []
        if spec.startswith("@"):
            return self._kept(spec[1:])
        kept = [job.number for job in self.registry]
        if spec.lstrip("%").isdecimal():
            return [n for n in kept if n == int(spec.lstrip("%"))]
        if spec.startswith("?"):
            return [n for n in kept if spec[1:] in self.models[n].name]
        return [n for n in kept if self.models[n].name.startswith(spec[1:])]


TestRegistered = Registered.TestCase
TestRegistered.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
