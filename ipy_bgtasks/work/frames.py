"""Built-in functions that look at the frame of their caller.

At the top level of a cell, locals and globals are one dictionary; in the function that CODE is
compiled to they are not. These stand in for the built-ins there, so that ``exec(text)`` still
defines names in the user's namespace and ``locals()`` still shows it. They are found by their
module, so they can be pickled, and need no reference to the namespace.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final

# What tracebacks and IPython call the outermost code of a cell.
TOP: Final = "<module>"


def _namespace(frame: FrameType) -> dict[str, Any]:
    return frame.f_globals if frame.f_code.co_name == TOP else frame.f_locals


def _locals() -> dict[str, Any]:
    return _namespace(sys._getframe(1))


def _vars(*args: Any) -> Mapping[str, Any]:
    return builtins.vars(*args) if args else _namespace(sys._getframe(1))


def _dir(*args: Any) -> list[str]:
    return builtins.dir(*args) if args else sorted(_namespace(sys._getframe(1)))


def _exec(source: str | bytes | CodeType, *args: Any, **options: Any) -> None:
    if not args and not {"globals", "locals"} & options.keys():
        frame = sys._getframe(1)
        args = (frame.f_globals, _namespace(frame))
    try:
        builtins.exec(source, *args, **options)
    except BaseException as error:
        # A bare `raise` adds no frame again: the traceback is as with the built-in.
        if (trace := error.__traceback__) is not None:
            error.__traceback__ = trace.tb_next
        raise


AT_TOP_LEVEL: Final[Mapping[str, Callable[..., Any]]] = {
    "locals": _locals,
    "vars": _vars,
    "dir": _dir,
    "exec": _exec,
}
# CODE gets those of a function's locals that it names; what these need cannot be known.
SEES_LOCALS: Final = frozenset({*AT_TOP_LEVEL, "eval"})
