"""The ways out of a process: what Python does when it ends, with ours before it."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Protocol

from ipy_bgtasks.frontends.sigterm import before_sigterm

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.screen import Screen
    from ipy_bgtasks.job.record import Record


class Leaving(Protocol):
    """Ends the jobs of a session; `session.leaving` does. Any thread may call."""

    def tell(self) -> None:
        """Stop all jobs; returns at once."""

    def wait(self) -> None:
        """Block until all is over, but not longer than it may take."""

    async def ended(self) -> None:
        """Wait for the same on any loop."""

    def finish(self) -> None:
        """Tell, and run the loop until all is over: the last act of the loop's thread."""


class FrontEnd(Protocol):
    """What shows jobs, from the first loading on: one for a kernel, one for a terminal."""

    @property
    def screen(self) -> Screen:
        """Where jobs are shown."""

    #: Is given the thread of the foreground's cell: ends a `%fg` that waits there, if one does.
    waits: Callable[[int], bool]
    #: Tells whether the first interrupt of a cell is to send it to the background.
    sends_away: Callable[[], bool]

    def reaches(self) -> bool:
        """Whether an interrupt of the foreground finds the calling thread."""

    def sent_away(self) -> Record:
        """Return the job of the cell that was just sent to the background; `BadInput` if none."""

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Let *leaving* come before the session's own end."""


def watch_process(leaving: Leaving) -> Callable[[], None]:
    """Let *leaving* come first when the process ends or gets SIGTERM; returns what undoes it.

    Any thread may call.
    """

    def clean_up() -> None:
        leaving.tell()
        leaving.wait()

    undo = [before_sigterm(clean_up), _at_exit(leaving.finish)]

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return undo_all


def _at_exit(finish: Callable[[], None]) -> Callable[[], None]:
    """Call *finish* when the interpreter begins to end, before it waits for any thread."""
    atexit.register(finish)
    # Unlike `atexit` it comes before executors are shut down, which a job's clean-up may need,
    # and before their threads are waited for. There is no unregistering: what is left is empty.
    calls = [finish]
    if (register := getattr(threading, "_register_atexit", None)) is not None:
        register(lambda: [call() for call in calls])

    def undo() -> None:
        atexit.unregister(finish)
        calls.clear()

    return undo
