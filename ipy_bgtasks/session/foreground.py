"""What a user waits for in the foreground: the ends of jobs (`%fg`), and their stop (`%cancel`).

A wait does not own its jobs: however it ends, they go on. SIGINT is handled here while there are
waits in the main thread: it is never raised where the signal happens to land, but ends the waits on
their own loop, with `Detached`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller
from ipy_bgtasks.errors import BadInput, Detached
from ipy_bgtasks.foreign import is_a
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.platforms import frame_of, on_main_thread
from ipy_bgtasks.sigint import run_interruptible, sigint_handled
from ipy_bgtasks.stacks import Cells, doing, innermost, no_cells, place
from ipy_bgtasks.text import error_line, numbered
from ipy_bgtasks.views.value import value_line
from ipy_bgtasks.waits import held_since, library_at_work, locks_wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from contextlib import AbstractContextManager

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.job.record import Record

    #: Begins to show a job's output; returns what ends that.
    Follow = Callable[[Record], Callable[[], None]]


class Foreground:
    """Waits for jobs on one loop, which runs in the main thread.

    *reaches* tells whether an interrupt finds the calling thread; by default the main one.
    *is_loading* tells whether the cell that runs has loaded the extension.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reaches: Callable[[], bool] | None = None,
        is_loading: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._reaches = reaches or on_main_thread
        self._waits: set[_Wait] = set()
        self._handling: AbstractContextManager[None] | None = None
        self._interrupted = False  # by a SIGINT that has not ended a wait yet
        self._is_loading = is_loading

    def interruptible(self) -> bool:
        """Return whether the user can interrupt a wait that begins here and now.

        Signals reach the main thread only, or, while a backgrounded cell occupies that, the thread
        of the foreground's cell by way of `interrupt`. A wait in a job's code ends with that job.
        """
        return self._reaches() and caller() is None

    def interrupt(self, thread: int) -> bool:
        """End the waits of a thread that is not the main one; returns whether there were any.

        Any thread may call.
        """
        waits = [wait for wait in list(self._waits) if wait.thread == thread]
        for wait in waits:
            wait.on_its_loop(wait.interrupt)
        return bool(waits)

    def attach(
        self, jobs: Sequence[Record], follow: Follow | None = None, **how: Any
    ) -> asyncio.Future[Any]:
        """Return a future of the running loop for the job's result; *how* is for `_Wait`.

        Awaiting it shows the jobs' output and raises a job's own exception with its own
        traceback, `Detached` at an interrupt and `TimeoutError` when the time is over; the jobs
        then go on. Cancelling it only ends the wait. *follow* shows the output of a job and
        returns what ends that.
        """
        wait = _Wait(self, asyncio.get_running_loop(), jobs, **how)
        wait.begin(follow)
        return wait.future

    def block(self, attach: Callable[[], asyncio.Future[Any]]) -> Any:
        """Wait for what *attach* returns where no loop runs: block, and run the loop if need be.

        Raises `BadInput` where a loop runs in this thread.
        """
        self.refuse_to_block()

        async def wait() -> Any:
            return await attach()

        return self.run(wait())

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run *coro* to its end in a thread in which no loop runs: on our loop if it is idle."""
        if not on_main_thread() or self._loop.is_running():
            return asyncio.run(coro)
        return run_interruptible(self._loop, coro)

    def refuse_to_block(self) -> None:
        """Raise `BadInput` where a loop runs in this thread: it could not go on."""
        if asyncio._get_running_loop() is not None:
            if self._is_loading():
                raise BadInput(
                    "%fg works from the next cell on: this one was compiled before it loaded the "
                    "extension; give %load_ext ipy_bgtasks a cell of its own, or a script the "
                    "option: ipython --ext ipy_bgtasks SCRIPT"
                )
            raise BadInput(
                "%fg cannot wait here, where it cannot be awaited (a plain function, another "
                "magic, autoawait off): the event loop would stop; use it at the top level of a "
                "cell or in `async def`, or `await job`"
            )

    def add(self, wait: _Wait) -> None:
        """Add a wait that has begun; from the first in the main thread on, handle SIGINT."""
        self._waits.add(wait)
        if self._handling is None and on_main_thread():
            self._handling = sigint_handled(self._loop, self._on_sigint)
            self._handling.__enter__()

    def remove(self, wait: _Wait) -> None:
        """Remove a wait that is over; after the last, restore the previous SIGINT handler."""
        self._waits.discard(wait)
        if self._handling is not None and not any(
            each.thread == threading.main_thread().ident for each in self._waits
        ):
            handling, self._handling = self._handling, None
            handling.__exit__(None, None, None)
            if self._interrupted:  # between the end of the wait and the code behind it
                self._interrupted = False
                signal.raise_signal(signal.SIGINT)

    def _on_sigint(self, _frame: object) -> None:  # raised is nothing where the signal has landed
        self._interrupted = True
        self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        if self._interrupted:
            taken = [wait.interrupt() for wait in list(self._waits)]
            self._interrupted = not any(taken)


@dataclass(slots=True, eq=False)
class _Wait:
    """One wait: a future, what resolves it, and what must be undone then.

    With *every* its result is the list of all results; with *settled* exceptions stand in the
    place of results, and none is raised; with *first* it is the job that ends first. After
    *timeout* seconds it raises; after *budget* seconds *on_budget* is called with a line on those
    that go on, and the result is the job, or the jobs. *on_failure* is called with the number of
    those that did not finish, before that is raised.
    """

    foreground: Foreground
    loop: asyncio.AbstractEventLoop
    jobs: Sequence[Record]
    _: KW_ONLY
    every: bool = False
    settled: bool = False
    first: bool = False
    timeout: float | None = None
    budget: float | None = None
    on_budget: Callable[[str], object] = id
    on_failure: Callable[[int], object] = id
    future: asyncio.Future[Any] = field(init=False)
    thread: int = field(default_factory=threading.get_ident, init=False)
    timers: list[asyncio.TimerHandle] = field(default_factory=list, init=False)
    unfollow: list[Callable[[], None]] = field(default_factory=list, init=False)
    #: How many of the jobs have called back. That comes after the front end has shown their
    #: ends, and until then their output must be followed.
    ended: int = field(default=0, init=False)

    def begin(self, follow: Follow | None) -> None:
        self.future = self.loop.create_future()
        self.future.add_done_callback(self._clean_up)
        if self.foreground.interruptible():
            self.foreground.add(self)  # before anybody sees that it waits
        if caller() is not None:  # a job of a full group may wait for one that is queued there
            for job in self.jobs:
                job.make_room()
        if follow is not None:
            self.unfollow = [follow(job) for job in self.jobs]
        if self.timeout is not None:
            self.timers.append(self.loop.call_later(self.timeout, self._time_out))
        if self.budget is not None:
            self.timers.append(self.loop.call_later(self.budget, self._end_of_budget))
        for job in self.jobs:
            if job.done():
                self.ended += 1
            else:
                job.add_done_callback(self._job_ended)
        self._check()

    def interrupt(self) -> bool:
        """Detach; return whether there was anything left to detach from."""
        left = [job.number for job in self.jobs if not job.done()]
        if not left or self.future.done():
            return False
        self._raise(Detached(*left))
        return True

    def _end_of_budget(self) -> None:
        left = [job for job in self.jobs if not job.done()]
        if self.future.done() or not left:
            return  # `_check` is on its way
        self._stop_following()
        self.on_budget(str(Detached(*(job.number for job in left))))
        self._resolve([job.job for job in self.jobs])

    def _time_out(self) -> None:
        left = [job.number for job in self.jobs if not job.done()]
        if not left:
            return  # `_check` is on its way
        which = numbered(left, "goes", "go")
        self._raise(TimeoutError(f"not ended after {self.timeout:g} s; {which} on"))

    def on_its_loop(self, call: Callable[[], object]) -> None:
        """Make the call on the loop that waits. Any thread may call."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call)

    def _job_ended(self, _job: Record) -> None:
        self.on_its_loop(self._one_ended)

    def _one_ended(self) -> None:
        self.ended += 1
        self._check()

    def _check(self) -> None:
        if self.future.done():
            return
        if self.first and (ended := [job for job in self.jobs if job.done()]):
            self._stop_following()
            self.future.set_result(ended[0].job)
            return
        if self.ended < len(self.jobs):
            return
        self._stop_following()  # what was written last comes before the result
        missed = [job for job in self.jobs if job.state is not JobState.FINISHED]
        # If some failed, the others do not count as shown: the next `%fg all` has their results.
        for job in self.jobs if self.settled or not missed else missed:
            job.end_shown = True
            job.fetched()
        if self.settled:
            self._resolve([_settled(job) for job in self.jobs])
        elif missed:
            self.on_failure(len(missed))
            self._raise(self._failure_of(missed))
        else:
            try:
                values = [job.outcome.get() for job in self.jobs if job.outcome is not None]
            except BaseException as error:  # one cannot be loaded from where it is kept
                self._raise(error)
            else:
                self._resolve(values)

    def _failure_of(self, missed: list[Record]) -> BaseException:
        """Return what to raise; those that were cancelled matter only where none has failed."""
        failed = [job for job in missed if job.state is JobState.FAILED]
        errors = [error for job in failed or missed if (error := _error(job)) is not None]
        if len(errors) == 1:
            return errors[0]
        how = "failed" if failed else "were cancelled"
        return BaseExceptionGroup(f"{len(errors)} of {len(self.jobs)} jobs {how}", errors)

    def _resolve(self, values: list[Any]) -> None:
        self.future.set_result(values if self.every else values[0])

    def _raise(self, error: BaseException) -> None:
        if self.future.done():
            return
        self._stop_following()
        if is_a(error, StopIteration):  # no future can hold it
            error, cause = RuntimeError(f"the job raised {error_line(error)}"), error
            error.__cause__ = cause
        self.future.set_exception(error)
        self.future.exception()  # if nobody awaits it any more, asyncio need not complain

    def _clean_up(self, _future: asyncio.Future[Any]) -> None:
        self._stop_following()
        for timer in self.timers:
            timer.cancel()
        for job in self.jobs:
            job.remove_done_callback(self._job_ended)
        self.foreground.remove(self)

    def _stop_following(self) -> None:
        while self.unfollow:
            self.unfollow.pop()()


