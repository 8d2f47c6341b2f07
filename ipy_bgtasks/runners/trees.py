"""A process and everything that it has started, to be stopped together.

A session finds them all. Where there are none, psutil knows the parent of each process. A child
whose parent has ended can no longer be traced, so each process that was found is remembered.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import has_sessions, kill_signal
from ipy_bgtasks.runners.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable


def refuse_without_psutil() -> None:
    """Raise `BadInput` if process trees cannot be found here."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise BadInput(
            "here a process can only be stopped with psutil: pip install ipy_bgtasks[process], "
            "or use a thread (%bg -t)"
        ) from None


def all_of(pid: int) -> Sessions | Tree:
    """Return what reaches the process, which leads a session where there are any."""
    return Sessions(pid) if has_sessions() else Tree(pid)


class Tree:
    """A process and all that it started; the same methods as `Sessions`. Not thread-safe."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._gone = (psutil.NoSuchProcess, psutil.AccessDenied)
        self._known: dict[int, Any] = {}
        with suppress(*self._gone):
            self._known[pid] = psutil.Process(pid)

    def terminate(self) -> bool:
        """Ask all processes to stop; return whether there were any."""
        return self._each(lambda process: process.terminate())

    def kill(self) -> bool:
        """Kill all processes; return whether there were any."""
        return self._each(lambda process: process.send_signal(kill_signal()))

    def is_left(self) -> bool:
        """Return whether any process still runs, and note those that were started since."""
        return self._each(lambda _process: None)

    def pause(self) -> None:
        """Stop all processes where they are."""
        self._each(lambda process: process.suspend())

    def go_on(self) -> None:
        """Let them go on."""
        self._each(lambda process: process.resume())

    def _each(self, do: Callable[[Any], object]) -> bool:
        self._look()
        for process in self._known.values():
            with suppress(*self._gone):
                do(process)
        return bool(self._known)

    def _look(self) -> None:
        import psutil

        for process in list(self._known.values()):
            with suppress(*self._gone):
                for child in process.children(recursive=True):
                    self._known.setdefault(child.pid, child)
        for pid, process in list(self._known.items()):
            with suppress(*self._gone):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    continue
            del self._known[pid]
