"""Rewrites `%fg`, `%cancel` and `%jobs -w` of a cell to `await`, where a cell may await.

IPython turns magics into calls before it decides whether a cell is asynchronous. Between the
two it runs the functions in ``input_transformers_post``; this is one of them. It works on the
syntax tree, so that a call inside a string is left alone, and changes the text only at the
call, so that line numbers, and columns before it, remain.

The text gets an `await` and nothing else: it is what tracebacks, `%history -t` and macros show,
and what is awaited already is left alone when IPython transforms it again. A magic learns from the
code that called it that it is awaited (`frontends.installing.is_awaited`). A mark in its line, put
there by one of IPython's ``ast_transformers``, did that, too: but as soon as there is one, IPython
walks the tree of every cell, which takes as long as parsing it.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WAITING = {"run_line_magic": ("fg", "cancel", "jobs"), "run_cell_magic": ("fg",)}
_NAMES = ("bg", "fg", "cancel", "jobs")


def mentions(text: str) -> bool:
    """Return whether a transformed cell may call one of our magics."""
    return "_magic(" in text and any(f"('{name}'" in text for name in _NAMES)


def await_magics(
    lines: list[str], *, enabled: Callable[[], bool] = lambda: True, top_level: bool = True
) -> list[str]:
    """Return the lines of a transformed cell, with its waiting magics awaited.

    Only at the cell's top level (or not even there, without *top_level*) and in `async def`:
    elsewhere an `await` is a syntax error. *enabled* is called when there is something to
    rewrite, and returns whether cells may await.
    """
    text = "".join(lines)
    if not mentions(text):
        return lines
    try:
        tree = compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError):
        return lines  # IPython will show the error
    calls = list(_waiting_calls(tree, top_level))
    silent = _silenced(tree)
    if calls and not enabled():
        calls = []
    if not calls and silent is None:
        return lines
    encoded = [line.encode() for line in text.splitlines(keepends=True)]
    if silent is not None and silent not in calls:
        _insert(encoded, silent.end_lineno or 1, silent.end_col_offset or 0, b";")
    for call in reversed(calls):
        _await(encoded, call)
    return b"".join(encoded).decode().splitlines(keepends=True)


def _magic_in(node: ast.AST) -> tuple[str, str, str] | None:
    """Return how a call runs a magic, its name and its line; None for anything else."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=how),
            args=[ast.Constant(value=name), ast.Constant(value=line), *_],
        ):
            return how, str(name), str(line)
    return None


def _silenced(tree: ast.AST) -> ast.Call | None:
    """Return the `%bg …;` at the end of a cell, whose `;` IPython expects behind the call."""
    match tree:
        case ast.Module(body=[*_, ast.Expr(value=ast.Call() as call)]):
            how, name, line = _magic_in(call) or ("", "", "")
            if (how, name) == ("run_line_magic", "bg") and line.rstrip().endswith(";"):
                return call
    return None


def awaits(text: str) -> bool:
    """Return whether *text*, as a cell, has a top-level `await`, `async for` or `async with`."""
    try:
        code = compile(text, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _waiting_calls(node: ast.AST, may_await: bool) -> Iterator[ast.Call]:
    """Yield the calls to rewrite, in order; not those that are awaited already.

    *may_await* tells whether an `await` may stand at the node: not in a function or a class.
    """
    if isinstance(node, ast.AsyncFunctionDef):
        may_await = True
    elif isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
        may_await = False
    elif isinstance(node, ast.Await):
        node = node.value  # a macro or a saved cell: IPython keeps what it was rewritten to
    elif may_await and isinstance(node, ast.Call) and _waits(node):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _waiting_calls(child, may_await)


def _waits(call: ast.Call) -> bool:
    how, name, line = _magic_in(call) or ("", "", "")
    if name not in _WAITING.get(how, ()):
        return False
    # A table is shown at once; only the live one and a profile wait.
    return name != "jobs" or any(
        word.startswith(("--watch", "--profile")) or re.match("-(?!-).*w", word)
        for word in line.split()
    )


def _await(lines: list[bytes], call: ast.Call) -> None:
    """Put an `await` before one call."""
    _, _, line = _magic_in(call) or ("", "", "")
    # A `;` after the magic's words silences the value; IPython looks for it at the cell's end.
    after = b");" if line.rstrip().endswith(";") else b")"
    _insert(lines, call.end_lineno or call.lineno, call.end_col_offset or 0, after)
    _insert(lines, call.lineno, call.col_offset, b"(await ")


def _insert(lines: list[bytes], lineno: int, offset: int, text: bytes) -> None:
    line = lines[lineno - 1]
    lines[lineno - 1] = line[:offset] + text + line[offset:]
