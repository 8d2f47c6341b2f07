"""Which frames are the user's: in tracebacks, and in the stacks of code that runs right now.

A traceback is a list of links, one a frame, from the outermost on. Where an exception leaves this
package towards the user, `hide` takes our links out; a bare ``raise`` after that adds none:

    except BaseException as error:
        hide(error)
        raise

The stack of a thread and the await chain of a task are read from outside, by any thread, without
stopping or slowing what is looked at. Frames are given as `traceback.FrameSummary`; how to name
them is here, too. So is what an expression gives in them, and where time goes: what is looked at is
neither stopped nor changed, as far as the expression lets it be. That sees copies of the variables,
and runs, like the `repr` of its value, in a thread of ours.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import gc
import linecache
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from itertools import islice, zip_longest
from pathlib import PurePath
from traceback import FrameSummary
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ipy_bgtasks.foreign import is_a, related, trace_of, with_trace
from ipy_bgtasks.platforms import frame_of, has_threads
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.text import error_line, short_repr

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ipy_bgtasks.job.record import Record


T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]
#: In tracebacks: whose frames belong to ours where they stand between two of ours, or before the
#: first.
_MACHINERY = {"asyncio", "importlib"}
#: In stacks: machinery that stands between a thread's or a loop's start and the user's code …
_OUTSIDE = (_PACKAGE, "threading", "asyncio", "contextlib", "concurrent", "IPython", "uvloop")
#: … and what is left out wherever it stands.
_HIDDEN = (_PACKAGE, "IPython", "ipykernel")


def hide(error: BaseException) -> None:
    """Take our frames out of the traceback of *error* itself, where they stand in it."""
    interrupted = is_a(error, KeyboardInterrupt)  # where our code waits, or is imported
    with_trace(error, without_ours(trace_of(error), to_the_end=interrupted))


def hide_all(error: BaseException) -> None:
    """Take our frames out of *error*, its causes and contexts, and the members of a group."""
    for one in related(error):
        hide(one)


async def unseen(coro: Coroutine[Any, Any, T]) -> T:
    """Await *coro* for a user's cell, so that an interrupt shows the cell and no frame of ours."""
    try:
        return await coro
    except KeyboardInterrupt as error:
        error.__traceback__ = None
        raise
    except BaseException as error:
        hide(error)
        raise


def up_to_the_users(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback up to the last frame that is neither asyncio's nor ours."""
    links = _links(trace)
    while links and _package(links[-1].tb_frame) in ("asyncio", _PACKAGE):
        links.pop()
    return _joined(links)


def without_ours(trace: TracebackType | None, *, to_the_end: bool = False) -> TracebackType | None:
    """Return the traceback without our frames; the links that remain are the same objects.

    With *to_the_end* it ends before ours where only asyncio or an import follows on them.
    """
    links = _links(trace)
    packages = [_package(link.tb_frame) for link in links]
    if _PACKAGE not in packages:
        return trace
    kept: list[TracebackType] = []
    waiting: list[TracebackType] = []  # machinery: only what follows tells whose it is
    ours = True  # at the start, and after one of ours
    for link, package in zip(links, packages, strict=True):
        if package == _PACKAGE:
            ours = True
            waiting.clear()
        elif package in _MACHINERY and ours:
            waiting.append(link)
        else:
            kept += [*waiting, link]
            waiting.clear()
            ours = False
    return _joined(kept if to_the_end else kept + waiting)


def _links(trace: TracebackType | None) -> list[TracebackType]:
    links = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    return links


def _joined(links: list[TracebackType]) -> TracebackType | None:
    for link, following in zip_longest(links, links[1:]):
        if link.tb_next is not following:
            link.tb_next = following
    return links[0] if links else None


_AWAITABLES = (CoroutineType, GeneratorType, AsyncGeneratorType, asyncio.Future)

#: The number of the cell that a file name stands for; None if it stands for none.
Cells: TypeAlias = "Callable[[str], int | None]"

_LONG = 60  # characters of an expression that is named


def thread_frames(thread: int, below: CodeType | None = None) -> list[FrameType]:
    """Return the stack of the thread with identifier *thread*, from the user's first frame on.

    With *below*, only the frames below the last call of that code.
    """
    frames = _outermost_first(frame_of(thread))
    for i in range(len(frames) - 1, -1, -1):
        if frames[i].f_code is below:
            frames = frames[i + 1 :]
            break
    return _users(frames)


def await_frames(task: object, thread: int, loop: asyncio.AbstractEventLoop) -> list[FrameType]:
    """Return the awaits of *task* of *loop*, which runs in *thread*, down to the innermost.

    The task's own `get_stack` gives the outermost frame only. Where a task waits for several
    others, the one that runs now is followed, else the first that has not ended.
    """
    if not isinstance(task, asyncio.Task) or task.done():
        return []
    return _users(list(_frames(task, thread, loop)))


def running_stack(
    task: asyncio.Task[Any] | None, thread: int, loop: asyncio.AbstractEventLoop
) -> list[FrameSummary]:
    """Return the stack of *task* if it is the one that *loop* runs right now; empty otherwise."""
    if task is None or not _is_current(task, loop):
        return []
    return summaries(_users(_step_of(task, thread)))


def _frames(
    task: asyncio.Task[Any], thread: int, loop: asyncio.AbstractEventLoop
) -> Iterator[FrameType]:
    seen: set[int] = set()
    link: object = task
    frame: FrameType | None = None
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, asyncio.Task):
            task = link
            if _is_current(link, loop):
                yield from _step_of(link, thread)
                return
            link = None if link.done() else link.get_coro()
        elif isinstance(link, asyncio.Future):
            link = _stands_for(link, frame, loop, task, seen)
        else:
            inner, link = _step(link)
            if inner is not None:
                frame = inner
                yield inner


