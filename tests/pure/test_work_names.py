"""Names bind at launch: what CODE sees of the namespace, and when."""

from __future__ import annotations

import asyncio
import builtins
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work import Scope, Work, read
from ipy_bgtasks.work.names import bound_first


def scope_of(**names: Any) -> Scope:
    """A user's namespace with these names."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec("def same(*args): return args", namespace)
    return Scope(namespace)


def run(work: Work) -> Any:
    """Run the work, on a loop of its own if it is async."""
    return asyncio.run(work.call()) if work.is_async else work.call()


@pytest.mark.parametrize(
    "code",
    [
        "same(u)[0]",
        "lambda: u",
        "(lambda: u)()",
        "[u for _ in range(1)][0]",
        "[[u for _ in 'a'][0] for _ in 'b'][0]",
        "next(iter({u}))",
        "list(u for _ in 'a')[0]",
        "(lambda x: lambda: x)(u)()",
        "(lambda *, x=u: x)()",
        "f'{u}' and u",
        "{**{'k': u}}['k']",
        "same(*[u])[0]",
        "u if u is not None else 0",
        "dict(key=u)['key']",
        "[0, 1, 2, 3][u:][0]",
    ],
)
def test_each_launch_of_a_loop_keeps_its_own_value(code: str) -> None:
    """``for u in …: %bg f(u)`` runs with each ``u``, whenever it runs."""
    scope = scope_of()
    works = []
    for u in range(3):
        scope.namespace["u"] = u
        works.append(read(code, scope))
    scope.namespace["u"] = "too late"
    assert [run(work) for work in works] == [0, 1, 2]


def test_functions_called_later_see_the_live_namespace() -> None:
    """Only the names in CODE itself are bound."""
    scope = scope_of(config="old")
    exec("def show(): return config", scope.namespace)
    work = read("same(show(), config)", scope)
    scope.namespace["config"] = "new"
    assert run(work) == ("new", "old")


def test_the_function_itself_is_bound_at_launch() -> None:
    """Redefining it does not change what was launched."""
    scope = scope_of()
    exec("def step(): return 1", scope.namespace)
    works = [read("step()", scope), read("step", scope), read("same(step)[0]()", scope)]
    exec("def step(): return 2", scope.namespace)
    assert [run(work) for work in works] == [1, 1, 1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("[x for x in [x, 5]]", [1, 5]),
        ("[x for x in range(2) for x in [x, x]]", [0, 0, 1, 1]),
        ("[y for y in range(3) if y != x]", [0, 2]),
        ("{y: x for y in [x]}", {1: 1}),
        ("[(lambda x: x)(y) for y in [3]]", [3]),
        ("(lambda x, /, *a, k=x, **kw: (x, a, k, kw))(9)", (9, (), 1, {})),
        ("(lambda x=x: x)()", 1),
        ("(lambda: (x := 4) + x)()", 8),
        ("[(lambda: [x := z for z in 'ab'])() for _ in 'q']", [["a", "b"]]),
        ("[[x for x in [y]] for y in [x]]", [[1]]),
        ("sorted([3, 2], key=lambda y: y + x)", [2, 3]),
        ("(lambda f: f(f, 3))(lambda f, n: 1 if n == 0 else n * f(f, n - 1))", 6),
        ("same(*(i for i in (x, x)))", (1, 1)),
        ("same(__debug__)", (True,)),
        ("same(__name__)", ("__main__",)),
    ],
)
def test_inner_scopes_are_pythons(code: str, expected: Any) -> None:
    """Comprehensions, lambdas and their parameters hide names as they do in a cell."""
    scope = scope_of(x=1)
    before = dict(scope.namespace)
    assert run(read(code, scope)) == expected == eval(code, scope.namespace)
    scope.namespace.pop("__builtins__")
    before.pop("__builtins__")
    assert scope.namespace == before


@pytest.mark.parametrize(
    ("code", "expected", "bound"),
    [
        ("same(y := 3, y)", (3, 3), {"y": 3}),
        ("(y := x) + y", 2, {"y": 1}),
        ("[last := i for i in range(3)]", [0, 1, 2], {"last": 2}),
        ("any((hit := i) > x for i in range(9)) and hit", 2, {"hit": 2}),
        ("same(lambda: y)[0]() if (y := 5) else 0", 5, {"y": 5}),
        ("await asyncio.sleep(0, (y := 6))", 6, {"y": 6}),
    ],
)
def test_walrus_binds_in_the_users_namespace(
    code: str, expected: Any, bound: dict[str, Any]
) -> None:
    """As in a cell, when the job runs."""
    scope = scope_of(x=1, asyncio=asyncio)
    work = read(code, scope)
    assert work.assigns == bound.keys()
    assert not bound.keys() & scope.namespace.keys()
    assert run(work) == expected
    assert {name: scope.namespace[name] for name in bound} == bound


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("globals()['hidden']", 7),
        ("globals() is ns", True),
        ("locals() is ns", True),
        ("vars() is ns", True),
        ("dir() == sorted(ns)", True),
        ("vars(box)", {"side": 2}),
        ("dir(box)[-1]", "side"),
        ("eval('hidden')", 7),
        ("eval('hidden + u', {'hidden': 1, 'u': 2})", 3),
        ("[eval('i') for i in range(2)]", [0, 1]),
        ("(lambda a: locals()['a'])(3)", 3),
        ("'{hidden}'.format(**globals())", "7"),
        ("'{hidden}'.format(**locals())", "7"),
        ("exec('made = hidden')", None),
        ("exec('made = 2', {})", None),
    ],
)
def test_builtins_that_look_at_the_frame_see_the_namespace(code: str, expected: Any) -> None:
    """Locals are globals at the top level, also for code that asks for them."""
    scope = scope_of(hidden=7, box=type("Box", (), {})())
    scope.namespace["ns"] = scope.namespace
    scope.namespace["box"].side = 2
    assert run(read(code, scope)) == expected
    assert scope.namespace.get("made") == (7 if code == "exec('made = hidden')" else None)


def test_exec_defines_functions_that_work() -> None:
    """A script run by ``exec`` finds its own functions and stays in the namespace."""
    scope = scope_of(script="def a():\n    return b()\ndef b():\n    return 'b'\nresult = a()")
    run(read("exec(script)", scope))
    assert scope.namespace["result"] == "b"


def test_locals_of_the_calling_function_come_first() -> None:
    """Then the user's namespace, then the built-in names."""
    scope = scope_of(a="global a", b="global b")
    scope = Scope(scope.namespace, local={"a": "local a", "len": lambda _: "my len"})
    assert run(read("same(a, b, len(''), max(1, 2))", scope)) == (
        "local a",
        "global b",
        "my len",
        2,
    )
    assert run(read("[a for _ in b][0]", scope)) == "local a"


