"""A job as a real `concurrent.futures.Future`."""

from __future__ import annotations

import concurrent.futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.waiting import make_room

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def result(self, timeout: float | None = None) -> Any:
        """Return the job's value, as `Job.result` does, but raise for no deadlock."""
        self._about_to_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the job's exception, if any; likewise."""
        self._about_to_wait()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call ``fn(future)`` when the job has ended; now if it has."""
        if str(getattr(fn, "__module__", "")).partition(".")[0] == "asyncio":
            self._about_to_wait()  # on a loop, by way of `asyncio.wrap_future`
        super().add_done_callback(fn)

    def _about_to_wait(self) -> None:
        if (job := self._job) is not None:
            make_room(job)

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
            return
        try:
            error = outcome.exception()
            value = outcome.get() if error is None else None
        except BaseException as reason:  # a value that cannot be loaded
            error = reason
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)
