"""The kinds of executors that users may have, and how each is driven.

An engine takes work and gives a future, in the widest sense: an object that calls back when it is
done. It is chosen by the type of the user's object; nothing is imported for that.

The user's own executors as places: thread and process pools, Dask, ipyparallel.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pickle
import threading
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.foreign import is_a
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.runners import remote
from ipy_bgtasks.runners.packing import Complete, Packed, ending, pack
from ipy_bgtasks.runners.remote import awaited, value_of
from ipy_bgtasks.stacks import thread_frames
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import FrameType

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.work import Work


_ACCEPTED = (
    "a concurrent.futures.Executor, a Pebble pool, a Dask Client, or an ipyparallel Client or view"
)


class Engine(Protocol):
    """An adapter that runs work on a user's executor. Any thread may call any method."""

    #: The word users see for the place.
    where: str
    #: Whether it runs the very call, in a thread of this process, or packed work elsewhere.
    is_local: bool
    #: Whether work must carry all it needs, because this package may not be installed there.
    is_remote: bool
    #: What to say of a call that was asked to stop and goes on.
    note: str

    def submit(self, number: int, work: Any) -> Any:
        """Have a job's call, or its packed work as bytes, run; returns the future."""

    def begun(self, futures: Collection[Any]) -> Iterable[Any]:
        """Return the futures whose calls are known to have begun. May take a while."""

    def lost(self) -> str:
        """Return why nothing more will come from the executor; empty while it may."""

    def drop(self, future: Any) -> bool:
        """Ask it to stop; return whether it is certain not to run, now or later. May take long.

        False if the future itself will resolve.
        """

    def was_dropped(self, error: BaseException) -> bool:
        """Return whether *error* says that the call was dropped before it began."""


class FutureEngine:
    """Any `concurrent.futures.Executor`."""

    where = "executor"
    is_remote = False
    note = "a call that has begun there cannot be stopped, and is still running there"

    def __init__(self, executor: Any, is_local: bool) -> None:
        self._executor = executor
        self.is_local = is_local

    def submit(self, number: int, work: Any) -> Any:
        """Submit the work."""
        if self.is_local:
            return self._executor.submit(work)
        return self._executor.submit(remote.answer, work)

    def begun(self, futures: Collection[Any]) -> Iterable[Any]:
        """Return those that say so themselves; a process pool also counts the next in its queue."""
        return [future for future in futures if future.running()]

    def lost(self) -> str:
        """Return an empty text: an executor resolves all its futures itself."""
        return ""

    def drop(self, future: Any) -> bool:
        """Cancel the call, which works only before it begins."""
        return bool(future.cancel())

    def was_dropped(self, error: BaseException) -> bool:
        """Return whether the call was cancelled, as when the executor is shut down."""
        return isinstance(error, concurrent.futures.CancelledError)


class PebbleEngine(FutureEngine):
    """A Pebble pool, which kills a worker to cancel its call."""

    def submit(self, number: int, work: Any) -> Any:
        """Schedule the work."""
        if self.is_local:
            return self._executor.schedule(work)
        return self._executor.schedule(remote.answer, args=(work,))

    def drop(self, future: Any) -> bool:
        """Cancel the call, and wait until the worker is dead."""
        if not future.cancel():
            return False
        # It is "cancelled" at once, but notifies its waiters when the worker is gone.
        return self.is_local or bool(concurrent.futures.wait([future]).done)


class ParallelEngine:
    """An ipyparallel view."""

    where = "ipyparallel"
    is_local = False
    is_remote = True
    note = "ipyparallel does not stop a call that has begun; it is still running there"

    def __init__(self, view: Any) -> None:
        self._view = view
        self._answer = Complete(remote.answer_on_engine)

    def submit(self, number: int, work: Any) -> Any:
        """Apply the work without waiting."""
        return self._view.apply_async(self._answer, work)

    def begun(self, futures: Collection[Any]) -> Iterable[Any]:
        """Return those that the engines have reported."""
        for future in futures:
            told = future.data
            if any(told) if isinstance(told, list) else told:
                yield future

    def lost(self) -> str:
        """Return a reason if the client was closed, which never resolves its futures then."""
        return "the ipyparallel client was closed" if self._view.client._closed else ""

    def drop(self, future: Any) -> bool:
        """Have the engines drop a queued call; its future then says so."""
        self._view.client.abort(future, block=False)
        return False

    def was_dropped(self, error: BaseException) -> bool:
        """Return whether it is the engine's error for an aborted task."""
        return type(error).__name__ in ("TaskAborted", "CancelledError")


def engine_for(target: Any, text: str) -> Engine:
    """Return the engine for *target*, named *text* by the user; `BadInput` if there is none."""
    homes = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(target).__mro__}
    if "distributed.ClientExecutor" in homes:  # it reports running calls as cancelled
        return engine_for(target._client, text)
    if "ipyparallel.ViewExecutor" in homes:
        return engine_for(target.view, text)
    if "distributed.Client" in homes:
        if target.asynchronous:
            raise BadInput(
                f"--on {text} is an asynchronous Dask Client: give one made without asynchronous="
            )
        from ipy_bgtasks.runners.dask import DaskEngine

        return DaskEngine(target)
    if "ipyparallel.View" in homes:
        return ParallelEngine(target)
    if "ipyparallel.Client" in homes:
        return ParallelEngine(target.load_balanced_view())
    if "pebble.ThreadPool" in homes:
        return PebbleEngine(target, is_local=True)
    if "pebble.ProcessPool" in homes:
        return PebbleEngine(target, is_local=False)
    if isinstance(target, concurrent.futures.Executor):
        threads = isinstance(target, concurrent.futures.ThreadPoolExecutor)
        # Python's pool of interpreters is a pool of threads, too, but shares no objects.
        return FutureEngine(target, threads and "concurrent.InterpreterPoolExecutor" not in homes)
    kind = "" if isinstance(target, type) else f" of type {type(target).__name__}"
    raise BadInput(f"--on {text} is {_shown(target)}{kind}, not an executor: it takes {_ACCEPTED}")


def _shown(target: Any) -> str:
    from ipy_bgtasks.text import short_repr

    return short_repr(target, 40)


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
        return pack(work, "--on this executor", complete=self.engine.is_remote)

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
        if job.cancel_requested:
            self.stop(job, False)

    def stop(self, job: Record, force: bool) -> None:
        """Drop the job's call, on a thread of its own: engines may take long."""
        run = job.run
        if not isinstance(run, _Run):
            job.end_cancelled()  # it still waits for other jobs
        elif run.future is not None and run.ask():
            dropping = threading.Thread(target=self._drop, args=[run], daemon=True)
            Context().run(dropping.start)

    def frames(self, job: Record) -> list[FrameType]:
        """Return the stack; it is known only for a thread of this process."""
        run = job.run
        if isinstance(run, _Run) and run.thread is not None:
            return thread_frames(run.thread)
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
        if work is None or job.cancel_requested or not job.begin():
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
        if is_a(error, (concurrent.futures.CancelledError, asyncio.CancelledError)):
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
