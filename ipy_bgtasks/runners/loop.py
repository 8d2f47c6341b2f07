"""What runs where the user's cells run: the tasks of their event loop, and a cell sent away.

`LoopRunner` runs each job as one `asyncio.Task`, and `contain_exits` keeps the exits of tasks from
ending the loop. `CellRunner` starts nothing: the front end finds the cell running, and reports when
it has ended. Both may keep all else waiting; `Watchdog` notices that, also of jobs in threads, and
`Unblocker` ends the step of a job that was stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ipy_bgtasks.async_exceptions import STEP, is_open
from ipy_bgtasks.background import schedule_coroutine
from ipy_bgtasks.context import current, job_of
from ipy_bgtasks.errors import ExitInTask
from ipy_bgtasks.foreign import is_a, is_awaitable
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import (
    frame_of,
    has_task_factories,
    interrupt_main_thread,
    leave_forked_child,
    on_main_thread,
    processor_times,
)
from ipy_bgtasks.stacks import (
    Cells,
    await_frames,
    doing,
    hide,
    innermost,
    no_cells,
    place,
    running_stack,
    summaries,
    thread_frames,
)
from ipy_bgtasks.waits import can_be_ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from traceback import FrameSummary
    from types import FrameType

    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation
    from ipy_bgtasks.runners.threads import ThreadRunner
    from ipy_bgtasks.service import ServiceLoop


#: Seconds for which code that was stopped by force may clean up before it is cancelled again.
CLEAN_UP = 0.5


class _Run(Run):
    """The task of one job."""

    __slots__ = ("asked", "raised_in", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        #: Whether another thread has asked the loop to cancel it, and it has not come to that.
        self.asked = False
        #: The task, its own or one that it has started, in whose step `Unblocker` has stopped it.
        self.raised_in: asyncio.Task[Any] | None = None

    def why_not_stopped(self) -> str:
        in_step = _job_in_step(self.task.get_loop()) is job_of(self.task)
        return "blocked" if self.asked and in_step else ""


def _job_in_step(loop: asyncio.AbstractEventLoop) -> Record | None:
    """Return the job in whose task, or a task of whose, the loop is in a step; None if in none."""
    task = asyncio.current_task(loop)
    job: Record | None = None if task is None else job_of(task)
    return job


class LoopRunner(Runner):
    """Runs async work on one event loop, which its owner runs in one thread.

    *thread* is the identifier of that thread; it can be set later if it is not yet known. *service*
    is for an `Unblocker`; without it there is none.
    """

    where = "loop"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: int | None = None,
        service: ServiceLoop | None = None,
    ) -> None:
        self.loop = loop
        self.thread = threading.get_ident() if thread is None else thread
        #: How many jobs have a task on the loop …
        self.active = 0
        #: … and what is called, on the loop's thread, when the first one does.
        self.on_active: Callable[[], object] = int
        self._unblocker = None if service is None else Unblocker(self, service)
        self._handed_over: deque[tuple[Record, Context]] = deque()  # by other threads
        self._shut_down = False

    def start(self, job: Record) -> None:
        """Make the task: at once on the loop's own thread, else when the loop next runs.

        Jobs begin in the order of these calls, whatever thread makes them.
        """
        if threading.get_ident() == self.thread:
            if self._handed_over:
                self._begin_handed_over()
            self._begin(job)
            return
        entry = job, copy_context()
        self._handed_over.append(entry)
        try:
            self.loop.call_soon_threadsafe(self._begin_handed_over)
        except RuntimeError:  # the loop is closed
            self._handed_over.remove(entry)
            raise

    def adopt(self, job: Record, awaitable: Awaitable[Any], context: Context) -> None:
        """Continue a running job here, awaiting what its first part returned."""
        if self._shut_down:  # the loop may not run again, and it would never be awaited
            _close(awaitable)
            job.end_cancelled()
            return
        job.run = None
        job.move(self)
        coro = self._live(job, lambda: awaitable, awaitable)
        self.loop.call_soon_threadsafe(self._make_task, job, coro, context=context)

    def stop(self, job: Record, force: bool) -> None:
        """Cancel the task, in one iteration of the loop; a job without a task ends at once.

        With *force* it is cancelled again and again if its code goes on.
        """
        if threading.get_ident() == self.thread:
            self._cancel(job, force)
        else:
            if isinstance(job.run, _Run):
                job.run.asked = True
            self.loop.call_soon_threadsafe(self._cancel, job, force)
            if self._unblocker is not None:
                self._unblocker.pursue(job, force)

    def frames(self, job: Record) -> list[FrameType]:
        return await_frames(self.task_of(job), self.thread, self.loop)

    @staticmethod
    def task_of(job: Record) -> asyncio.Task[Any] | None:
        """Return the task in which *job* runs; None if there is none (yet, or any more)."""
        return job.run.task if isinstance(job.run, _Run) else None

    def needs_this_thread(self) -> bool:
        """Return whether this is the loop's own thread: blocking it would stop the loop."""
        return threading.get_ident() == self.thread

    def shutdown(self) -> None:
        """Refuse what threads still hand over; the registry cancels the tasks."""
        self._shut_down = True
        if self._unblocker is not None:
            self._unblocker.end_all()

    @property
    def ends_steps(self) -> bool:
        """Whether a job that was stopped is ended in a step that blocks the loop."""
        return self._unblocker is not None and self._unblocker.takes

    def _begin_handed_over(self) -> None:
        while self._handed_over:
            job, context = self._handed_over.popleft()
            context.run(self._begin, job)

    def _begin(self, job: Record) -> None:
        work = job.work
        if work is None or not job.begin():
            return
        self._make_task(job, self._live(job, work.call, work.awaitable))

    def _make_task(self, job: Record, coro: Coroutine[Any, Any, Any]) -> None:
        coro.send(None)  # up to where it has begun
        task = schedule_coroutine(coro, loop=self.loop)
        task.set_name(f"job {job.number}: {job.name}")
        job.run = _Run(task)
        self._count(1)
        if job.cancel_requested:  # cancelled between its first part and this one
            task.cancel()

    async def _live(
        self, job: Record, call: Callable[[], Any], awaitable: Awaitable[Any] | None = None
    ) -> None:
        """Run a job as a task that ends the job itself, in its last step, which saves an iteration.

        It begins before the task does, so that it also ends a job that is cancelled before its
        first step; *awaitable*, if given, ends with it then.
        """
        process = os.getpid()
        try:
            await _begun()
            awaitable = None
            job.enter()  # in the task's own context
            try:
                value = call()
                if type(value) is CoroutineType or is_awaitable(value):
                    value = await value
            except BaseException as error:
                if os.getpid() != process:
                    hide(error)
                    leave_forked_child(error)
                raise
            if os.getpid() != process:  # a copy of this loop, in a process that the code forked
                leave_forked_child(None)
        except asyncio.CancelledError:
            _close(awaitable)
            job.end_cancelled()
        except ExitInTask as error:
            # An exit that a child task raised reaches its parent as an `ExitInTask`.
            job.fail(error.__cause__ or error)
        except BaseException as error:
            if is_a(error, GeneratorExit) and asyncio.current_task(self.loop) is None:
                raise  # not raised by code: the task was abandoned, and is collected
            job.fail(error)
        else:
            job.finish(value)
        finally:
            self._count(-1)
            # The frame of a failed call leads to this one, and must not hold on to anything.
            job = call = awaitable = value = None  # type: ignore[assignment]

    def _count(self, more: int) -> None:
        before, self.active = self.active, self.active + more
        if self._unblocker is not None and not (before and self.active):
            self._unblocker.take(bool(self.active))
        if not before:
            self.on_active()

    def _cancel(self, job: Record, force: bool) -> None:
        if isinstance(run := job.run, _Run):
            task, stopped, run.asked = run.task, run.raised_in, False
            if stopped is None or stopped.done():
                task.cancel()
            elif stopped is not task:  # first of all that cleans up, and may await
                stopped.add_done_callback(lambda _: task.cancel())
            if force:
                self.loop.call_later(CLEAN_UP, self._insist, task)
        elif job.started is None:
            job.end_cancelled()

    def _insist(self, task: asyncio.Task[Any]) -> None:
        if not task.done():
            task.cancel()
            self.loop.call_later(CLEAN_UP, self._insist, task)


