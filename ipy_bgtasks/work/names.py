"""Which names an expression loads, and what they are bound to at launch."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work.frames import AT_TOP_LEVEL, SEES_LOCALS

if TYPE_CHECKING:
    from ipy_bgtasks.work.model import Scope


Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Names:
    """What an expression needs from the enclosing scope.

    ``loads``: names it reads and does not bind itself; ``walrus``: names that ``:=`` binds in
    the enclosing scope; ``awaits`` and ``yields``: whether its own scope would have to be a
    coroutine, a generator.
    """

    __slots__ = ("awaits", "loads", "walrus", "yields")

    def __init__(self) -> None:
        self.loads: set[str] = set()
        self.walrus: set[str] = set()
        self.awaits = False
        self.yields = False


_NOTHING: frozenset[str] = frozenset()
_LEAVES = frozenset({ast.Constant, ast.Load, ast.Store, ast.Del})
_COMPREHENSIONS = frozenset({ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp})


def names_in(*nodes: ast.AST) -> Names:
    """Return the names of sibling expressions in one scope."""
    found = Names()
    for node in nodes:
        _visit(node, _NOTHING, found)
    return found


def _visit(node: ast.AST, bound: frozenset[str], found: Names) -> None:
    kind = type(node)
    if kind is ast.Name:
        assert isinstance(node, ast.Name)
        if node.id not in bound and type(node.ctx) is ast.Load:
            found.loads.add(node.id)
    elif kind not in _LEAVES:
        if isinstance(node, ast.Lambda):
            _visit_lambda(node, bound, found)
        elif kind in _COMPREHENSIONS:
            _visit_comprehension(node, bound, found)  # type: ignore[arg-type]
        else:
            _note(node, found)
            for child in ast.iter_child_nodes(node):
                _visit(child, bound, found)


def _note(node: ast.AST, found: Names) -> None:
    if isinstance(node, ast.NamedExpr):
        found.walrus.add(node.target.id)
    elif isinstance(node, ast.Await):
        found.awaits = True
    elif isinstance(node, ast.Yield | ast.YieldFrom):
        found.yields = True


def _visit_lambda(node: ast.Lambda, bound: frozenset[str], found: Names) -> None:
    spec = node.args
    for default in (*spec.defaults, *spec.kw_defaults):
        if default is not None:
            _visit(default, bound, found)
    inner = Names()
    _visit(node.body, bound | parameters(spec), inner)
    found.loads |= inner.loads - inner.walrus


def parameters(spec: ast.arguments) -> frozenset[str]:
    """Return the names that the parameters of a function bind."""
    every = (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg)
    return frozenset(each.arg for each in every if each is not None)


def _visit_comprehension(node: Comprehension, bound: frozenset[str], found: Names) -> None:
    # The first iterable belongs to the enclosing scope; the rest is a scope of its own.
    first, *others = node.generators
    _visit(first.iter, bound, found)
    inside = bound.union(*(_stored(each.target) for each in node.generators))
    inner = Names()
    for part in (first.target, *first.ifs, *others, *_results(node)):
        _visit(part, inside, inner)
    found.loads |= inner.loads
    found.walrus |= inner.walrus
    if not isinstance(node, ast.GeneratorExp):  # awaits only when it is iterated
        found.awaits |= inner.awaits or any(each.is_async for each in node.generators)


def _results(node: Comprehension) -> tuple[ast.expr, ...]:
    return (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)


def _stored(target: ast.AST) -> set[str]:
    return {
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and type(node.ctx) is ast.Store
    }


def assigned(*nodes: ast.AST) -> frozenset[str]:
    """Return the names that statements or assignment targets bind in their own scope, roughly."""
    names: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(each.asname or each.name).partition(".")[0] for each in node.names}
        elif isinstance(node, ast.Lambda) or type(node) in _COMPREHENSIONS:
            names |= names_in(node).walrus
        else:
            names |= _names_bound_by(node)
            waiting += ast.iter_child_nodes(node)
    return frozenset(names - {"*"})


def _names_bound_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name) and type(node.ctx) is ast.Store:
        return {node.id}
    if isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
        return {node.name}
    if isinstance(node, ast.MatchMapping) and node.rest:
        return {node.rest}
    return set()


def bind(names: Iterable[str], scope: Scope, late: Set[str]) -> dict[str, Any]:
    """Return the current values of the names, except those that are looked up later.

    Raises ``BadInput`` for a name that does not exist.
    """
    bound: dict[str, Any] = {}
    local, namespace, built_in = scope.local, scope.namespace, vars(builtins)
    for name in names:
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
    if SEES_LOCALS.isdisjoint(bound):
        return bound
    for name in SEES_LOCALS.intersection(bound):
        if bound[name] is not built_in[name]:
            continue
        if local is None:
            bound[name] = AT_TOP_LEVEL.get(name, bound[name])
        else:
            bound = {**local, **bound}
    return bound


def _not_defined(name: str, scope: Scope) -> str:
    known = [*(scope.local or ()), *scope.namespace, *vars(builtins)]
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"name {name!r} is not defined" + (f": did you mean {close[0]!r}?" if close else "")
