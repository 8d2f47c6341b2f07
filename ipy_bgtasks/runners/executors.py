"""The user's own executors as places: each is run by its engine, and its handles are watched."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pickle
import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import ProcessDied
from ipy_bgtasks.foreign import is_a
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.runners.engines import engine_for, is_ray
from ipy_bgtasks.runners.packing import Packed, ending, pack
from ipy_bgtasks.runners.remote import awaited, value_of
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.stacks import thread_frames
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from types import FrameType

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.engines import Engine
    from ipy_bgtasks.work import Work

#: Seconds between the first two looks at what runs elsewhere.
_PAUSE = 0.05


class Executors:
    """The runners of executors that have jobs, one for each. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: WeakValueDictionary[object, ExecutorRunner] = WeakValueDictionary()

    def runner_for(self, target: Any, text: str) -> ExecutorRunner:
        """Return the runner for *target*, named *text* by the user; `BadInput` if there is none."""
        # Each `ray.remote(num_gpus=1)` is another object.
        key = repr(getattr(target, "keywords", "")) if is_ray(target) else id(target)
        with self._lock:
            runner = self._runners.get(key)
            if runner is None:
                runner = self._runners[key] = ExecutorRunner(target, engine_for(target, text))
            return runner


class ExecutorRunner(Runner):
    """Runs work on one executor of the user's."""

    def __init__(self, target: Any, engine: Engine) -> None:
        self.where = engine.where
        self.target = target  # which keeps its `id`
        self.engine = engine
        self.lock = threading.Lock()
        self.runs: set[Submission] = set()
        self._watching = False
        self._hurry = threading.Event()

    def accept(self, work: Work) -> Work:
        """Return the work in the engine's form; raises `BadInput` for what cannot be sent there."""
        if self.engine.is_local:
            return work
        return pack(work, "--on this executor", complete=self.engine.is_complete)

    def start(self, job: Record) -> None:
        if (work := job.work) is None:
            return
        call = self.accept(work).call  # it may have waited for jobs whose results it uses
        run = job.run = Submission(self, job, copy_context())
        what = call.data if isinstance(call, Packed) else partial(run.context.run, run.call)
        # In the job's own context, so that a thread that this starts cannot delay the exit.
        context = copy_context()
        if self.engine.is_local:
            context.run(current.set, job)
        with self.lock:
            self.runs.add(run)
        try:
            handle = context.run(self.engine.submit, run, what)
            run.calls_back = hasattr(handle, "add_done_callback")
            run.handle = handle
        except BaseException:
            self.runs.discard(run)
            raise
        if run.calls_back:
            handle.add_done_callback(lambda future: run.settle(future.result))
        if not self.engine.is_local:
            self._watch()
        if job.cancel_requested:
            run.stop(False)

    def shutdown(self) -> None:
        with self.lock:
            waiting = [run for run in self.runs if run.handle and run.job.started is None]
        self.engine.leave(waiting)

    # Watching what runs elsewhere

    def _watch(self) -> None:
        with self.lock:
            self._hurry.set()
            if self._watching:
                return
            self._watching = True
        in_thread("bg-executor", self._look_after)

    def _look_after(self) -> None:
        pause = _PAUSE
        while True:
            hurry = self._hurry.wait(pause)
            self._hurry.clear()
            pause = _PAUSE if hurry else min(pause * 1.2, self.engine.pause)
            with self.lock:
                runs = list(self.runs)
                if not runs:
                    self._watching = False
                    return
            for run in runs:
                if run.handle is None:
                    continue
                try:
                    self.engine.look(run)
                except ProcessDied as error:
                    run.end(run.failed(error))
                except Exception:  # a cluster that does not answer just now
                    continue


