"""Worker threads as a place: a pool of daemon threads that grows on demand.

A job starts before its launch returns, or it is queued because all threads are busy. Daemon
threads, because an executor of the standard library keeps the interpreter from exiting while
one of its threads is busy.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import itertools
import sys
import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import job as _job
from ipy_bgtasks.runners.where import await_chain, thread_stack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context
    from traceback import FrameSummary

    from ipy_bgtasks.job import Job
    from ipy_bgtasks.runners.loop import LoopRunner


class StopThread(BaseException):
    """Raised by `%cancel` in the thread of a job, and nowhere else."""


class ThreadRunner:
    """Runs work in at most *max_threads* daemon threads, the rest in order of launch.

    *loop_runner* awaits what a call returned where that is awaitable. *prepare* is called in a
    job's own context before its code.
    """

    where = "thread"

    def __init__(
        self,
        loop_runner: LoopRunner,
        max_threads: int = 64,
        prepare: Callable[[Job], object] | None = None,
    ) -> None:
        self.loop_runner = loop_runner
        self.max_threads = max_threads
        self.prepare = prepare
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[_Run] = deque()
        self._workers: set[_Worker] = set()
        self._names = itertools.count(1)

    def start(self, job: Job) -> None:
        """Hand the job to a thread and wait until its code begins; queue it if all are busy."""
        run = _Run(job, copy_context())
        job.handle = run
        with self._lock:
            worker = self._free_worker(self.max_threads)
            if worker is None:
                self._queue.append(run)
                return
        self._give(worker, run)

    def stop(self, job: Job, force: bool) -> None:
        """Drop it from the queue, or raise `StopThread` in its thread at the next bytecode."""
        run = job.handle
        if not isinstance(run, _Run):
            job.end_cancelled()  # it still waits for other jobs
        elif not self._drop(run):
            run.stop()

    def stack(self, job: Job) -> list[FrameSummary]:
        """The thread's stack, or the await chain of a coroutine that runs in the thread."""
        run = job.handle
        return run.stack() if isinstance(run, _Run) else []

    def needs_this_thread(self) -> bool:
        """The end of a thread's job is signalled by that thread."""
        return False

    def make_room(self, job: Job) -> None:
        """Start a queued *job* beyond the limit when one of our own threads is to wait for it."""
        if threading.current_thread() not in self._workers:
            return
        run = job.handle
        with self._lock:
            if run not in self._queue:
                return
            self._queue.remove(run)
            worker = self._free_worker(sys.maxsize)
        assert worker is not None
        self._give(worker, run)

    def busy(self) -> list[threading.Thread]:
        """The threads that are in a job's code now."""
        return [worker for worker in list(self._workers) if worker.run_now is not None]

    def stop_all(self) -> None:
        """Drop the queue and raise `StopThread` once in every busy thread, for leaving."""
        with self._lock:
            self._queue.clear()
        for worker in list(self._workers):
            if (run := worker.run_now) is not None:
                run.stop()

    # Inside. A worker that is in neither `_idle` nor busy is on its way from one to the other.

    def _free_worker(self, limit: int) -> _Worker | None:
        if self._idle:
            return self._idle.pop()
        if len(self._workers) >= limit:
            return None
        worker = _Worker(self, f"bg-{next(self._names)}")
        self._workers.add(worker)
        return worker

    def _give(self, worker: _Worker, run: _Run) -> None:
        begun = threading.Lock()
        begun.acquire()
        run.begun = begun
        worker.take(run)
        begun.acquire()

    def _next(self, worker: _Worker) -> _Run | None:
        """What *worker* shall do now; None: go idle, or, above the limit, end."""
        with self._lock:
            if len(self._workers) > self.max_threads:
                self._workers.discard(worker)
                worker.leaving = True
                return None
            if self._queue:
                return self._queue.popleft()
            self._idle.append(worker)
            return None

    def _drop(self, run: _Run) -> bool:
        with self._lock:
            if run not in self._queue:
                return False
            self._queue.remove(run)
        run.job.end_cancelled()
        return True


