"""A job: one thing the user put in the background, and the handle to it.

The state of a job is never stored: it is derived from what happened (it started, it was asked
to stop, it ended). The API follows `concurrent.futures.Future`.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import ExitInTask, WouldBlock
from ipy_bgtasks.job.host import SILENT, Host
from ipy_bgtasks.job.outcome import RETURNED_NONE, JobState, Outcome, own_traceback
from ipy_bgtasks.job.shielding import Shielded
from ipy_bgtasks.job.waiting import in_asyncios_own_task, until_called

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ipy_bgtasks.job.log import Log
    from ipy_bgtasks.job.progress import Progress
    from ipy_bgtasks.job.runner import Runner
    from ipy_bgtasks.views.timeline import Timeline
    from ipy_bgtasks.work import Work

#: Added to a monotonic time, gives seconds since the epoch: elapsed times survive clock changes.
_EPOCH = time.time() - time.monotonic()

_current: ContextVar[Job | None] = ContextVar("ipy_bgtasks.current_job", default=None)


def current_job() -> Job | None:
    """The job whose code is asking, or None in the foreground. Any thread may call this."""
    return _current.get()


class Job:
    """A handle to work in the background. Any thread may use it.

    Jobs are made by `%bg` and by ``Registry.launch``, never directly.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_began",
        "_callbacks",
        "_ended",
        "_host",
        "_lock",
        "_log",
        "_outcome",
        "_pokes",
        "_progress",
        "_runner",
        "_thread",
        "_timed_out",
        "assigns",
        "code",
        "handle",
        "launched",
        "name",
        "number",
        "origin",
        "quiet",
        "seen",
        "source",
        "where",
        "work",
    )

    def __init__(
        self,
        number: int,
        work: Work,
        runner: Runner,
        *,
        name: str | None = None,
        origin: object = None,
        quiet: bool = False,
        host: Host | None = None,
        on_end: tuple[Callable[[Job], object], ...] = (),
    ) -> None:
        self.number = number
        self.name = work.label if name is None else name
        self.code = work.code
        self.assigns = work.assigns
        self.source = work.source
        #: The work, until the job has ended.
        self.work: Work | None = work
        #: Where it runs: "loop", "thread", ….
        self.where = runner.where
        #: The runner's own note about this job, until the job has ended.
        self.handle: Any = None
        #: What the output room must know of the place of launch.
        self.origin = origin
        self.quiet = quiet
        #: Whether it was brought to the foreground after it ended.
        self.seen = False
        #: When it was launched, in seconds since the epoch.
        self.launched = time.monotonic() + _EPOCH
        self._runner: Runner | None = runner
        self._lock = threading.Lock()
        self._callbacks = on_end
        self._pokes: list[threading.Event] | None = None
        self._log: Log | None = None
        self._host = host or SILENT
        self._progress: Progress | None = None
        self._began: float | None = None
        self._thread: int | None = None  # where it began
        self._ended: float | None = None
        self._asked = False
        self._timed_out: float | None = None
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return f"<Job {self.number}: {self.name}, {self.state} ({self.where})>"

    # What happened so far

    @property
    def state(self) -> JobState:
        """The job's state, derived from what happened."""
        if self._outcome is not None:
            return self._outcome.state
        if self._began is None:
            return JobState.QUEUED
        return JobState.CANCELLING if self._asked else JobState.RUNNING

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return self._outcome

    @property
    def started(self) -> float | None:
        """When it started, in seconds since the epoch; None if it has not."""
        return None if self._began is None else self._began + _EPOCH

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None if it has not."""
        return None if self._ended is None else self._ended + _EPOCH

    @property
    def elapsed(self) -> float:
        """Seconds for which it has run, or ran; 0.0 if it never started."""
        if self._began is None:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    @property
    def progress(self) -> Progress | None:
        """How far it is, as `track` or its own code reported; None if nobody did."""
        return self._progress

    @progress.setter
    def progress(self, value: Progress | float | None) -> None:
        from ipy_bgtasks.job.progress import Progress

        self._progress = Progress.of(value)
        self._host.changed(self)

    @property
    def log(self) -> Log:
        """The recorded output."""
        if self._log is None:
            with self._lock:
                if self._log is None:
                    self._log = self._host.new_log(self)
        return self._log

    @property
    def has_output(self) -> bool:
        """Whether anything was ever recorded; asking makes no log."""
        return self._log is not None

    def done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self._outcome is not None

    def stack(self) -> list[Any]:
        """Where it is right now: `traceback.FrameSummary` entries, the innermost last.

        Empty when the job does not run, or when its place cannot tell. Costs the job nothing.
        """
        runner = self._runner
        return [] if runner is None or self.done() else runner.stack(self)

    def plot(self) -> Timeline:
        """When it was queued and when it ran, up to now, as a picture for a notebook."""
        from ipy_bgtasks.views.timeline import Timeline

        return Timeline([self])

    # Waiting

    def result(self, timeout: float | None = None) -> Any:
        """The value the job returned; waits for it up to *timeout* seconds.

        Raises the job's own exception, `concurrent.futures.CancelledError` if it was cancelled,
        `TimeoutError` if it has not ended in time, and `WouldBlock` at once on a thread whose
        event loop must run for the job to end (there: ``await job`` or ``%fg``).
        """
        return self._wait(timeout).get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception the job ended with, or None; waits and raises like `result`."""
        return self._wait(timeout).exception()

    def __await__(self) -> Generator[Any, None, Any]:
        if self._outcome is None:
            yield from until_called(self.add_done_callback, self.remove_done_callback)
            assert self._outcome is not None
        try:
            return self._outcome.get()
        except (SystemExit, KeyboardInterrupt) as error:
            if in_asyncios_own_task():
                raise ExitInTask(f"job {self.number} raised {error!r}") from error
            raise

    def add_done_callback(self, fn: Callable[[Job], object]) -> None:
        """Call ``fn(job)`` when the job ends, on the thread that ends it; now if it has ended.

        What *fn* raises is logged and goes no further.
        """
        with self._lock:
            if self._outcome is None:
                self._callbacks += (fn,)
                return
        self.notify(fn)

    def remove_done_callback(self, fn: Callable[[Job], object]) -> None:
        """Forget *fn*, if it is still waiting to be called."""
        with self._lock:
            if fn in self._callbacks:
                at = self._callbacks.index(fn)
                self._callbacks = self._callbacks[:at] + self._callbacks[at + 1 :]

    # Stopping

    def cancel(self, force: bool = False) -> bool:
        """Ask the job to stop; returns whether there was anything left to ask.

        Returns at once: `state` tells what became of it, and is `cancelling` until the job has
        really left its code. *force* skips the grace period where there is one.
        """
        runner = self._runner
        if runner is None or self.done():
            return False
        with Shielded():
            self._asked = True
            self._host.changed(self)
            runner.stop(self, force)
        return True

    def checkpoint(self) -> None:
        """Raise here what `cancel` has in store; for a thread on its way to the job's code."""
        check = getattr(self.handle, "checkpoint", None)
        if check is not None:
            check()

    @property
    def asked(self) -> bool:
        """Whether it was asked to stop."""
        return self._asked

    def time_out(self, seconds: float) -> None:
        """Ask the job to stop because its time is up: it ends failed, with `TimeoutError`."""
        if not self.done():
            if not self._asked:  # else it ends because of whoever asked first
                self._timed_out = seconds
            self.cancel()

    # For runners: each is called on the thread where it happens

    def move(self, runner: Runner) -> None:
        """Go on at another runner, as when a thread's value turns out to be awaitable."""
        self._runner, self.where = runner, runner.where
        self._poke()  # whoever waits on a thread that the new runner needs must know

    def begin(self) -> bool:
        """Note that the code starts now; False if the job was cancelled before."""
        with self._lock:
            if self._outcome is not None:
                return False
            if self._began is None:
                self._began = time.monotonic()
                self._thread = threading.get_ident()
        self._host.changed(self)
        return True

    def finish(self, value: Any = None) -> None:
        """End with *value*, which is bound to the target of an assignment form first."""
        work = self.work
        if work is not None and work.store is not None:
            try:
                work.store(value)
            except BaseException as error:
                return self.fail(error)
        self._end(RETURNED_NONE if value is None else Outcome(JobState.FINISHED, value))

    def fail(self, error: BaseException) -> None:
        """End with *error*, which keeps its traceback without the frames of this package."""
        self._end(Outcome(JobState.FAILED, None, error, own_traceback(error)))

    def end_cancelled(self, reason: str = "") -> None:
        """End as cancelled, or as failed with `TimeoutError` where time was up."""
        if self._timed_out is not None:
            error = TimeoutError(f"job {self.number} took longer than {self._timed_out:g} s")
            return self.fail(error)
        reason = reason or f"job {self.number} was cancelled"
        self._end(Outcome(JobState.CANCELLED, error=concurrent.futures.CancelledError(reason)))

    # Inside

    def _end(self, outcome: Outcome) -> None:
        if self._began is not None and self._outcome is None:
            self._host.closing(self)
        with self._lock:
            if self._outcome is not None:
                return
            self._ended = time.monotonic()
            self._outcome = outcome
            callbacks, self._callbacks = self._callbacks, ()
            pokes, self._pokes = self._pokes, None
            self._runner = self.work = self.handle = None
        for event in pokes or ():
            event.set()
        for fn in callbacks:
            self.notify(fn)

    def notify(self, fn: Callable[[Job], object]) -> None:
        """Call ``fn(job)``; what it raises is logged and goes no further."""
        try:
            fn(self)
        except BaseException:  # an exit would take the loop along, or a thread of the pool
            logging.getLogger(__name__).exception("done callback of job %d failed", self.number)

    def _wait(self, timeout: float | None) -> Outcome:
        deadline = None if timeout is None else time.monotonic() + timeout
        ended = threading.Event()
        while (outcome := self._outcome) is None:
            self._prepare_wait(ended)
            left = None if deadline is None else deadline - time.monotonic()
            if not ended.wait(left):
                with self._lock:
                    self._pokes = [event for event in self._pokes or () if event is not ended]
                raise TimeoutError(f"job {self.number} has not ended after {timeout:g} s")
            ended.clear()
        return outcome

    def _prepare_wait(self, ended: threading.Event) -> None:
        with self._lock:
            if self._outcome is not None:
                ended.set()
                return
            runner = self._runner
            self._pokes = [*(self._pokes or ()), ended]
        assert runner is not None
        n = self.number
        if _current.get() is self and self._thread == threading.get_ident():
            raise WouldBlock(f"job {n} cannot wait for its own end")
        if runner.needs_this_thread():
            raise WouldBlock(
                f"job {n} needs the event loop of this thread to end: `await` it, or use %fg {n}"
            )
        runner.make_room(self)

    def _poke(self) -> None:
        with self._lock:
            pokes, self._pokes = self._pokes, None
        for event in pokes or ():
            event.set()
