"""What runs elsewhere: a job's work, from bytes to an answer that can be sent back.

Imported in worker processes of any engine, so it imports little.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: What kind of end ("value", "error" or "unsendable"), with what, and the traceback as text.
Answer: TypeAlias = "tuple[str, Any, str]"

#: Types of results that need no `cloudpickle`, which is slower.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def answer(data: bytes, run_async: Callable[[Callable[[], Any]], Any] | None = None) -> Answer:
    """Run packed work to its end, and say what came of it; raises nothing.

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
        kind = type(value).__name__
        return "unsendable", f"its result, of type {kind}, cannot be sent: {_line(error)}", ""


def value_of(
    call: Callable[[], Any], is_async: bool, run_async: Callable[[Callable[[], Any]], Any]
) -> Any:
    """Call it, and await what has to be awaited."""
    if is_async:
        return run_async(call)
    value = call()
    if not inspect.isawaitable(value):
        return value
    from ipy_bgtasks.job import Job

    # A job is a result, not something more to wait for: it may be this one.
    return value if isinstance(value, Job) else run_async(lambda: value)


def awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    """Run what *call* returns on an event loop of its own."""

    async def main() -> Any:
        return await call()

    if asyncio._get_running_loop() is None:
        return asyncio.run(main())
    # An engine of ipyparallel calls us on its own loop, which waits for us.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, main()).result()


def answer_on_engine(data: bytes) -> Answer:
    """The same on an engine of ipyparallel, which says that it begins."""
    from ipyparallel.datapub import publish_data

    publish_data({"began": True})
    return answer(data)


def _unpacked(data: bytes) -> tuple[Callable[[], Any], bool]:
    sources, is_async, call = pickle.loads(data)
    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return pickle.loads(call), is_async


def _failure(error: BaseException) -> Answer:
    from ipy_bgtasks.job import own_traceback

    trace = own_traceback(error)
    text = "".join(traceback.format_exception(type(error), error, trace))
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


def _line(error: BaseException) -> str:
    from ipy_bgtasks.views.summary import error_line

    return error_line(error)
