"""What cannot be run twice: a task, a future or a coroutine that CODE awaits."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from .static import is_job, is_pending, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .model import Work


def runs_once(work: Work, variables: Mapping[str, Any]) -> str:
    """Return the name in the code of *work* that stands for something awaited, which ends once.

    It is empty if there is none; none of the code is run. Async code is taken to await what it
    is given, other code only what it is.
    """
    try:
        tree = ast.parse(work.code.strip())
    except SyntaxError:  # a magic or a shell command among the statements
        return ""
    nodes = ast.walk(tree) if work.is_async else (_value(each) for each in tree.body)
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            value = resolve(node, variables)
            if is_pending(value) and not is_job(value):
                return ast.unparse(node)
    return ""


def _value(node: ast.stmt) -> ast.AST | None:
    return getattr(node, "value", None)
