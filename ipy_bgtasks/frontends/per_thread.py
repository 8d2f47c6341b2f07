"""What IPython's shell keeps about "the" cell, kept for each thread.

IPython's shell knows one cell at a time: one number for the cell that runs, and one place for its
value. With a cell in the background a second one runs in another thread at the same time, so while
there is one, both are kept for each thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.patching import Installation

_NONE = object()


class PerThread:
    """Attributes of the shell and its display hook that a thread may have of its own.

    Both get a subclass of their class, with properties; a thread without a value of its own sees
    the shared one, as before.
    """

    def __init__(self) -> None:
        #: The number of the cell that a thread runs, where that is not the foreground's.
        self.numbers: dict[int, int] = {}
        #: Whether the value of the cell that a thread runs is not to be shown.
        self.quiet: dict[int, bool] = {}
        #: What a thread prints before it prompts, if that is not the shell's `separate_in`.
        self.separators: dict[int, str] = {}
        self._results: dict[int, Any] = {}
        self._messages: dict[int, Any] = {}

    def install(self, changes: Installation, shell: Any) -> None:
        """Begin; the value of the cell that runs now stays where it is.

        To be undone while no two cells run.
        """
        hook, quiet = shell.displayhook, type(shell.displayhook).quiet
        _ = shell.display_trap.set

        def quiet_here(hook: Any) -> bool:
            own = self.quiet.get(threading.get_ident())
            return bool(quiet(hook) if own is None else own)

        number = _property(type(shell).execution_count, self.numbers, own_only=True)
        separator = _property(type(shell).separate_in, self.separators, own_only=True)
        changes.subclass(shell, {"execution_count": number, "separate_in": separator})
        # IPython counts the cells that use these, and the last one takes them off. What counts is
        # not made for two threads: a cell that began at that moment had its value shown nowhere.
        for trap in (shell.display_trap, shell.builtin_trap):
            changes.enter(trap)
        changes.add(lambda: setattr(hook, "exec_result", None))
        members = {
            "exec_result": _property(type(hook).exec_result, self._results),
            "msg": _property(None, self._messages),
            "quiet": quiet_here,
        }
        changes.subclass(hook, members)


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
