"""Telling async from plain without running any of the user's code."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work import Scope, read


def is_async(code: str, **names: Any) -> bool:
    """Where the code would run, in a namespace of these names."""
    return read(code, Scope({"functools": functools, "asyncio": asyncio, **names})).is_async


async def coroutine_function(*args: Any) -> Any:
    """A coroutine function."""


def plain_function(*args: Any) -> Any:
    """No coroutine function."""


def keep(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as most are: a plain function around whatever was given."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Service:
    """Methods of every kind."""

    __slots__ = ("slot", "unset")

    attribute = coroutine_function
    partial = functools.partialmethod(coroutine_function, 1)
    plain_partial = functools.partialmethod(plain_function, 1)

    def __init__(self) -> None:
        self.slot = coroutine_function

    async def method(self) -> None:
        """A coroutine method."""

    def plain(self) -> None:
        """A plain method."""

    @classmethod
    async def of_class(cls) -> None:
        """A coroutine class method."""

    @staticmethod
    async def static() -> None:
        """A coroutine static method."""

    @staticmethod
    def plain_static() -> None:
        """A plain static method."""

    @property
    def computed(self) -> Any:
        """Code that must not run while reading."""
        raise AssertionError("a property was read")


class Nested:
    """A service as an attribute of the instance."""

    def __init__(self) -> None:
        self.service = Service()
        self.function = coroutine_function


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("service.method()", True),
        ("service.method", True),
        ("service.plain()", False),
        ("service.attribute()", True),
        ("service.of_class()", True),
        ("Service.of_class()", True),
        ("service.static()", True),
        ("Service.static", True),
        ("service.plain_static()", False),
        ("service.partial()", True),
        ("service.plain_partial()", False),
        ("service.slot()", True),
        ("service.slot", True),
        ("service.unset()", False),
        ("service.missing()", False),
        ("service.computed()", False),
        ("service.computed", False),
        ("service.computed.method()", False),
        ("Service.method(service)", True),
        ("nested.service.method()", True),
        ("nested.function()", True),
        ("bound()", True),
        ("bound_static", True),
        ("module.coroutine_function()", True),
        ("module.coroutine_function", True),
        ("module.missing()", False),
        ("asyncio.sleep(1)", True),
        ("asyncio.Queue().get()", False),
        ("asyncio.Queue.get(q)", True),
        ("asyncio.run(coroutine_function())", False),
        ("asyncio.new_event_loop()", False),
        ("asyncio.iscoroutinefunction(1)", False),
    ],
)
def test_names_and_dotted_names(code: str, expected: bool) -> None:
    """Methods, class methods, static methods, slots, modules: told by what is stored there."""
    service = Service()
    module = types.ModuleType("module")
    module.coroutine_function = coroutine_function  # type: ignore[attr-defined]
    names = {
        "service": service,
        "Service": Service,
        "nested": Nested(),
        "bound": service.method,
        "bound_static": Service.__dict__["static"],
        "module": module,
        "coroutine_function": coroutine_function,
        "q": None,
    }
    assert is_async(code, **names) is expected


class AsyncCallable:
    """Its call is a coroutine."""

    async def __call__(self) -> None:
        """Do nothing."""


class Awaited:
    """Its instances can be awaited."""

    def __await__(self) -> Any:
        yield


@types.coroutine
def old_style() -> Any:
    """A coroutine made of a generator."""
    yield


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (coroutine_function, True),
        (functools.partial(coroutine_function, 1), True),
        (functools.partial(functools.partial(Service().method)), True),
        (functools.partial(AsyncCallable()), True),
        (AsyncCallable(), True),
        (AsyncCallable, False),
        (Awaited, True),
        (type("Derived", (Awaited,), {}), True),
        (asyncio.Task, True),
        (asyncio.Event, False),
        (old_style, True),
        (asyncio.gather, True),
        (asyncio.shield, True),
        (asyncio.wait, True),
        (asyncio.wait_for, True),
        (asyncio.ensure_future, True),
        (asyncio.create_task, True),
        (asyncio.wrap_future, True),
        (functools.partial(asyncio.gather), True),
        (keep(coroutine_function), False),
        (functools.lru_cache(coroutine_function), False),
        (plain_function, False),
        (functools.partial(plain_function), False),
        (print, False),
        ([].sort, False),
        (str.upper, False),
        (Mock(), False),
        (5, False),
    ],
)
def test_callables(target: Any, expected: bool) -> None:
    """Whatever wraps a coroutine function visibly counts as one; a decorator hides it."""
    assert is_async("target(1)", target=target) is expected


async def test_methods_of_a_loop() -> None:
    """They need the running loop, so they run there."""
    loop = asyncio.get_running_loop()
    group = asyncio.TaskGroup()
    names = {"loop": loop, "group": group, "f": print}
    assert is_async("loop.run_in_executor(None, f)", **names)
    assert is_async("loop.create_task(f())", **names)
    assert is_async("group.create_task(f())", **names)
    assert not is_async("loop.time()", **names)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_marked_coroutine_functions() -> None:
    """``inspect.markcoroutinefunction`` is believed, on functions and on objects."""
    mark = inspect.markcoroutinefunction  # type: ignore[attr-defined,unused-ignore]
    marked = mark(lambda: coroutine_function())
    instance = mark(Nested())
    assert is_async("marked()", marked=marked)
    assert is_async("instance()", instance=instance)


class Hostile:
    """Everything about it is code that fails."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    def __hash__(self) -> int:
        raise AssertionError("it was hashed")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it was compared")

    def __bool__(self) -> bool:
        raise AssertionError("it was tested")

    def __repr__(self) -> str:
        raise AssertionError("it was shown")

    def __call__(self) -> str:
        return "called"


