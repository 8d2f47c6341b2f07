"""A look into code that runs: an expression in its frames, and where its time goes.

What is looked at is neither stopped nor changed, as far as the expression lets it be: that sees
copies of the variables, and runs, like the `repr` of its value, in a thread of ours.
"""

from __future__ import annotations

import ast
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import has_threads
from ipy_bgtasks.stacks import is_library
from ipy_bgtasks.text import error_line, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary
    from types import FrameType

    from ipy_bgtasks.job.record import Record

T = TypeVar("T")

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

    context = copy_context()  # its print options, and where its output goes
    thread = threading.Thread(target=context.run, args=(run,), name=name, daemon=True)
    Context().run(thread.start)
    return future


def parsed_expression(text: str) -> ast.Expression:
    """Return the syntax tree; raises `BadInput` unless it is an expression, and assigns nothing."""
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
