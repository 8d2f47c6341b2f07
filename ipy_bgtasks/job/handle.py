"""`Job`, the handle to a job: all that users see of one, and a `concurrent.futures.Future`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import traceback
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

from ipy_bgtasks.context import caller
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.stacks import hide
from ipy_bgtasks.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextvars import Context
    from traceback import FrameSummary

    from ipy_bgtasks.job.progress import Progress
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log
    from ipy_bgtasks.registry.specs import JobId
    from ipy_bgtasks.views.pictures import Timeline


def current_job() -> Job | None:
    """Return the job whose code calls this, or None in the foreground. Any thread may call."""
    record = caller()
    return None if record is None else record.job


@contextmanager
def on_cancel(fn: Callable[[], object]) -> Iterator[None]:
    """Call ``fn()`` when the job is asked to stop while the block runs, to end a wait in it.

    For what only its own library can end: ``with on_cancel(connection.interrupt): …``. It is
    called in another thread, at each request, right after the exception has been sent; what it
    raises is shown as the job's output. In the foreground this does nothing.
    """
    job = caller()
    if job is None:
        yield
        return
    call = partial(_call_aside, fn, copy_context())
    job.on_cancel += (call,)
    try:
        yield
    finally:
        job.on_cancel = tuple(each for each in job.on_cancel if each is not call)


def _call_aside(fn: Callable[[], object], context: Context) -> None:
    def act() -> None:
        try:
            fn()
        except BaseException as error:
            hide(error)
            traceback.print_exception(error)  # in the context of the job

    in_thread("bg-stop", context.copy().run, act)


def _fact(name: str, doc: str) -> Any:
    """Return a read-only property that shows what the record has under that name."""
    return property(attrgetter(f"_record.{name}"), doc=doc)


class Job(concurrent.futures.Future[Any]):
    """A handle to work in the background, as `%bg` returns it. Any thread may use it.

    It is a `concurrent.futures.Future`, which `concurrent.futures.wait` and `as_completed` take;
    it can also be awaited, on any loop, and given to asyncio's functions.
    """

    number: int | JobId = _fact(
        "number",
        "Its number, by which `%fg` and the others know it; a kept job has a name such as `k3`.",
    )
    name: str = _fact("name", "Its name: what `--name` said, else the code, shortened.")
    code: str = _fact("code", "The code, as it was typed.")
    state: JobState = _fact(
        "state",
        "Its state; when that is finished, failed or cancelled, none of its code runs any more.",
    )
    where: str = _fact("where", 'Where it runs, or ran: "loop", "thread", "process", "shell", ….')
    pid: int | None = _fact(
        "pid", "The id of the process it runs in, while it has one of its own; else None."
    )
    group: str | None = _fact("group", "The name of its group; None if it has none.")
    started: float | None = _fact(
        "started", "When it started, in seconds since the epoch; None if it has not."
    )
    elapsed: float = _fact(
        "elapsed", "Seconds for which it has run, or ran; 0.0 if it never started."
    )
    log: Log = _fact("log", "The recorded output.")

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record
        self._waiters: list[Any] = _Waiters(record)

    def __repr__(self) -> str:
        job = self._record
        return printable(f"<Job {job.number}: {job.name}, {job.state} ({job.where})>")

    def __copy__(self) -> Job:
        return self

    def __deepcopy__(self, _memo: object) -> Job:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError(
            f"job {self.number} cannot be pickled: it belongs to this session; "
            "send its result() instead"
        )

    @property
    def progress(self) -> Progress | None:
        """Its progress, as `track`, a progress bar or its own code reports it; else None.

        Set it to a number from 0 to 1, or to a `Progress`; anything else raises `TypeError`, and
        a number that is not finite, such as NaN, `ValueError`.
        """
        from ipy_bgtasks.job.progress import progress_of

        return progress_of(self._record)

    @progress.setter
    def progress(self, value: Progress | float | None) -> None:
        self._record.progress = value

    @property
    def future(self) -> concurrent.futures.Future[Any]:
        """The job itself: it is a future."""
        return self

    def running(self) -> bool:
        """Return whether its code runs now: it has started and has not ended."""
        return self._record.started is not None and not self._record.done()

    def done(self) -> bool:
        """Return whether the job has ended, in whatever way."""
        return self._record.done()

    def cancelled(self) -> bool:
        """Return whether the job ended because it was cancelled."""
        return self._record.state is JobState.CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        """Return the job's value; wait for it up to *timeout* seconds.

        Raises the job's own exception, `concurrent.futures.CancelledError` if it was cancelled,
        `TimeoutError` if it has not ended in time, and `WouldBlock` at once on a thread whose
        event loop must run for the job to end (there: ``await job`` or ``%fg``).
        """
        try:
            return self._record.result(timeout)
        except BaseException as error:
            hide(error)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception the job ended with, or None; wait and raise like `result`."""
        try:
            return self._record.exception(timeout)
        except BaseException as error:
            hide(error)
            raise

    def __await__(self) -> Generator[Any, None, Any]:
        return self._record.__await__()

    def cancel(self, *, force: bool = False) -> bool:
        """Ask the job to stop; return False if it has ended in another way already.

        Returns immediately: `state` tells the result, and is `cancelling` until the job has
        actually left its code. *force* skips the grace period where there is one.
        """
        return self._record.cancel(force) or self.cancelled()

    def add_done_callback(self, fn: Callable[[Job], object], *, context: Any = None) -> None:
        """Call ``fn(job)`` when the job ends, on the thread that ends it; now if it has ended.

        What *fn* raises is logged and not propagated. A callback that asyncio itself adds, as
        ``asyncio.wait`` does, is called on the loop that runs here. *context* is for asyncio.
        """
        # asyncio's combinators take a job for one of their own loop's futures.
        theirs = str(getattr(fn, "__module__", "")).partition(".")[0] == "asyncio"
        loop = asyncio._get_running_loop() if theirs else None
        if loop is not None:
            self._record.make_room()
        self._record.add_done_callback(_Callback(fn, self, context, loop))

    def remove_done_callback(self, fn: Callable[[Job], object]) -> int:
        """Remove *fn*, if it has not been called yet; return how often it was added."""
        return self._record.remove_done_callback(_Callback(fn, self))

    def stack(self) -> list[FrameSummary]:
        """Return where it is right now, the innermost entry last, without slowing the job.

        Empty if the job does not run, or if its stack is unknown.
        """
        return self._record.stack()

    def describe(self) -> dict[str, Any]:
        """Return what `%jobs --json` prints of it, as plain data: state, error, output, …."""
        from ipy_bgtasks.views.describe import describe

        return describe(self._record)

    def plot(self) -> Timeline:
        """Return a timeline for a notebook: when it was queued and when it ran, up to now."""
        from ipy_bgtasks.views.pictures import Timeline

        return Timeline([self._record])

    def __dir__(self) -> list[str]:
        # What only `asyncio.wait` needs, and what belongs to whoever ends a future.
        hidden = {"remove_done_callback", "set_exception", "set_result"}
        hidden.add("set_running_or_notify_cancel")
        return [name for name in super().__dir__() if name not in hidden]

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Answer `asyncio.wrap_future` as the methods above do.

        Since Python 3.15 it reads this private one of the base class instead of them:
        https://github.com/python/cpython/blob/3.15/Lib/concurrent/futures/_base.py
        """
        outcome = self._record.outcome
        if outcome is None:
            return False, False, None, None
        if outcome.state is JobState.CANCELLED:
            return True, True, None, None
        error = outcome.exception()
        return True, False, outcome.get() if error is None else None, error

    def _settle(self) -> None:
        """Wake those that wait by `concurrent.futures`; the record calls this once, at the end.

        They look at nothing but whether there is an error: value and error come from the record.
        """
        outcome = self._record.outcome
        assert outcome is not None
        if outcome.state is JobState.CANCELLED:
            super().cancel()
            self.set_running_or_notify_cancel()
        elif outcome.error is not None:
            self.set_exception(outcome.error)
        else:
            self.set_result(None)


class _Waiters(list[Any]):
    """Those that wait for a job in `concurrent.futures.wait` or `as_completed`.

    These functions add themselves here before they block, which is the only moment at which a
    wait that could never end can be refused, and a thread be found for a queued job.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def append(self, waiter: object) -> None:
        self._record.refuse_deadlock()
        super().append(waiter)


def record_of(job: Job) -> Record:
    """Return the record behind a user's handle."""
    return job._record


# What users see in a repr, in `help` and in tracebacks is the name they import.
Job.__module__ = "ipy_bgtasks"


@dataclass(frozen=True, slots=True)
class _Callback:
    """A user's done callback, which is called with the handle."""

    fn: Callable[[Job], object]
    job: Job = field(compare=False)
    context: Any = field(default=None, compare=False)
    #: Where it is called, if not on the thread that ends the job.
    loop: asyncio.AbstractEventLoop | None = field(default=None, compare=False)

    def __call__(self, _record: Record) -> None:
        if self.loop is not None:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.fn, self.job, context=self.context)
        elif self.context is not None:
            self.context.run(self.fn, self.job)
        else:
            self.fn(self.job)
