"""What IPython's shell keeps about "the" cell, kept for each thread.

IPython has one number for the cell that runs and one place for its value. With a cell in the
background a second one runs in another thread at the same time.
"""

from __future__ import annotations

import threading
from typing import Any

_NONE = object()


class PerThread:
    """Attributes of `shell` and its display hook that a thread may have of its own.

    Both get a subclass of their class, with properties; what a thread has not of its own is
    everybody's, as before.
    """

    def __init__(self, shell: Any) -> None:
        #: The number of the cell that a thread runs, where that is not the foreground's.
        self.numbers: dict[int, int] = {}
        #: Whether the value of the cell that a thread runs is not to be shown.
        self.quiet: dict[int, bool] = {}
        self._results: dict[int, Any] = {}
        self._messages: dict[int, Any] = {}
        self._shell = shell
        self._hook = shell.displayhook
        self._classes = type(shell), type(self._hook)

    def install(self) -> None:
        """Begin; the value of the cell that runs now stays where it is.

        Raises `AttributeError` or `TypeError`, and changes nothing, where IPython is not built so.
        """
        shell, hook = self._classes
        quiet = hook.quiet
        mine = self.quiet
        traps = self._shell.display_trap, self._shell.builtin_trap
        enter = [trap.__enter__ for trap in traps]
        _ = [trap.__exit__ for trap in traps], self._shell.display_trap.set

        def quiet_here(hook: Any) -> bool:
            own = mine.get(threading.get_ident())
            return bool(quiet(hook) if own is None else own)

        number = _property(shell.execution_count, self.numbers, own_only=True)
        numbered = _subclass(shell, execution_count=number)
        parted = _subclass(
            hook,
            exec_result=_property(hook.exec_result, self._results),
            msg=_property(None, self._messages),
            quiet=quiet_here,
        )
        self._shell.__class__ = numbered
        # IPython counts the cells that use these, and the last one takes them off. What counts is
        # not made for two threads: a cell that began at that moment had its value shown nowhere.
        for begin in enter:
            begin()
        self._hook.__class__ = parted

    def cell_begins(self) -> None:
        """Put the display hook there again, if a cell that just ended took it off."""
        self._shell.display_trap.set()

    def uninstall(self) -> None:
        """Put both back. Call it while no two cells run."""
        shell, hook = self._classes
        for trap in (self._shell.display_trap, self._shell.builtin_trap):
            trap.__exit__(None, None, None)
        number = self._shell.execution_count
        self._shell.__class__, self._hook.__class__ = shell, hook
        self._shell.execution_count = number
        self._hook.exec_result = None


def _subclass(cls: type, **members: Any) -> type:
    # With the metaclass of traitlets' own, which `type(...)` alone would not find.
    return type(cls)(cls.__name__, (cls,), {**members, "__module__": cls.__module__})


def _property(trait: Any, own: dict[int, Any], *, own_only: bool = False) -> property:
    """Return a property that is *trait* unless the calling thread has an entry in *own*.

    With *own_only* a thread without an entry sets the trait; else what it sets is its own.
    """

    def read(instance: Any) -> Any:
        value = own.get(threading.get_ident(), _NONE)
        if value is not _NONE:
            return value
        return None if trait is None else trait.__get__(instance, type(instance))

    def write(instance: Any, value: Any) -> None:
        ident = threading.get_ident()
        if own_only and ident not in own:
            trait.__set__(instance, value)
        else:
            own[ident] = value

    return property(read, write)
