"""Worker threads as a place: a pool of daemon threads that grows on demand.

A job starts before its launch returns, or is queued because all threads are busy. The threads are
daemons, because an executor of the standard library keeps the interpreter from exiting while one
of its threads is busy.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from ipy_bgtasks.job.runner import Runner
from ipy_bgtasks.raising import StopThread, prepare_to_raise
from ipy_bgtasks.runners.threads.run import Run
from ipy_bgtasks.service import ServiceLoop

if TYPE_CHECKING:
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.loop import LoopRunner

__all__ = ["StopThread", "ThreadRunner"]


#: The switch interval, in seconds, while many threads compute. Python's default is 5 ms: with 64
#: of them, any other thread waits for a third of a second, at each step.
SHORT = 0.0005
#: With more busy threads than this, the switch interval is shortened for the foreground's sake.
_CROWD = 8


class ThreadRunner(Runner):
    """Runs work in at most *max_threads* daemon threads, and queues the rest in order of launch.

    *loop_runner* awaits what a call returned where that is awaitable. *prepare* is called in a
    job's own context before its code. *service* retries what cannot be stopped at once.
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
        self._service = ServiceLoop() if service is None else service
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[Run] = deque()
        self._workers: set[_Worker] = set()
        self._names = itertools.count(1)
        self._switch_interval = SwitchInterval()

    def start(self, job: Record) -> None:
        """Hand the job to a thread and wait until its code begins; queue it if all are busy."""
        run = Run(job, copy_context(), self._service)
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
        if isinstance(run, Run):
            if not self._drop(run):
                run.stop(force)
        elif job.started is None:
            job.end_cancelled()  # it still waits for other jobs
        else:
            self.loop_runner.stop(job, force)  # it has just moved there

    def stack(self, job: Record) -> list[FrameSummary]:
        """Return the thread's stack, or the await chain of a coroutine that runs in the thread."""
        run = job.run
        return run.stack() if isinstance(run, Run) else []

    def make_room(self, job: Record) -> None:
        """Start a queued *job* beyond the limit when one of our own threads is to wait for it."""
        if threading.current_thread() not in self._workers:
            return
        run = job.run
        with self._lock:
            if not isinstance(run, Run) or run not in self._queue:
                return
            self._queue.remove(run)
            worker = self._free_worker(sys.maxsize)
        assert worker is not None
        self._give(worker, run)

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
        for worker in list(self._workers):
            run_now = worker.run_now
            job = None if run_now is None else run_now.job
            if job is not None and not job.asked:
                job.cancel()

    # Inside. A worker that is in neither `_idle` nor busy is on its way from one to the other.

    def _free_worker(self, limit: int) -> _Worker | None:
        if self._idle:
            worker = self._idle.pop()
        elif len(self._workers) >= limit:
            return None
        else:
            worker = _Worker(self, f"bg-{next(self._names)}")
            self._workers.add(worker)
        self._switch_interval.short(len(self._workers) - len(self._idle) > _CROWD)
        return worker

    def _give(self, worker: _Worker, run: Run) -> None:
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

    def _next(self, worker: _Worker) -> Run | None:
        """Return the next run for *worker*; with None it goes idle, or, above the limit, ends."""
        with self._lock:
            if len(self._workers) > self.max_threads:
                self._workers.discard(worker)
                worker.leaving = True
                return None
            if self._queue:
                return self._queue.popleft()
            self._idle.append(worker)
            self._switch_interval.short(len(self._workers) - len(self._idle) > _CROWD)
            return None

    def _drop(self, run: Run) -> bool:
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
        self.run_now: Run | None = None
        self._pool = pool
        self._wake = threading.Lock()
        self._wake.acquire()

    def take(self, run: Run) -> None:
        self.run_now = run
        if self.ident is None:
            # In an empty context, because it will run other jobs than the one that starts it.
            Context().run(self.start)
        self._wake.release()

    def run(self) -> None:
        while not self.leaving:
            self._wake.acquire()
            run = self.run_now
            while run is not None:
                self.run_now = run
                run.context.run(run.execute, self._pool)
                self.run_now = run = None
                run = self._pool._next(self)


class SwitchInterval:
    """Shortens Python's switch interval while that is needed; its owner serializes the calls."""

    def __init__(self) -> None:
        self._before: float | None = None

    def short(self, yes: bool) -> None:
        """Shorten the switch interval, or restore it."""
        if yes and self._before is None:
            now = sys.getswitchinterval()
            if now > SHORT:
                self._before = now
                sys.setswitchinterval(SHORT)
                prepare_to_raise()  # while the others do not compete for each step yet
        elif not yes and self._before is not None:
            before, self._before = self._before, None
            if abs(sys.getswitchinterval() - SHORT) < SHORT / 2:  # unchanged since
                sys.setswitchinterval(before)
