"""Which names CODE loads and binds, what they are bound to at launch, and who else uses them.

The names are read from bytecode: Python's own compiler knows every rule of scope, in every
version, and a visitor of syntax trees would have to repeat them. Two other ways were tried.
`symtable` answers wrongly from Python 3.12 on, where comprehensions are inlined into the code
around them; a visitor agreed with the bytecode on 14,000 random expressions, but was twice as long.
The names that pickled statements need are found in the same way (`ipy_bgtasks.runners.packing`).
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import keyword
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipy_bgtasks.errors import BadInput

if TYPE_CHECKING:
    from ipy_bgtasks.work.reading import Scope


_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_BINDS = frozenset({"STORE_NAME", "STORE_GLOBAL"})
#: What the compiler adds for annotations since Python 3.14: no names of the user's.
_COMPILERS = frozenset({"__annotate__", "__conditional_annotations__"})
_AWAITS = frozenset({"GET_AWAITABLE", "GET_ANEXT"})
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
#: Functions of their own before Python 3.12, in which ``:=`` binds names of the code around them.
_TRANSPARENT = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_PATHS = frozenset({PosixPath, WindowsPath, PurePosixPath, PureWindowsPath})
#: Characters of a text that stands for its name.
_SHORT = 20


class Names(NamedTuple):
    """What expressions need from the enclosing scope, and bind there.

    ``awaits`` and ``yields`` tell whether that scope would have to be a coroutine, a generator.
    """

    loads: Set[str]
    binds: frozenset[str]
    awaits: bool
    yields: bool


def touched(*codes: CodeType | None) -> tuple[dict[str, None], frozenset[str]]:
    """Return the global names that code loads, functions in it included, and those it binds."""
    loads: dict[str, None] = {}
    binds: set[str] = set()
    waiting = [(code, True) for code in codes if code is not None]
    while waiting:
        code, own = waiting.pop()
        for each in code.co_consts:
            if isinstance(each, CodeType):
                waiting.append((each, own and each.co_name in _TRANSPARENT))
        for instruction in dis.get_instructions(code):
            if instruction.opname in _LOADS:
                loads[instruction.argval] = None
            elif own and instruction.opname in _BINDS:
                binds.add(instruction.argval)
    return loads, frozenset(binds - _COMPILERS)


def bound_first(code: CodeType | None) -> set[str]:
    """Return the names that code binds before anything in it may load them.

    Only what stands before the first jump or protected block counts: all of it surely runs.
    """
    bound: set[str] = set()
    loaded: set[str] = set()
    if code is None:
        return bound
    instructions: Any = dis.Bytecode(code)  # its stub lacks the next line's attribute
    end = min((each.start for each in instructions.exception_entries), default=len(code.co_code))
    for each in instructions:
        if each.opcode in _JUMPS or each.offset >= end:
            break
        if isinstance(each.argval, CodeType):  # a function that may be called from here on
            loaded.update(touched(each.argval)[0].keys() - bound)
        elif each.opname in _LOADS and each.argval not in bound:
            loaded.add(each.argval)
        elif each.opname in _BINDS and each.argval not in loaded:
            bound.add(each.argval)
    return bound


def names_in(*nodes: ast.expr) -> Names:
    """Return the names of sibling expressions, or targets of an assignment, in one scope."""
    body: list[ast.stmt] = [
        ast.Assign(targets=[node], value=ast.Constant(value=None))
        if isinstance(getattr(node, "ctx", None), ast.Store)
        else ast.Expr(value=node)
        for node in nodes
    ]
    module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
    try:
        code = compile(module, "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:  # a yield, or what compiling the statement says of the user's text
        return Names(frozenset(), frozenset(), awaits=False, yields=True)
    loads, binds = touched(code)
    # The flag alone would not do: a generator expression that awaits sets it, too.
    awaits = bool(code.co_flags & inspect.CO_COROUTINE) and any(
        each.opname in _AWAITS for each in dis.get_instructions(code)
    )
    return Names(loads.keys(), binds, awaits, yields=False)


def bind(names: Names, binds: Set[str], scope: Scope, late: Set[str]) -> dict[str, Any]:
    """Return the current values of what is loaded, except those that are looked up *late*.

    And except what the code binds itself; *binds* are those of these names that are the user's.
    Raises ``BadInput`` for a name that does not exist.
    """
    bound: dict[str, Any] = {}
    local, namespace, built_in = scope.local, scope.namespace, vars(builtins)
    own = names.binds
    if own and not binds:  # inside a function: what exists there is loaded before it is bound
        own = own - {*(local or ()), *namespace}
    for name in names.loads - own if own else names.loads:
        if local is not None and name in local:
            bound[name] = local[name]
        elif name in late or name == "__debug__":
            continue
        elif name in namespace:
            bound[name] = namespace[name]
        elif name in built_in:
            bound[name] = built_in[name]
        else:
            raise BadInput(_not_defined(name, scope))
    return bound if SEES_LOCALS.isdisjoint(bound) else _with_stand_ins(bound, local)


def _with_stand_ins(bound: dict[str, Any], local: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is bound, with what built-in functions that look at their caller need."""
    for name in SEES_LOCALS.intersection(bound):
        if bound[name] is not vars(builtins)[name]:
            continue
        if local is None:
            bound[name] = AT_TOP_LEVEL.get(name, bound[name])
        else:
            bound = {**local, **bound}
    return bound


