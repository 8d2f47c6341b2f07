"""Worker threads as a place: a pool of daemon threads that grows on demand.

`ThreadRun` is one job in one thread, and how it is stopped there and nowhere else; `ThreadRunner`
is the pool. A job starts before its launch returns, or is queued because all threads are busy. The
threads are daemons, because an executor of the standard library keeps the interpreter from exiting
while one of its threads is busy.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

from ipy_bgtasks.async_exceptions import (
    Sent,
    StopThread,
    came_of_stop,
    close_servers,
    end_servers,
    is_handling_stop,
    prepare_to_raise,
    raise_in_user_code,
    running_loops,
    running_trio,
    take_back,
)
from ipy_bgtasks.foreign import add_note, is_a, is_awaitable, leaves
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import frame_of, kill_signal, leave_forked_child
from ipy_bgtasks.runners.loop import CLEAN_UP
from ipy_bgtasks.runners.remote import end_of
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.stacks import await_frames, hide, thread_frames
from ipy_bgtasks.text import message_of
from ipy_bgtasks.waits import can_be_ended, stoppable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.loop import LoopRunner


#: Seconds between two tries while the thread is in our own code: from … to, growing.
_SOON, _LATER = 0.0003, 0.02
#: Seconds between two checks of whether code that was stopped by force has left.
_REPEAT = 0.05
#: Seconds that an event loop in the job's thread is given to finish its step: one that computes,
#: and one whose step is in a wait that can be ended, since such a step may well take for ever.
_TURN, _BLOCKED_TURN = 0.1, 0.01
#: Seconds within which each of many threads that compute gets a turn.
_CROWDED_TURN = 0.1


@dataclass(slots=True, eq=False)
class ThreadRun(Run):
    """One job in one thread.

    `StopThread` is sent only while `_target` names the thread, which it does exactly while the
    job's code runs. The thread ends that by clearing `_target`, passing the lock (a sender that
    saw the old value is done by then) and taking back what was sent and not yet raised. So
    nothing of a stop reaches the next job of the thread.
    """

    job: Record
    context: Context
    _runner: ThreadRunner
    #: Released when the job's code begins, if a launcher waits for that.
    begun: threading.Lock | None = field(default=None, init=False)
    reached: bool = field(default=False, init=False)
    #: Whether it is raised again, until the thread has left.
    insists: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _target: int | None = field(default=None, init=False)
    #: Whether a StopThread is to be raised as soon as that is safe …
    _due: bool = field(default=False, init=False)
    #: … and whether the service loop sees to it, in steps of how many seconds.
    _pursued: bool = field(default=False, init=False)
    _pause: float = field(default=_SOON, init=False)
    _sent: Sent | None = field(default=None, init=False)
    _sent_at: float = field(default=0.0, init=False)
    _is_async: bool = field(init=False)
    _task: asyncio.Task[Any] | None = field(default=None, init=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    #: Whether our loop was asked to cancel the task, and has not run since …
    _asked_loop: bool = field(default=False, init=False)
    #: … and when a loop that the code runs was asked to end.
    _told_loop: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._is_async = self.job.work is not None and self.job.work.is_async

    def execute(self) -> None:
        """Run the job's code in the calling thread, and end the job, whatever happens."""
        job, work, process = self.job, self.job.work, os.getpid()
        if work is None or not job.begin():
            self._release_launcher()
            return
        value: defaultdict[None, Any] = defaultdict(work.call)
        error: BaseException | None = None
        if work.is_async:
            value.default_factory = self._run_loop
        try:
            try:
                job.enter()
            finally:
                self._release_launcher()
            self._target = threading.get_ident()
            if job.cancel_requested:  # when there was no target yet
                raise StopThread
            # Called and stored by C code, so that no StopThread can come between the return of the
            # user's function and the storing: what has finished stays finished.
            value[None]
        except BaseException as caught:
            error = caught
        try:
            cut_short = self._leave(process, error)
        except StopThread:
            assert self._sent is not None
            self._sent.lost = True
            cut_short = self._leave(process, error)
        if cut_short:  # what it returned is not what it would have
            value.clear()
            error = None
        try:
            self._settle(value, error)
        except BaseException as fault:  # the job must end, and this thread go on
            job.fail(RuntimeError(f"its end raised {type(fault).__name__}"))
        # The frame of a failed call leads to this one, and must not hold on to anything.
        self.job = self.context = error = job = work = value = None  # type: ignore[assignment]

    # Stopping; any thread may call these

    def stop(self, force: bool = False) -> None:
        """Raise `StopThread`, or cancel the coroutine; with *force* until the thread has left.

        A wait that the thread is in is ended. The service loop sees to what cannot be done now.
        """
        self.insists = self.insists or force
        if self._is_async:
            self._ask_loop()
        else:
            self._due = True
            sent = self._sent if self._deliver() else None
            if sent is not None and not sent.pending and not force:
                return
        self._begin_pursuit()

    def raises_by_itself(self) -> bool:
        """Return whether this is the job's own thread, and no event loop of ours runs in it."""
        return not self._is_async and self._target == threading.get_ident()

    def checkpoint(self) -> None:
        """Raise what is due, if this is the job's own thread, about to return to its code."""
        if self._take_due():
            raise StopThread

    def why_not_stopped(self) -> str:
        """Return ``waiting`` (to raise it), ``cleaning`` (up after it) or ``caught`` (and goes on).

        A coroutine whose loop has not run since it was asked is ``blocked``.
        """
        target, sent = self._target, self._sent
        if target is None:
            return ""
        if self._is_async:
            return "blocked" if self._asked_loop else ""
        if self._due or (sent is not None and sent.pending):
            return "waiting"
        return "cleaning" if is_handling_stop(target) else "caught"

    def frames(self) -> list[FrameType]:
        target, task, loop = self._target, self._task, self._loop
        if task is not None and loop is not None and target is not None:
            return await_frames(task, target, loop)
        return [] if target is None else thread_frames(target)

    # Inside

    def _deliver(self) -> bool:
        """Send what is due, and end the thread's wait; False if that must wait until it is safe."""
        with self._lock:
            target = self._target
            if target is None or not self._due:
                return True
            frame = frame_of(target)
            if not self._is_async and self._waits_for_loop(target, frame):
                return False
            sent = Sent(target, self._send_again)
            start = ThreadRun.execute.__code__
            in_loop = self._is_async or self._told_loop is not None
            # Before it is sent: from then on the thread may raise it, lose it and ask for another.
            before, self._sent, self._due = self._sent, sent, False
            if raise_in_user_code(target, sent, start, frame=frame, own_loop=in_loop):
                self._told_loop = None
                self._sent_at = time.monotonic()
                sent.waits.end(outside=False)
                return True
            self._sent, self._due = before, True
            return False

    def _send_again(self) -> None:
        # No more than this: the caller, a finalizer, may have interrupted whoever holds our lock.
        if (sent := self._sent) is not None:
            sent.lost = True
            self._runner.service.loop.call_soon_threadsafe(self.stop)

    def _end_wait(self, sent: Sent) -> None:
        """End what the thread waits for; a process gets a stronger signal after the grace period.

        Where the user has said what ends the wait (`on_cancel`), that is enough at first.
        """
        passed = time.monotonic() - self._sent_at
        late = passed > self._runner.grace
        number = kill_signal() if self.insists else signal.SIGTERM if late else signal.SIGINT
        # Among many that compute it may only wait for its turn, and each look costs one of ours.
        waits = not self._runner.crowded or passed > _CROWDED_TURN
        sent.waits.end(number, outside=self.insists or late or (waits and not self.job.on_cancel))

    def _waits_for_loop(self, target: int, frame: FrameType | None) -> bool:
        """Return whether an event loop that the job's code runs will raise it between two steps.

        There no state is half updated, and it is raised even while the loop waits for events.
        """
        now, start = time.monotonic(), ThreadRun.execute.__code__
        if self._told_loop is None:
            for loop in running_loops(frame, start):
                with suppress(RuntimeError):  # it has just closed
                    loop.call_soon_threadsafe(self._interrupt, loop)
                    self._told_loop = now
            if (trio := running_trio(frame, start)) is not None:
                with suppress(Exception):  # likewise
                    trio.current_trio_token().run_sync_soon(self._interrupt_trio, trio)
                    self._told_loop = now
        if self._told_loop is None or frame is None:
            return False
        passed = now - self._told_loop
        return passed < (_BLOCKED_TURN if can_be_ended(target, frame) else _TURN)

    def _interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        """End a loop that the job's code runs, as a Ctrl-C would. Called by that loop."""
        if not self._take_due():
            return
        if not self.insists and end_servers(loop):
            loop.call_later(self._runner.grace, self._end_loop, loop)
        else:
            self._end_loop(loop)

    @staticmethod
    def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
        close_servers(loop)
        raise StopThread

    def _interrupt_trio(self, trio: Any) -> None:
        """Have trio raise ``KeyboardInterrupt`` in its main task at the next checkpoint there.

        Raised anywhere in its own code it would end the loop, with no task's ``finally:`` run.
        """
        if self._take_due():
            trio.deliver_ki()

    def _take_due(self) -> bool:
        """Return whether the calling thread is the job's, and has to raise what is due."""
        if not self._due or self._target != threading.get_ident():
            return False
        with self._lock:
            due, self._due = self._due, False
            self._told_loop = None
        self.reached = self.reached or due
        self._sent_at = time.monotonic()
        return due

    def _ask_loop(self) -> None:
        loop, task = self._loop, self._task
        if loop is None or task is None:
            return  # the thread will see that the job was asked to stop

        def cancel() -> None:
            self._asked_loop, self.reached = False, True
            task.cancel()

        self._asked_loop = True
        self._sent_at = time.monotonic()
        with suppress(RuntimeError):  # the loop closes when the coroutine has ended
            loop.call_soon_threadsafe(cancel)

    def _begin_pursuit(self) -> None:
        with self._lock:
            self._pause = _SOON
            if self._pursued or self._target is None:
                return
            self._pursued = True
        self._runner.pursue(self)

    def pursue(self) -> None:
        """Take steps on the service loop until nothing is left to do."""
        pause = self._round()
        with self._lock:
            if self._target is None or (pause is None and not self._due):
                self._pursued = False
                return
        self._runner.service.loop.call_later(_SOON if pause is None else pause, self.pursue)

    def _round(self) -> float | None:
        """Take one step of the pursuit; return the seconds until the next, or None at the end."""
        if self._is_async:
            if self.insists and not self._asked_loop and self._has_had_time():
                self._ask_loop()
            self._due = self._due or self._is_blocked()
        elif self.insists and not self._due:
            cleans_up = self._is_pending() or is_handling_stop(self._target or 0)
            self._due = self._has_had_time() or not cleans_up
        if not self._deliver() or self._asked_loop or self._is_pending():
            self._pause = min(self._pause * 1.5, _LATER)
            return self._pause
        self._pause = _SOON
        return _REPEAT if self.insists else None

    def _is_blocked(self) -> bool:
        """Return whether the coroutine's loop is to be interrupted, since its step does not end.

        By force, or if it is in a wait that can be ended.
        """
        if not self._asked_loop or self._is_pending():
            return False
        target = self._target or 0
        if (frame := frame_of(target)) is None:
            return False
        passed = time.monotonic() - self._sent_at
        return (self.insists and passed > _REPEAT) or (
            passed > _BLOCKED_TURN and can_be_ended(target, frame)
        )

    def _is_pending(self) -> bool:
        """Return whether the thread has yet to raise what was sent; ends what it waits for now."""
        with self._lock:
            sent = self._sent
            if self._target is None or sent is None or not sent.pending:
                return False
            if sent.forgotten:
                sent.lost = self._due = True
                return True
            self._end_wait(sent)
            return sent.pending

    def _has_had_time(self) -> bool:
        return time.monotonic() - self._sent_at > CLEAN_UP

    def _run_loop(self) -> Any:
        work = self.job.work
        assert work is not None
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            self._task = loop.create_task(end_of(work.call))
            self._loop = loop
            if self.job.cancel_requested:
                self._task.cancel()
            return loop.run_until_complete(self._task)()

    def _leave(self, process: int, error: BaseException | None) -> bool:
        """Let no exception reach this thread any more; end it if it is another process by now.

        Return whether one has ended a wait, and the code has not seen it: from the end of a process
        that it waited for, say, to its own there was no step at which it could be raised.
        """
        self._target = None
        if os.getpid() != process:  # a copy of this thread, alone in a process that the code forked
            if error is not None:
                hide(error)
            leave_forked_child(error)
        with self._lock:
            pass
        sent, cut_short = self._sent, False
        if sent is not None:
            take_back(threading.get_ident())
            unseen = sent.pending or sent.lost
            cut_short = unseen and sent.waits.acted
            self.reached = self.reached or cut_short or not unseen
            sent.drop()
        return cut_short

    def _settle(self, stored: dict[None, Any], error: BaseException | None) -> None:
        job = self.job
        if stored:
            value = stored[None]
            if is_awaitable(value) and not is_a(value, Job):  # a job is a result
                self._runner.loop_runner.adopt(job, value, self.context.copy())
            else:
                job.finish(value)
        elif error is None or _is_stop(
            error, job.cancel_requested, cancels=self._is_async or job.cancel_requested
        ):
            job.end_cancelled()
        else:
            if is_a(error, RuntimeError) and "no running event loop" in message_of(error):
                add_note(
                    error,
                    "no event loop runs in this thread: %bg -l …, or `await` in CODE, uses one",
                )
            job.fail(error)

    def _release_launcher(self) -> None:
        if self.begun is not None:
            self.begun.release()


