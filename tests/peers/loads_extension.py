"""A plugin of pytest: the extension is loaded in each shell that a test suite makes.

A shell that a test makes is unloaded after it, as a user would who has several: some suites count
what is left of their shells.
"""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

EXTENSION = "ipy_bgtasks"

_init = InteractiveShell.__init__
_loaded: list[Any] = []


def _load_as_well(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self.extension_manager.load_extension(EXTENSION)
    _loaded.append(self)


InteractiveShell.__init__ = _load_as_well  # type: ignore[method-assign]


def pytest_runtest_setup() -> None:
    """Leave loaded what was there before the test."""
    _loaded.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Unload in what the test has made."""
    while _loaded:
        manager = _loaded.pop().extension_manager
        if EXTENSION in manager.loaded:
            manager.unload_extension(EXTENSION)
