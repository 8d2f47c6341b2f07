"""From a piece of syntax tree to code; nothing of any namespace is in it."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from types import CodeType
from typing import Any

from ipy_bgtasks.work.frames import TOP
from ipy_bgtasks.work.text import Text

# Not an identifier, so that it cannot shadow a name of the user's.
_VALUE = ".value"


def expression_code(
    node: ast.expr, text: Text, names: Iterable[str], *, binds: Collection[str], is_async: bool
) -> CodeType:
    """Return the code of a function that evaluates the expression; *names* are its arguments.

    ``binds`` are the names that ``:=`` binds in the namespace.
    """
    body: list[ast.stmt] = [ast.Return(value=node, **_place(node))]
    return _function(node, body, text, names, binds, is_async=is_async)


def storing_code(
    targets: list[ast.expr], text: Text, names: Iterable[str], *, binds: Collection[str]
) -> CodeType:
    """Return the code of a function that binds the targets to its first argument."""
    place = _place(targets[0])
    value = ast.Name(id=_VALUE, ctx=ast.Load(), **place)
    body: list[ast.stmt] = [ast.Assign(targets=targets, value=value, **place)]
    return _function(targets[0], body, text, names, binds, takes=[_VALUE])


def cell_codes(tree: ast.Module, text: Text) -> tuple[CodeType | None, CodeType | None]:
    """Return the code of the statements, and of the expression they end with."""
    body, last = tree.body, None
    final = body[-1]
    if isinstance(final, ast.Expr):
        body = body[:-1]
        last = _compiled(ast.Expression(final.value), text, "eval")
    statements = ast.Module(body=body, type_ignores=tree.type_ignores)
    return (_compiled(statements, text, "exec") if body else None), last


def _function(
    at: ast.expr,
    body: list[ast.stmt],
    text: Text,
    names: Iterable[str],
    binds: Collection[str],
    *,
    takes: Collection[str] = (),
    is_async: bool = False,
) -> CodeType:
    place = _place(at)
    if binds:
        body = [ast.Global(names=sorted(binds), **place), *body]
    arguments = ast.arguments(
        posonlyargs=[ast.arg(arg=name, **place) for name in takes],
        args=[ast.arg(arg=name, **place) for name in names],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[],
    )
    make = ast.AsyncFunctionDef if is_async else ast.FunctionDef
    # It begins on the first line, as a cell's code does: IPython counts from there when it shows
    # the lines around an error.
    place |= {"lineno": 1, "col_offset": 0}
    place["type_params"] = []  # a field from Python 3.12 on
    definition = make(name=TOP, args=arguments, body=body, decorator_list=[], **place)
    # Taken out of the module's code instead of run: the namespace must not gain a name.
    module = _compiled(ast.Module(body=[definition], type_ignores=[]), text, "exec")
    return next(each for each in module.co_consts if isinstance(each, CodeType))


def _compiled(tree: ast.Module | ast.Expression, text: Text, mode: str) -> CodeType:
    try:
        code: CodeType = compile(
            tree, text.name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
    except SyntaxError as error:
        raise text.pointing_here(error) from None
    return code


def _place(node: ast.expr) -> dict[str, Any]:
    return {
        "lineno": node.lineno,
        "col_offset": node.col_offset,
        "end_lineno": node.end_lineno,
        "end_col_offset": node.end_col_offset,
    }
