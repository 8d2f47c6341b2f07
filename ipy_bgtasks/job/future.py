"""A job as a real `concurrent.futures.Future`."""

from __future__ import annotations

import concurrent.futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import JobState

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record


class JobFuture(concurrent.futures.Future[Any]):
    """A future that resolves as its job ends, or at once if it has. Any thread may use it."""

    def __init__(self, job: Record) -> None:
        super().__init__()
        self._job: Record | None = job  # until it has ended
        job.add_done_callback(self._settle)

    def cancel(self) -> bool:
        """Ask the job to stop; return False if it has ended in another way already."""
        job = self._job
        return (job is not None and job.cancel()) or self.cancelled()

    def running(self) -> bool:
        """Return whether the job's code runs now."""
        job = self._job
        return job is not None and job.started is not None and not job.done()

    def _settle(self, job: Record) -> None:
        self._job = None
        outcome = job.outcome
        assert outcome is not None
        if outcome.state is JobState.CANCELLED:
            super().cancel()
            # `concurrent.futures.wait` and the like learn of a cancelled future only from this.
            with suppress(Exception):
                self.set_running_or_notify_cancel()
        elif outcome.error is not None:
            self.set_exception(outcome.error)
        else:
            self.set_result(outcome.value)
