"""The kinds of executors that users may have, and how each is driven.

An engine takes work and gives a future, in the widest sense: an object that calls back when it is
done. It is chosen by the type of the user's object; nothing is imported for that.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.runners import remote
from ipy_bgtasks.runners.packing import Complete

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

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
        from ipy_bgtasks.runners.executors.dask import DaskEngine

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
    raise BadInput(f"--on {text} is {_shown(target)}{kind}, no executor: it takes {_ACCEPTED}")


def _shown(target: Any) -> str:
    from ipy_bgtasks.text import short_repr

    return short_repr(target, 40)
