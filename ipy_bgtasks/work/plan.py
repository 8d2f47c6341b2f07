"""How an expression is run: awaited, called or evaluated, on the loop or in a thread."""

from __future__ import annotations

import ast
import concurrent.futures
import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work.names import parameters
from ipy_bgtasks.work.static import UNKNOWN, Kind, is_a, is_awaitable, is_job, kind_of, resolve
from ipy_bgtasks.work.text import LABEL_WIDTH

_NAMES = (ast.Name, ast.Attribute)  # a union would be made at each call
_WHAT_WOULD_DO = (
    "give a call such as f(x), an awaitable, a function without arguments, or statements"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compile an expression, and what is left to do with its value where it runs."""

    adds_call: bool = False
    """Whether ``()`` is added to it."""
    adds_await: bool = False
    """Whether ``await`` is put before it, and before the call."""
    is_async: bool = False
    settle: bool = False
    """Only the value tells whether it must be awaited."""
    call: bool = False
    """Only the value tells whether it is a function to call."""

    def applied(self, node: ast.expr) -> ast.expr:
        """Return the expression to compile."""
        if self.adds_call:
            node = _calling(node)
        return ast.copy_location(ast.Await(value=node), node) if self.adds_await else node


def plan_for(node: ast.expr, bound: Mapping[str, Any], *, awaits: bool) -> Plan:
    """Decide by what the names stand for now; nothing of the expression is evaluated.

    ``awaits``: the expression itself contains an ``await``. Raises ``BadInput`` for what cannot
    be run.
    """
    if isinstance(node, ast.Await):  # the code says already how much to await
        return Plan(is_async=True)
    plan = _plan(node, bound)
    if awaits and not plan.is_async:
        return Plan(plan.adds_call, is_async=True, settle=True, call=plan.call)
    return plan


def _plan(node: ast.expr, bound: Mapping[str, Any]) -> Plan:
    if isinstance(node, _NAMES):
        return _plan_bare(node, resolve(node, bound))
    if isinstance(node, ast.Lambda):
        return _plan_lambda(node, bound)
    if isinstance(node, ast.Call):
        if _makes_partial(node, bound):
            return _plan_call(node, _kind_of_calling(node, bound), adds_call=True)
        return _plan_call(node, _kind_of_calling(node.func, bound))
    if isinstance(node, ast.GeneratorExp):
        inside = _shown(node)[1:-1] or "…"
        raise BadInput(f"a generator expression runs nothing by itself: write [{inside}]")
    if _is_literal(node):
        raise BadInput(f"{_shown(node)} is nothing to run: {_WHAT_WOULD_DO}")
    return Plan()


def _plan_bare(node: ast.Name | ast.Attribute, value: Any) -> Plan:
    if value is UNKNOWN:
        return Plan(call=True)
    if is_job(value):
        number = value.number
        raise BadInput(f"job {number} is {value.state} already: %fg {number} returns to it")
    if is_a(value, concurrent.futures.Future):
        return Plan(is_async=True, settle=True)
    if is_awaitable(value):
        return Plan(adds_await=True, is_async=True)
    if callable(value):
        return _plan_call(node, kind_of(value), adds_call=True)
    text = ast.unparse(node)
    if is_a(value, types.GeneratorType):
        raise BadInput(f"{text} is a generator, which runs nothing by itself: write list({text})")
    if is_a(value, types.AsyncGeneratorType):
        raise BadInput(
            f"{text} is an async generator, which runs nothing by itself: "
            f"write [x async for x in {text}]"
        )
    name = type(value).__name__
    article = "an" if name[0] in "aeiou" else "a"
    raise BadInput(f"{text} is {article} {name}, nothing to run: {_WHAT_WOULD_DO}")


def _plan_lambda(node: ast.Lambda, bound: Mapping[str, Any]) -> Plan:
    """Return the plan of a lambda; one that makes a single call counts as that call."""
    kind = Kind.PLAIN
    if isinstance(node.body, ast.Call):
        hidden = parameters(node.args)
        visible = {name: value for name, value in bound.items() if name not in hidden}
        kind = _kind_of_calling(node.body.func, visible)
    return _plan_call(node, kind, adds_call=True, made_by=node.body)


def _plan_call(
    node: ast.expr, kind: Kind, *, adds_call: bool = False, made_by: ast.expr | None = None
) -> Plan:
    if kind is Kind.AWAITABLE:
        return Plan(adds_call, adds_await=True, is_async=True)
    if kind is Kind.PLAIN:
        return Plan(adds_call)
    text = _shown(made_by or (_calling(node) if adds_call else node))
    if kind is Kind.GENERATOR:
        raise BadInput(f"{text} only makes a generator and runs nothing: write list({text})")
    raise BadInput(
        f"{text} only makes an async generator and runs nothing: write [x async for x in {text}]"
    )


def _kind_of_calling(function: ast.expr, bound: Mapping[str, Any]) -> Kind:
    """Return what calling this would give; a partial gives what its function does."""
    while isinstance(function, ast.Call) and _makes_partial(function, bound):
        function = function.args[0]
    return kind_of(resolve(function, bound))


def _makes_partial(call: ast.Call, bound: Mapping[str, Any]) -> bool:
    return bool(call.args) and resolve(call.func, bound) is functools.partial


def _calling(node: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(func=node, args=[], keywords=[]), node)


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return True
    if not isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict | ast.UnaryOp):
        return False
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _shown(node: ast.expr) -> str:
    """Return the expression for a message: on one line, with "…" for what is too long."""
    text = ast.unparse(node)
    return text if len(text) <= LABEL_WIDTH and "\n" not in text else "…"
