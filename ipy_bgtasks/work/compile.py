"""From a piece of syntax tree to code that runs over the user's namespace."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from functools import partial
from operator import setitem
from types import CodeType, FunctionType
from typing import Any

from .frames import TOP
from .text import Text

__all__ = ["cell_codes", "expression_call", "storing"]

# Not an identifier, so that it cannot shadow a name of the user's.
_VALUE = ".value"


def expression_call(
    node: ast.expr,
    text: Text,
    namespace: dict[str, Any],
    bound: Mapping[str, Any],
    *,
    binds: Collection[str],
    is_async: bool,
) -> partial[Any]:
    """Return a call that evaluates the expression with these names bound and the others live.

    ``binds`` are the names that ``:=`` binds in the namespace.
    """
    body: list[ast.stmt] = [ast.Return(value=node, **_place(node))]
    function = _function(node, body, text, namespace, bound, binds, is_async=is_async)
    return partial(function, **bound)


def storing(
    targets: list[ast.expr],
    text: Text,
    namespace: dict[str, Any],
    bound: Mapping[str, Any],
    *,
    binds: Collection[str],
) -> partial[None]:
    """Return a call that binds the targets to its one argument."""
    match targets:
        case [ast.Name(id=name)]:
            return partial(setitem, namespace, name)
    place = _place(targets[0])
    value = ast.Name(id=_VALUE, ctx=ast.Load(), **place)
    body: list[ast.stmt] = [ast.Assign(targets=targets, value=value, **place)]
    function = _function(targets[0], body, text, namespace, bound, binds, takes=[_VALUE])
    return partial(function, **bound)


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
    namespace: dict[str, Any],
    bound: Mapping[str, Any],
    binds: Collection[str],
    *,
    takes: Collection[str] = (),
    is_async: bool = False,
) -> FunctionType:
    place = _place(at)
    if binds:
        body = [ast.Global(names=sorted(binds), **place), *body]
    arguments = ast.arguments(
        posonlyargs=[ast.arg(arg=name, **place) for name in takes],
        args=[ast.arg(arg=name, **place) for name in bound],
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
    code = next(each for each in module.co_consts if isinstance(each, CodeType))
    return FunctionType(code, namespace)


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