class Submission(Run):
    """One job on an executor. Its engine uses it from the thread that looks."""

    def __init__(self, runner: ExecutorRunner, job: Record, context: Context) -> None:
        self.job = job
        self.context = context
        #: What the executor gave for it, from the submission to the end.
        self.handle: Any = None
        #: Whether the handle calls back when it is done.
        self.calls_back = False
        #: What its engine needs besides.
        self.own: Any = None
        self._runner = runner
        self._engine = runner.engine
        self._thread: int | None = None
        self._dropping = False
        self._drop_lock = threading.Lock()
        self._asked = 0

    @property
    def note(self) -> str:
        return self._engine.note

    def frames(self) -> list[FrameType]:
        """Return the stack; it is known only for a thread of this process."""
        return [] if self._thread is None else thread_frames(self._thread)

    def stop(self, force: bool) -> None:
        """Drop the job's call, on a thread of its own: engines may take long."""
        if self.handle is None:
            return  # whoever submits it looks again
        with self._runner.lock:
            before, self._asked = self._asked, max(self._asked, 1 + force)
        if self._asked > before:
            in_thread("bg-executor", self._drop, force)

    def call(self) -> None:
        """Run it in this thread of the user's pool, in the job's context."""
        job, work = self.job, self.job.work
        if work is None or job.cancel_requested or not job.begin():
            return
        job.enter()
        self._thread = threading.get_ident()
        try:
            value = value_of(work.call, work.is_async, awaited)
        except BaseException as error:
            job.fail(error)
        else:
            job.finish(value)
        finally:
            self._thread = None

    def begin(self) -> None:
        """Note that its code has begun."""
        if self.job.started is None:
            self.waits_for = ""
            self.context.run(self.job.enter)
            self.job.begin()

    def write(self, stream: str, text: str) -> None:
        """Take what it has printed there."""
        self.begin()
        if text:
            with contextlib.suppress(Exception):  # the display's trouble is not the job's
                self.context.run(self.job.write, stream, text)

    # The end

    def settle(self, get: Callable[[], Any]) -> None:
        """Take the end of the call, whatever it is: what *get* returns, or raises."""
        if self._dropping:
            return
        try:
            end = self._answered(get())
        except BaseException as error:
            end = self.failed(error)
        self.end(end)

    def _answered(self, answer: Any) -> Callable[[], None]:
        job = self.job
        if self._engine.is_local:
            return job.end_cancelled  # a no-op if it has run
        job.begin()
        if isinstance(answer, tuple):
            end = ending(job, answer)
            # How an engine stops it.
            interrupted = job.cancel_requested and is_a(end.args[0], KeyboardInterrupt)
            return job.end_cancelled if interrupted else end
        # A view of several engines gives an answer of each: a failure wins, else all values count.
        for each in answer:
            if isinstance(each, BaseException):
                raise each
            if each[0] != "value":
                return ending(job, each)
        return partial(job.finish, [pickle.loads(each[1]) for each in answer])

    def failed(self, error: BaseException) -> Callable[[], None]:
        """Return what ends the job after an error that is the engine's."""
        if self._engine.was_dropped(self, error):
            return self.job.end_cancelled
        if is_a(error, (concurrent.futures.CancelledError, asyncio.CancelledError)):
            error = ProcessDied(f"{self._runner.where} gave up the job: {error_line(error)}")
        return partial(self.job.fail, error)

    def _drop(self, force: bool) -> None:
        with self._drop_lock:
            handle = self.handle
            if handle is None:
                return
            self._dropping = self.calls_back
            try:
                dropped = self._engine.drop(self, force)
            except Exception:  # the cluster is gone, or does not answer: its handle says so
                dropped = False
            self._dropping = False
        if dropped:
            self.end(self.job.end_cancelled)
        elif self.calls_back and handle.done():
            self.settle(handle.result)

    def end(self, end: Callable[[], None]) -> None:
        """End the job, once, in its own context."""
        runner = self._runner
        with runner.lock:
            if self not in runner.runs:
                return
            runner.runs.discard(self)
        self.handle = None  # it would keep the result in the engine's memory
        if self.job.run is self:  # else it has ended, or waits for its next attempt
            self.context.copy().run(end)