def test_inside_a_function_eval_sees_its_locals() -> None:
    """It cannot be known which ones it needs, so it gets them all."""
    scope = Scope(scope_of(b="global b").namespace, local={"a": "local a", "c": 3})
    assert run(read("eval('(a, b)')", scope)) == ("local a", "global b")
    assert run(read("locals()['c']", scope)) == 3
    before = set(scope.namespace)
    run(read("exec('made = a')", scope))
    assert set(scope.namespace) == before


def test_inside_a_function_walrus_stays_in_the_expression() -> None:
    """It can bind neither the caller's local nor, silently, a global."""
    scope = Scope(scope_of(y="global").namespace, local={"n": 3})
    work = read("same(m := n + 1, m, n := 9, n)", scope)
    assert work.assigns == frozenset()
    assert run(work) == (4, 4, 9, 9)
    assert run(read("same(y, y := 1, y)", scope)) == ("global", 1, 1)
    assert "m" not in scope.namespace
    assert scope.namespace["y"] == "global"
    assert scope.local == {"n": 3}


def test_a_namespace_given_as_locals_is_the_top_level() -> None:
    """Shells pass the namespace for both."""
    namespace = scope_of().namespace
    work = read("x = same(y := 1)", Scope(namespace, local=namespace))
    assert work.assigns == {"x", "y"}


@pytest.mark.parametrize("code", ["same(data)", "data", "[data for _ in 'a']", "x = same(data)"])
def test_late_names_are_looked_up_when_the_call_runs(code: str) -> None:
    """What another job assigns first need not exist, and is not taken as it is now."""
    with pytest.raises(BadInput, match="name 'data' is not defined"):
        read(code, scope_of())
    for early in ({}, {"data": "stale"}):
        scope = scope_of(**early)
        work = read(code, scope, late=frozenset({"data"}))
        scope.namespace["data"] = "fresh"
        assert "fresh" in str(run(work))


def test_a_late_function_is_called_and_a_late_awaitable_handed_on() -> None:
    """What a bare late name is, only the run can tell."""
    scope = scope_of()
    work = read("step", scope, late=frozenset({"step"}))
    assert not work.is_async
    scope.namespace["step"] = lambda: "stepped"
    assert run(work) == "stepped"
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    future.get_loop().close()
    scope.namespace["step"] = future
    assert run(work) is future


