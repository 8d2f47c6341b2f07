"""The text of CODE: its label and file name, and its syntax tree."""

from __future__ import annotations

import ast
import linecache
from typing import TYPE_CHECKING

from ipy_bgtasks.errors import BadInput

if TYPE_CHECKING:
    from ipy_bgtasks.work.model import Scope


LABEL_WIDTH = 60


class Text:
    """CODE as typed, the same text at its place in the cell, and the tree it means."""

    __slots__ = ("_name", "_name_source", "code", "is_python", "label", "shown", "tree")

    def __init__(
        self, code: str, shown: str, tree: ast.Module, scope: Scope, *, is_python: bool
    ) -> None:
        self.code = code
        self.label = label_of(code)
        self.shown = shown
        self.tree = tree
        #: Whether the text is Python as typed; else only the shell knows what it means.
        self.is_python = is_python
        self._name_source = scope.name_source
        self._name: str | None = None

    @property
    def name(self) -> str:
        """The file name for tracebacks, registered when first asked for."""
        if self._name is None:
            self._name = self._name_source(self.shown)
        return self._name

    def registered_name(self) -> str:
        """Return `name`, registered again if it was forgotten since it was first asked for."""
        if self._name is not None and self._name not in linecache.cache:
            self._name = None
        return self.name

    def pointing_here(self, error: SyntaxError) -> SyntaxError:
        """Return the error of a later compile step, with the user's line to show."""
        return _completed(error, self.shown, self.name)


def parse(code: str, scope: Scope) -> Text:
    """Read the text as Python, or failing that as IPython syntax.

    Raises ``BadInput`` if it is empty, and ``SyntaxError`` that points at the text as typed if it
    is neither.
    """
    # A magic's argument may start with blanks; the indentation of a block shows on a later line.
    text = code if "\n" in code else code.lstrip(" \t")
    pad = "\n" * (scope.first_line - 1)
    shown = pad + text
    is_python = True
    try:
        tree = _parse(shown)
    except SyntaxError as error:
        is_python = False
        python = _transformed(text, scope, error, shown)
        try:
            tree = scope.transform_magics(_parse(pad + python))
        except SyntaxError as second:
            raise _pointing(error, second, shown, scope) from None
        if python.count("\n") - python.endswith("\n") != text.count("\n") - text.endswith("\n"):
            shown = pad + python  # lines no longer match: show what runs, not the wrong lines
    tree = scope.transform_ast(tree)
    if not tree.body:
        raise BadInput(
            "no code to run: give a call such as f(x), an awaitable, a function without "
            "arguments, an assignment or statements"
        )
    return Text(code, shown, tree, scope, is_python=is_python)


def _parse(text: str) -> ast.Module:
    # Future statements of this module must not apply to the user's code.
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree: ast.Module = compile(text, "<%bg>", "exec", flags, dont_inherit=True)
    return tree


def _transformed(text: str, scope: Scope, error: SyntaxError, shown: str) -> str:
    try:
        return scope.transform(text)
    except SyntaxError:
        raise _completed(error, shown, scope.name_source(shown)) from None


def _pointing(first: SyntaxError, second: SyntaxError, shown: str, scope: Scope) -> SyntaxError:
    """Return the one of the errors before and after transformation that is about what was typed.

    The second knows that a magic is valid, but may show a line that the user did not write.
    """
    lines = shown.split("\n")
    line = second.lineno or 0
    as_typed = 0 < line <= len(lines) and lines[line - 1] == (second.text or "").rstrip("\n")
    return _completed(second if as_typed else first, shown, scope.name_source(shown))


def _completed(error: SyntaxError, shown: str, name: str) -> SyntaxError:
    error.filename = name
    lines = shown.split("\n")
    if error.text is None and error.lineno is not None and 0 < error.lineno <= len(lines):
        error.text = lines[error.lineno - 1]
    return error


def label_of(code: str) -> str:
    """Return the code on one line, shortened to 60 characters."""
    line = code.strip()
    if "\n" in line:
        line = " ".join(line.split())
    return line if len(line) <= LABEL_WIDTH else line[: LABEL_WIDTH - 1].rstrip() + "…"


def label_of_cell(code: str) -> str:
    """Return the first line of a cell that is not empty, shortened likewise."""
    return label_of(next((line for line in code.splitlines() if line.strip()), code))


def name_source(text: str) -> str:
    """Make the text known to tracebacks and return the file name that finds it.

    The same text gets the same name. May be called from any thread.
    """
    lines = [line + "\n" for line in text.split("\n")]
    label = label_of(text)
    name, count = f"<%bg {label}>", 1
    # No modification time, so that linecache never looks for such a file on the disk.
    entry = (len(text), None, lines, name)
    while linecache.cache.setdefault(name, entry)[2:3] != (lines,):
        count += 1
        name = f"<%bg {label} #{count}>"
        entry = (len(text), None, lines, name)
    return name
