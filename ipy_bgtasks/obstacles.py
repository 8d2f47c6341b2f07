"""Names what keeps a thread from raising what it was sent: a lock, and who holds it; a library.

All is found from outside, from the frames of threads and the source of their lines, and no code of
the user's is run for it. What cannot be told is left out.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
import threading
from inspect import getattr_static
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.stacks import expression, is_library, parsed, summary_of
from ipy_bgtasks.waits import system_call

if TYPE_CHECKING:
    from types import FrameType


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def locks_wanted(frame: FrameType) -> list[Any]:
    """Return the locks that *frame*, the innermost of a thread, may be trying to get."""
    node: Any = parsed(expression(summary_of(frame)))
    if isinstance(node, ast.With):  # until Python 3.12 that is where all of its items are entered
        nodes = [item.context_expr for item in node.items]
    else:
        nodes = [node.func.value] if _method(node) in ("acquire", "__enter__") else [node]
    return [each for node in nodes if isinstance(each := _value(node, frame), _LOCKS)]


def held_since(thread: int, lock: Any) -> FrameSummary | None:
    """Return the line at which code that runs in *thread* took *lock*; None if it did not.

    Only an `RLock` knows its owner, and only in its repr. Of another, the source is asked: whether
    a function is in a ``with`` block of that lock, or below a call of its `acquire`.
    """
    owner = re.search(r"owner=(\d+)", repr(lock))
    if owner is not None and int(owner[1]) != thread:
        return None
    inner = frame = sys._current_frames().get(thread)
    while frame is not None:
        wanted = frame is inner and lock in locks_wanted(frame)
        line = _taken_at(frame, lock, wanted)
        if line is not None:
            while is_library(frame.f_code.co_filename) and frame.f_back is not None:
                frame = frame.f_back
                line = frame.f_lineno
            return FrameSummary(frame.f_code.co_filename, line, "", lookup_line=False)
        frame = frame.f_back
    return None if owner is None or inner is None else summary_of(inner)


def _taken_at(frame: FrameType, lock: Any, wanted: bool) -> int | None:
    """Return the line at which *frame* took *lock*, which it has not given back since.

    *wanted* is whether its present line tries to get it.
    """
    code, now, taken = frame.f_code, frame.f_lineno, None
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None
    nodes: list[Any] = [n for n in ast.walk(tree) if isinstance(n, ast.With | ast.Call)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if not code.co_firstlineno <= node.lineno <= now or (wanted and node.lineno == now):
            continue
        if isinstance(node, ast.With):
            inside = node.body[0].lineno <= now <= (node.body[-1].end_lineno or 0)
            if inside and any(_value(i.context_expr, frame) is lock for i in node.items):
                return node.lineno
        elif _method(node) in ("acquire", "release") and _value(node.func.value, frame) is lock:
            taken = node.lineno if _method(node) == "acquire" else None
    return taken


def _method(node: Any) -> str:
    return getattr(getattr(node, "func", None), "attr", "")


def _value(node: Any, frame: FrameType) -> Any:
    """Return what a dotted name stands for in *frame*, without running code; None if unknown."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        return getattr_static(_value(node.value, frame), node.attr, None)
    return None


def library_at_work(thread: int) -> tuple[str, bool]:
    """Return the library in whose C code a thread is, and whether that computes and waits for none.

    The name is empty for Python's own, and where it is not known.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "", False
    module = str(frame.f_globals.get("__name__"))
    if not is_library(frame.f_code.co_filename):
        node: Any = parsed(expression(summary_of(frame)))
        what = _value(getattr(node, "func", None) or getattr(node, "left", None), frame)
        module = str(getattr(what, "__module__", None) or type(what).__module__)
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("__main__", "ipy_bgtasks", "None"):
        return "", False
    return top, not system_call(thread)[0]
