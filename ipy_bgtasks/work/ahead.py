"""Whether a cell may run before those that were there first, because it is one of our magics alone.

`%jobs`, `%cancel 3` and `%fg 3` concern jobs and nothing else. What `%bg` launches, and a job that
a variable holds, depend on what the cells before them do: `%bg evaluate(model)` behind
``model.fit(data)`` is meant for the fitted model. So a cell keeps its place as soon as a cell
before it mentions a name that it uses, unless that name is merely called there, or is a module.
"""

from __future__ import annotations

import builtins
import keyword
import re
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.work.names import touched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OURS = re.compile(
    r"\s*(?:(?P<target>[^\W\d]\w*)\s*=\s*)?"
    r"(?:%(?P<magic>bg|fg|jobs|cancel)\b(?P<line>[^\n]*)\s*|%%bg\b(?P<cell>[^\n]*\n.*))",
    re.DOTALL,
)
#: What names jobs: numbers, `%name`, `?text`, `@group`, variables, and options before them.
_SPECS = re.compile(r"[\w\s,;%?@+\-=.\[\]'\":]*(#.*)?")
#: The expression that `%jobs` is to show.
_SHOWN = re.compile(r"""--show[=\s]\s*("[^"]*"|'[^']*'|\S+)""")
#: Names, without attributes.
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")


def may_run_ahead(code: str, before: Iterable[str], variables: Mapping[str, Any]) -> bool:
    """Return whether a cell is one of our magics alone, and does not depend on those before it.

    *variables* are the user's, which are looked at and not touched.
    """
    ours = _OURS.fullmatch(code)
    if ours is None:
        return False
    text, launches = ours["line"], ours["magic"] == "bg"
    if text is None:
        text, launches = ours["cell"], True
    if launches and not text.strip(" ;"):
        return False  # `%bg` alone is about the cell that runs
    if ours["magic"] == "jobs":
        text = _SHOWN.sub("", text)  # its names are looked up in the job's code
    if not launches and not _SPECS.fullmatch(text):
        return False  # %fg CODE wants its turn in the foreground
    if re.search(r"(?:^|\s)!(?!=)", text):  # a command: only what is replaced in it is Python
        text = " ".join(re.findall(r"[{$][^}\s]*", text))
    used = _names(f"{ours['target'] or ''} {text}", variables)
    texts = list(before)
    mentioned = set().union(*(_names(each, variables) for each in texts))
    return not any(_depends(name, texts, variables) for name in used & mentioned)


def _names(text: str, variables: Mapping[str, Any]) -> set[str]:
    """Return the names in a text, and those that the user's functions among them load."""
    found: set[str] = set()
    waiting = [name for name in _NAME.findall(text) if not keyword.iskeyword(name)]
    while waiting:
        name = waiting.pop()
        if name in found or (name not in variables and hasattr(builtins, name)):
            continue
        found.add(name)
        value = variables.get(name)
        if type(value) is FunctionType and value.__globals__ is variables:
            loads, binds = touched(value.__code__)
            waiting += [*loads, *binds]
    return found


def _depends(name: str, texts: list[str], variables: Mapping[str, Any]) -> bool:
    """Return whether what *name* stands for may be another once code with *texts* has run."""
    kind = type(variables.get(name))
    if kind is ModuleType:
        return False
    if kind not in (FunctionType, BuiltinFunctionType) and not issubclass(kind, type):
        return True
    # Lookbehinds see what stands before the place at which a match is tried.
    otherwise = re.compile(rf"(?<![\w.])(?:(?<=def )|(?<=class )|(?!{name}\s*[(.])){name}\b")
    return any(otherwise.search(text) for text in texts)
