"""How an expression is run: awaited, called or evaluated, on the loop or in a thread.

That is found without running any of the user's code: properties, unknown descriptors, and the like
are left alone, and what they would give is ``UNKNOWN``.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import enum
import functools
import inspect
import types
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from ipy_bgtasks.errors import BadInput

if TYPE_CHECKING:
    from ipy_bgtasks.work.reading import Work


T = TypeVar("T")


class _Unknown(enum.Enum):
    UNKNOWN = enum.auto()


UNKNOWN: Final = _Unknown.UNKNOWN


class Kind(enum.Enum):
    """What a call of something gives, as far as can be known."""

    PLAIN = enum.auto()
    AWAITABLE = enum.auto()
    GENERATOR = enum.auto()
    ASYNC_GENERATOR = enum.auto()


# Plain functions whose value is awaitable, and which need the running loop when called.
_MAKE_AWAITABLES: Final[frozenset[object]] = frozenset(
    {
        asyncio.gather,
        asyncio.shield,
        asyncio.wait,
        asyncio.ensure_future,
        asyncio.create_task,
        asyncio.wrap_future,
        asyncio.BaseEventLoop.create_task,
        asyncio.BaseEventLoop.run_in_executor,
        asyncio.TaskGroup.create_task,
    }
)
_BUILT_IN_METHODS: Final = frozenset(
    {types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType}
)
_READ_AS_THEMSELVES: Final = _BUILT_IN_METHODS | {types.FunctionType}
_PLAIN_CALLABLES: Final = _BUILT_IN_METHODS | {types.BuiltinFunctionType}


def _mark() -> str:
    """Return the name of the mark that ``inspect.markcoroutinefunction`` sets (3.12), or ""."""
    mark = getattr(inspect, "markcoroutinefunction", None)
    return next(iter(vars(mark(lambda: None))), "") if mark else ""


_MARK: Final = _mark()


def resolve(node: ast.expr, bound: Mapping[str, Any]) -> Any:
    """Return what a name or dotted name stands for, or ``UNKNOWN``."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, UNKNOWN)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, bound)
        return UNKNOWN if owner is UNKNOWN else _attribute(owner, node.attr)
    return UNKNOWN


def _attribute(owner: object, name: str) -> Any:
    if type(owner) is types.ModuleType:
        return vars(owner).get(name, UNKNOWN)
    lookup = inspect.getattr_static(type(owner), "__getattribute__")
    if type(lookup) is not types.WrapperDescriptorType:  # its class customizes look-up
        return UNKNOWN
    try:
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        return UNKNOWN
    return _through_descriptor(found, owner)


def _through_descriptor(found: Any, owner: object) -> Any:
    """Return what reading the attribute gives; a method stands for its function."""
    if is_a(found, staticmethod) or is_a(found, classmethod):
        return found.__func__
    if is_a(found, functools.partialmethod):
        return found.func
    if type(found) in _READ_AS_THEMSELVES:
        return found
    if is_a(found, types.MemberDescriptorType) and not is_a(owner, type):
        try:
            return found.__get__(owner)  # a slot: read by C code
        except AttributeError:
            return UNKNOWN
    if inspect.getattr_static(type(found), "__get__", None) is not None:
        return UNKNOWN
    return found


def kind_of(target: object) -> Kind:
    """Return what calling the target gives; ``UNKNOWN`` and what is not callable count as plain."""
    if type(target) is types.FunctionType:  # the most frequent, each time round a loop
        return _kind_of_function(target)
    target = _unwrapped(target)
    if is_a(target, types.FunctionType):
        return _kind_of_function(target)
    if is_a(target, type):
        awaitable = inspect.getattr_static(target, "__await__", None) is not None
        return Kind.AWAITABLE if awaitable else Kind.PLAIN
    if target is UNKNOWN or type(target) in _PLAIN_CALLABLES:
        return Kind.PLAIN
    if inspect.getattr_static(target, _MARK, None) is not None:
        return Kind.AWAITABLE if inspect.iscoroutinefunction(target) else Kind.PLAIN
    method = _unwrapped(inspect.getattr_static(type(target), "__call__", None))
    return _kind_of_function(method) if is_a(method, types.FunctionType) else Kind.PLAIN


def _unwrapped(target: object) -> object:
    while True:
        if is_a(target, functools.partial) or is_a(target, functools.partialmethod):
            target = target.func
        elif (
            is_a(target, types.MethodType)
            or is_a(target, staticmethod)
            or is_a(target, classmethod)
        ):
            target = target.__func__
        else:
            return target


def _kind_of_function(function: types.FunctionType) -> Kind:
    flags = function.__code__.co_flags
    if flags & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE):
        return Kind.AWAITABLE
    if flags & inspect.CO_ASYNC_GENERATOR:
        return Kind.ASYNC_GENERATOR
    if flags & inspect.CO_GENERATOR:
        return Kind.GENERATOR
    if function in _MAKE_AWAITABLES or (
        _MARK in vars(function) and inspect.iscoroutinefunction(function)
    ):
        return Kind.AWAITABLE
    return Kind.PLAIN


def is_awaitable(value: object) -> bool:
    """Return whether ``await value`` is possible."""
    if is_a(value, types.GeneratorType):
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return issubclass(type(value), Awaitable)


def is_pending(value: object) -> bool:
    """Return whether there is something to wait for: an awaitable or a thread's future."""
    return is_awaitable(value) or is_a(value, concurrent.futures.Future)


def is_job(value: object) -> bool:
    """Return whether the value looks like a job of ours."""
    return not is_a(value, type) and all(
        inspect.getattr_static(value, name, UNKNOWN) is not UNKNOWN
        for name in ("number", "state", "result")
    )


def is_a(value: object, cls: type[T]) -> TypeGuard[T]:
    """Return what ``isinstance`` would, without evaluating ``__class__``, which may be code."""
    return issubclass(type(value), cls)


def runs_once(work: Work, variables: Mapping[str, Any]) -> str:
    """Return the name in the code of *work* that stands for something awaited, which ends once.

    It is empty if there is none; none of the code is run. Async code is taken to await what it
    is given, other code only what it is.
    """
    try:
        tree = ast.parse(work.code.strip())
    except SyntaxError:  # a magic or a shell command among the statements
        return ""
    nodes = (
        ast.walk(tree) if work.is_async else (getattr(each, "value", None) for each in tree.body)
    )
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            value = resolve(node, variables)
            if is_pending(value) and not is_job(value):
                return ast.unparse(node)
    return ""


#: Characters of a label.
LABEL_WIDTH = 60
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
    if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.ListComp | ast.SetComp):
        _refuse_unawaited(node, bound)
    if _is_literal(node):
        raise BadInput(f"{_shown(node)} is nothing to run: {_WHAT_WOULD_DO}")
    return Plan()


def _refuse_unawaited(
    node: ast.List | ast.Tuple | ast.Set | ast.ListComp | ast.SetComp, bound: Mapping[str, Any]
) -> None:
    items = [node.elt] if isinstance(node, ast.ListComp | ast.SetComp) else node.elts
    for each in items:
        if isinstance(each, ast.Call) and _kind_of_calling(each.func, bound) is Kind.AWAITABLE:
            text = _shown(node)
            raise BadInput(f"{text} awaits none of what is in it: write asyncio.gather(*{text})")


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
        spec = node.args
        every = (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg)
        hidden = {each.arg for each in every if each is not None}
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