#: Seconds that a step has to end by itself, and between two looks at one that does not.
_STEP, _AGAIN = 0.5, 0.05
#: Seconds for which steps may go on after the session has begun to end.
_LEAVES = 2.0


class Unblocker:
    """Ends the step in which a job that was stopped keeps the loop, as Ctrl-C ends a cell.

    A task is cancelled at an await. One that sleeps or computes in a step may never come to one,
    and nothing else on the loop goes on. So `asyncio.CancelledError` is raised there, once, or
    again and again by force, by a signal's handler, since a signal also ends what the main thread
    waits for. SIGINT is the foreground's, and a kernel ignores it between cells; nobody minds
    SIGURG, which is ignored where it is not handled, by a child say.

    An exception that one thread sends another would not do: since Python 3.13 it may be raised one
    step later, by then in the loop's own code, and end the loop.
    """

    def __init__(self, loop: LoopRunner, service: ServiceLoop) -> None:
        self._loop = loop
        self._service = service
        self._number: Any = getattr(signal, "SIGURG", None)  # Windows has none, nor has a page
        #: Whether it can end a step here and now.
        self.takes = False
        #: The job whose step the next signal is to end.
        self._meant: Record | None = None

    def take(self, active: bool) -> None:
        """Take the signal while there are jobs, if nobody else has. On the loop's thread."""
        ours = (signal.SIG_DFL, self._on_signal)
        if self._number and on_main_thread() and signal.getsignal(self._number) in ours:
            signal.signal(self._number, ours[active])
            self.takes = active

    def pursue(self, job: Record, force: bool) -> None:
        """See to it that a job can stop that was asked to. Any thread may call."""
        if self.takes:
            self._service.later(_STEP, self._look, job, force)

    def end_all(self) -> None:
        """See to it that no job keeps the session from ending. Any thread may call."""
        if self.takes:
            self._service.later(_LEAVES, self._end_step)

    def _end_step(self) -> None:
        if (job := _job_in_step(self._loop.loop)) is not None:
            self._interrupt(job)
        self._service.later(_STEP, self._end_step)

    def _interrupt(self, job: Record) -> None:
        if self.takes:
            self._meant = job
            interrupt_main_thread(self._number)

    def _look(self, job: Record, force: bool) -> None:
        run = job.run
        if not isinstance(run, _Run) or not run.asked or (run.raised_in and not force):
            return
        if not self._loop.loop.is_running():
            return  # it comes to that first of all when it runs again
        if _job_in_step(self._loop.loop) is job:
            self._interrupt(job)
        self._service.later(CLEAN_UP if run.raised_in else _AGAIN, self._look, job, force)

    def _on_signal(self, _number: int, frame: FrameType | None) -> None:
        job, self._meant = self._meant, None
        task = asyncio.current_task(self._loop.loop)
        if job is None or frame is None or _job_in_step(self._loop.loop) is not job:
            return  # it has got on
        run = job.run if isinstance(job.run, _Run) else None
        own = run is not None and task is run.task
        if is_open(frame, LoopRunner._live.__code__ if own else STEP, own_loop=True):
            if run is not None:
                run.raised_in = task
            raise asyncio.CancelledError


