"""Places in code, as `traceback.FrameSummary`: which are the user's, and how to call them."""

from __future__ import annotations

import ast
import functools
import linecache
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from traceback import FrameSummary

#: The number of the cell that a file name stands for; None if it stands for none.
Cells: TypeAlias = "Callable[[str], int | None]"

_LONG = 60  # characters of an expression that is named


def no_cells(filename: str) -> int | None:
    """For where there are none."""
    return None


def is_library(filename: str) -> bool:
    """Whether a source file is Python's own, an installed package's or this package's."""
    return filename.startswith(_libraries()) or filename.startswith("<frozen")


def innermost(stack: Sequence[FrameSummary]) -> FrameSummary | None:
    """The innermost frame of the user's own code; if all are libraries', the innermost."""
    for frame in reversed(stack):
        if not is_library(frame.filename):
            return frame
    return stack[-1] if stack else None


def place(frame: FrameSummary, cells: Cells = no_cells) -> str:
    """Where a frame is: ``cell 7, line 2`` or ``train.py:12``."""
    number = cells(frame.filename)
    if number is not None:
        return f"cell {number}, line {frame.lineno}"
    # The name under which a cell was compiled tells a reader nothing.
    if "ipykernel_" in frame.filename or frame.filename.startswith("<"):
        return f"line {frame.lineno}"
    return f"{PurePath(frame.filename).name}:{frame.lineno}"


def doing(frame: FrameSummary) -> str:
    """What a frame is doing: the call it is in, as ``time.sleep``, else its expression or line."""
    text = _expression(frame)
    try:
        tree = ast.parse(text.strip(), mode="eval").body if text else None
    except (SyntaxError, ValueError):
        tree = None
    call = tree.value if isinstance(tree, ast.Await) else tree
    if isinstance(call, ast.Call):
        text = ast.unparse(call.func)
    elif not isinstance(tree, ast.BinOp | ast.Compare | ast.Subscript | ast.Await):
        text = source_line(frame)  # of a statement the first line says enough
    text = " ".join((text or frame.name).split())
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def source_line(frame: FrameSummary) -> str:
    """The line of source, without the blanks around it; empty if there is none."""
    return frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()


def _expression(frame: FrameSummary) -> str:
    """The source of the expression that the frame evaluates; empty if it cannot be told."""
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
