"""What cannot be read: one line that helps, or a syntax error that points at the text."""

from __future__ import annotations

import asyncio
import linecache
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work import Scope, read

FUNCTIONS = """
import types
def gen(n=3):
    yield n
async def agen(n=3):
    yield n
class Api:
    def gen(self):
        yield 1
    async def agen(self):
        yield 1
    def __call__(self):
        yield 1
api = Api()
generator = gen()
async_generator = agen()
xs = [1, 2]
number = 5
text = 'text'
nothing = None
job = types.SimpleNamespace(number=3, state='running', result=lambda: 1)
def fail():
    raise ValueError('boom')
async def afail():
    raise ValueError('boom')
"""


def scope_of(**options: Any) -> Scope:
    """A user's namespace with what the errors are about."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(FUNCTIONS, namespace)
    return Scope(namespace, **options)


WOULD_DO = "give a call such as f(x), an awaitable, a function without arguments, or statements"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("42", f"42 is nothing to run: {WOULD_DO}"),
        ("-1", f"-1 is nothing to run: {WOULD_DO}"),
        ("None", f"None is nothing to run: {WOULD_DO}"),
        ("...", f"... is nothing to run: {WOULD_DO}"),
        ("'text'", f"'text' is nothing to run: {WOULD_DO}"),
        ("f'{number}'", f"f'{{number}}' is nothing to run: {WOULD_DO}"),
        ("[1, (2, {3: 4})]", f"[1, (2, {{3: 4}})] is nothing to run: {WOULD_DO}"),
        (repr("x" * 99), f"… is nothing to run: {WOULD_DO}"),
        ("number", f"number is an int, nothing to run: {WOULD_DO}"),
        ("text", f"text is a str, nothing to run: {WOULD_DO}"),
        ("nothing", f"nothing is a NoneType, nothing to run: {WOULD_DO}"),
        ("job.number", f"job.number is an int, nothing to run: {WOULD_DO}"),
        ("job", "job 3 is running already: %fg 3 returns to it"),
        ("gen()", "gen() only makes a generator and runs nothing: write list(gen())"),
        ("gen", "gen() only makes a generator and runs nothing: write list(gen())"),
        ("api.gen()", "api.gen() only makes a generator and runs nothing: write list(api.gen())"),
        ("api", "api() only makes a generator and runs nothing: write list(api())"),
        ("x = gen(2)", "gen(2) only makes a generator and runs nothing: write list(gen(2))"),
        ("lambda: gen()", "gen() only makes a generator and runs nothing: write list(gen())"),
        (
            "agen()",
            "agen() only makes an async generator and runs nothing: "
            "write [x async for x in agen()]",
        ),
        (
            "api.agen",
            "api.agen() only makes an async generator and runs nothing: "
            "write [x async for x in api.agen()]",
        ),
        (
            "generator",
            "generator is a generator, which runs nothing by itself: write list(generator)",
        ),
        (
            "async_generator",
            "async_generator is an async generator, which runs nothing by itself: "
            "write [x async for x in async_generator]",
        ),
        (
            "(x + 1 for x in xs)",
            "a generator expression runs nothing by itself: write [x + 1 for x in xs]",
        ),
        (
            "(x async for x in agen())",
            "a generator expression runs nothing by itself: write [x async for x in agen()]",
        ),
    ],
)
def test_what_is_nothing_to_run(code: str, message: str) -> None:
    """One line says what was given and what would work."""
    with pytest.raises(BadInput) as caught:
        read(code, scope_of())
    assert str(caught.value) == message


def test_what_the_messages_suggest_works() -> None:
    """``list(…)`` and the async comprehension are accepted."""
    assert read("list(gen())", scope_of()).call() == [3]
    work = read("[x async for x in agen()]", scope_of())
    assert work.is_async
    assert asyncio.run(work.call()) == [3]


@pytest.mark.parametrize(
    ("code", "message", "line", "offset"),
    [
        ("fail(", "was never closed", 1, 5),
        ("xs xs", "invalid syntax", 1, 4),
        ("fail(1) = 3", "cannot assign to function call", 1, 1),
        ("a = 1\nb = = 2", "invalid syntax", 2, 5),
        ("return 3", "'return' outside function", 1, 1),
        ("yield 3", "'yield' outside function", 1, 1),
        ("x = yield", "'yield' outside function", 1, 5),
        ("[(yield) for _ in xs]", "'yield' inside list comprehension", 1, 3),
        ("fail() if xs else (yield)", "'yield' outside function", 1, 20),
        ("*xs", "can't use starred expression here", 1, 1),
        ("break", "'break' outside loop", 1, 1),
        ("lambda: await fail()", "'await' outside", 1, 9),
        ("def f():\n    nonlocal q", "no binding for nonlocal 'q' found", 2, 5),
        ("if xs:\nfail()", "expected an indented block", 2, 1),
    ],
)
@pytest.mark.parametrize("first_line", [1, 7])
def test_syntax_errors_point_at_the_text(
    code: str, message: str, line: int, offset: int, first_line: int
) -> None:
    """Line, column and text are the user's own, at their place in the cell."""
    with pytest.raises(SyntaxError, match=message) as caught:
        read(code, scope_of(first_line=first_line, name_source=lambda _: "<cell>"))
    error = caught.value
    assert (error.filename, error.lineno, error.offset) == ("<cell>", first_line + line - 1, offset)
    assert (error.text or "").strip() == code.splitlines()[line - 1].strip()
    assert error.__cause__ is None


