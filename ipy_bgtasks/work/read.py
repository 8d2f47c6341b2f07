"""Reads CODE: finds which of the forms it has, and makes work of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Set

from .forms import Forms, form_of
from .model import Scope, Work

__all__ = ["read"]


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
