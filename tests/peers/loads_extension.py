"""A plugin of pytest: the extension is loaded in each shell that a test suite makes."""

from __future__ import annotations

from typing import Any

from IPython.core.interactiveshell import InteractiveShell

_init = InteractiveShell.__init__


def _load_as_well(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self.extension_manager.load_extension("ipy_bgtasks")


InteractiveShell.__init__ = _load_as_well  # type: ignore[method-assign]
