"""The user's own executors as places: thread and process pools, Dask, ipyparallel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import pickle
import threading
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.job.runner import Run, Runner
from ipy_bgtasks.runners.executors.engines import engine_for
from ipy_bgtasks.runners.packing import Packed, ending, pack
from ipy_bgtasks.runners.remote import awaited, value_of
from ipy_bgtasks.stacks import thread_stack
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.executors.engines import Engine
    from ipy_bgtasks.work import Work

#: Seconds between two checks of what has begun, and of whether the engine is still there.
_PAUSE, _PAUSE_MOST = 0.05, 0.5


class Executors:
    """The runners of executors that have jobs, one for each. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: WeakValueDictionary[int, ExecutorRunner] = WeakValueDictionary()

    def runner_for(self, target: Any, text: str) -> ExecutorRunner:
        """Return the runner for *target*, named *text* by the user; `BadInput` if there is none."""
        with self._lock:
            runner = self._runners.get(id(target))
            if runner is None or runner.target is not target:
                runner = ExecutorRunner(target, engine_for(target, text))
                self._runners[id(target)] = runner
            return runner


class ExecutorRunner(Runner):
    """Runs work on one executor of the user's."""

    def __init__(self, target: Any, engine: Engine) -> None:
        self.where = engine.where
        self.target = target
        self.engine = engine
        self._lock = threading.Lock()
        self._runs: set[_Run] = set()
        self._watching = False
        self._hurry = threading.Event()

    def accept(self, work: Work) -> Work:
        """Return the work in the engine's form; raises `BadInput` for what cannot be sent there."""
        if self.engine.is_local:
            return work
        try:
            import cloudpickle  # noqa: F401
        except ImportError:
            raise BadInput(
                "--on this executor needs cloudpickle: pip install cloudpickle"
            ) from None
        return dataclasses.replace(work, call=pack(work, complete=self.engine.is_remote))

    def start(self, job: Record) -> None:
        """Hand the job to the executor."""
        work = job.work
        if work is None:
            return
        if not self.engine.is_local and not isinstance(work.call, Packed):
            work = self.accept(work)  # it waited for jobs whose results it uses
        run = job.run = _Run(job, copy_context(), self.engine.note)
        with self._lock:
            self._runs.add(run)
        try:
            what = work.call.data if isinstance(work.call, Packed) else lambda: self._call(run)
            run.future = self._context_to_submit(job).run(self.engine.submit, job.number, what)
        except BaseException:
            self._runs.discard(run)
            raise
        run.future.add_done_callback(lambda future: self._done(run, future))
        if not self.engine.is_local:
            self._watch()
        if job.asked:
            self.stop(job, False)

    def stop(self, job: Record, force: bool) -> None:
        """Drop the job's call, on a thread of its own: engines may take long."""
        run = job.run
        if not isinstance(run, _Run):
            job.end_cancelled()  # it still waits for other jobs
        elif run.future is not None and run.ask():
            dropping = threading.Thread(target=self._drop, args=[run], daemon=True)
            Context().run(dropping.start)

    def stack(self, job: Record) -> list[FrameSummary]:
        """Return the stack; it is known only for a thread of this process."""
        run = job.run
        if isinstance(run, _Run) and run.thread is not None:
            return thread_stack(run.thread)
        return []

    # In a thread of this process

    def _context_to_submit(self, job: Record) -> Context:
        """Return the context to submit in: the job's own, so that its thread cannot delay exit."""
        context = copy_context()
        if self.engine.is_local:
            context.run(current.set, job)
        return context

    def _call(self, run: _Run) -> None:
        run.context.run(self._run_here, run)

    def _run_here(self, run: _Run) -> None:
        job, work = run.job, run.job.work
        if work is None or job.asked or not job.begin():
            return
        job.enter()
        run.thread = threading.get_ident()
        try:
            value = value_of(work.call, work.is_async, awaited)
        except BaseException as error:
            job.fail(error)
        else:
            job.finish(value)
        finally:
            run.thread = None

    # The end

    def _done(self, run: _Run, future: Any) -> None:
        """Take the end of the call, whatever it is; called on a thread of the executor."""
        if run.dropping:
            return
        try:
            end = self._answered(run.job, future.result())
        except BaseException as error:
            end = self._failed(run.job, error)
        self._over(run, end)

    def _answered(self, job: Record, answer: Any) -> Callable[[], None]:
        if self.engine.is_local:
            return job.end_cancelled  # a no-op if it has run
        job.begin()
        if isinstance(answer, tuple):
            return ending(job, answer)
        # A view of several engines gives an answer of each: a failure wins, else all values count.
        for each in answer:
            if isinstance(each, BaseException):
                raise each
            if each[0] != "value":
                return ending(job, each)
        return partial(job.finish, [pickle.loads(each[1]) for each in answer])

    def _failed(self, job: Record, error: BaseException) -> Callable[[], None]:
        if self.engine.was_dropped(error):
            return job.end_cancelled
        if isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
            error = ProcessDied(f"{self.where} gave up the job: {error_line(error)}")
        return partial(job.fail, error)

    def _drop(self, run: _Run) -> None:
        run.dropping = True
        future = run.future
        try:
            dropped = future is not None and self.engine.drop(future)
        except Exception:  # the cluster is gone, or does not answer: its future says so
            dropped = False
        run.dropping = False
        if dropped:
            self._over(run, run.job.end_cancelled)
        elif future is not None and future.done():
            self._done(run, future)

    def _over(self, run: _Run, end: Callable[[], None]) -> None:
        with self._lock:
            if run not in self._runs:
                return
            self._runs.discard(run)
        run.future = None  # it would keep the result in the engine's memory
        if run.job.run is run:  # else it has ended, or waits for its next attempt
            run.context.copy().run(end)

    # Watching what runs elsewhere

    def _watch(self) -> None:
        with self._lock:
            self._hurry.set()
            if self._watching:
                return
            self._watching = True
        watcher = threading.Thread(target=self._look_after, name="bg-executor", daemon=True)
        Context().run(watcher.start)

    def _look_after(self) -> None:
        pause = _PAUSE
        while True:
            hurry = self._hurry.wait(pause)
            self._hurry.clear()
            pause = _PAUSE if hurry else min(pause * 1.2, _PAUSE_MOST)
            with self._lock:
                runs = list(self._runs)
                if not runs:
                    self._watching = False
                    return
            if reason := self.engine.lost():
                for run in runs:
                    self._lost(run, reason)
                continue
            self._see_begun(runs)

    def _see_begun(self, runs: list[_Run]) -> None:
        waiting = {run.future: run for run in runs if run.job.started is None and run.future}
        with contextlib.suppress(Exception):  # a cluster that does not answer just now
            for future in self.engine.begun(waiting) if waiting else ():
                waiting[future].job.begin()

    def _lost(self, run: _Run, reason: str) -> None:
        self._over(run, lambda: run.job.fail(ProcessDied(reason)))


class _Run(Run):
    """One job on an executor."""

    def __init__(self, job: Record, context: Context, note: str) -> None:
        self.job = job
        self.context = context
        self._note = note
        self.future: Any = None
        self.thread: int | None = None
        self.dropping = False
        self._asked = threading.Lock()

    @property
    def note(self) -> str:
        """What `%cancel` says of it while it goes on."""
        return self._note

    def ask(self) -> bool:
        """Mark it as asked to stop; return whether it had not been asked before."""
        return self._asked.acquire(blocking=False)
