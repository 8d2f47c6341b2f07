"""What runs in another process: a job's work, from bytes to an answer that can be sent back.

It imports nothing of this package: it is sent to clusters as it is, because the package may not
be installed there.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import marshal
import pickle
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

#: What kind of end ("value", "error" or "unsendable"), with what, and the traceback as text.
Answer: TypeAlias = "tuple[str, Any, str]"

#: Seconds after which an engine reports again that a call has begun.
_SOON = 1.0
#: Types of results that need no `cloudpickle`, which is slower.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def answer(data: bytes, run_async: Callable[[Callable[[], Any]], Any] | None = None) -> Answer:
    """Run packed work to its end, and return its answer; never raises.

    *run_async* calls a coroutine function and runs what it returns.
    """
    try:
        call, is_async = _unpacked(data)
    except BaseException as error:
        return "unsendable", f"what it needs cannot be read in the process: {_line(error)}", ""
    try:
        value = value_of(call, is_async, run_async or awaited)
    except BaseException as error:
        return _failure(error)
    try:
        return "value", _dumps(value), ""
    except BaseException as error:
        kind = _name(value)
        return "unsendable", f"its result, of type {kind}, cannot be sent: {_line(error)}", ""


def value_of(
    call: Callable[[], Any], is_async: bool, run_async: Callable[[Callable[[], Any]], Any]
) -> Any:
    """Return the value of the call, awaited where that is needed."""
    if is_async:
        return run_async(call)
    value = call()
    try:
        is_final = not inspect.isawaitable(value)
    except BaseException:  # it does not let itself be looked at, as a dead proxy
        is_final = True
    if is_final:
        return value
    # A job is a result, and not awaited: it may be this one.
    is_job = type(value).__module__ == "ipy_bgtasks"
    return value if is_job else run_async(lambda: value)


async def end_of(call: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
    """Await what *call* returns; returns what returns its value, or raises its error.

    asyncio asks a task's error for its class, and waits for ever if that raises. So it gets none.
    """
    try:
        value = await call()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return partial(_raise, error)
    return lambda: value


def _raise(error: BaseException) -> None:
    raise error


def awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    """Run what *call* returns on an event loop of its own."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(end_of(call))()
    # An ipyparallel engine calls us on its own loop, which waits for us.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, end_of(call)).result()()


def answer_on_engine(data: bytes) -> Answer:
    """Run packed work on an ipyparallel engine, which reports that it begins.

    It does so twice: zmq subscribes in its own time, and a client that has just connected may have
    missed the first.
    """
    from ipyparallel.datapub import publish_data

    publish_data({"began": True})
    again = threading.Timer(_SOON, publish_data, [{"began": True}])
    again.daemon = True
    again.start()
    try:
        return answer(data)
    finally:
        again.cancel()


def answer_on_dask(data: bytes, topic: str, key: str) -> Answer:
    """Run packed work on a Dask worker, which logs under *topic* that it begins task *key*."""
    from distributed import get_worker

    get_worker().log_event(topic, key)
    return answer(data)


def answer_on_ray(data: bytes, mark: str) -> Answer:
    """Run packed work as a task of Ray's, which prints *mark* as it begins and ends, if any."""
    if mark:
        print(mark, flush=True)
    end = answer(data)
    for stream in (sys.stdout, sys.stderr) if mark else ():
        print(f"{mark} ends", file=stream, flush=True)
    return end


def held_on_dask(key: str, dask_worker: Any) -> bool:
    """Return whether a task runs, or may still come to run, on this Dask worker."""
    task = dask_worker.state.tasks.get(key)
    return task is not None and task.state not in ("released", "forgotten", "memory", "error")


def _unpacked(data: bytes) -> tuple[Callable[[], Any], bool]:
    sources, is_async, call = pickle.loads(data)
    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    loaded = pickle.loads(call)
    if type(loaded) is tuple:  # marshalled code and its arguments
        code, bound = loaded
        loaded = partial(FunctionType(marshal.loads(code), {"__name__": "__main__"}), **bound)
    return loaded, is_async


def _failure(error: BaseException) -> Answer:
    trace: Any = vars(BaseException)["__traceback__"]  # past what its class may put over it
    users = _users(trace.__get__(error))
    trace.__set__(error, users)
    try:
        text = "".join(traceback.format_exception(type(error), error, users))
    except BaseException:  # it does not let itself be looked at, or is nested too deeply
        head = "Traceback (most recent call last):\n"
        text = "".join([head, *traceback.format_tb(users), _line(error)])
    try:
        data = _dumps(error)
        pickle.loads(data)  # many exceptions can be pickled, but not read again
    except BaseException as reason:
        return "unsendable", f"{_line(error)} (which itself cannot be sent: {_line(reason)})", text
    return "error", data, text


def _dumps(value: Any) -> bytes:
    if type(value) in _PLAIN:
        return pickle.dumps(value)
    import cloudpickle

    data: bytes = cloudpickle.dumps(value)
    return data


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on."""
    start = trace
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("ipy_bgtasks", "asyncio", "concurrent"):
            break
        trace = trace.tb_next
        if package == "ipy_bgtasks":
            start = trace
    return start


def _line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:  # it is the user's class
        text = "?"
    return f"{_name(error)}: {text}"[:200]


def _name(value: object) -> str:
    try:
        return str(type(value).__name__)
    except BaseException:  # a metaclass may do anything
        return "object"
