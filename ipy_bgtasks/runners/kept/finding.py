"""The kept jobs of other sessions, brought into this session's registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.runners.kept.ended import outcome_of
from ipy_bgtasks.runners.kept.following import REPLAYED
from ipy_bgtasks.runners.kept.output import OutputReader
from ipy_bgtasks.runners.kept.places import Place, places, sweep
from ipy_bgtasks.work import Work

if TYPE_CHECKING:
    from ipy_bgtasks.log.output import Log
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.runners.kept.runner import KeptRunner


class Finder:
    """Finds kept jobs on the disk. Any thread may call any method."""

    def __init__(self, registry: Registry, runner: KeptRunner, days: Callable[[], float]) -> None:
        self._registry = registry
        self._runner = runner
        self._days = days
        self._lock = threading.Lock()

    def look(self) -> None:
        """Take in the kept jobs that are not in the registry yet; drop those that are gone."""
        with self._lock:
            sweep(self._days())
            there = places()
            found = []
            for place in there:
                told = place.job()
                if told is None or self._is_known(place, told):
                    continue
                found.append((place, told, place.state()))
            # The oldest comes last: each is taken in as the oldest of all.
            found.sort(key=lambda one: one[2].get("ended", float("inf")), reverse=True)
            for place, told, state in found:
                self._runner.tokens[place.number] = str(told["token"])
                self._adopt(place, told, state)
            self._drop_gone({place.number for place in there})

    def prune(self) -> int:
        """Remove the kept jobs that have ended; returns how many of other sessions there were."""
        with self._lock:
            removed = 0
            for place in places():
                if place.job() is not None and "ended" in place.state():
                    known = self._registry.get(place.number) is not None
                    removed += place.remove() and not known
            return removed

    def _is_known(self, place: Place, told: dict[str, Any]) -> bool:
        known = self._registry.get(place.number)
        if known is None:
            return False
        if self._runner.tokens.get(place.number) == told["token"]:
            return True
        if known.done():  # its directory was pruned elsewhere, and its number used again
            self._registry.discard(known)
        return not known.done()

    def _drop_gone(self, there: set[Any]) -> None:
        for job in self._registry:
            if job.number in self._registry.adopted and job.done() and job.number not in there:
                self._registry.discard(job)

    def _adopt(self, place: Place, told: dict[str, Any], state: dict[str, Any]) -> None:
        name = str(told.get("name", ""))
        work = Work(_elsewhere, name, str(told.get("code", "")), False)
        ended = "ended" in state
        registry = self._registry
        job = Record(
            place.number,
            work,
            self._runner,
            name=name,
            quiet=True,
            host=_Archive(registry.host, place) if ended else registry.host,
        )
        job.launched = float(told["launched"])
        if "started" in state:
            job.begin(time.monotonic() - (time.time() - state["started"]))
        if not ended:
            job.pid, job.asked = state.get("pid"), "asked" in state
            registry.adopt(job)
            self._runner.follow(job, place)
            return
        job.end_elsewhere(outcome_of(place, state), float(state["ended"]))
        job.seen = True
        registry.adopt(job)


class _Archive(Host):
    """The host of a job that had ended: its log is read from the disk when it is looked at."""

    has_output = True

    def __init__(self, host: Host, place: Place) -> None:
        self._host = host
        self._place = place

    def new_log(self, job: Record) -> Log:
        """Make the log, with what is on the disk."""
        log = self._host.new_log(job)
        reader = OutputReader.of_the_end(self._place.path, REPLAYED)
        while pieces := reader.read():
            for at, stream, text in pieces:
                log.write(stream, text, at)
        if reader.missed:
            log.missing(reader.missed)
        return log


def _elsewhere() -> None:
    """Do nothing, in place of the call of a job that another session has launched."""
