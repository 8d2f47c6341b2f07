"""What a name or a dotted name stands for, found without running any of the user's code.

Properties, unknown descriptors, ``__getattr__`` and the like are left alone: what they would
give cannot be known, and the answer is ``UNKNOWN``.
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
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

if TYPE_CHECKING:
    from ipy_bgtasks.work.model import Work


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
