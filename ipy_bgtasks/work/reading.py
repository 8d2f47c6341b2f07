"""Reads CODE: its tree, which of the forms it has, and what work is made of it."""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import dataclasses
import inspect
import linecache
import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Set
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import setitem
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import current_directory, encoded, environment
from ipy_bgtasks.work.names import TOP, bind, names_in, touched, with_values
from ipy_bgtasks.work.plan import LABEL_WIDTH, is_a, is_awaitable, is_pending, plan_for, resolve

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping


class Text:
    """CODE as typed, the same text at its place in the cell, and the tree it means."""

    def __init__(self, code: str, shown: str, tree: ast.Module, scope: Scope) -> None:
        self.code = code
        self.label = label_of(code)
        self.shown = shown
        self.tree = tree
        self._name_source = scope.name_source

    @cached_property
    def name(self) -> str:
        """The file name for tracebacks; the text is registered when this is first asked for."""
        return self._name_source(self.shown)


def parse(code: str, scope: Scope) -> Text:
    """Read the text as Python, or failing that as IPython syntax.

    Raises ``BadInput`` if it is empty, and ``SyntaxError`` that points at the text as typed if it
    is neither.
    """
    # A magic's argument may start with blanks; the indentation of a block shows on a later line.
    text = code if "\n" in code else code.lstrip(" \t")
    pad = "\n" * (scope.first_line - 1)
    shown = pad + text
    try:
        tree = _parse(shown)
    except SyntaxError as error:
        try:
            python = scope.transform(text)
        except SyntaxError:
            raise _completed(error, shown, scope.name_source(shown)) from None
        try:
            tree = _parse(pad + python)
        except SyntaxError as second:
            raise _pointing(error, second, shown, scope) from None
        if python.count("\n") - python.endswith("\n") != text.count("\n") - text.endswith("\n"):
            shown = pad + python  # lines no longer match: show what runs, not the wrong lines
    if scope.transform_ast is not None:
        tree = scope.transform_ast(tree)
    if not tree.body:
        raise BadInput(
            "no code to run: give a call such as f(x), an awaitable, a function without "
            "arguments, an assignment or statements"
        )
    return Text(code, shown, tree, scope)


def _parse(text: str) -> ast.Module:
    # Future statements of this module must not apply to the user's code.
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree: ast.Module = compile(text, "<%bg>", "exec", flags, dont_inherit=True)
    return tree


def _pointing(first: SyntaxError, second: SyntaxError, shown: str, scope: Scope) -> SyntaxError:
    """Return the one of the errors before and after transformation that is about what was typed.

    The second knows that a magic is valid, but may show a line that the user did not write.
    """
    lines = shown.split("\n")
    line = second.lineno or 0
    as_typed = 0 < line <= len(lines) and lines[line - 1] == (second.text or "").rstrip("\n")
    return _completed(second if as_typed else first, shown, scope.name_source(shown))


def _completed(error: SyntaxError, shown: str, name: str) -> SyntaxError:
    """Return the error with the file name and the line that IPython is to show."""
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
    awaitable: Any = None
    """What CODE names, if it only awaits that; it ends with the job, whether that began or not."""


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
    transform: Callable[[str], str] = str
    """Turns IPython syntax into Python text; asked only when the text is not Python."""
    transform_ast: Callable[[ast.Module], ast.Module] | None = None
    """Changes every tree, as IPython's ``ast_transformers`` do."""
    name_source: Callable[[str], str] = name_source
    """Source text -> the file name under which tracebacks find it. The text is preceded by
    empty lines, so that its line numbers are those of the cell."""
    first_line: int = 1
    """The line of the cell on which the code stands."""


# Not an identifier, so that it cannot shadow a name of the user's.
_VALUE = ".value"


def _function(
    body: list[ast.stmt],
    text: Text,
    names: Iterable[str],
    binds: Collection[str],
    *,
    takes: Collection[str] = (),
    is_async: bool = False,
) -> CodeType:
    """Return the code of a function with this body; *names*, after *takes*, are its arguments.

    ``binds`` are the names that it binds in the namespace.
    """
    if binds:
        body = [ast.Global(names=sorted(binds)), *body]
    arguments = ast.arguments(
        posonlyargs=[ast.arg(arg=name) for name in takes],
        args=[ast.arg(arg=name) for name in names],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[],
    )
    make = ast.AsyncFunctionDef if is_async else ast.FunctionDef
    # It begins on the first line, as a cell's code does: IPython counts from there when it shows
    # the lines around an error.
    at: dict[str, Any] = {"lineno": 1, "col_offset": 0}
    at["type_params"] = []  # a field from Python 3.12 on
    definition = make(name=TOP, args=arguments, body=body, decorator_list=[], **at)
    module = ast.fix_missing_locations(ast.Module(body=[definition], type_ignores=[]))
    # Taken out of the module's code instead of run: the namespace must not gain a name.
    code = _compiled(module, text, "exec")
    return next(each for each in code.co_consts if isinstance(each, CodeType))