def with_values(tree: ast.stmt, bound: Mapping[str, Any]) -> str | None:
    """Return the text of a statement in which names of short plain values are these; else None.

    So the jobs of a loop can be told apart: `fetch('Oslo')` for ``fetch(city)``. None if no name
    is bound to such a value.
    """
    shown = {name: text for name, value in bound.items() if (text := _plain(value)) is not None}
    nodes = list(ast.walk(tree))
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}
    local |= {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    quoted = {id(n) for each in nodes if isinstance(each, ast.JoinedStr) for n in ast.walk(each)}
    named = [
        node
        for node in nodes
        if isinstance(node, ast.Name)
        and node.id in shown
        and node.id not in local
        and id(node) not in quoted
    ]
    if not named:
        return None
    ids = [node.id for node in named]
    try:
        for node in named:  # the text of a name is written as it is
            node.id = shown[node.id]
        return ast.unparse(tree)
    finally:
        for node, name in zip(named, ids, strict=True):
            node.id = name


def _plain(value: Any) -> str | None:
    """Return a number, short text, a truth value, None or the name of a path as code.

    It looks at the type alone, and asks no other object anything.
    """
    if value is None or value is True or value is False:
        return str(value)
    kind = type(value)
    if kind in _PATHS:
        value, kind = value.name, str
    elif (numpy := sys.modules.get("numpy")) and issubclass(kind, (numpy.integer, numpy.floating)):
        value = value.item()
        kind = type(value)
    if issubclass(kind, int):
        return int.__repr__(value) if int.bit_length(value) <= 64 else None
    if issubclass(kind, float):
        return float.__repr__(value)
    return str.__repr__(value) if issubclass(kind, str) and str.__len__(value) <= _SHORT else None


def _not_defined(name: str, scope: Scope) -> str:
    known = [*(scope.local or ()), *scope.namespace, *vars(builtins)]
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"name {name!r} is not defined" + (f": did you mean {close[0]!r}?" if close else "")


# Built-in functions that look at the frame of their caller
#
# At the top level of a cell, locals and globals are one dictionary; in the function that CODE is
# compiled to they are not. These stand in for the built-ins there, so that ``exec(text)`` still
# defines names in the user's namespace and ``locals()`` still shows it. They are found by their
# module, so they can be pickled, and need no reference to the namespace.

#: What tracebacks and IPython call the outermost code of a cell.
TOP: Final = "<module>"


def _namespace(frame: FrameType) -> dict[str, Any]:
    return frame.f_globals if frame.f_code.co_name == TOP else frame.f_locals


def _locals() -> dict[str, Any]:
    return _namespace(sys._getframe(1))


def _vars(*args: Any) -> Mapping[str, Any]:
    return builtins.vars(*args) if args else _namespace(sys._getframe(1))


def _dir(*args: Any) -> list[str]:
    return builtins.dir(*args) if args else sorted(_namespace(sys._getframe(1)))


def _exec(source: str | bytes | CodeType, *args: Any, **options: Any) -> None:
    if not args and not {"globals", "locals"} & options.keys():
        frame = sys._getframe(1)
        args = (frame.f_globals, _namespace(frame))
    try:
        builtins.exec(source, *args, **options)
    except BaseException as error:
        # A bare `raise` adds no frame again: the traceback is as with the built-in.
        if (trace := error.__traceback__) is not None:
            error.__traceback__ = trace.tb_next
        raise


AT_TOP_LEVEL: Final[Mapping[str, Callable[..., Any]]] = {
    "locals": _locals,
    "vars": _vars,
    "dir": _dir,
    "exec": _exec,
}
# CODE gets those of a function's locals that it names; what these need cannot be known.
SEES_LOCALS: Final = frozenset({*AT_TOP_LEVEL, "eval"})


# Whether a cell may run before those that were there first
#
# `%jobs`, `%cancel 3` and `%fg 3` concern jobs and nothing else. What `%bg` launches, and a job
# that a variable holds, depend on what the cells before them do: `%bg evaluate(model)` behind
# ``model.fit(data)`` is meant for the fitted model. So a cell keeps its place as soon as a cell
# before it mentions a name that it uses, unless that name is merely called there, or is a module.

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