class Contained(Coroutine[Any, Any, Any]):
    """A coroutine wrapper that lets no exit through, and is otherwise transparent.

    So a task shows what it runs, in its repr and in `get_coro`, and a traceback does not show the
    wrapper.
    """

    __slots__ = ("_coro",)

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro

    def __repr__(self) -> str:
        return repr(self._coro)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def send(self, value: Any) -> Any:
        return _contained(self._coro.send, value)

    def throw(self, *error: Any) -> Any:
        return _contained(self._coro.throw, *error)

    def close(self) -> None:
        self._coro.close()


def _contained(step: Callable[..., Any], *args: Any) -> Any:
    try:
        try:
            return step(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            raise ExitInTask from error
    except StopIteration:
        raise
    except BaseException as error:
        hide(error)
        raise


@coroutine
def _begun() -> Generator[None, None, None]:
    yield


def _close(awaitable: Awaitable[Any] | None) -> None:
    """End *awaitable*, which nothing has begun to await, as awaiting and cancelling would."""
    if isinstance(awaitable, CoroutineType):
        awaitable.close()
    elif asyncio.isfuture(awaitable):
        awaitable.cancel()


def contain_exits(changes: Installation, loop: asyncio.AbstractEventLoop) -> None:
    """Keep `SystemExit` and `KeyboardInterrupt` of tasks that jobs start from ending the loop.

    Such a task fails with `ExitInTask` instead. Installs a task factory in front of the one
    that is there, for tasks made inside a job only. On the loop's thread, or while the loop does
    not run; the same holds for undoing it.
    """
    jobs_own = LoopRunner._live.__code__

    def containing(coro: Any) -> Any:
        if (
            current.get() is not None
            and getattr(coro, "cr_code", None) is not jobs_own
            and asyncio.iscoroutine(coro)
        ):
            return Contained(coro)
        return coro

    if not has_task_factories(loop):

        def create_task(original: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
            return original(containing(coro), **options)  # type: ignore[no-any-return]

        changes.wrap(loop, "create_task", create_task)
        return
    previous = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
        coro = containing(coro)
        if previous is not None:
            return previous(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)

    def remove() -> None:
        if loop.get_task_factory() is factory:
            loop.set_task_factory(previous)

    changes.add(remove)


class CellRunner(Runner):
    """The runner of one cell; *interrupt* does what the stop button would have done.

    Any thread may call that.
    """

    where = "cell"

    def __init__(self, cell: RunningCell, interrupt: Callable[[], object]) -> None:
        self._cell = cell
        self._interrupt = interrupt

    def blocks(self, thread: int | None) -> bool:
        return thread == self._cell.thread and not self._cell.awaits

    def start(self, job: Record) -> None:
        job.begin(since=self._cell.began)
        job.thread = self._cell.thread

    def stop(self, job: Record, force: bool) -> None:
        self._interrupt()

    def frames(self, job: Record) -> list[FrameType]:
        return self._cell.frames()

    def needs_this_thread(self) -> bool:
        return threading.get_ident() == self._cell.thread


#: Checks without any job after which it stops checking.
_IDLE_LOOKS = 20
#: Seconds by which a check may be late because the machine is busy.
_STALL = 0.5


class Watchdog:
    """Watches the jobs of *loop* and *threads* from the thread of *service*.

    It checks a few times a second, and only while there are jobs. A task in the middle of a step is
    not yet at fault: the loop is asked for a sign of life, and the task is blamed if there is none
    when time is up. C code that holds the interpreter's lock keeps the watchdog, too, from running;
    that it finds out afterwards, by being late itself, and from the processor time that each thread
    has used meanwhile.

    ``report(job, line)`` is called on that thread, once for each time a job blocks the loop for
    `limit` seconds or more, and once for a job in a thread that holds the interpreter as long; 0
    turns it off, at any time. *cells* tells which cell a file name stands for.
    """

    def __init__(
        self,
        loop: LoopRunner,
        threads: ThreadRunner | None,
        service: ServiceLoop,
        report: Callable[[Record, str], object],
        *,
        limit: float = 1.0,
        cells: Cells = no_cells,
    ) -> None:
        self.limit = limit
        self._loop = loop
        self._threads = threads
        self._service = service
        self._report = report
        self._cells = cells
        #: Called when a job that blocks the loop is reported (True), and when it no longer does.
        self.on_block: Callable[[bool], object] = id
        #: Returns what stops it, in words.
        self.remedy: Callable[[Record], str] = lambda _job: ""
        self._looking = False
        self._idle = 0
        self._due = 0.0  # when the next check is due
        self._used: dict[int, float] = {}  # processor time of each thread at the last check
        self._suspect: _Suspect | None = None
        self._told: WeakSet[Record] = WeakSet()

    @property
    def blocking(self) -> Record | None:
        """The job that blocks the loop, as was reported, if it still does. Any thread may read."""
        suspect = self._suspect
        if suspect is None or not suspect.told or suspect.loop_turned:
            return None
        return suspect.job if asyncio.current_task(self._loop.loop) is suspect.task else None

    def wake(self) -> None:
        """Begin to check, unless it does already; call this when a job is about to begin."""
        if self.limit <= 0 or self._looking:
            return
        with suppress(RuntimeError):  # no threads here to check from
            if self._service.loop is not self._loop.loop:
                self._looking, self._idle = True, 0
                # The job may hold the interpreter before the other thread gets it.
                self._due, self._used = time.monotonic(), self._processor_times()
                self._service.loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        now = time.monotonic()
        held = self._held(now - self._due)
        active = bool(self._loop.active or (self._threads is not None and self._threads.busy()))
        self._idle = 0 if active or held is not None else self._idle + 1
        if self.limit <= 0 or self._idle > _IDLE_LOOKS or self._loop.loop.is_closed():
            self._acquit()
            self._looking = False
            if active:  # the first one has just come
                self.wake()
            return
        if self._loop.active:
            on_loop = held == self._loop.thread
            self._check(now, now - self._due if on_loop else 0.0)
        pause = min(max(self.limit / 4, 0.02), 0.5)
        self._due, self._used = time.monotonic() + pause, self._processor_times()
        self._service.loop.call_later(pause, self._look)

    def _processor_times(self) -> dict[int, float]:
        others = {} if self._threads is None else self._threads.latest_jobs()
        return processor_times({self._loop.thread, *others})

    def _held(self, late: float) -> int | None:
        """Return the thread that kept all others, this one too, from running, and report its job.

        *late* is by how many seconds this check is.
        """
        limit = max(self.limit, _STALL)
        if self.limit <= 0 or late < limit:
            return None
        used = {
            thread: seconds - self._used.get(thread, 0.0)
            for thread, seconds in self._processor_times().items()
        }
        thread = max(used, key=used.__getitem__, default=0)
        if used.get(thread, 0.0) < limit / 2:  # the machine was busy, or asleep
            return None
        job = None if self._threads is None else self._threads.latest_jobs().get(thread)
        if job is not None and job not in self._told:
            self._told.add(job)
            number = None if job.source is None else self._cells(job.source)
            where = "" if number is None else f" (cell {number})"
            # The thread lets go of the interpreter right at the call's end, and stands there; one
            # that has ended or waits by now has gone on, and where it is would mislead.
            stack, frame = summaries(thread_frames(thread)), frame_of(thread)
            if frame is not None and not job.done() and not can_be_ended(thread, frame):
                where = self._where(stack) or where
            self._say(
                job, f"held the interpreter for {late:.1f} s{where}: all else had to wait", "-p"
            )
        return thread

    def _check(self, now: float, stalled: float) -> None:
        """Check the task that the loop is in, which has kept this thread for *stalled* seconds."""
        task = asyncio.current_task(self._loop.loop)
        suspect = self._suspect
        if suspect is not None and (task is not suspect.task or suspect.loop_turned):
            suspect = None
            self._acquit()
        if suspect is None and task is not None and (job := job_of(task)) is not None:
            suspect = self._suspect = _Suspect(task, job, now - stalled)
        if suspect is None or suspect.told:
            return
        guilty = now - suspect.since >= self.limit
        # Read its stack first: anything else may let the loop's thread go on.
        stack = running_stack(task, self._loop.thread, self._loop.loop) if guilty else []
        if not suspect.asked:
            suspect.asked = True
            self._loop.loop.call_soon_threadsafe(suspect.turn)
        if guilty:
            suspect.told = True
            self._tell(True)
            seconds = f"{now - suspect.since:.1f} s{self._where(stack)}"
            what = f"has blocked the event loop for {seconds}: nothing else on the loop can go on"
            ends = self.remedy(suspect.job)
            self._say(suspect.job, f"{what}. {ends}" if ends else what, "--thread")

    def _acquit(self) -> None:
        suspect, self._suspect = self._suspect, None
        if suspect is not None and suspect.told:
            self._tell(False)

    def _tell(self, blocked: bool) -> None:
        with suppress(Exception):  # a failing front end must not end the service
            self.on_block(blocked)

    def _where(self, stack: list[FrameSummary]) -> str:
        frame = innermost(stack)
        return "" if frame is None else f" in {doing(frame)} ({place(frame, self._cells)})"

    def _say(self, job: Record, what: str, instead: str) -> None:
        with suppress(Exception):  # likewise
            self._report(
                job, f"job {job.number} ({job.name}) {what}. %bg {instead} would avoid that"
            )


@dataclass(slots=True)
class _Suspect:
    """A job's task that was in the middle of a step when the watchdog checked."""

    task: asyncio.Task[Any]
    job: Record
    since: float
    told: bool = False
    asked: bool = False
    loop_turned: bool = False

    def turn(self) -> None:
        """Note the loop's sign of life."""
        self.loop_turned = True