def _compiled(tree: ast.Module | ast.Expression, text: Text, mode: str) -> CodeType:
    try:
        code: CodeType = compile(
            tree, text.name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
    except SyntaxError as error:
        raise _completed(error, text.shown, text.name) from None
    return code


def called(get: Callable[[], Any]) -> Any:
    """Evaluate, and call the value if it turns out to be a function."""
    return _call_if_function(get())


async def settled(get: Callable[[], Awaitable[Any]], *, call: bool = False) -> Any:
    """Evaluate on the running loop, then await the value if it is awaitable."""
    value = await get()
    return await _settle(_call_if_function(value) if call else value)


@dataclass(frozen=True, slots=True)
class Cell:
    """Statements that run in the live namespace, and the expression they end with."""

    body: CodeType | None
    last: CodeType | None
    namespace: dict[str, Any] = field(repr=False)
    settle: bool = False
    """Whether the last value, if awaitable, is awaited too."""

    @property
    def is_async(self) -> bool:
        """Whether there is a top-level await in it."""
        return _awaits(self.body) or _awaits(self.last)

    def run(self) -> Any:
        """Run the cell and return the value of its last expression, if there is one."""
        if self.body is not None:
            exec(self.body, self.namespace)
        return None if self.last is None else eval(self.last, self.namespace)

    async def run_async(self) -> Any:
        """Run the cell on the running loop; otherwise as ``run``."""
        if self.body is not None:
            await _evaluated(self.body, self.namespace)
        if self.last is None:
            return None
        value = await _evaluated(self.last, self.namespace)
        return await _settle(value) if self.settle else value


def _awaits(code: CodeType | None) -> bool:
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)


async def _evaluated(code: CodeType, namespace: dict[str, Any]) -> Any:
    value = eval(code, namespace)
    return await value if _awaits(code) else value


def _call_if_function(value: Any) -> Any:
    return value() if callable(value) and not is_pending(value) else value


async def _settle(value: Any) -> Any:
    if is_a(value, concurrent.futures.Future):
        value = asyncio.wrap_future(value)
    return await value if is_awaitable(value) else value


#: ``x = !ls``, as IPython reads it: names, perhaps indexed, before the sign.
_ASSIGNED = re.compile(r"(?P<target>[\w\s.,*]+(\[[^\]]*\])*)\s*=\s*!(?!=)(?P<command>.*)")


def command_in(code: str) -> str | None:
    """Return the command in CODE of the form ``!command``, or None for any other CODE.

    Raises `BadInput` if the command is empty, or if its output is to be assigned.
    """
    if not code.startswith("!"):
        if (match := _ASSIGNED.match(code)) is not None:
            command = match["command"].strip()
            raise BadInput(
                f"a background command cannot fill {match['target'].strip()}: write "
                f"job = %bg !{command}, then job.log.stdout is its output"
            )
        return None
    command = code[1:].strip()
    if command.startswith("!"):
        raise BadInput(f"!! is for the foreground: write %bg !{command[1:].strip()}")
    # A semicolon at the end is IPython's, unless the shell needs it.
    if command.endswith(";") and not command.endswith((";;", "\\;")):
        command = command[:-1].rstrip()
    if not command:
        raise BadInput("no command after the !: write %bg !command")
    return command