class _Worker(threading.Thread):
    """One thread of the pool. What it waits for is the release of `_wake`."""

    def __init__(self, pool: ThreadRunner, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.leaving = False
        self.run_now: _Run | None = None
        self._pool = pool
        self._wake = threading.Lock()
        self._wake.acquire()

    def take(self, run: _Run) -> None:
        self.run_now = run
        if self.ident is None:
            self.start()
        self._wake.release()

    def run(self) -> None:
        while not self.leaving:
            self._wake.acquire()
            run = self.run_now
            while run is not None:
                self.run_now = run
                run.context.run(run.execute, self._pool)
                self.run_now = None
                run = self._pool._next(self)


class _Run:
    """One job in one thread, and the careful part: stopping it there and nowhere else.

    `StopThread` is sent only while `_target` names the thread, which it does exactly while the
    job's code runs. The thread ends that by clearing `_target`, passing the lock (a sender that
    saw the old value is done then) and taking back what was sent and not yet raised.
    """

    def __init__(self, job: Job, context: Context) -> None:
        self.job = job
        self.context = context
        self.begun: threading.Lock | None = None
        self._lock = threading.Lock()
        self._target: int | None = None
        self._sent = False
        self._is_async = job.work is not None and job.work.is_async
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def execute(self, pool: ThreadRunner) -> None:
        """Run the job's code in the calling thread, and end the job."""
        job, work = self.job, self.job.work
        if work is None or not job.begin():
            self._release_launcher()
            return
        _job._current.set(job)
        if pool.prepare is not None:
            pool.prepare(job)
        values: list[Any] = []
        error: BaseException | None = None
        self._release_launcher()
        try:
            try:
                self._target = threading.get_ident()
                if job.asked:  # by someone who found no target yet
                    raise StopThread
                # The value is stored by C code, so that no StopThread fits between the return
                # of the user's function and the storing: what has finished stays finished.
                values.extend(map(self._run_loop if work.is_async else _apply, (work.call,)))
            finally:
                self._leave()
        except BaseException as caught:
            error = caught
            self._leave()
        self._settle(pool, values, error)

    def stop(self) -> None:
        """Send `StopThread`, or cancel the coroutine; any thread may call this."""
        with self._lock:
            if self._is_async:
                # Without a loop yet, the thread will see that the job was asked to stop.
                if self._loop is not None and self._task is not None:
                    with suppress(RuntimeError):  # the loop closes when the coroutine has ended
                        self._loop.call_soon_threadsafe(self._task.cancel)
            elif self._target is not None:
                self._sent = True
                _send(self._target, StopThread)

    def stack(self) -> list[FrameSummary]:
        target, task, loop = self._target, self._task, self._loop
        if task is not None and loop is not None and target is not None:
            return await_chain(task, target, loop)
        return [] if target is None else thread_stack(target)

    def _run_loop(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await call()

        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            self._task = loop.create_task(main())
            self._loop = loop
            if self.job.asked:
                self._task.cancel()
            return loop.run_until_complete(self._task)

    def _leave(self) -> None:
        while True:
            try:
                self._target = None
                with self._lock:
                    pass
                if self._sent:
                    _send(threading.get_ident(), None)
                return
            except StopThread:
                continue

    def _settle(self, pool: ThreadRunner, values: list[Any], error: BaseException | None) -> None:
        job = self.job
        if values:
            value = values[0]
            if inspect.isawaitable(value) and not _is_result(value):
                pool.loop_runner.adopt(job, value, self.context.copy())
            else:
                job.finish(value)
        elif isinstance(error, StopThread | asyncio.CancelledError):
            job.end_cancelled()
        elif error is not None:
            _suggest_loop(error)
            job.fail(error)

    def _release_launcher(self) -> None:
        if self.begun is not None:
            self.begun.release()


def _apply(call: Callable[[], Any]) -> Any:
    return call()


def _is_result(value: Any) -> bool:
    """A job that a call returns is its result, not something more to wait for."""
    return isinstance(value, _job.Job)


def _suggest_loop(error: BaseException) -> None:
    if isinstance(error, RuntimeError) and "no running event loop" in str(error):
        error.add_note("no event loop runs in this thread: %bg -l …, or `await` in CODE, uses one")


def _send(thread: int, exception: type[BaseException] | None) -> None:
    target = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), target)
