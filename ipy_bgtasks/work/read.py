"""Reads CODE: finds which of the forms it has, and makes work of it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Set
from functools import partial
from typing import Any

from ..errors import BadInput
from .calls import Cell, called, settled
from .compile import cell_codes, expression_call, storing
from .model import Scope, Work
from .names import Names, assigned, bind, names_in
from .plan import Plan, plan_for
from .text import Text, label_of, parse

__all__ = ["read"]


def read(code: str, scope: Scope, *, cell: bool = False, late: Set[str] = frozenset()) -> Work:
    """Turn CODE into work, without running any of it. Any thread may call.

    An expression or an assignment gets the values its names have now, except the names in
    ``late``, which are looked up when it runs. Several statements, and anything with ``cell``,
    see the live namespace instead.

    Raises ``BadInput`` for what cannot be run, ``SyntaxError`` for what is not Python.
    """
    if scope.local is scope.namespace:
        scope = dataclasses.replace(scope, local=None)
    text = parse(code, scope)
    if len(text.tree.body) == 1 and not cell:
        match text.tree.body[0]:
            case ast.Expr(value=value):
                return _expression(value, text, scope, late)
            case ast.Assign(targets=targets, value=value):
                return _assignment(targets, value, text, scope, late)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                return _assignment([target], value, text, scope, late)
    return _statements(text, scope)


def _expression(node: ast.expr, text: Text, scope: Scope, late: Set[str]) -> Work:
    names = names_in(node)
    if names.yields:  # an error at the top level, though not in the function we would make
        return _statements(text, scope)
    binds = _global_walrus(names, scope)
    bound = _bound(names, binds, scope, late)
    plan = plan_for(node, bound, awaits=names.awaits)
    evaluate = expression_call(
        plan.node, text, scope.namespace, bound, binds=binds, is_async=plan.is_async
    )
    return Work(
        call=_planned(plan, evaluate),
        label=text.label,
        code=text.code,
        is_async=plan.is_async,
        assigns=frozenset(binds),
        source=text.name,
    )


def _planned(plan: Plan, evaluate: partial[Any]) -> partial[Any]:
    if plan.settle:
        return partial(settled, evaluate, call=plan.call)
    return partial(called, evaluate) if plan.call else evaluate


def _assignment(
    targets: list[ast.expr], value: ast.expr, text: Text, scope: Scope, late: Set[str]
) -> Work:
    names = names_in(*targets)
    if names.awaits or names.yields:  # binding happens where nothing can be awaited
        return _statements(text, scope)
    plain = assigned(*targets)
    if plain and scope.local is not None:
        job = label_of(ast.unparse(value))
        raise BadInput(
            f"a job cannot bind {', '.join(sorted(plain))} inside a function: write job = %bg {job}"
        )
    work = _expression(value, text, scope, late)
    bound = _bound(names, plain, scope, late)
    store = storing(targets, text, scope.namespace, bound, binds=plain)
    return dataclasses.replace(work, store=store, assigns=work.assigns | plain)


def _global_walrus(names: Names, scope: Scope) -> Set[str]:
    """Return the names that ``:=`` binds in the user's namespace, as in a cell.

    Inside a function they belong to the expression alone.
    """
    return names.walrus if scope.local is None else frozenset()


def _bound(names: Names, binds: Set[str], scope: Scope, late: Set[str]) -> dict[str, Any]:
    if not binds and names.walrus:
        known = {*(scope.local or ()), *scope.namespace}
        return bind(names.loads - (names.walrus - known), scope, late)
    return bind(names.loads - binds, scope, late)


def _statements(text: Text, scope: Scope) -> Work:
    if scope.local is not None:
        _refuse_locals(text.tree, scope.local)
    final = text.tree.body[-1]
    explicit = isinstance(final, ast.Expr) and isinstance(final.value, ast.Await)
    cell = Cell(*cell_codes(text.tree, text), scope.namespace, settle=not explicit)
    return Work(
        call=cell.run_async if cell.is_async else cell.run,
        label=text.label,
        code=text.code,
        is_async=cell.is_async,
        assigns=assigned(text.tree),
        source=text.name,
    )


def _refuse_locals(tree: ast.Module, local: Mapping[str, Any]) -> None:
    """Refuse statements that name a local: they see the user's namespace and would miss it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in local:
            raise BadInput(
                f"statements do not see {node.id}, a local name: put them in a function of their "
                f"own, and write job = %bg function({node.id})"
            )
