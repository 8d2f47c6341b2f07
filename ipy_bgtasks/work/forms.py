"""Reads CODE: which of the forms it has, and what work is made of it.

A loop launches the same text again and again. Its tree, its names, the compiled code and the name
of its source are then made once; what its names stand for is looked at for each work.
"""

from __future__ import annotations

import ast
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from functools import partial
from operator import setitem
from types import CodeType, FunctionType
from typing import Any, TypeVar

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work.calls import Cell, called, settled
from ipy_bgtasks.work.compile import cell_codes, expression_code, storing_code
from ipy_bgtasks.work.model import Scope, Work, same_tree
from ipy_bgtasks.work.names import Names, assigned, bind, names_in
from ipy_bgtasks.work.plan import Plan, plan_for
from ipy_bgtasks.work.text import Text, label_of, parse

_TEXTS = 64  # that are kept
_LONGEST = 4_000  # characters of one of them: its tree is a hundred times as large
_VARIANTS = 16  # of the code of one text

T = TypeVar("T")

_NO_NAMES: frozenset[str] = frozenset()


class Forms:
    """The forms of the texts last read, a small number. Any thread may use it.

    Nothing of any namespace is kept.
    """

    def __init__(self, size: int = _TEXTS) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], Form] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, code: str, scope: Scope) -> Form:
        """Return the form of CODE, kept or new; raises what `form_of` does."""
        if scope.source is None or scope.transform_ast is not same_tree or len(code) > _LONGEST:
            return form_of(code, scope)
        key = code, scope.first_line, scope.source
        with self._lock:
            if (form := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return form
        form = form_of(code, scope)
        if form.text.is_python:
            with self._lock:
                self._kept[key] = form
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)
        return form


class Form:
    """CODE that is statements: they see the live namespace."""

    __slots__ = ("_codes", "text")

    def __init__(self, text: Text) -> None:
        self.text = text
        #: What was compiled, by all that it depends on beside the text.
        self._codes: dict[tuple[object, ...], Any] = {}

    def work(self, scope: Scope, late: Set[str]) -> Work:
        """Return work that runs it; *late* are names that are looked up when it runs."""
        return self._statements(scope)

    def _compiled(self, make: Callable[[], T], *key: object) -> T:
        """Return what *make* compiles, made once; the name of its source is part of the key."""
        named = self.text.registered_name(), *key
        code: T | None = self._codes.get(named)
        if code is None:
            if len(self._codes) >= _VARIANTS:
                self._codes.clear()
            code = self._codes[named] = make()
        return code

    def _statements(self, scope: Scope) -> Work:
        text = self.text
        if scope.local is not None:
            _refuse_locals(text.tree, scope.local)
        final = text.tree.body[-1]
        explicit = isinstance(final, ast.Expr) and isinstance(final.value, ast.Await)
        body, last, assigns = self._compiled(
            lambda: (*cell_codes(text.tree, text), assigned(text.tree))
        )
        cell = Cell(body, last, scope.namespace, settle=not explicit)
        return Work(
            call=cell.run_async if cell.is_async else cell.run,
            label=text.label,
            code=text.code,
            is_async=cell.is_async,
            assigns=assigns,
            source=text.name,
        )


class Expression(Form):
    """CODE that is one expression; its names are bound when work is made of it."""

    __slots__ = ("_names", "_node")

    def __init__(self, text: Text, node: ast.expr) -> None:
        super().__init__(text)
        self._node = node
        self._names = names_in(node)

    def work(self, scope: Scope, late: Set[str]) -> Work:
        """Return work that evaluates it, awaits or calls it, as its names now suggest.

        Raises `BadInput` for what cannot be run.
        """
        text, names = self.text, self._names
        if names.yields:  # an error at the top level, though not in the function we would make
            return self._statements(scope)
        binds = _global_walrus(names, scope)
        bound = _bound(names, binds, scope, late)
        plan = plan_for(self._node, bound, awaits=names.awaits)
        code: CodeType = self._compiled(
            lambda: expression_code(
                plan.applied(self._node), text, bound, binds=binds, is_async=plan.is_async
            ),
            plan.adds_call,
            plan.adds_await,
            plan.is_async,
            binds,
            *bound,
        )
        return Work(
            call=_planned(plan, partial(FunctionType(code, scope.namespace), **bound)),
            label=text.label,
            code=text.code,
            is_async=plan.is_async,
            assigns=binds,
            source=text.name,
        )


