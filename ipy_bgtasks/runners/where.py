"""Where running code is right now: the stack of a thread, the await chain of a task.

Asked from outside, from any thread: what is looked at is not stopped and pays nothing.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from traceback import FrameSummary
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Machinery that stands between a thread's or a loop's start and the user's code.
_MACHINERY = ("ipy_bgtasks", "threading", "asyncio", "contextlib", "concurrent", "IPython")

_LINKS = (CoroutineType, GeneratorType, AsyncGeneratorType, asyncio.Task)


def thread_stack(thread: int) -> list[FrameSummary]:
    """The stack of the thread with identifier *thread*, from the user's first frame on."""
    return _summaries(_users(_outermost_first(sys._current_frames().get(thread))))


def await_chain(task: object, thread: int, loop: asyncio.AbstractEventLoop) -> list[FrameSummary]:
    """Where *task* of *loop*, which runs in *thread*, is: all awaits down to the innermost.

    The task's own `get_stack` gives the outermost frame only.
    """
    if not isinstance(task, asyncio.Task) or task.done():
        return []
    if asyncio.current_task(loop) is task:
        stack = _outermost_first(sys._current_frames().get(thread))
        return _summaries(_users(_after_step(stack)))
    return _summaries(_users(list(_suspended(task))))


def _suspended(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    seen: set[int] = set()
    waits_for: object = task.get_coro()
    while waits_for is not None and id(waits_for) not in seen:
        seen.add(id(waits_for))
        frame, waits_for = _step(waits_for)
        if frame is not None:
            yield frame


def _step(awaited: object) -> tuple[FrameType | None, object]:
    """The frame of one link of the chain, and the next link."""
    if isinstance(awaited, CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    if isinstance(awaited, AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    if isinstance(awaited, asyncio.Task):
        return None, None if awaited.done() else awaited.get_coro()
    # asend objects, coroutine wrappers and future iterators hide what they wait for from
    # Python, but not from the garbage collector.
    return None, next((r for r in gc.get_referents(awaited) if isinstance(r, _LINKS)), None)


def _outermost_first(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _after_step(frames: list[FrameType]) -> list[FrameType]:
    """The frames below the loop's innermost callback."""
    for i in range(len(frames) - 1, -1, -1):
        code = frames[i].f_code
        if code.co_name == "_run" and frames[i].f_globals.get("__name__") == "asyncio.events":
            return frames[i + 1 :]
    return frames


def _users(frames: list[FrameType]) -> list[FrameType]:
    """Without the machinery on the outside; inside the user's code everything is shown."""
    for i, frame in enumerate(frames):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _MACHINERY:
            return frames[i:]
    return []


def _summaries(frames: Iterable[FrameType]) -> list[FrameSummary]:
    return [
        FrameSummary(f.f_code.co_filename, f.f_lineno, f.f_code.co_name, lookup_line=False)
        for f in frames
        if f.f_lineno is not None
    ]
