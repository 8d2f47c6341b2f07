"""What CODE becomes, and what is needed to read it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from ipy_bgtasks.work.text import name_source


def _same_text(text: str) -> str:
    return text


def same_tree(tree: ast.Module) -> ast.Module:
    """Transform nothing."""
    return tree


@dataclass(slots=True)
class Work:
    """One thing to run, ready for any runner; none of it has run yet.

    ``call`` takes no arguments and may be called from any thread. Where ``is_async`` is true it
    is a coroutine function, to be called and awaited on one event loop; otherwise it returns the
    value, which may turn out to be awaitable. Where possible, it is a ``functools.partial`` of a
    compiled function and the names bound at launch as keywords, so that it can be pickled.
    """

    call: Callable[[], Any]
    label: str
    """The code on one line, at most 60 characters."""
    code: str
    """The text as typed."""
    is_async: bool
    """Whether the loop is the default place; otherwise a thread is."""
    store: Callable[[Any], None] | None = None
    """Binds the target of an assignment to the final value; raises what the assignment raises."""
    assigns: frozenset[str] = frozenset()
    """The plain names that running and storing bind in the user's namespace."""
    source: str | None = None
    """The file name under which the code was compiled."""


@dataclass(slots=True)
class Scope:
    """Where CODE stands: the names it sees and what the shell knows about its text.

    The namespace is the user's own dictionary, not a copy. The functions are called on the
    thread that reads; they must not run the user's code.
    """

    namespace: dict[str, Any]
    """The user's global namespace."""
    local: Mapping[str, Any] | None = None
    """The locals of the calling function; None at the top level."""
    transform: Callable[[str], str] = _same_text
    """Turns IPython syntax into Python text; asked only when the text is not Python."""
    transform_magics: Callable[[ast.Module], ast.Module] = same_tree
    """Completes the tree of the text that ``transform`` returned."""
    transform_ast: Callable[[ast.Module], ast.Module] = same_tree
    name_source: Callable[[str], str] = name_source
    """Source text -> the file name under which tracebacks find it. The text is preceded by
    empty lines, so that its line numbers are those of the cell."""
    first_line: int = 1
    """The line of the cell on which the code stands."""
    source: Hashable = None
    """What else ``name_source`` goes by: the same text and this give the same name. None: they
    may not, and nothing that is read is kept."""