def _error(job: Record) -> BaseException | None:
    """Return what waiting for an ended job raises, with the job's own traceback."""
    outcome = job.outcome
    assert outcome is not None
    if outcome.error is None:
        return None
    if outcome.state is JobState.CANCELLED:
        return concurrent.futures.CancelledError(*outcome.error.args)
    return outcome.exception()


def _settled(job: Record) -> Any:
    """Return the value of an ended job, or the exception in its place."""
    try:
        error = _error(job)
        assert job.outcome is not None
        return job.outcome.get() if error is None else error
    except BaseException as error:  # it cannot be loaded from where it is kept
        return error


#: With more than so many jobs that were cancelled one line stands for all.
_MANY = 10
#: Characters of a value in a report.
_VALUE = 60


class Stopping:
    """One request to stop some jobs; `report` gives the result for each.

    *cells* tells which cell a file name stands for; *running* returns the jobs that run, one of
    which may hold a lock that another waits for.
    """

    def __init__(
        self,
        jobs: Sequence[Record],
        front_end: FrontEnd,
        *,
        force: bool = False,
        cells: Cells = no_cells,
        running: Callable[[], Iterable[Record]] = tuple,
    ) -> None:
        self._front_end = front_end
        self._force = force
        self._cells = cells
        self._running = running
        self._waited = False
        self._before = {job: job.state for job in jobs}
        #: How each job was running when it was asked: what has ended keeps no run.
        self._runs = {job: job.run for job in jobs}
        for job in jobs:
            if not job.done():
                front_end.mark_reported(job)
                if not job.cancel(force):  # it has ended this moment
                    self._before[job] = job.state

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, but not longer than *seconds*."""
        self._waited = True
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_job: Record) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        left = [job for job in self._before if not job.done()]
        for job in left:
            job.add_done_callback(wake)
        try:
            async with asyncio.timeout(seconds):
                while not all(job.done() for job in left):
                    changed.clear()
                    if not all(job.done() for job in left):
                        await changed.wait()
        except TimeoutError:
            pass
        finally:
            for job in left:
                job.remove_done_callback(wake)

    def detached(self) -> Detached:
        """Return what an interrupt of the wait raises: one line, which takes nothing back."""
        error = Detached(*(job.number for job in self._before if not job.done()))
        error.args = ("the request to stop stands; %jobs shows what comes of it",)
        return error

    def report(self) -> list[str]:
        """Return one line per job, true at the time of the call.

        Many that were simply cancelled, as those of a group, share one.
        """
        lines = {job: self._line(job, before) for job, before in self._before.items()}
        shared: list[str] = []
        for end, words in (
            ("cancelled; it never started", "cancelled; they never started"),
            ("cancelled", "cancelled"),
            (" before", "had ended before"),
        ):
            alike = [job for job, line in lines.items() if line.endswith(end)]
            if len(alike) > _MANY:
                shared.append(f"{len(alike):,} jobs {words}")
                for job in alike:
                    del lines[job]
        return [*lines.values(), *shared]

    def _line(self, job: Record, before: JobState) -> str:
        who = f"job {job.number} ({job.name})"
        state = job.state
        # An attempt may have failed, after which it waited for the next.
        has_run = job.attempts is not None and job.attempts.has_failed
        if before in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED):
            return f"{who} had {_ended(state)} before"
        match state:
            case JobState.CANCELLED if job.started is None and not has_run:
                job.end_shown = True  # there is nothing more to report
                return f"{who} cancelled; it never started"
            case JobState.CANCELLED:
                job.end_shown = True
                return f"{who} cancelled"
            case JobState.FINISHED | JobState.FAILED:
                run = self._runs[job]
                if run is not None and not run.reached:
                    return f"{who} {state} before it could be stopped"
                return f"{who} was asked to stop and {state}{_end_of(job)}"
        self._front_end.mark_reported(job, False)  # its end will be news
        return self._still(job)

    def _still(self, job: Record) -> str:
        """Return the line for a job that was asked to stop and has not ended."""
        n = job.number
        run = job.run
        why = run.why_not_stopped() if run is not None and self._waited else ""
        frame = innermost(job.stack()) if self._waited else None
        if job.done():
            return self._line(job, JobState.RUNNING)  # it has just ended
        if frame is None:
            note = (run.note if run is not None else "") or "it has been asked to stop"
            return f"job {n} is cancelling: {note}"
        where = f"{doing(frame)} ({place(frame, self._cells)})"
        match why:
            case "waiting":
                return f"job {n} {self._obstacle(job, where)}"
            case "cleaning":
                return f"job {n} is cleaning up: it is in {where}"
            case "caught" if self._force:
                return (
                    f"job {n} catches each request and is in {where}: no thread can be killed, it "
                    "ends with the session. Started with %bg -p it could be killed."
                )
            case "caught":
                return f"job {n} caught the request and is in {where}; -f asks until it ends"
            case "blocked":
                return (
                    f"job {n} is still in {where}, which blocks its event loop; "
                    "-f raises an exception there"
                )
        again = "%cancel asks again" if job.where == "cell" else "-f asks again until it ends"
        return f"job {n} was told to stop and is still in {where}; {again}"

    def _obstacle(self, job: Record, where: str) -> str:
        """Return why a thread does not raise what it was sent, and when it will."""
        thread = job.thread or 0
        frame = frame_of(thread)
        for lock in [] if frame is None else locks_wanted(frame):
            for other in self._running():
                if other.thread and (line := held_since(other.thread, lock)) is not None:
                    who = "it holds itself" if other is job else f"job {other.number} holds"
                    return f"waits for a lock that {who} ({place(line, self._cells)})"
        library, computes = library_at_work(thread)
        doing_so = f" and {'computes' if computes else 'waits'} in {library}" if library else ""
        return (
            f"is still in {where}{doing_so}; it stops when that returns. "
            "Started with %bg -p it could be killed."
        )


def _end_of(job: Record) -> str:
    """Return what a job that was asked to stop has ended with, to be put after its state."""
    assert job.outcome is not None
    if job.outcome.error is not None:
        return f": {error_line(job.outcome.error)}"
    return "" if job.outcome.value is None else f": {value_line(job, _VALUE)}"


def _ended(state: JobState) -> str:
    return {JobState.CANCELLED: "been cancelled", JobState.FAILED: "failed"}.get(state, str(state))
