"""Attributes of others, replaced for a while."""

from __future__ import annotations

from typing import Any

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