def test_syntax_errors_beside_ipython_syntax() -> None:
    """A magic is no mistake; the error is the one that remains after translation."""

    def transform(text: str) -> str:
        return text.replace("!ls", "system('ls')").replace("%%", "magic(" + "x" * 10)

    with pytest.raises(SyntaxError) as caught:
        read("!ls\nfail(1 1)", scope_of(transform=transform), cell=True)
    assert (caught.value.lineno, caught.value.text) == (2, "fail(1 1)\n")
    with pytest.raises(SyntaxError) as caught:
        read("1 + %% 2", scope_of(transform=transform))
    assert (caught.value.text or "").rstrip() == "1 + %% 2"


def test_a_transformer_that_gives_up_leaves_the_first_error() -> None:
    """Its own complaint is about text that nobody wrote."""

    def transform(text: str) -> str:
        raise SyntaxError("gave up")

    with pytest.raises(SyntaxError, match="invalid syntax") as caught:
        read("xs xs", scope_of(transform=transform))
    assert caught.value.text is not None


def frames_of(call: Callable[[], Any]) -> list[traceback.FrameSummary]:
    """The frames of the exception that the call raises, from the user's code on."""
    try:
        call()
    except ValueError as error:
        return traceback.extract_tb(error.__traceback__)[1:]
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("fail()", [(1, "fail()")]),
        ("fail", [(1, "fail")]),
        ("x = fail()", [(1, "x = fail()")]),
        ("len(\n    [\n        fail()\n    ]\n)", [(3, "fail()")]),
        ("lambda: fail()", [(1, "lambda: fail()"), (1, "lambda: fail()")]),
        ("1 if fail() else 2", [(1, "1 if fail() else 2")]),
    ],
)
@pytest.mark.parametrize("first_line", [1, 12])
def test_tracebacks_show_the_users_lines(
    code: str, lines: list[tuple[int, str]], first_line: int
) -> None:
    """Numbers are those of the cell."""
    work = read(code, scope_of(first_line=first_line))
    frames = [each for each in frames_of(work.call) if each.filename == work.source]
    assert [(each.lineno, each.line) for each in frames] == [
        (first_line + number - 1, line) for number, line in lines
    ]
    assert frames[0].name == "<module>"


@pytest.mark.parametrize(
    "code", ["1\nfail()", "fail()\n1", "def f():\n    fail()\nf()", "await afail()\n1"]
)
def test_tracebacks_of_cells_show_the_users_lines(code: str) -> None:
    """Statements, functions that they define, and async cells."""
    work = read(code, scope_of(first_line=3), cell=True)
    call = (lambda: asyncio.run(work.call())) if work.is_async else work.call
    frames = [each for each in frames_of(call) if each.filename == work.source]
    typed = ["", "", *code.splitlines()]
    assert frames
    assert all(each.line == typed[(each.lineno or 0) - 1].strip() for each in frames)


def test_tracebacks_of_async_work_and_of_targets() -> None:
    """The awaiting frame and the assignment show the same line."""
    work = read("xs[9] = await afail()", scope_of())
    frames = frames_of(lambda: asyncio.run(work.call()))
    assert "xs[9] = await afail()" in [each.line for each in frames]
    work = read("xs[fail()] = len(xs)", scope_of())
    assert work.store is not None
    store = work.store
    frames = frames_of(lambda: store(2))
    assert [each.line for each in frames if each.filename == work.source] == [
        "xs[fail()] = len(xs)"
    ]


def test_the_shell_may_name_the_source() -> None:
    """The name is asked for once, with empty lines for those above in the cell."""
    asked: list[str] = []

    def name_source(text: str) -> str:
        asked.append(text)
        return "<cell 5>"

    work = read("x = fail()", scope_of(first_line=3, name_source=name_source))
    assert (work.source, asked) == ("<cell 5>", ["\n\nx = fail()"])
    assert frames_of(work.call)[0].filename == "<cell 5>"


def test_translated_code_shows_what_was_typed() -> None:
    """Unless translation moved the lines."""
    scope = scope_of(transform=lambda text: text.replace("%boom", "fail()"))
    assert frames_of(read("%boom", scope).call)[0].line == "%boom"
    scope = scope_of(transform=lambda text: text.replace("%boom", "1\nfail()"))
    assert frames_of(read("%boom", scope).call)[-2].line == "fail()"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["fail()", " fail( )", "fail ( )" + " " * 50, "\nfail()"]), max_size=6)
)
def test_each_source_text_is_found_by_its_name(codes: list[str]) -> None:
    """Texts with one label get different names, the same text gets one."""
    works = [read(code, scope_of(first_line=2)) for code in codes]
    for code, work in zip(codes, works, strict=True):
        assert work.source is not None
        assert work.source.startswith("<%bg fail")
        found = "".join(linecache.getlines(work.source))
        assert found.strip() == code.strip()
    texts = {"".join(linecache.getlines(work.source or "")) for work in works}
    assert len(texts) == len({work.source for work in works})
    linecache.checkcache()
    assert all(linecache.getlines(work.source or "") for work in works)
