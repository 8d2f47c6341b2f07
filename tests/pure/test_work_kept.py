"""What is kept of a text that is launched again: it changes nothing of what a launch means."""

from __future__ import annotations

import ast
import asyncio
import functools
import linecache
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipy_bgtasks.work import Forms, Scope, Work, read

# What the names of the programs may stand for.


def plain(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A function."""
    return ("plain", *args)


async def later(*args: Any) -> tuple[Any, ...]:
    """A coroutine function."""
    return ("later", *args)


def makes(*args: Any) -> Any:
    """A function whose value is awaitable, which cannot be known before."""
    return later(*args)


def generator(*args: Any) -> Any:
    """Nothing to launch."""
    yield args


class Thing:
    """Something with methods, attributes and items."""

    field = 3

    def method(self, *args: Any) -> tuple[Any, ...]:
        """A method."""
        return ("method", *args)

    async def coroutine(self, *args: Any) -> tuple[Any, ...]:
        """A coroutine method."""
        return ("coroutine", *args)

    @property
    def computed(self) -> Callable[..., Any]:
        """What only running tells."""
        return plain


class Callable_(Thing):
    """An object whose call is a coroutine."""

    async def __call__(self, *args: Any) -> tuple[Any, ...]:
        return ("called", *args)


VALUES: dict[str, Callable[[], Any]] = {
    "plain": lambda: plain,
    "later": lambda: later,
    "makes": lambda: makes,
    "generator": lambda: generator,
    "class": lambda: Thing,
    "thing": Thing,
    "callable": Callable_,
    "partial": lambda: functools.partial(later, 1),
    "functools.partial": lambda: functools.partial,
    "list": lambda: [1, 2],
    "dict": dict,
    "number": lambda: 7,
    "locals": lambda: locals,
    "eval": lambda: eval,
}
ADDRESS = re.compile(r" at 0x\w+")
NAMES = ("f", "g", "x", "y", "d")


def _calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    name = st.sampled_from(NAMES)
    attribute = st.sampled_from(["method", "coroutine", "computed", "field"])
    return st.one_of(
        st.builds("{}({})".format, name, inner),
        st.builds("{}({}, {})".format, name, name, inner),
        st.builds("{}.{}({})".format, name, attribute, inner),
        st.builds("lambda: {}".format, inner),
        st.builds("(lambda {}: {})({})".format, name, inner, inner),
        st.builds("({} := {})".format, name, inner),
        st.builds("[{} for {} in {}]".format, inner, name, inner),
        st.builds("[({} := {}) for i in (1, 2)]".format, name, inner),
        st.builds("list({} for {} in {} if {})".format, inner, name, inner, inner),
        st.builds("(await {})".format, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("f'{{{}}}'".format, name),
        st.builds("({}, {})".format, inner, inner),
        st.builds("{}[{}]".format, name, inner),
        st.builds("(yield {})".format, inner),
    )


EXPRESSIONS = st.recursive(
    st.sampled_from([*NAMES, *(f"{n}.{a}" for n in NAMES for a in ("method", "computed")), "1"]),
    _calls,
    max_leaves=5,
)
PROGRAMS = st.one_of(
    EXPRESSIONS,
    st.builds("{}()".format, EXPRESSIONS),
    st.builds("await {}".format, EXPRESSIONS),
    st.builds("{} = {}".format, st.sampled_from([*NAMES, "d['k']", "x, y", "d[x]"]), EXPRESSIONS),
    st.builds("x: int = {}".format, EXPRESSIONS),
    st.builds("x = y = {}".format, EXPRESSIONS),
    st.builds("{}; {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("x = {}; {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("def f(): return {}".format, EXPRESSIONS),
    st.builds("for x in (1, 2): {}".format, EXPRESSIONS),
    st.sampled_from(["f(", "return 1", "!ls", "# nothing", "f(x)[0]", "functools.partial(f, x)"]),
)


@dataclass(frozen=True)
class Launch:
    """One launch, and what is done to the names before it."""

    program: int
    line: int = 1
    source: int = 1
    values: dict[str, str] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()
    local: dict[str, str] | None = None
    late: frozenset[str] = frozenset()
    forgets: bool = False
    """Whether the names of all sources are forgotten before."""


VALUE_OF_NAME = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(sorted(VALUES)), max_size=3)
SOME_NAMES = st.frozensets(st.sampled_from(NAMES), max_size=1)
LAUNCHES = st.builds(
    Launch,
    program=st.integers(0, 3),
    line=st.integers(1, 2),
    source=st.integers(1, 2),
    values=VALUE_OF_NAME,
    deleted=SOME_NAMES,
    local=st.none() | VALUE_OF_NAME,
    late=SOME_NAMES,
    forgets=st.booleans(),
)


def outcome(work: Callable[[], Any]) -> Any:
    """What it gives or raises, in words."""
    try:
        return shown(work())
    except BaseException as error:
        return type(error).__name__, ADDRESS.sub("", str(error)), raised_at(error)


def raised_at(error: BaseException) -> list[tuple[int | None, str]]:
    """Where in the programs it was raised, as a traceback shows it."""
    frames = traceback.extract_tb(error.__traceback__)
    return [(f.lineno, f.line or "") for f in frames if f.filename.startswith("<%bg")]


def shown(value: Any) -> Any:
    """The value without addresses."""
    if isinstance(value, tuple | list):
        return type(value).__name__, [shown(each) for each in value]
    if isinstance(value, dict):
        return {key: shown(each) for key, each in value.items() if key in NAMES}
    if isinstance(value, int | str | None):
        return ADDRESS.sub("", value) if isinstance(value, str) else value
    return type(value).__name__, getattr(value, "__name__", "")


def run(work: Work) -> Any:
    """Run it wherever it belongs, and bind what it assigns."""

    async def whole() -> Any:
        value = work.call()
        return await value if work.is_async else value

    value = asyncio.run(whole()) if work.is_async else work.call()
    if work.store is not None:
        work.store(value)
    return value


def name_source(text: str, source: int) -> str:
    """Name a source as IPython does: by its text and the number of the cell."""
    name = f"<%bg {source} {text!r}>"
    linecache.cache[name] = (len(text), None, [f"{line}\n" for line in text.split("\n")], name)
    return name


def history(programs: list[str], launches: list[Launch], forms: Forms | None) -> list[Any]:
    """All that these launches do: read one after the other, then run."""
    linecache.clearcache()
    namespace: dict[str, Any] = {"__name__": "__main__", "functools": functools, "d": {}}
    read_ones: list[Any] = []
    for launch in launches:
        if launch.forgets:
            linecache.clearcache()
        namespace.update({name: VALUES[value]() for name, value in launch.values.items()})
        for name in launch.deleted:
            namespace.pop(name, None)
        local = launch.local
        scope = Scope(
            namespace,
            local=None if local is None else {name: VALUES[v]() for name, v in local.items()},
            first_line=launch.line,
            source=launch.source,
            name_source=functools.partial(name_source, source=launch.source),
        )
        code = programs[launch.program % len(programs)]
        try:
            read_ones.append(read(code, scope, late=launch.late, forms=forms))
        except Exception as error:
            read_ones.append((type(error).__name__, str(error)))
    found: list[Any] = []
    for one in read_ones:
        if isinstance(one, Work):
            about = one.label, one.code, one.is_async, sorted(one.assigns), one.source
            found.append((about, one.store is None, outcome(functools.partial(run, one))))
        else:
            found.append(one)
    return [*found, shown(namespace)]


def launches(*values: dict[str, str], **last: Any) -> list[Launch]:
    """Launches of the first program, each with these names changed before."""
    return [*(Launch(0, values=each) for each in values), Launch(0, **last)]


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=120)
@given(st.lists(PROGRAMS, min_size=1, max_size=4), st.lists(LAUNCHES, min_size=2, max_size=8))
@example(["f(x)"], launches({"f": "plain", "x": "number"}, {"f": "later"}))
@example(["f"], launches({"f": "plain"}, {"f": "later"}, {"f": "makes"}, {"f": "number"}))
@example(["x = f(y := x)"], launches({"f": "plain", "x": "number"}, local={}))
@example(["f('x')"], launches({"f": "eval", "x": "number"}, local={"x": "dict"}))
def test_a_text_means_the_same_whenever_it_is_launched(
    programs: list[str], each: list[Launch]
) -> None:
    """Whatever was launched before, however its names have changed, wherever it stands."""
    assert history(programs, each, Forms(2)) == history(programs, each, None)


def test_the_same_text_is_compiled_once() -> None:
    """A loop launches it again and again."""
    forms, namespace = Forms(), {"f": plain, "x": 0}
    scope = Scope(namespace, source=1)
    works = []
    for n in range(3):
        namespace["x"] = n
        works.append(read("f(x)", scope, forms=forms))
    assert [work.call() for work in works] == [("plain", n) for n in range(3)]
    assert len({id(work.call.func.__code__) for work in works}) == 1  # type: ignore[attr-defined]
    namespace["f"] = later
    work = read("f(x)", scope, forms=forms)
    assert work.is_async
    assert asyncio.run(work.call()) == ("later", 2)


def test_few_texts_are_kept_and_no_values() -> None:
    """The ones used last; a large text is not worth its tree."""
    forms = Forms(3)
    for n in range(9):
        read(f"f({n})", Scope({"f": plain}, source=1), forms=forms)
        read("f()", Scope({"f": plain}, source=1), forms=forms)
    read(f"f({','.join('1' * 3000)})", Scope({"f": plain}, source=1), forms=forms)
    assert [key[0] for key in forms._kept] == ["f(7)", "f(8)", "f()"]


def test_what_the_shell_may_read_in_another_way_is_read_anew() -> None:
    """IPython's syntax, a user's own transformer, and a source whose name is not known."""
    forms, namespace = Forms(), {"f": plain}
    meanings = iter(["f(1)", "f(2)"])
    for n in (1, 2):
        scope = Scope(namespace, source=1, transform=lambda _: next(meanings))
        assert read("%magic", scope, forms=forms).call() == ("plain", n)

    class Next(ast.NodeTransformer):
        count = 0

        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            self.count += 1
            return ast.copy_location(ast.Constant(self.count), node)

    following = Next()
    for n in (1, 2):
        scope = Scope(namespace, source=1, transform_ast=following.visit)
        assert read("f(0)", scope, forms=forms).call() == ("plain", n)
    read("f(0)", Scope(namespace), forms=forms)
    assert len(forms) == 0


def test_a_traceback_shows_the_line_though_the_source_was_forgotten() -> None:
    """As when all jobs of that text were discarded, and it is launched again."""
    forms = Forms()
    scope = Scope({"x": 0}, source=1, first_line=3)
    for _ in range(2):
        work = read("1 / x", scope, forms=forms)
        with pytest.raises(ZeroDivisionError) as error:
            work.call()
        assert raised_at(error.value) == [(3, "1 / x")]
        linecache.clearcache()
