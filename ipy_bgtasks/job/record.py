"""`Record`: all that is known of a job, and what runners and the registry do to it.

The state of a job is never stored: it is derived from what happened (it started, it was asked
to stop, it ended). Users hold a `Job`, which shows less of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import threading
import time
from dataclasses import KW_ONLY, dataclass, field
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any
from weakref import ref

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput, ExitInTask, WouldBlock
from ipy_bgtasks.foreign import add_note, is_a, trace_of
from ipy_bgtasks.job.host import SILENT, Host, Run, Runner
from ipy_bgtasks.job.outcome import RETURNED_NONE, JobState, Outcome
from ipy_bgtasks.platforms import is_paused
from ipy_bgtasks.sigint import Shielded
from ipy_bgtasks.stacks import hide, hide_all
from ipy_bgtasks.text import encodable, error_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.job.progress import Progress
    from ipy_bgtasks.log.output import Log
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.retention import Unit
    from ipy_bgtasks.stacks import Seen
    from ipy_bgtasks.work import Work


#: Added to a monotonic time, gives seconds since the epoch: elapsed times survive clock changes.
EPOCH = time.time() - time.monotonic()
#: Seconds to wait for a process to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2
#: Seconds that a process has to stand still, or go on.
_OBEYS = 1.0


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Record:
    """What is known of one job. Any thread may use it; `Registry.launch` makes it."""

    number: Any  # an int, or the `JobId` of a kept job
    #: The work, until the job has ended.
    work: Work | None
    #: The place itself, until the job has ended.
    runner: Runner | None
    _: KW_ONLY
    #: As it may be shown anywhere: what a terminal would act on is escaped. The work's by default.
    name: str = ""
    #: What the front end must know of the place of launch.
    origin: object = None
    quiet: bool = False
    group: str | None = None  # the name of its group, if it has one
    host: Host = SILENT
    registry: Registry | None = None
    code: str = field(init=False)
    assigns: frozenset[str] = field(init=False)
    #: Whether its value is bound to a name, and so not displayed.
    stores: bool = field(init=False)
    source: Any = field(init=False)
    #: Where it runs: "loop", "thread", ….
    where: str = field(init=False)
    #: The runner's state for the job, until it has ended.
    run: Run | None = field(default=None, init=False)
    #: The process it runs in, while it does, where it has one of its own.
    pid: int | None = field(default=None, init=False)
    #: The identifier of the thread in which it began.
    thread: int | None = field(default=None, init=False)
    #: With what it is kept, and discarded.
    unit: Unit = field(init=False)
    #: The jobs that it waits for, until it may start.
    after: tuple[Record, ...] = field(default=(), init=False)
    #: Runs it again when it fails, if that was asked for.
    attempts: Attempts | None = field(default=None, init=False)
    #: Seconds for which each attempt may run, if limited.
    timeout: float | None = field(default=None, init=False)
    #: Whether it was asked to stop.
    cancel_requested: bool = field(default=False, init=False)
    #: What a request to stop it calls besides, each quickly: see `ipy_bgtasks.on_cancel`.
    on_cancel: tuple[Callable[[], object], ...] = field(default=(), init=False)
    #: Whether it was brought to the foreground, and its end shown there.
    end_shown: bool = field(default=False, init=False)
    #: Whether the addresses of notices are notified of its end, but not by this session.
    notified_elsewhere: bool = field(default=False, init=False)
    #: Whether somebody has asked for its result.
    was_fetched: bool = field(default=False, init=False)
    #: Reads its progress from the widgets that it shows; None if it shows none.
    bars: Callable[[], Progress | None] | None = field(default=None, init=False)
    #: Its value as one line, made when it is first shown, where that is not trivial.
    value_text: str | None = field(default=None, init=False)
    #: When it was launched, in seconds since the epoch.
    launched: float = field(init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False)
    _callbacks: tuple[Callable[[Record], object], ...] = field(default=(), init=False)
    _pokes: list[threading.Event | _Waker] | None = field(default=None, init=False)
    _log: Log | None = field(default=None, init=False)
    _decimal: Any = field(init=False)
    _progress: Progress | None = field(default=None, init=False)
    _began: float | None = field(default=None, init=False)  # on the monotonic clock
    _paused: float | None = field(default=None, init=False)  # since when, and for how long before
    _idle: float = field(default=0.0, init=False)
    _ended: float | None = field(default=None, init=False)
    _stopped_by: Exception | None = field(default=None, init=False)
    _outcome: Outcome | None = field(default=None, init=False)
    _handle: ref[Job] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        work, runner = self.work, self.runner
        assert work is not None
        assert runner is not None
        name = self.name or work.label
        self.name = name if name.isprintable() else visible(name)
        self.code, self.assigns, self.source = work.code, work.assigns, work.source
        self.stores, self.where = work.store is not None, runner.where
        self.launched = time.monotonic() + EPOCH
        self._decimal = _decimal_context()

    def __repr__(self) -> str:
        return f"<Record {self.number}: {self.name}, {self.state} ({self.where})>"

    @property
    def job(self) -> Job:
        """The handle for users: the same one as long as it is referenced."""
        handle = None if self._handle is None else self._handle()
        if handle is None:
            from ipy_bgtasks.job.handle import Job

            with self._lock:
                handle = None if self._handle is None else self._handle()
                if handle is None:
                    handle = Job(self)
                    if self._outcome is not None:
                        handle._settle()  # else `_end` will do it
                    self._handle = ref(handle)
        return handle

    # What happened so far

    @property
    def state(self) -> JobState:
        """The job's state, derived from what happened."""
        if self._outcome is not None:
            return self._outcome.state
        if self._began is None:
            return JobState.QUEUED
        if self.cancel_requested:
            return JobState.CANCELLING
        return JobState.RUNNING if self._paused is None else JobState.PAUSED

    @property
    def started(self) -> float | None:
        """When it, or its latest attempt, started, in seconds since the epoch; None if not yet."""
        return None if self._began is None else self._began + EPOCH

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None if it has not."""
        return None if self._ended is None else self._ended + EPOCH

    @property
    def elapsed(self) -> float:
        """Seconds for which it, or its latest attempt, has run, or ran; 0.0 if it never started."""
        if self._began is None:
            return 0.0
        end = self._paused or self._ended or time.monotonic()
        return end - self._began - self._idle

    @property
    def idle(self) -> float:
        """Seconds for which it, or its latest attempt, was paused."""
        return self._idle + (0.0 if self._paused is None else time.monotonic() - self._paused)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return self._outcome

    @property
    def progress(self) -> Progress | None:
        """Its progress, as `track` or its own code reported it; None if neither did.

        `progress_of` also looks at the bars that it shows.
        """
        return self._progress

    @progress.setter
    def progress(self, value: Progress | float | None) -> None:
        from ipy_bgtasks.job.progress import Progress

        self._progress = Progress.of(value)
        self.notify(self.host.changed)

    @property
    def log(self) -> Log:
        """The recorded output."""
        if self._log is None:
            with self._lock:
                if self._log is None:
                    self._log = self.host.new_log(self)
        return self._log

    @property
    def has_output(self) -> bool:
        """Whether anything was ever recorded; asking makes no log."""
        return self._log is not None or self.host.has_output

    def done(self) -> bool:
        """Return whether the job has ended, in whatever way."""
        return self._outcome is not None

    def stack(self) -> list[FrameSummary]:
        """Return where it is right now, the innermost entry last; empty if that is unknown."""
        from ipy_bgtasks.stacks import summaries

        sites = self._query("stack", "", _STACK_WAIT) or ()
        found = [FrameSummary(*site, lookup_line=False) for site in sites]
        return found or summaries(self._frames())

    def evaluate(self, expression: str) -> Seen:
        """Return what `stacks.evaluate` does, in the frames of its code."""
        from ipy_bgtasks.stacks import PATIENCE, evaluate

        found = self._query("show", expression, 2 * PATIENCE)
        return found or evaluate(self._frames, expression)

    def _query(self, *query: Any) -> Any:
        """Return what `Run.query` does; None if it does not run."""
        return None if self.run is None or self._began is None else self.run.query(*query)

    def _frames(self) -> list[FrameType]:
        return [] if (runner := self.runner) is None else runner.frames(self)

    # What is kept of it

    @property
    def log_size(self) -> int:
        """How many characters its log holds."""
        return 0 if self._log is None else self._log.size

    @property
    def is_unseen(self) -> bool:
        """Whether it ended by itself, and nobody has asked for its result since."""
        if self.end_shown or self.was_fetched:
            return False
        return self.state in (JobState.FINISHED, JobState.FAILED)

    def fetched(self) -> None:
        """Note that somebody has its result."""
        if not self.was_fetched:
            self.was_fetched = True
            if self.registry is not None:
                self.registry.job_fetched(self)

    # Waiting

    def result(self, timeout: float | None = None) -> Any:
        """Wait up to *timeout* seconds, and return the value or raise as `Job.result` does."""
        outcome = self._wait(timeout)
        self.fetched()
        return outcome.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait up to *timeout* seconds, and return the exception the job ended with, or None."""
        outcome = self._wait(timeout)
        self.fetched()
        return outcome.exception()

    def _wait(self, timeout: float | None) -> Outcome:
        """Block the calling thread until the job has ended; with a *timeout* of 0 never block."""
        deadline = None if timeout is None else time.monotonic() + timeout
        ended = threading.Event()
        while (outcome := self._outcome) is None:
            if timeout is not None and timeout <= 0:
                raise _late(self, timeout)
            if not self.wake_at_end(ended):
                continue
            try:
                self.refuse_deadlock()
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                if not ended.wait(left):
                    raise _late(self, timeout)
            finally:
                self.stop_waking(ended)
            ended.clear()
        return outcome

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait on the running loop for the value; who waits does not own the job."""
        try:
            while (outcome := self._outcome) is None:
                waker = _Waker()
                if self.wake_at_end(waker):
                    try:
                        self.make_room()
                        yield from waker.woken
                    finally:
                        self.stop_waking(waker)
            self.fetched()
            try:
                return outcome.get()
            except (SystemExit, KeyboardInterrupt) as error:
                # In a task that asyncio made of a bare awaitable, as `gather` does.
                task = asyncio.current_task()
                if getattr(task and task.get_coro(), "__name__", "") == "_wrap_awaitable":
                    raise ExitInTask(f"job {self.number} raised {error!r}") from error
                raise
        except BaseException as error:
            hide(error)
            raise

    def refuse_deadlock(self) -> None:
        """Raise `WouldBlock` if blocking this thread would keep the job from ending.

        Else make room for it.
        """
        if (runner := self.runner) is None:
            return  # it is just ending
        n = self.number
        if current.get() is self and self.thread == threading.get_ident():
            raise WouldBlock(f"job {n} cannot wait for its own end")
        if runner.needs_this_thread():
            raise WouldBlock(
                f"job {n} needs the event loop of this thread to end: `await` it, or use %fg {n}"
            )
        self.make_room()

    def make_room(self) -> None:
        """Make sure that the job can start: the calling job is about to wait for its end."""
        while (runner := self.runner) is not None:
            runner.make_room(self)
            if self.runner is runner:
                return  # else it has gone on to another, which may have a queue, too

    def add_done_callback(self, fn: Callable[[Record], object]) -> None:
        """Call ``fn(record)`` when the job ends, on the thread that ends it; now if it has ended.

        What *fn* raises is logged and not propagated.
        """
        with self._lock:
            if self._outcome is None:
                self._callbacks += (fn,)
                return
        self.notify(fn)

    def remove_done_callback(self, fn: Callable[[Record], object]) -> int:
        """Remove *fn*, if it has not been called yet; return how often it was added."""
        with self._lock:
            before = len(self._callbacks)
            self._callbacks = tuple(each for each in self._callbacks if each != fn)
            return before - len(self._callbacks)

    def notify(self, fn: Callable[[Record], object]) -> None:
        """Call ``fn(record)``; what it raises is logged and not propagated."""
        try:
            fn(self)
        except BaseException:  # an exit would end the loop, or a thread of the pool
            logging.getLogger(__name__).exception("done callback of job %s failed", self.number)

    def wake_at_end(self, event: threading.Event | _Waker) -> bool:
        """Set *event* when the job ends, or moves to another place; False if it has ended."""
        with self._lock:
            if self._outcome is not None:
                return False
            self._pokes = [*(self._pokes or ()), event]
            return True

    def stop_waking(self, event: threading.Event | _Waker) -> None:
        """Stop setting *event*."""
        with self._lock:
            self._pokes = [each for each in self._pokes or () if each is not event]

    # Stopping

    def cancel(self, force: bool = False) -> bool:
        """Ask the job to stop; return False if it has ended already.

        Returns immediately: `state` tells the result, and is `cancelling` until the job has
        actually left its code. *force* skips the grace period where there is one.
        """
        runner = self.runner
        if runner is None or self.done():
            return False
        with Shielded():
            self.cancel_requested = True
            self.notify(self.host.changed)
            runner.stop(self, force)
            for call in self.on_cancel:
                call()
        return True

    def pause(self, paused: bool = True) -> None:
        """Stop its processes where they are, or let them go on. Any thread may call.

        Raises `BadInput` where it has none of its own, or has not started.
        """
        run, pid = self.run, self.pid
        if self.done() or self._began is None:
            raise BadInput(f"job {self.number} is {self.state}: only one that runs can be paused")
        if (processes := None if run is None else run.processes) is None:
            raise BadInput(
                f"job {self.number} cannot be paused: only processes can, which `!`, -p and --keep "
                "start"
            )
        if paused:
            processes.pause()
        else:
            processes.go_on()
        deadline = time.monotonic() + _OBEYS
        while pid is not None and is_paused(pid) is (not paused) and time.monotonic() < deadline:
            time.sleep(0.001)  # else who looks now would take it for what it was
        self._note_paused(paused)

    def look_for_pause(self) -> None:
        """Note whether somebody else has stopped its process, or let it go on."""
        if (pid := self.pid) is not None and (paused := is_paused(pid)) is not None:
            self._note_paused(paused)

    def _note_paused(self, paused: bool) -> None:
        with self._lock:
            if paused == (self._paused is not None) or self._outcome is not None:
                return
            self._idle, self._paused = self.idle, time.monotonic() if paused else None
        if self.registry is not None:
            self.registry.job_paused(self)
        self.notify(self.host.changed)

    def stop_for(self, error: Exception) -> None:
        """Ask the job to stop for a reason: it fails with *error*, such as `TimeoutError`."""
        if not self.done():
            if not self.cancel_requested:  # else an earlier request counts
                self._stopped_by = error
            self.cancel()

    # For runners: each is called on the thread where it happens

    def enter(self) -> None:
        """Make the calling context the job's: the job's code is about to run in it."""
        current.set(self)
        if self._decimal is not None:
            sys.modules["decimal"].setcontext(self._decimal)
        self.host.entering(self)

    def checkpoint(self) -> None:
        """Raise what `cancel` has pending; for a thread about to enter the job's code."""
        if (run := self.run) is not None:
            run.checkpoint()

    def begin(self, since: float | None = None) -> bool:
        """Note that the code starts now, or has run *since* a monotonic time.

        Returns False if the job was cancelled before.
        """
        with self._lock:
            if self._outcome is not None:
                return False
            if self._began is None:
                self._began = time.monotonic() if since is None else since
                self.thread = threading.get_ident()
        self.notify(self.host.changed)
        return True

    def move(self, runner: Runner) -> None:
        """Continue on another runner, as when a thread's value turns out to be awaitable."""
        self.runner, self.where = runner, runner.where
        self.poke()  # a waiter on a thread that the new runner needs must know

    def poke(self) -> None:
        """Have those that wait for its end look anew at where it is."""
        if self._pokes is None:
            return  # who comes now looks at it afterwards
        with self._lock:
            pokes, self._pokes = self._pokes, None
        for event in pokes or ():
            event.set()

    def rest(self, runner: Runner) -> None:
        """Wait on *runner* for the next attempt: this one has failed."""
        self.notify(self.host.closing)
        with self._lock:
            if self._outcome is not None:
                return
            self._began = self.thread = self.pid = self.run = self._progress = self._paused = None
            self._idle = 0.0
        self.move(runner)
        self.notify(self.host.changed)
        if self.cancel_requested:  # meanwhile, of the place that it has left
            runner.stop(self, False)

    def write(self, stream: str, text: str) -> None:
        """Take what its code wrote to "stdout" or "stderr" in another process."""
        self.host.write(self, stream, encodable(text))

    def show(self, kind: str, *what: Any) -> None:
        """Show what its code displayed in another process ("publish"), or clear it ("clear")."""
        if kind == "publish":
            self.host.publish(self, *what)
        else:
            self.host.clear(self, *what)

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
        """End with *error*, which keeps its traceback without the frames of this package.

        An `Exception` is followed by another attempt instead, if one is left.
        """
        hide_all(error)
        if self.attempts is not None:
            if self.attempts.takes(self, error):
                return
            self.attempts.annotate(error)
        self._end(Outcome(JobState.FAILED, None, error, trace_of(error)))

    def end_cancelled(self, reason: str = "") -> None:
        """End as cancelled, or as failed where it was stopped for a reason such as its time."""
        if self._stopped_by is not None:
            return self.fail(self._stopped_by)
        reason = reason or f"job {self.number} was cancelled"
        self._end(Outcome(JobState.CANCELLED, error=concurrent.futures.CancelledError(reason)))

    def end_elsewhere(self, outcome: Outcome, ended: float) -> None:
        """End as it has been recorded elsewhere, at a time in seconds since the epoch."""
        self._end(outcome, ended - EPOCH)

    def _end(self, outcome: Outcome, at: float | None = None) -> None:
        if self._began is not None and self._outcome is None:
            self.notify(self.host.closing)
        with self._lock:
            if self._outcome is not None:
                return
            self._idle, self._paused = self.idle, None
            self._ended = time.monotonic() if at is None else at
            self._outcome = outcome
            # One that is made from now on settles itself.
            handle = None if self._handle is None else self._handle()
            callbacks, self._callbacks = self._callbacks, ()
            pokes, self._pokes = self._pokes, None
            self.runner = self.work = self.run = self.pid = None
        # Books and front end before those that wait: a script may exit after its last wait.
        if self.registry is not None:
            self.registry.job_ended(self)
        if pokes is not None:
            for event in pokes:
                event.set()
        if handle is not None:
            handle._settle()
        for fn in callbacks:
            self.notify(fn)