def command_work(command: str, code: str, expand: Callable[[str], str] = str) -> Work:
    """Return work that runs *command*, with the user's variables filled in by *expand* now.

    It runs in the directory in which it was launched.
    """
    command = expand(command)
    return Work(
        call=Command(command),
        label=label_of("!" + command),
        code=code,
        is_async=False,
    )


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command with the settings fixed at launch. Calling it starts it."""

    text: str
    directory: str | None = field(default_factory=current_directory)
    context: Context = field(default_factory=copy_context, repr=False)
    argv: tuple[str, ...] = ()
    """A program and its arguments, to be run without a shell."""
    has_input: bool = False
    """Whether something will be written to its input."""
    merged: bool = False
    """Whether what it writes to stderr comes out of stdout."""

    def __call__(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own; raises `OSError` if that fails.

        The shell is the user's, as for ``!``. A Python process in it does not buffer its output.
        *environment* is added to the existing variables.
        """
        import subprocess

        windows = os.name == "nt"
        shell = os.environ.get("SHELL", "")
        return subprocess.Popen(
            self.argv or self.text,
            shell=not self.argv,
            executable=shell
            if not self.argv and not windows and os.access(shell, os.X_OK)
            else None,
            cwd=self.directory,
            env=_environment(environment or {}),
            stdin=subprocess.PIPE if self.has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if self.merged else subprocess.PIPE,
            bufsize=0,
            start_new_session=not windows,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def _environment(added: Mapping[str, str]) -> dict[Any, Any]:
    variables = environment()
    variables.setdefault(encoded("PYTHONUNBUFFERED"), encoded("1"))
    return variables | {encoded(name): encoded(value) for name, value in added.items()}


def read(
    code: str,
    scope: Scope,
    *,
    cell: bool = False,
    late: Set[str] = frozenset(),
) -> Work:
    """Turn CODE into work, without running any of it. Any thread may call.

    An expression or an assignment gets the values its names have now, except the names in
    ``late``, which are looked up when it runs. Several statements, and anything with ``cell``,
    see the live namespace instead.

    Raises ``BadInput`` for what cannot be run, ``SyntaxError`` for what is not Python.
    """
    if scope.local is scope.namespace:
        scope = dataclasses.replace(scope, local=None)
    text = parse(code, scope)
    if len(text.tree.body) == 1 and not cell:
        match text.tree.body[0]:
            case ast.Expr(value=value):
                return _expression(text, value, scope, late)
            case ast.Assign(targets=targets, value=value):
                return _assignment(text, targets, value, scope, late)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                return _assignment(text, [target], value, scope, late)
    return _statements(text, scope)


def _statements(text: Text, scope: Scope) -> Work:
    """Return work that runs statements, which see the live namespace."""
    if scope.local is not None:
        _refuse_locals(text.tree, scope.local)
    final = text.tree.body[-1]
    explicit = isinstance(final, ast.Expr) and isinstance(final.value, ast.Await)
    statements, body, last = text.tree.body, None, None
    if isinstance(final, ast.Expr):
        statements = statements[:-1]
        last = _compiled(ast.Expression(final.value), text, "eval")
    if statements:
        module = ast.Module(body=statements, type_ignores=text.tree.type_ignores)
        body = _compiled(module, text, "exec")
    cell = Cell(body, last, scope.namespace, settle=not explicit)
    return Work(
        call=cell.run_async if cell.is_async else cell.run,
        label=text.label,
        code=text.code,
        is_async=cell.is_async,
        assigns=touched(body, last)[1],
        source=text.name,
    )


def _expression(text: Text, node: ast.expr, scope: Scope, late: Set[str]) -> Work:
    """Return work that evaluates one expression, and awaits or calls it as its names suggest.

    The names are bound now.
    """
    names = names_in(node)
    if names.yields:  # an error at the top level, though not in the function we would make
        return _statements(text, scope)
    # What ``:=`` binds is the user's, as in a cell; inside a function it is the expression's alone.
    binds = names.binds if scope.local is None else frozenset()
    bound = bind(names, binds, scope, late)
    plan = plan_for(node, bound, awaits=names.awaits)
    value = plan.applied(node)
    result = ast.copy_location(ast.Return(value=value), value)
    code = _function([result], text, bound, binds, is_async=plan.is_async)
    call = partial(FunctionType(code, scope.namespace), **bound)
    if plan.settle:
        call = partial(settled, call, call=plan.call)
    elif plan.call:
        call = partial(called, call)
    shown = with_values(text.tree.body[0], bound)
    named = plan.adds_await and not plan.adds_call and isinstance(node, ast.Name | ast.Attribute)
    return Work(
        call=call,
        label=text.label if shown is None else label_of(shown),
        code=text.code,
        is_async=plan.is_async,
        assigns=binds,
        source=text.name,
        awaitable=resolve(node, bound) if named else None,
    )


def _assignment(
    text: Text, targets: list[ast.expr], value: ast.expr, scope: Scope, late: Set[str]
) -> Work:
    """Return the work of an expression that binds the targets to its value at its end."""
    within = names_in(*targets)
    if within.awaits or within.yields:  # binding happens where nothing can be awaited
        return _statements(text, scope)
    if within.binds and scope.local is not None:
        job = label_of(ast.unparse(value))
        raise BadInput(
            f"a job cannot bind {', '.join(sorted(within.binds))} inside a function: "
            f"write job = %bg {job}"
        )
    work = _expression(text, value, scope, late)
    match targets:
        case [ast.Name(id=name)]:
            store: Callable[[Any], None] = partial(setitem, scope.namespace, name)
        case _:
            bound = bind(within, within.binds, scope, late)
            stored = ast.copy_location(ast.Name(id=_VALUE, ctx=ast.Load()), targets[0])
            body = ast.copy_location(ast.Assign(targets=targets, value=stored), targets[0])
            code = _function([body], text, bound, within.binds, takes=[_VALUE])
            store = partial(FunctionType(code, scope.namespace), **bound)
    return dataclasses.replace(work, store=store, assigns=work.assigns | within.binds)


def _refuse_locals(tree: ast.Module, local: Mapping[str, Any]) -> None:
    """Refuse statements that name a local: they see the user's namespace and would miss it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in local:
            raise BadInput(
                f"statements do not see {node.id}, a local name: put them in a function of their "
                f"own, and write job = %bg function({node.id})"
            )