def _step(awaited: object) -> tuple[FrameType | None, object]:
    """Return the frame of one link of the chain, and the next link."""
    if isinstance(awaited, CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    if isinstance(awaited, AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    # asend objects, coroutine wrappers and future iterators hide what they wait for from
    # Python, but not from the garbage collector.
    return None, next((r for r in gc.get_referents(awaited) if isinstance(r, _AWAITABLES)), None)


def _stands_for(
    future: asyncio.Future[Any],
    frame: FrameType | None,
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[Any],
    seen: set[int],
) -> asyncio.Future[Any] | None:
    """Return what is behind a future on which *frame* waits: a gather, group, wait or shield.

    The frame is one of *task*; what was *seen* before, by `id`, is a cycle.
    """
    local = frame.f_locals if frame is not None and _package(frame) == "asyncio" else {}
    for candidates in (
        getattr(future, "_children", ()),
        _futures_in(_shielded(future)),
        _futures_in(local.values()),
        _awaited_by(task, loop),
    ):
        others = [one for one in candidates if id(one) not in seen and not one.done()]
        if others:
            tasks = [one for one in others if isinstance(one, asyncio.Task)]
            return next((one for one in tasks if _is_current(one, loop)), (tasks or others)[0])
    return None


def _awaited_by(
    task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop
) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks for which *task* waits, where asyncio records that (Python 3.14)."""
    capture: Any = getattr(asyncio, "capture_call_graph", None)
    if capture is None:
        return
    for other in sorted(asyncio.all_tasks(loop), key=_age):
        graph = capture(other, limit=0)
        if graph is not None and any(one.future is task for one in graph.awaited_by):
            yield other


def _futures_in(values: Iterable[object]) -> Iterator[asyncio.Future[Any]]:
    """Yield the tasks and futures among the local variables of asyncio's own functions."""
    for value in values:
        group = getattr(value, "_tasks", None) if isinstance(value, asyncio.TaskGroup) else value
        if isinstance(group, asyncio.Future):
            yield group
        elif isinstance(group, set | frozenset):
            found = (one for one in islice(group, 10_000) if isinstance(one, asyncio.Future))
            yield from sorted(found, key=_age)


def _age(future: asyncio.Future[Any]) -> tuple[int, str]:
    """Return a sort key: sets have no order, but tasks are numbered as they are made."""
    name = future.get_name() if isinstance(future, asyncio.Task) else ""
    return len(name), name


def _shielded(future: asyncio.Future[Any]) -> Iterator[object]:
    """Yield what asyncio's own callbacks on the future hold: for `shield`, the inner task."""
    for entry in getattr(future, "_callbacks", None) or ():
        callback = entry[0] if isinstance(entry, tuple) else entry
        if getattr(callback, "__module__", "") != "asyncio.tasks":
            continue
        for cell in getattr(callback, "__closure__", None) or ():
            yield cell.cell_contents


def _is_current(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> bool:
    return asyncio.current_task(loop) is task


def _step_of(task: asyncio.Task[Any], thread: int) -> list[FrameType]:
    """Return the frames of the step that the task is in the middle of."""
    frames = _outermost_first(frame_of(thread))
    outermost = getattr(task.get_coro(), "cr_frame", None)
    for i, frame in enumerate(frames):
        if frame is outermost:
            return frames[i:]
    # No coroutine written in Python: what is below the loop's innermost callback.
    for i in range(len(frames) - 1, -1, -1):
        if frames[i].f_code.co_name == "_run" and _module(frames[i]) == "asyncio.events":
            return frames[i + 1 :]
    return []


def _outermost_first(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _users(frames: list[FrameType]) -> list[FrameType]:
    """Return the frames from the user's outermost on, without ours and IPython's."""
    for i, frame in enumerate(frames):
        if _package(frame) not in _OUTSIDE:
            return [one for one in frames[i:] if _package(one) not in _HIDDEN]
    return []


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def summaries(frames: Iterable[FrameType]) -> list[FrameSummary]:
    """Return frames as they are named: see `summary_of`."""
    return [summary_of(frame) for frame in frames]


def summary_of(frame: FrameType) -> FrameSummary:
    """Return a frame as it is named: with the expression that it evaluates right now."""
    code = frame.f_code
    line, last, start, end = _position(code, frame.f_lasti)
    return FrameSummary(
        code.co_filename,
        line or frame.f_lineno or code.co_firstlineno,
        code.co_name,
        lookup_line=False,
        end_lineno=last,
        colno=start,
        end_colno=end,
    )


def _position(code: CodeType, at: int) -> tuple[int | None, int | None, int | None, int | None]:
    """Return line, last line, column and last column of the instruction's expression."""
    nothing = (None, None, None, None)
    return next(islice(code.co_positions(), at // 2, None), nothing) if at >= 0 else nothing


def no_cells(filename: str) -> int | None:
    """Return None: a `Cells` for where there are no cells."""
    return None


def is_library(filename: str) -> bool:
    """Return whether a source file is Python's own, an installed package's or this package's."""
    return filename.startswith(_libraries()) or filename.startswith("<frozen")


def innermost(stack: Sequence[FrameSummary]) -> FrameSummary | None:
    """Return the innermost frame of the user's own code; if all are libraries', the innermost."""
    for frame in reversed(stack):
        if not is_library(frame.filename):
            return frame
    return stack[-1] if stack else None


def place(frame: FrameSummary, cells: Cells = no_cells) -> str:
    """Return where a frame is: ``cell 7, line 2`` or ``train.py:12``."""
    number = cells(frame.filename)
    if number is not None:
        return f"cell {number}, line {frame.lineno}"
    # The name under which a cell was compiled tells a reader nothing.
    if "ipykernel_" in frame.filename or frame.filename.startswith("<"):
        return f"line {frame.lineno}"
    return f"{PurePath(frame.filename).name}:{frame.lineno}"


def doing(frame: FrameSummary) -> str:
    """Return what a frame is doing: its call, as ``time.sleep``, else its expression or line."""
    text = expression(frame)
    tree = parsed(text)
    call = tree.value if isinstance(tree, ast.Await) else tree
    if isinstance(call, ast.Call):
        text = ast.unparse(call.func)
    elif not isinstance(tree, ast.BinOp | ast.Compare | ast.Subscript | ast.Await):
        text = source_line(frame)  # of a statement the first line says enough
    text = " ".join((text or frame.name).split())
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def parsed(text: str) -> ast.AST | None:
    """Return the syntax tree of one statement, or the expression if it is one; None if neither."""
    try:
        (statement,) = ast.parse(text).body
    except (SyntaxError, ValueError):
        return None
    return statement.value if isinstance(statement, ast.Expr) else statement


def source_line(frame: FrameSummary) -> str:
    """Return the line of source, stripped; empty if there is none."""
    return frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()


def expression(frame: FrameSummary) -> str:
    """Return the source of the expression that the frame evaluates; empty if it is unknown."""
    first, last = frame.lineno, getattr(frame, "end_lineno", None)
    start, end = getattr(frame, "colno", None), getattr(frame, "end_colno", None)
    if first is None or last is None or start is None or end is None:
        return ""
    lines = [linecache.getline(frame.filename, n).encode() for n in range(first, last + 1)]
    if not all(lines):
        return ""
    lines[-1] = lines[-1][:end]  # columns are counted in bytes of UTF-8
    lines[0] = lines[0][start:]
    return b"".join(lines).decode(errors="replace")


@functools.cache
def _libraries() -> tuple[str, ...]:
    import site
    import sysconfig

    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = str(PurePath(__file__).parent)
    return tuple(path for path in {*paths, *site.getsitepackages(), ours} if path)


#: File name, line and function of a frame.
Site: TypeAlias = "tuple[str, int, str]"
#: What an expression gave, or what went wrong, in one line; and in which frame.
Seen: TypeAlias = "tuple[str, Site | None]"
#: The seconds in each stack, the outermost frame first; an empty one: it could not be seen.
Times: TypeAlias = "dict[tuple[Site, ...], float]"

#: Seconds for which the value of an expression is waited for.
PATIENCE = 1.0
NO_ANSWER = f"no answer within {PATIENCE:g} s: its code, the expression or a repr blocks"
_VALUE = 500  # characters
_TRIES = 5
_DEEP = 100  # frames whose variables are looked at
_OPTIMIZED = 1  # the flag of functions, whose variables are not a namespace
#: Seconds between two samples of a stack.
_STEP = 0.01


def aside(call: Callable[[], T], name: str) -> Future[T]:
    """Call it, in the caller's context, in a thread that is no job's and keeps nobody waiting."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # who waits for it does not cancel it

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    in_thread(name, copy_context().run, run)  # its print options, and where its output goes
    return future


def parsed_expression(text: str) -> ast.Expression:
    """Return the syntax tree; raises `BadInput` unless it is an expression, and assigns nothing."""
    from ipy_bgtasks.errors import BadInput

    try:
        tree = ast.parse(text.strip(), mode="eval")
        compile(tree, "<--show>", "eval")  # which refuses `await`
        why = "it assigns" if any(isinstance(it, ast.NamedExpr) for it in ast.walk(tree)) else ""
    except (SyntaxError, ValueError) as error:
        why = str(getattr(error, "msg", error))
    if why:
        example = 'such as "epoch, loss"'
        raise BadInput(f"--show takes an expression, {example}, not {text!r}: {why}")
    return tree


def evaluate(frames: Callable[[], list[FrameType]], text: str) -> Seen:
    """Evaluate an expression in the user's innermost of the *frames*; these are looked for aside.

    Where functions of the user's call each other, it is the innermost of those that have most of
    the names. Returns after `PATIENCE` seconds at the latest.
    """
    tree = parsed_expression(text)
    if not has_threads():
        return _evaluated(frames, tree)
    try:
        return aside(lambda: _evaluated(frames, tree), "bg-show").result(PATIENCE)
    except TimeoutError:
        return NO_ANSWER, None


def _evaluated(frames: Callable[[], list[FrameType]], tree: ast.Expression) -> Seen:
    found: list[FrameType] = []
    for _ in range(_TRIES):
        with suppress(Exception):  # it may end while it is looked at
            found = frames()[::-1]
        if found:
            break
        time.sleep(0.001)  # its loop may be between two steps
    else:
        return "nothing of its code can be seen right now", None
    users = [one for one in found if not is_library(one.f_code.co_filename)]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = [(frame, _variables(frame)) for frame in (users or found)[:_DEEP]]
    frame, variables = max(known, key=lambda each: len(names & each[1].keys()))
    site = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    try:
        code = compile(tree, "<--show>", "eval")
        # In one namespace: a comprehension in the expression would not see any other.
        return short_repr(eval(code, {**frame.f_globals, **variables}), _VALUE), site
    except BaseException as error:
        return error_line(error), site


def _variables(frame: FrameType) -> dict[str, Any]:
    """Return a copy of a function's variables; none of a module, whose are its globals."""
    if not frame.f_code.co_flags & _OPTIMIZED:
        return {}
    shown = frame.f_locals
    found = dict(shown)
    # Before Python 3.13 the frame keeps what it has shown, and so all that was in its variables
    # alive; unless its own code, by `locals()`, or a debugger holds that, it is emptied again.
    # The references are the frame's, ours and the argument.
    if sys.version_info < (3, 13) and frame.f_trace is None and sys.getrefcount(shown) == 3:
        shown.clear()
    return found


def sample(job: Record, seconds: float, times: Times, over: threading.Event) -> None:
    """Add to *times* where the job is, for so many *seconds*, until it ends or *over* is set."""
    now = due = time.monotonic()
    end = now + seconds
    while now < end and not (job.done() or over.wait(max(due - now, 0))):
        stack: list[FrameSummary] = []
        with suppress(Exception):  # it may end while it is looked at
            stack = job.stack()
        seen = tuple((each.filename, each.lineno or 0, each.name) for each in stack)
        # C code may have kept this thread, or a worker, from looking: there the time went.
        before, now = now, time.monotonic()
        times[seen] = times.get(seen, 0.0) + now - before
        due = max(due + _STEP, now)
