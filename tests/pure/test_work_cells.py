"""Statements, cells and the places that an assignment binds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work import Scope, Work, read


def scope_of(**names: Any) -> Scope:
    """A user's namespace with a few functions in it."""
    namespace: dict[str, Any] = {"__name__": "__main__", "asyncio": asyncio, **names}
    exec("async def fetch(u): return f'page {u}'\ndef train(n): return n * 2", namespace)
    return Scope(namespace)


def run(work: Work) -> Any:
    """Run the work and bind its result."""
    value = asyncio.run(work.call()) if work.is_async else work.call()
    if work.store is not None:
        work.store(value)
    return value


def test_statements_see_and_change_the_live_namespace() -> None:
    """They run as a cell would; the value of the last expression is the result."""
    scope = scope_of(n=1)
    work = read("m = train(n); m + 1", scope)
    scope.namespace["n"] = 10
    assert (work.is_async, work.assigns, work.store) == (False, {"m"}, None)
    assert run(work) == 21
    assert scope.namespace["m"] == 20
    assert run(read("total = 0\nfor i in range(3):\n    total += i", scope)) is None
    assert (scope.namespace["total"], scope.namespace["i"]) == (3, 2)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = await fetch(1)\nx", "page 1"),
        ("x = 3\nawait fetch(x)", "page 3"),
        ("async with lock:\n    y = 4\ny", 4),
        ("async for i in numbers():\n    pass\ni", 1),
        ("ys = [i async for i in numbers()]\nys", [0, 1]),
        ("import asyncio\nawait asyncio.sleep(0)\nfetch(5)", "page 5"),
        ("if True:\n    await asyncio.sleep(0)", None),
    ],
)
def test_top_level_await_puts_a_cell_on_the_loop(code: str, expected: Any) -> None:
    """Await, async for and async with work as in any cell."""
    scope = scope_of()
    exec("async def numbers():\n    yield 0\n    yield 1\nlock = asyncio.Lock()", scope.namespace)
    work = read(code, scope, cell=True)
    assert work.is_async
    assert run(work) == expected


def test_a_cell_is_a_cell_also_with_one_expression() -> None:
    """It sees the namespace when it runs, and binds in it."""
    scope = scope_of(n=1)
    expression = read("train(n)", scope, cell=True)
    assignment = read("m = train(n)", scope, cell=True)
    unknown = read("later_defined", scope, cell=True)
    scope.namespace.update(n=5, later_defined="there")
    assert run(expression) == 10
    assert (assignment.assigns, assignment.store) == ({"m"}, None)
    run(assignment)
    assert scope.namespace["m"] == 10
    assert run(unknown) == "there"


def test_a_cell_defines_functions_of_the_namespace() -> None:
    """What it defines sees later definitions."""
    scope = scope_of()
    run(read("def outer():\n    return inner()", scope, cell=True))
    run(read("def inner():\n    return 'inner'", scope, cell=True))
    assert scope.namespace["outer"]() == "inner"


def test_the_repr_of_a_cells_call_does_not_spell_out_the_namespace() -> None:
    """It may be large, and its objects may take long to show themselves."""
    work = read("a = 1; a", scope_of(secret="do not show"))
    assert "do not show" not in repr(work)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import os.path, sys as system", {"os", "system"}),
        ("from os import path, sep as s", {"path", "s"}),
        ("from os import *", set()),
        ("def f(a):\n    b = a", {"f"}),
        ("class C:\n    attribute = 1", {"C"}),
        ("for i, (j, *k) in []:\n    m = 1", {"i", "j", "k", "m"}),
        ("with open('x') as f, open('y') as (g, h):\n    pass", {"f", "g", "h"}),
        ("d['a'] = o.b = c = 1", {"c"}),
        ("print(y := [z := i for i in range(3)]); 1", {"y", "z"}),
        (
            "match p:\n    case {'k': v, **rest}:\n        pass\n    case [a, *b] as c:\n        0",
            {"v", "rest", "a", "b", "c"},
        ),
        ("x: int\nn += 1", {"n"}),
        ("f = lambda q: (w := q); 1", {"f"}),
    ],
)
def test_a_cell_tells_which_names_it_assigns(code: str, names: set[str]) -> None:
    """The names of its top level, not those of the functions in it."""
    assert read(code, scope_of(), cell=True).assigns == names