@pytest.mark.parametrize(
    "code",
    ["hostile.a.b()", "hostile.a", "hostile()", "hostile", "lambda: hostile()", "[hostile]",
     "functools.partial(hostile)", "hostile.x = hostile()", "hostile + hostile"],
)  # fmt: skip
def test_hostile_objects_are_not_touched(code: str) -> None:
    """Reading looks at types and at what is stored, and asks the object nothing."""
    assert is_async(code, hostile=Hostile()) is False


def test_an_object_that_is_nothing_to_run_is_named_by_its_type() -> None:
    """Its repr may take long, or be wrong."""
    with pytest.raises(BadInput, match="x is an object, nothing to run: give a call such as f"):
        is_async("x", x=object())


def test_proxies_are_not_asked_what_they_stand_for() -> None:
    """Some raise where they stand for nothing."""

    class Proxy:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no context")

        def __call__(self) -> str:
            return "called"

    assert is_async("proxy", proxy=Proxy()) is False
    assert is_async("proxy()", proxy=Proxy()) is False
    assert is_async("proxy.attribute.other()", proxy=Proxy()) is False


def test_modules_with_code_of_their_own_are_not_asked() -> None:
    """Neither a ``__getattr__`` nor a lazy module runs."""
    module = types.ModuleType("module")

    def fail(name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    module.__getattr__ = fail  # type: ignore[method-assign]

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            fail(name)

    lazy = Lazy("lazy")
    assert not is_async("module.thing()", module=module)
    assert not is_async("module.thing", module=module)
    assert not is_async("lazy.thing()", lazy=lazy)


def test_names_hidden_by_a_lambda_tell_nothing() -> None:
    """Its parameter is not the coroutine function of the same name."""
    assert not is_async("lambda f=print: f()", f=coroutine_function)
    assert is_async("lambda x=1: f()", f=coroutine_function)


def test_a_name_bound_on_the_way_tells_nothing() -> None:
    """What ``:=`` will bind is not known yet."""
    assert not is_async("f(f := print)", f=coroutine_function)
