"""A look into code that runs: an expression in its frames, and where its time goes.

What is looked at is neither stopped nor changed, as far as the expression lets it be: it sees
copies of the variables, and what it calls, such as the `repr` of its value, runs in a thread of
ours, which may stay behind.
"""

from __future__ import annotations

import ast
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias

from ipy_bgtasks.platforms import has_threads
from ipy_bgtasks.stacks import is_library
from ipy_bgtasks.text import error_line, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary
    from types import FrameType

#: File name, line and function of a frame.
Site: TypeAlias = "tuple[str, int, str]"
#: What an expression gave, or what went wrong, in one line; and in which frame.
Seen: TypeAlias = "tuple[str, Site | None]"

#: Seconds for which the value of an expression is waited for.
PATIENCE = 1.0
NO_ANSWER = f"no answer within {PATIENCE:g} s: the expression, or the repr of its value, blocks"
_VALUE = 500  # characters
_DEEP = 100  # frames whose variables are looked at
_OPTIMIZED = 1  # the flag of functions, whose variables are not a namespace
#: Seconds between two samples of a stack.
_STEP = 0.01


def expression(text: str) -> ast.Expression:
    """Return the syntax tree of an expression that assigns nothing; else raise `SyntaxError`."""
    tree = ast.parse(text.strip(), mode="eval")
    if any(isinstance(node, ast.NamedExpr) for node in ast.walk(tree)):
        raise SyntaxError("it assigns")
    compile(tree, "<--show>", "eval")  # which refuses `await`
    return tree


def evaluate(frames: Callable[[], list[FrameType]], text: str) -> Seen:
    """Evaluate an expression in one of the *frames*, which are asked for the outermost first.

    It is the user's innermost; where they call each other, the innermost of those that know most
    of the names. Returns after `PATIENCE` seconds at the latest.
    """
    answer: Future[Seen] = Future()

    def run() -> None:
        found: list[FrameType] = []
        with suppress(Exception):  # it may end while it is looked at
            found = frames()
        answer.set_result(_evaluated(found, expression(text)))

    if not has_threads():
        run()
        return answer.result()
    thread = threading.Thread(target=run, name="bg-show", daemon=True)
    Context().run(thread.start)
    try:
        return answer.result(PATIENCE)
    except TimeoutError:
        _end(thread)
        return NO_ANSWER, None


def _evaluated(frames: list[FrameType], tree: ast.Expression) -> Seen:
    users = [one for one in reversed(frames) if not is_library(one.f_code.co_filename)]
    if not (users := users or frames[-1:]):
        return "nothing of its code can be seen right now", None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = [(frame, _variables(frame)) for frame in users[:_DEEP]]
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
    found: dict[str, Any] = {}
    if frame.f_code.co_flags & _OPTIMIZED:
        for _ in range(10):
            with suppress(KeyError, RuntimeError):  # one came or went meanwhile
                found = dict(frame.f_locals)
                break
        # Before Python 3.13 the frame keeps what it has shown, and so everything alive that was in
        # its variables. Unless the user's code, by `locals()`, or a debugger has it as well:
        # references are the frame's, ours and the argument.
        if sys.version_info < (3, 13) and frame.f_trace is None:
            kept = frame.f_locals
            if sys.getrefcount(kept) == 3:
                kept.clear()
    return found


def _end(thread: threading.Thread) -> None:
    """Have *thread* end at its next step in Python, if it ever takes one."""
    import ctypes

    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi["PyThreadState_SetAsyncExc"](ident, ctypes.py_object(SystemExit))


class Sampling:
    """Samples *stack* on a thread of its own, for *seconds* or as long as *runs*."""

    def __init__(
        self, stack: Callable[[], list[FrameSummary]], runs: Callable[[], bool], seconds: float
    ) -> None:
        #: How many seconds it was in each stack, the outermost entry first; empty: not seen.
        self.times: dict[tuple[Site, ...], float] = {}
        #: How often it was looked at.
        self.count = 0
        #: Is done when it is over.
        self.over: Future[None] = Future()
        self.over.set_running_or_notify_cancel()  # who waits for it does not cancel it
        self._stack = stack
        self._runs = runs
        self._seconds = seconds
        self._stop = threading.Event()

    def begin(self) -> None:
        """Begin; the thread ends by itself, or soon after `stop`."""
        thread = threading.Thread(target=self._run, name="bg-profile", daemon=True)
        Context().run(thread.start)

    def stop(self) -> None:
        """End it early."""
        self._stop.set()

    def _run(self) -> None:
        now = due = time.monotonic()
        end = now + self._seconds
        while now < end and self._runs() and not self._stop.wait(max(due - now, 0)):
            seen = tuple((each.filename, each.lineno or 0, each.name) for each in self._stack())
            # C code may have kept this thread, or a worker's, from looking for long: it is where
            # the time went.
            before, now = now, time.monotonic()
            self.times[seen] = self.times.get(seen, 0.0) + now - before
            self.count += 1
            due = max(due + _STEP, now)
        self.over.set_result(None)