def _is_stop(error: BaseException, asked: bool, *, cancels: bool) -> bool:
    """Return whether the job ended because it was stopped; a task group wraps what it is told.

    A `KeyboardInterrupt` raised in place of ours counts as ours, and any where the job was *asked*
    to stop: trio makes its own. With *cancels* so does asyncio's `CancelledError`; otherwise that
    is an exception like any other.
    """
    return all(
        asked or came_of_stop(one)
        if is_a(one, KeyboardInterrupt)
        else cancels and is_a(one, asyncio.CancelledError)
        for one in leaves(error)
    )


#: With more busy threads than this, the switch interval is shortened for the foreground's sake.
_CROWD = 8


class ThreadRunner(Runner):
    """Runs work in at most *max_threads* daemon threads, and queues the rest in order of launch.

    *loop_runner* awaits what a call returned where that is awaitable.
    """

    where = "thread"

    def __init__(
        self,
        loop_runner: LoopRunner,
        max_threads: int = 64,
        service: ServiceLoop | None = None,
    ) -> None:
        self.loop_runner = loop_runner
        self.max_threads = max_threads
        #: Retries what cannot be done at once.
        self.service = ServiceLoop() if service is None else service
        #: Seconds between SIGINT and SIGTERM for a process for which a stopped thread waits.
        self.grace = 2.0
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[ThreadRun] = deque()
        self._pursued: deque[ThreadRun] = deque()
        #: Whether the service loop is about to look there.
        self._woken = False
        self._workers: set[_Worker] = set()
        #: Whether so many threads compute, or may, that each gets its turn late.
        self.crowded = False
        self._names = itertools.count(1)
        #: Called before each job begins.
        self.on_begin: Callable[[], object] = int

    def start(self, job: Record) -> None:
        """Hand the job to a thread and wait until its code begins; queue it if all are busy."""
        run = ThreadRun(job, copy_context(), self)
        job.run = run
        with self._lock:
            worker = self._free_worker(self.max_threads)
            if worker is None:
                self._queue.append(run)
                return
        self._give(worker, run)

    def stop(self, job: Record, force: bool) -> None:
        """Drop it from the queue, or raise `StopThread` in its thread at the next bytecode.

        With *force* it is raised again if the code catches it and goes on.
        """
        run = job.run
        if isinstance(run, ThreadRun):
            if not self._drop(run):
                run.stop(force)
        elif job.started is None:
            job.end_cancelled()  # it still waits for other jobs
        else:
            self.loop_runner.stop(job, force)  # it has just moved there

    def make_room(self, job: Record) -> None:
        """Start a queued *job* beyond the limit when one of our own threads is to wait for it."""
        if threading.current_thread() not in self._workers:
            return
        run = job.run
        with self._lock:
            if not isinstance(run, ThreadRun) or run not in self._queue:
                return
            self._queue.remove(run)
            worker = self._free_worker(sys.maxsize)
        assert worker is not None
        self._give(worker, run)

    def latest_jobs(self) -> dict[int, Record | None]:
        """Return the job that each thread runs or has run last, if that is still kept."""
        return {worker.ident: worker.latest() for worker in list(self._workers) if worker.ident}

    def busy(self) -> list[threading.Thread]:
        """Return the threads that are in a job's code now."""
        return [worker for worker in list(self._workers) if worker.run_now is not None]

    def shutdown(self) -> None:
        """Drop the queue, so that no thread takes up the next job, and stop what is running."""
        with self._lock:
            dropped = list(self._queue)
            self._queue.clear()
        for run in dropped:
            run.job.end_cancelled()
        self._woken = True  # once is enough: beside threads that compute it takes a turn of all
        try:
            for worker in list(self._workers):
                run_now = worker.run_now
                job = None if run_now is None else run_now.job
                if job is not None and not job.cancel_requested:
                    job.cancel()
        finally:
            self._woken = False
            self._wake()

    def pursue(self, run: ThreadRun) -> None:
        """Have the service loop see to a run that is to stop."""
        self._pursued.append(run)
        self._wake()

    def _wake(self) -> None:
        # Else it is about to look: waking it may cost this thread a turn. (By the length of the
        # queue, two threads that had both put theirs there would both have left it to the other.)
        if self._pursued and not self._woken:
            self._woken = True
            self.service.loop.call_soon_threadsafe(self._begin_pursuits)

    def _begin_pursuits(self) -> None:
        self._woken = False
        while self._pursued:
            self.service.loop.call_later(_SOON, self._pursued.popleft().pursue)

    # Inside. A worker that is in neither `_idle` nor busy is on its way from one to the other.

    def _free_worker(self, limit: int) -> _Worker | None:
        if self._count_busy() >= limit:
            return None
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker(self, f"bg-{next(self._names)}")
            self._workers.add(worker)
        self._look_at_crowd()
        return worker

    def _count_busy(self) -> int:
        return len(self._workers) - len(self._idle)

    def _look_at_crowd(self) -> None:
        crowded = self._count_busy() > _CROWD
        if crowded == self.crowded:
            return
        self.crowded = crowded
        if self.service.switch_interval.short("threads", crowded):
            prepare_to_raise()  # while the others do not compete for each step yet

    def _give(self, worker: _Worker, run: ThreadRun) -> None:
        self.on_begin()
        begun = threading.Lock()
        begun.acquire()
        run.begun = begun
        try:
            worker.take(run)
        except RuntimeError as error:  # too many threads, or, in a browser, none at all
            with self._lock:
                self._workers.discard(worker)
            error.add_note("no thread can be started here: %bg -l … runs on the event loop")
            raise
        begun.acquire()

    def _next(self, worker: _Worker) -> ThreadRun | None:
        """Return the next run for *worker*; with None it goes idle, or, above the limit, ends."""
        with self._lock:
            if self._count_busy() > self.max_threads:
                self._workers.discard(worker)
                worker.leaving = True
                return None
            if self._queue:
                return self._queue.popleft()
            self._idle.append(worker)
            self._look_at_crowd()
            return None

    def _drop(self, run: ThreadRun) -> bool:
        with self._lock:
            if run not in self._queue:
                return False
            self._queue.remove(run)
        run.job.end_cancelled()
        return True


class _Worker(threading.Thread):
    """One thread of the pool; it waits for the release of `_wake`."""

    def __init__(self, pool: ThreadRunner, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.leaving = False
        self.run_now: ThreadRun | None = None
        self.latest: Callable[[], Record | None] = lambda: None
        self._pool = pool
        self._wake = threading.Lock()
        self._wake.acquire()

    def take(self, run: ThreadRun) -> None:
        self.run_now = run
        if self.ident is None:
            # In an empty context, because it will run other jobs than the one that starts it.
            Context().run(self.start)
        self._wake.release()

    def run(self) -> None:
        stoppable[threading.get_ident()] = None
        while not self.leaving:
            self._wake.acquire()
            run = self.run_now
            while run is not None:
                self.run_now, self.latest = run, ref(run.job)
                run.context.run(run.execute)
                self.run_now = run = None
                run = self._pool._next(self)
        del stoppable[threading.get_ident()]
