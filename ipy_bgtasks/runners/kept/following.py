"""Following one kept job: what its watcher writes, as events of the job's record here."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from contextvars import Context
from functools import partial
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import CannotSend
from ipy_bgtasks.job.outcome import Elsewhere, Outcome
from ipy_bgtasks.job.progress import Progress
from ipy_bgtasks.job.runner import Run
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.ended import outcome_of
from ipy_bgtasks.runners.kept.output import OutputReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.kept.places import Place
    from ipy_bgtasks.service import ServiceLoop

#: Seconds between two looks: the first, the most of a job that is young, and of any other.
_FIRST, _YOUNG, _QUIET = 0.01, 0.025, 0.25
#: Seconds for which a job is young.
_YOUTH = 2.0
#: Seconds to wait for a job to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2
#: Bytes of earlier output that are read for a job of another session.
REPLAYED = 4_000_000


class Following(Run):
    """A job's run, as seen from here. Unless said otherwise, a method is for the service loop.

    *context* is that of the launch, where the job was launched here; *changed* is called with
    the job when it was asked to stop elsewhere.
    """

    def __init__(
        self,
        job: Record,
        place: Place,
        service: ServiceLoop,
        context: Context | None,
        changed: Callable[[Record], object],
    ) -> None:
        self.job = job
        self.place = place
        self._loop = service.loop
        self._context = context
        self._changed = changed
        if context is None:
            self._output = OutputReader.of_the_end(place.path, REPLAYED)
        else:
            self._output = OutputReader(place.path)
        self._missed = 0
        self._pause = _FIRST
        self._request = ""
        self._progress: Any = None
        self._settling: threading.Thread | None = None

    @property
    def note(self) -> str:
        """What has been done to stop it, in the user's words. Any thread may call."""
        if self._request:
            return "its session has not started it yet; it stops as soon as it starts"
        return "its watcher has been asked to stop it"

    def ask(self, words: str) -> None:
        """Ask its watcher for something, as soon as there is one. Any thread may call."""
        if not self.place.ask(words):
            self._request = words

    def begin(self) -> None:
        """Begin to follow it."""
        if self._context is not None:
            self._context.run(self.job.enter)
        self._look()

    def stack(self) -> list[FrameSummary]:
        """Return where it is. Any thread may call."""
        wanted = os.urandom(4).hex()
        if not self.place.ask(f"stack {wanted}"):
            return []
        deadline = time.monotonic() + _STACK_WAIT
        while time.monotonic() < deadline:
            answer = files.read_json(self.place.path, files.STACK) or {}
            if answer.get("id") == wanted:
                return [FrameSummary(*each, lookup_line=False) for each in answer["stack"]]
            time.sleep(0.005)
        return []

    def _look(self) -> None:
        """Take in what is new, and look again later unless the job has ended."""
        job = self.job
        if job.done():
            return
        state = self._state()
        if self._request and self.place.ask(self._request):
            self._request = ""
        news = self._begin(state)
        more = self._read()
        self._read_progress()
        if more:
            self._pause = 0.0
        elif "ended" in state:
            self._end(state)
            return
        elif news or self._pause == 0.0:
            self._pause = 2 * _YOUNG
        else:
            most = _YOUNG if time.time() - job.launched < _YOUTH else _QUIET
            self._pause = min(self._pause * 1.5, most)
        self._loop.call_later(self._pause, self._look)

    def _state(self) -> dict[str, Any]:
        """Return how far it is; whoever has to settle that does it in another thread."""
        if self._settling is not None:
            if self._settling.is_alive():
                return {}
            self._settling = None
            return self.place.state()
        told = files.read_json(self.place.path, files.STATE)
        if told is not None and "ended" in told:
            return told
        if not os.path.isdir(self.place.path):
            why = "its directory was removed"
            return {"state": "failed", "kind": "unwatched", "why": why, "ended": time.time()}
        if files.is_held(self.place.path, files.LAUNCHING if told is None else files.WATCHED):
            return told or {}
        self._settling = threading.Thread(target=self.place.state, name="bg-kept", daemon=True)
        Context().run(self._settling.start)
        return {}

    def _begin(self, state: dict[str, Any]) -> bool:
        job = self.job
        news = False
        if job.started is None and "started" in state:
            job.pid = state.get("pid")
            job.begin(time.monotonic() - (time.time() - state["started"]))
            news = True
        if state.get("asked") and not job.asked:  # by another session
            job.asked = news = True
            self._changed(job)
        return news

    def _read(self) -> bool:
        """Pass on what it has written; returns whether there may be more."""
        pieces = self._output.read()
        if self._output.missed > self._missed:
            self.job.log.missing(self._output.missed - self._missed)
            self._missed = self._output.missed
        for at, stream, text in pieces:
            with contextlib.suppress(Exception):  # the display's trouble is not the job's
                if self._context is not None:
                    self._context.run(self.job.write, stream, text)
                else:
                    self.job.log.write(stream, text, at)
        return bool(pieces)

    def _read_progress(self) -> None:
        told = files.read_json(self.place.path, files.PROGRESS)
        if told is None or told == self._progress:
            return
        self._progress, shown = told, told.get("progress")
        with contextlib.suppress(TypeError, ValueError):
            self.job.progress = None if shown is None else Progress(*shown)

    def _end(self, state: dict[str, Any]) -> None:
        job = self.job
        outcome = outcome_of(self.place, state)
        context = Context() if self._context is None else self._context.copy()
        if job.work is not None and job.work.store is not None and outcome.error is None:
            # `name = …`: reading the value may run its type's code, and take long.
            store = partial(context.run, _finish, job, outcome)
            Context().run(threading.Thread(target=store, name="bg-kept", daemon=True).start)
        else:
            context.run(job.end_elsewhere, outcome, float(state["ended"]))


def _finish(job: Record, outcome: Outcome) -> None:
    try:
        job.finish(outcome.value.load() if isinstance(outcome.value, Elsewhere) else outcome.value)
    except CannotSend as error:
        job.fail(error)
