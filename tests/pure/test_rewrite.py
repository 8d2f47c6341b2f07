"""Rewriting the magics that wait to `await`, on the text that IPython made of a cell."""

from __future__ import annotations

import ast

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from ipy_bgtasks.session.rewriting import await_magics, awaits


def rewritten(cell: str, **options: bool) -> str:
    """The cell as IPython would compile it."""
    lines = TransformerManager().transform_cell(cell).splitlines(keepends=True)
    return "".join(await_magics(lines, **options))


FG = "get_ipython().run_line_magic('fg', '{}')"
AWAITED = "(await get_ipython().run_line_magic('fg', '{}'))"


@pytest.mark.parametrize(
    "cell",
    [
        "%fg 3",
        "x = %fg 3",
        "x = %fg 3\ny = %fg 3",
        "for i in range(3):\n    %fg 3",
        "if x:\n    y = %fg 3\nelse:\n    %fg 3",
        "try:\n    %fg 3\nfinally:\n    %fg 3",
        "with a:\n    %fg 3",
        "async def f():\n    return (await g())\n    %fg 3",
        "async with a:\n    %fg 3",
        "async for x in y:\n    %fg 3",
        "def f():\n    async def g():\n        x = %fg 3",
        "class A:\n    async def g(self):\n        %fg 3",
        "'%fg 3'\n%fg 3\n'''\n%fg 4\n'''",
        "é = 'ü'; y = 'ö'\nà = %fg 3",
        "x = 1; y = get_ipython().run_line_magic('fg', '3')",
    ],
)
def test_a_magic_at_the_top_level_or_in_async_def_is_awaited(cell: str) -> None:
    """All else, line numbers included, stays as it was."""
    plain = "".join(TransformerManager().transform_cell(cell))
    assert rewritten(cell) == plain.replace(FG.format(3), AWAITED.format(3))
    assert awaits(rewritten(cell)) or "async def" in cell


@pytest.mark.parametrize(
    "cell",
    [
        "def f():\n    %fg 3",
        f"def f():\n    return [{FG.format(3)} for i in x]",
        "class A:\n    %fg 3",
        "f = lambda: " + FG.format(3),
        "async def f():\n    def g():\n        %fg 3",
        "'''\n%fg 3\n'''",
        "s = " + repr(FG.format(3)),
        "%jobs",
        "%jobs 3 -a",
        "%bg f()",
        "%time %fg 3",
        "%%capture\n%fg 3",
        "other.run_line_magic('fg', '3')",
        "x = (await f())",
        f"x = (await {FG.format(3)})",
        f"print(await {FG.format('f(4)')})",
    ],
)
def test_what_cannot_or_need_not_await_is_left_alone(cell: str) -> None:
    """There the magic itself says so, or need not wait."""
    plain = "".join(TransformerManager().transform_cell(cell))
    assert rewritten(cell) == plain


@pytest.mark.parametrize(
    ("cell", "times"),
    [
        ("%cancel 3", 1),
        ("%cancel all -f\n%fg", 2),
        ("%jobs -w", 1),
        ("%jobs --watch 3", 1),
        ("%jobs -av\n%jobs -aw", 1),
        ("%%fg -q\nf()\ng()", 1),
        ("await f()\n%fg 3", 1),
        (f"[{FG.format(3)} for i in x]", 1),
        (f"f({FG.format(1)}, {FG.format(2)})", 2),
    ],
)
def test_all_magics_that_wait_are_awaited(cell: str, times: int) -> None:
    """Several on one line, and `%%fg`, too."""
    assert rewritten(cell).count("(await get_ipython()") == times
    assert awaits(rewritten(cell))


@pytest.mark.parametrize("text", ["'", '"', "\\", "é", "{x}", "'''", "\\n"])
def test_the_line_arrives_as_typed(text: str) -> None:
    """Whatever is in it."""
    tree = _tree(rewritten(f"%fg f({text})"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    line = calls[0].args[1]
    assert isinstance(line, ast.Constant)
    assert line.value == f"f({text})"


def test_a_semicolon_after_the_magic_silences_its_value() -> None:
    """IPython looks for it at the end of the cell."""
    assert rewritten("%fg 3;").rstrip().endswith(";")
    assert not rewritten("x = 1;\n%fg 3").rstrip().endswith(";")


def test_cells_that_may_not_await_stay_as_they_are() -> None:
    """With `%autoawait off`, or another loop than asyncio's; that is asked only if it matters."""
    lines = TransformerManager().transform_cell("%fg 3").splitlines(keepends=True)
    assert await_magics(lines, enabled=lambda: False) == lines

    def unasked() -> bool:
        raise AssertionError

    assert await_magics(["x = 1\n"], enabled=unasked) == ["x = 1\n"]
    assert await_magics(["'fg', _magic(\n"], enabled=unasked) == ["'fg', _magic(\n"]


def test_a_body_that_does_not_await_itself_keeps_its_top_level() -> None:
    """A cell of `%%bg` is placed by its own text; its `async def` is rewritten all the same."""
    cell = "%fg 3\nasync def f():\n    %fg 4"
    text = rewritten(cell, top_level=False)
    assert FG.format(3) in text
    assert AWAITED.format(4) in text


@pytest.mark.parametrize("cell", ["x = = %fg 3\n%fg 3", "%fg 3\n\0"])
def test_what_is_no_python_is_left_to_ipython(cell: str) -> None:
    """It shows the error."""
    lines = [FG.format(3) + "\n", cell]
    assert await_magics(lines) == lines
    assert not awaits(cell)


def _tree(text: str) -> ast.Module:
    return compile(text, "", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