def _decimal_context() -> Any:
    """Return a copy of the caller's decimal context, for a job; None if decimals are not used.

    A thread that Python starts has a context of its own. A job has a copy of its launcher's context
    variables, in which the decimal context is one object: what it sets would be set for all.
    """
    # Another thread may be importing it just now.
    getcontext = getattr(sys.modules.get("decimal"), "getcontext", None)
    return None if getcontext is None else getcontext().copy()


class Attempts:
    """Which attempt a job is in, or waits for, of how many; and how the earlier ones failed.

    *again* has the job run once more; it is called with the number of the attempt that failed,
    and with what to write in the log.
    """

    __slots__ = ("_again", "_errors", "most", "number")

    def __init__(self, most: int, again: Callable[[int, str], None]) -> None:
        self.most = most
        self.number = 1
        self._again = again
        self._errors: list[str] = []

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.most}"

    def takes(self, job: Record, error: BaseException) -> bool:
        """Return whether another attempt follows the one that has failed with *error*.

        `SystemExit` is not retried, nor is a job that was asked to stop.
        """
        if self.number >= self.most or not is_a(error, Exception):
            return False
        if job.cancel_requested or job.done():
            return False
        failed, line = self.number, error_line(error)
        before = str(self)
        self._errors.append(f"{before}: {line}")
        self.number += 1
        self._again(failed, f"{before} failed: {line}")
        return True

    @property
    def has_failed(self) -> bool:
        """Whether an attempt has failed that another followed, or will follow."""
        return self.number > 1

    def annotate(self, error: BaseException) -> None:
        """Note on the last error how the earlier attempts failed."""
        for line in self._errors:
            add_note(error, line)


def _late(job: Record, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"job {job.number} has not ended after {timeout:g} s")


class _Waker:
    """Wakes a wait on the running loop, from any thread, as the set of an event does."""

    __slots__ = ("_loop", "woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken: asyncio.Future[None] = self._loop.create_future()

    def set(self) -> None:
        # The loop may have closed since; then there is no waiter left.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)
