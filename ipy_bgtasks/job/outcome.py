"""How far a job is, in the words users see, and how it ended."""

from __future__ import annotations

import concurrent.futures
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple


class JobState(StrEnum):
    """The state of a job as users see it; in the last three none of its code runs."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether none of the job's code runs any more."""
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


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
            raise error.with_traceback(self.traceback)
        return self.value

    def exception(self) -> BaseException | None:
        """Return the error, if any; raises `concurrent.futures.CancelledError` if cancelled."""
        if self.state is JobState.CANCELLED:
            assert self.error is not None
            # A fresh one each time: its traceback belongs to the caller.
            raise concurrent.futures.CancelledError(*self.error.args)
        return self.error


#: The outcome of most jobs, shared by those that are kept.
RETURNED_NONE = Outcome(JobState.FINISHED)
