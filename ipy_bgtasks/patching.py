"""Attributes of others, replaced for a while.

Calls back the moment a module is imported, without importing it.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec


_MISSING = object()


class Attribute:
    """An attribute of *owner*, replaced by *value* until `restore`."""

    def __init__(self, owner: Any, name: str, value: object) -> None:
        self._owner = owner
        self._name = name
        self._value = value
        self._before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

    def restore(self) -> None:
        """Put back the original, unless ours has been replaced since."""
        if vars(self._owner).get(self._name) is not self._value:
            return
        if self._before is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


def when_imported(name: str, act: Callable[[Any], object]) -> Callable[[], None]:
    """Call *act* with the module *name* once it is imported; returns what ends the waiting.

    If it is imported already, that is at once; else right after its code has run, in the thread
    that imports it and before other code sees it. What *act* raises fails that import.
    """
    if name in sys.modules:
        act(sys.modules[name])
        return lambda: None
    finder = _Finder(name, act)
    sys.meta_path.insert(0, finder)
    return finder.end


class _Finder:
    """A module finder, first in line, that finds one module by way of the others."""

    def __init__(self, name: str, act: Callable[[Any], object]) -> None:
        self._name = name
        self._act = act

    def end(self) -> None:
        """Stop waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module by way of the other finders, and hook its execution."""
        if name != self._name:
            return None
        self.end()
        spec = importlib.util.find_spec(name)
        execute = getattr(spec and spec.loader, "exec_module", None)
        if spec is None or execute is None:
            return spec

        def execute_and_act(module: Any) -> None:
            execute(module)
            self._act(module)

        # The loader belongs to this one module.
        spec.loader.exec_module = execute_and_act  # type: ignore[union-attr, method-assign]
        return spec
