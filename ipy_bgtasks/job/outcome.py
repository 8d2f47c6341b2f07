"""How far a job is, in the words users see, and how it ended."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple

from ipy_bgtasks.foreign import is_a, with_trace


class JobState(StrEnum):
    """The state of a job as users see it; in the last three none of its code runs."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether none of the job's code runs any more."""
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


class LazyValue:
    """Stands for a value that is loaded when it is asked for; its repr is the value's own line.

    *load* returns the value, or raises what says why it cannot be had.
    """

    def __init__(self, load: Callable[[], Any], shown: str) -> None:
        self.load = load
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


class LazyError(Exception):
    """Stands for an exception that is loaded when it is asked for; it shows as that would."""

    @classmethod
    def of(cls, kind: str, message: str, trace: str, load: Callable[[], Any]) -> LazyError:
        """Return what stands for an exception of that class name, message and traceback."""
        made: Any = type(kind, (cls,), {"__module__": cls.__module__})(message)
        made.load, made.trace = load, trace
        error: LazyError = made
        return error

    load: Callable[[], Any]
    trace: str

    def _render_traceback_(self) -> list[str]:
        """Return the lines of the traceback, as they were where it was raised."""
        line = f"{type(self).__name__}: {self}".rstrip(": ")
        return self.trace.rstrip("\n").splitlines() or [line]


class Outcome(NamedTuple):
    """How a job ended: with a value, or with an error.

    `traceback` is kept beside the error because raising an exception again and again would
    make the traceback on the exception itself grow.
    """

    state: JobState
    value: Any = None
    error: BaseException | None = None
    traceback: TracebackType | None = None

    def get(self) -> Any:
        """Return the value, or raise the error as if for the first time."""
        error = self.exception()
        if error is not None:
            raise error
        return self.value.load() if is_a(self.value, LazyValue) else self.value

    def exception(self) -> BaseException | None:
        """Return the error, if any; raises `concurrent.futures.CancelledError` if cancelled."""
        if self.state is JobState.CANCELLED:
            assert self.error is not None
            # A fresh one each time: its traceback belongs to the caller.
            raise concurrent.futures.CancelledError(*self.error.args)
        if self.error is not None and is_a(self.error, LazyError):
            loaded: BaseException = self.error.load()  # type: ignore[attr-defined]
            return loaded
        return None if self.error is None else with_trace(self.error, self.traceback)


#: The outcome of most jobs, shared by those that are kept.
RETURNED_NONE = Outcome(JobState.FINISHED)