@pytest.mark.parametrize(
    ("code", "assigns", "expected"),
    [
        ("x = train(3)", {"x"}, {"x": 6}),
        ("x: int = train(3)", {"x"}, {"x": 6}),
        ("x: 'not evaluated' + 1 = train(3)", {"x"}, {"x": 6}),
        ("x = y = train(3)", {"x", "y"}, {"x": 6, "y": 6}),
        ("a, b = train([1])", {"a", "b"}, {"a": 1, "b": 1}),
        ("[a, (b, *c)] = pair()", {"a", "b", "c"}, {"a": 0, "b": 1, "c": [2, 3]}),
        ("x = fetch(3)", {"x"}, {"x": "page 3"}),
        ("x = await fetch(3)", {"x"}, {"x": "page 3"}),
        ("x = train(y := 4)", {"x", "y"}, {"x": 8, "y": 4}),
        ("x = hello", {"x"}, {"x": "hello"}),
    ],
)
def test_assignment_binds_names(code: str, assigns: set[str], expected: dict[str, Any]) -> None:
    """The names are bound when the work has finished, not before."""
    scope = scope_of(pair=lambda: (0, (1, 2, 3)), hello=lambda: "hello")
    work = read(code, scope)
    assert work.assigns == assigns
    assert not assigns & scope.namespace.keys()
    value = asyncio.run(work.call()) if work.is_async else work.call()
    assert "x" not in scope.namespace
    assert work.store is not None
    work.store(value)
    assert {name: scope.namespace[name] for name in assigns} == expected


def test_assignment_binds_the_object_and_index_of_its_target_at_launch() -> None:
    """``d[k] = f(k)`` in a loop fills every key of the dictionary that was there."""
    d: dict[Any, Any] = {}
    box = type("Box", (), {})()
    scope = scope_of(d=d, box=box)
    works = []
    for k in range(3):
        scope.namespace["k"] = k
        works.append(read("d[k] = train(k)", scope))
    works.append(read("box.size = d[k + 1], *rest = [train(k), 1]", scope))
    scope.namespace.update(d=None, k=None, box=None)
    for work in works:
        run(work)
    assert d == {0: 0, 1: 2, 2: 4, 3: 4}
    assert box.size == [4, 1]
    assert scope.namespace["rest"] == [1]
    assert (works[0].assigns, works[-1].assigns) == (frozenset(), {"rest"})


def test_the_target_is_evaluated_when_it_is_stored() -> None:
    """Its calls and attributes are the user's code: they do not run at launch."""
    calls: list[int] = []
    kept: dict[int, int] = {}

    def index() -> int:
        calls.append(1)
        return 5

    work = read("kept[index()] = train(1)", scope_of(kept=kept, index=index))
    value = work.call()
    assert calls == []
    assert work.store is not None
    work.store(value)
    assert (calls, kept) == ([1], {5: 2})


def test_a_target_that_cannot_take_the_value_raises_from_store() -> None:
    """As the assignment would."""
    work = read("a, b = train(3)", scope_of())
    assert work.store is not None
    with pytest.raises(TypeError, match="cannot unpack"):
        work.store(work.call())


def test_a_target_with_an_await_is_a_statement() -> None:
    """It runs on the loop as a whole."""
    scope = scope_of(d={})
    work = read("d[await fetch(1)] = await fetch(2)", scope)
    assert work.is_async
    run(work)
    assert scope.namespace["d"] == {"page 1": "page 2"}


def test_augmented_assignment_is_a_statement() -> None:
    """It reads and writes the live namespace."""
    scope = scope_of(n=1)
    work = read("n += train(2)", scope)
    scope.namespace["n"] = 10
    run(work)
    assert (work.assigns, scope.namespace["n"]) == ({"n"}, 14)


@pytest.mark.parametrize("code", ["x = 42", "x = 'text'", "x = (i for i in ())", "x = y"])
def test_what_cannot_run_cannot_be_assigned(code: str) -> None:
    """The value of an assignment is held to the same rules as an expression."""
    with pytest.raises(BadInput):
        read(code, scope_of(y=5))


def test_inside_a_function_a_job_cannot_bind_a_name() -> None:
    """The message says how to get at the result."""
    scope = Scope(scope_of().namespace, local={"n": 3, "d": {}})
    with pytest.raises(BadInput) as caught:
        read("x = train(n)", scope)
    assert str(caught.value) == ("a job cannot bind x inside a function: write job = %bg train(n)")
    run(read("d['k'] = train(n)", scope))
    assert scope.local == {"n": 3, "d": {"k": 6}}


def test_inside_a_function_statements_that_need_a_local_are_refused() -> None:
    """They would see a global of the same name, or none."""
    namespace = scope_of(n=100).namespace
    scope = Scope(namespace, local={"n": 3})
    with pytest.raises(BadInput, match="statements do not see n, a local name"):
        read("print(n); train(n)", scope)
    assert run(read("m = 4; train(m)", scope)) == 8


def test_the_first_line_may_be_indented() -> None:
    """A magic hands over what follows its options."""
    assert run(read("  train(2)", scope_of())) == 4
