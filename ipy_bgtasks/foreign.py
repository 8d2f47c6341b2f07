"""Asking objects of the user's, whatever they do when they are asked.

A value or an exception may refuse to be looked at: a dead `weakref.proxy` and a proxy outside its
context raise for `__class__`, and so in `isinstance`; a careless `__getattr__` raises `KeyError`,
and so does `hasattr`; a property may stand in the way of `__cause__`. None of that may keep a job
from ending. So types are compared without the object, an exception's own fields are read past
what its class puts over them, and whatever else is raised, an exit included, is the object's
and not the asker's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

_FIELDS: dict[str, Any] = {**vars(BaseException), **vars(BaseExceptionGroup)}


def is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return whether the type of *value* is one of *kinds*; what it says it is does not count."""
    return issubclass(type(value), kinds)


def is_awaitable(value: object) -> bool:
    """Return whether *value* can be awaited, as `inspect.isawaitable` does."""
    try:
        return inspect.isawaitable(value)
    except BaseException:
        return False


def type_name(value: object) -> str:
    """Return the name of the type of *value*."""
    try:
        return str(type(value).__name__)
    except BaseException:  # a metaclass may do anything
        return "object"


def attribute(value: object, name: str, default: Any = None) -> Any:
    """Return an attribute of *value*; *default* if it has none, or does not give it."""
    try:
        return getattr(value, name)
    except BaseException:
        return default


def trace_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of *error*."""
    trace: TracebackType | None = _FIELDS["__traceback__"].__get__(error)
    return trace


def with_trace(error: BaseException, trace: TracebackType | None) -> BaseException:
    """Give *error* that traceback, and return it; frozen data classes are exceptions, too."""
    _FIELDS["__traceback__"].__set__(error, trace)
    return error


def with_cause(error: BaseException, cause: BaseException) -> BaseException:
    """Give *error* that cause, and return it."""
    _FIELDS["__cause__"].__set__(error, cause)
    return error


def members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group; none if *error* is no group."""
    group: tuple[BaseException, ...] = ()
    if is_a(error, BaseExceptionGroup):
        group = tuple(_FIELDS["exceptions"].__get__(error))
    return group


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and its groups, however deep; or *error*, if it is none."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if inner := members(one):
            waiting += inner
        else:
            yield one


def contexts(error: BaseException) -> Iterator[BaseException]:
    """Yield *error*, and what was handled when it was raised, and so on."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        yield one
        seen.add(id(one))
        one = _FIELDS["__context__"].__get__(one)


def related(error: BaseException) -> Iterator[BaseException]:
    """Yield *error*, and each of its causes, contexts and members, once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [_FIELDS[name].__get__(one) for name in ("__cause__", "__context__")]
            waiting += members(one)


def add_note(error: BaseException, line: str) -> None:
    """Add a note to *error*, if it takes one."""
    with suppress(BaseException):
        BaseException.add_note(error, line)