class Assignment(Expression):
    """CODE that binds targets to the value of an expression."""

    __slots__ = ("_plain", "_targets", "_within")

    def __init__(self, text: Text, targets: list[ast.expr], value: ast.expr) -> None:
        super().__init__(text, value)
        self._targets = targets
        self._within = names_in(*targets)
        self._plain = assigned(*targets)

    def work(self, scope: Scope, late: Set[str]) -> Work:
        """Return work as an `Expression` does, which binds the targets at its end."""
        names, plain = self._within, self._plain
        if names.awaits or names.yields:  # binding happens where nothing can be awaited
            return self._statements(scope)
        if plain and scope.local is not None:
            job = label_of(ast.unparse(self._node))
            raise BadInput(
                f"a job cannot bind {', '.join(sorted(plain))} inside a function: "
                f"write job = %bg {job}"
            )
        work = super().work(scope, late)
        return dataclasses.replace(
            work, store=self._store(scope, late), assigns=work.assigns | plain
        )

    def _store(self, scope: Scope, late: Set[str]) -> Callable[[Any], None]:
        match self._targets:
            case [ast.Name(id=name)]:
                return partial(setitem, scope.namespace, name)
        bound = _bound(self._within, self._plain, scope, late)
        code: CodeType = self._compiled(
            lambda: storing_code(self._targets, self.text, bound, binds=self._plain),
            "store",
            *bound,
        )
        return partial(FunctionType(code, scope.namespace), **bound)


def form_of(code: str, scope: Scope, *, cell: bool = False) -> Form:
    """Return the form that CODE has.

    Raises `BadInput` if there is none, ``SyntaxError`` for what is not Python.
    """
    text = parse(code, scope)
    if len(text.tree.body) == 1 and not cell:
        match text.tree.body[0]:
            case ast.Expr(value=value):
                return Expression(text, value)
            case ast.Assign(targets=targets, value=value):
                return Assignment(text, targets, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                return Assignment(text, [target], value)
    return Form(text)


def read(
    code: str,
    scope: Scope,
    *,
    cell: bool = False,
    late: Set[str] = frozenset(),
    forms: Forms | None = None,
) -> Work:
    """Turn CODE into work, without running any of it. Any thread may call.

    An expression or an assignment gets the values its names have now, except the names in
    ``late``, which are looked up when it runs. Several statements, and anything with ``cell``,
    see the live namespace instead. What the text alone decides is kept in ``forms``, if given.

    Raises ``BadInput`` for what cannot be run, ``SyntaxError`` for what is not Python.
    """
    if scope.local is scope.namespace:
        scope = dataclasses.replace(scope, local=None)
    if forms is None or cell:  # the body of a cell comes once
        return form_of(code, scope, cell=cell).work(scope, late)
    return forms.find(code, scope).work(scope, late)


def _planned(plan: Plan, evaluate: partial[Any]) -> partial[Any]:
    if plan.settle:
        return partial(settled, evaluate, call=plan.call)
    return partial(called, evaluate) if plan.call else evaluate


def _global_walrus(names: Names, scope: Scope) -> frozenset[str]:
    """Return the names that ``:=`` binds in the user's namespace, as in a cell.

    Inside a function they belong to the expression alone.
    """
    return frozenset(names.walrus) if names.walrus and scope.local is None else _NO_NAMES


def _bound(names: Names, binds: Set[str], scope: Scope, late: Set[str]) -> dict[str, Any]:
    if not names.walrus and not binds:
        return bind(names.loads, scope, late)
    if not binds:
        known = {*(scope.local or ()), *scope.namespace}
        return bind(names.loads - (names.walrus - known), scope, late)
    return bind(names.loads - binds, scope, late)


def _refuse_locals(tree: ast.Module, local: Mapping[str, Any]) -> None:
    """Refuse statements that name a local: they see the user's namespace and would miss it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in local:
            raise BadInput(
                f"statements do not see {node.id}, a local name: put them in a function of their "
                f"own, and write job = %bg function({node.id})"
            )
