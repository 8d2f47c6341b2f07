"""The event loop as a place: each job is one `asyncio.Task`.

`LoopRunner` runs them; `contain_exits` keeps their exits from ending the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, copy_context
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.background import schedule_coroutine
from ipy_bgtasks.context import current
from ipy_bgtasks.errors import ExitInTask
from ipy_bgtasks.foreign import is_a, is_awaitable
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import has_task_factories, leave_forked_child
from ipy_bgtasks.stacks import await_frames, hide

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation


#: Seconds for which code that was stopped by force may clean up before it is cancelled again.
CLEAN_UP = 0.5


class _Run(Run):
    """The task of one job."""

    __slots__ = ("task",)

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task


class LoopRunner(Runner):
    """Runs async work on one event loop, which its owner runs in one thread.

    *thread* is the identifier of that thread; it can be set later if it is not yet known.
    """

    where = "loop"

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int | None = None) -> None:
        self.loop = loop
        self.thread = threading.get_ident() if thread is None else thread
        #: How many jobs have a task on the loop …
        self.active = 0
        #: … and what is called, on the loop's thread, when the first one does.
        self.on_active: Callable[[], object] = int
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
            self.loop.call_soon_threadsafe(self._cancel, job, force)

    def frames(self, job: Record) -> list[FrameType]:
        """Return the whole await chain of the task."""
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

    def _begin_handed_over(self) -> None:
        while self._handed_over:
            job, context = self._handed_over.popleft()
            context.run(self._begin, job)

    def _begin(self, job: Record) -> None:
        work = job.work
        if work is None or not job.begin():
            return
        self._make_task(job, self._live(job, work.call))

    def _make_task(self, job: Record, coro: Coroutine[Any, Any, Any]) -> None:
        coro.send(None)  # up to where it has begun
        task = schedule_coroutine(coro, loop=self.loop)
        task.set_name(f"job {job.number}: {job.name}")
        job.run = _Run(task)
        self.active += 1
        if self.active == 1:
            self.on_active()
        if job.cancel_requested:  # cancelled between its first part and this one
            task.cancel()

    async def _live(
        self, job: Record, call: Callable[[], Any], awaitable: Awaitable[Any] | None = None
    ) -> None:
        """Run a job as a task that ends the job itself, in its last step, which saves an iteration.

        It begins before the task does, so that it also ends a job that is cancelled before its
        first step; *awaitable*, if given, is closed then.
        """
        process = os.getpid()
        try:
            await _begun()
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
            self.active -= 1
            # The frame of a failed call leads to this one, and must not hold on to anything.
            job = call = awaitable = value = None  # type: ignore[assignment]

    def _cancel(self, job: Record, force: bool) -> None:
        if (task := self.task_of(job)) is not None:
            task.cancel()
            if force:
                self.loop.call_later(CLEAN_UP, self._insist, task)
        elif job.started is None:
            job.end_cancelled()

    def _insist(self, task: asyncio.Task[Any]) -> None:
        if not task.done():
            task.cancel()
            self.loop.call_later(CLEAN_UP, self._insist, task)


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
        """Take one step."""
        try:
            try:
                return self._coro.send(value)
            except (SystemExit, KeyboardInterrupt) as error:
                raise ExitInTask from error
        except StopIteration:
            raise
        except BaseException as error:
            hide(error)
            raise

    def throw(self, *error: Any) -> Any:
        """Raise an exception at the await."""
        try:
            try:
                return self._coro.throw(*error)
            except (SystemExit, KeyboardInterrupt) as thrown:
                raise ExitInTask from thrown
        except StopIteration:
            raise
        except BaseException as thrown:
            hide(thrown)
            raise

    def close(self) -> None:
        """Close the coroutine."""
        self._coro.close()


@coroutine
def _begun() -> Generator[None, None, None]:
    yield


def _close(awaitable: Awaitable[Any] | None) -> None:
    """Close *awaitable*, as asyncio does with a coroutine cancelled before its first step."""
    if isinstance(awaitable, CoroutineType):
        awaitable.close()


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