def test_late_applies_to_targets_and_not_to_locals() -> None:
    """A local of the calling function is not what another job assigns."""
    scope = scope_of()
    work = read("data['k'] = same(1)", scope, late=frozenset({"data"}))
    scope.namespace["data"] = kept = {}
    assert work.store is not None
    work.store(run(work))
    assert kept == {"k": (1,)}
    scope = Scope(scope.namespace, local={"data": "local"})
    assert run(read("same(data)", scope, late=frozenset({"data"}))) == ("local",)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("fech(1)", "name 'fech' is not defined: did you mean 'fetch'?"),
        ("same(lambda: qqqq)", "name 'qqqq' is not defined"),
        ("qqqq", "name 'qqqq' is not defined"),
        ("qqqq.zzzz(1)", "name 'qqqq' is not defined"),
        ("[q for q in 'a' for qqqq in zzzz]", "name 'zzzz' is not defined"),
        ("qqqq[0] = same(1)", "name 'qqqq' is not defined"),
        ("x = same(x)", "name 'x' is not defined"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(code: str, message: str) -> None:
    """In one line, before anything is launched."""
    with pytest.raises(BadInput) as caught:
        read(code, scope_of(fetch=print))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


_names = st.sampled_from(["a", "b", "c", "d"])


def _larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def form(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda given: template.format(*given))

    return st.one_of(
        form("({}, {})", smaller, smaller),
        form("[{} for {} in [{}]]", smaller, _names, smaller),
        form("[{} for {} in [{}] for {} in [{}]]", smaller, _names, smaller, _names, smaller),
        form("[{} for {} in [1] if [{}]]", smaller, _names, smaller),
        form("{{str({}): {} for {} in [{}]}}", smaller, smaller, _names, smaller),
        form("list({} for {} in [{}])", smaller, _names, smaller),
        form("(lambda {}: {})({})", _names, smaller, smaller),
        form("(lambda {}={}: {})()", _names, smaller, smaller),
        form("(lambda *{}, **_: {})({})", _names, smaller, smaller),
        form("({} if {} else 0)", smaller, smaller),
        form("f'{{{}}}'", _names),
    )


@settings(deadline=None)
@given(st.recursive(_names, _larger, max_leaves=8).map(lambda code: f"tuple([{code}])"))
@example("tuple([[a for a in [a] for b in [a]]])")
def test_any_nest_of_scopes_gives_what_a_cell_gives(code: str) -> None:
    """Changed names do not matter afterwards, and no name is bound too few or too many."""
    names = {"a": 1, "b": "two", "c": (3,), "d": None}
    plain: dict[str, Any] = {}
    exec(f"def function(a, b, c, d): return {code}", plain)
    try:
        expected = plain["function"](**names)
        assert expected == eval(code, dict(names))
    except NameError:  # Python 3.12 and 3.13.0 lose names in some nests of comprehensions
        reject()
    scope = scope_of(**names)
    work = read(code, scope)
    scope.namespace.update(dict.fromkeys(names, "changed"))
    assert run(work) == expected


def test_the_names_of_builtins_are_not_the_only_ones() -> None:
    """A user's name hides a built-in one."""
    assert run(read("len('')", scope_of(len=lambda _: "mine"))) == "mine"
    assert run(read("len('')", scope_of())) == 0
    assert builtins.len("") == 0


@pytest.mark.parametrize(
    ("code", "value", "label"),
    [
        ("same(u)", "Oslo", "same('Oslo')"),
        ("same(u)", 0.25, "same(0.25)"),
        ("same(u, k=[u, 1])", None, "same(None, k=[None, 1])"),
        ("x = same(u)", True, "x = same(True)"),
        ("same(u)", PurePosixPath("/data/a.csv"), "same('a.csv')"),
        ("same(  u  )", object(), "same(  u  )"),
        ("same(u)", "x" * 21, "same(u)"),
        ("same(u)", 10**400, "same(u)"),
        ("same([u for u in 'ab'])", 1, "same([u for u in 'ab'])"),
        ("same(lambda u: u)", 1, "same(lambda u: u)"),
        ("same(f'{u}')", "it's", "same(f'{u}')"),
        ("same('u', 1)", 5, "same('u', 1)"),
    ],
)
def test_the_name_shows_plain_values(code: str, value: Any, label: str) -> None:
    """So that the jobs of a loop can be told apart; it runs with the value all the same."""
    work = read(code, scope_of(u=value))
    assert work.label == label
    assert work.code == code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lock = Lock()\nwith lock: f()", {"lock"}),
        ("x += 1", set()),
        ("y = x\nx = y", {"y"}),
        ("def f(): return x\nx = 1", {"f"}),
        ("x = 1\ndef f(): return x + z", {"x", "f"}),
        ("if z:\n    x = 1\nprint(x)", set()),
        ("try:\n    x = f()\nexcept OSError:\n    print(x)", set()),
        ("import os\nfor os.x in y: pass", {"os"}),
        ("a = b = [c for c in d]", {"a", "b"}),
    ],
)
def test_what_is_surely_bound_before_it_is_loaded(text: str, expected: set[str]) -> None:
    """So a cell in a process needs nothing of that name from the session."""
    assert bound_first(compile(text, "", "exec")) >= expected - {"a", "b"}
    assert bound_first(compile(text, "", "exec")) <= expected
