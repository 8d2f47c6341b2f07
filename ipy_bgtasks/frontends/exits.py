"""The ways out of a process: what Python does at exit, with ours before it."""

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
    """What ends the jobs of a session, as `session.leaving` does. Any thread may call."""

    def tell(self) -> None:
        """Stop all jobs; returns immediately."""

    def wait(self) -> None:
        """Block until the session has shut down, for a bounded time."""

    async def ended(self) -> None:
        """Wait, on any loop, until the session has shut down, for a bounded time."""

    def finish(self) -> None:
        """Stop all jobs, and run the loop until the session has shut down. On the loop's thread."""


class FrontEnd(Protocol):
    """A front end, from the first loading on: one for a kernel, one for a terminal."""

    @property
    def screen(self) -> Screen:
        """Where jobs are shown."""

    #: Takes the thread of the foreground's cell and ends a `%fg` that waits there, if one does.
    waits: Callable[[int], bool]
    #: Tells whether the first interrupt of a cell is to send it to the background.
    sends_away: Callable[[], bool]

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""

    def sent_away(self) -> Record:
        """Return the job of the cell that was just sent to the background; `BadInput` if none."""

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before the session's own shutdown."""


def watch_process(leaving: Leaving) -> Callable[[], None]:
    """Call *leaving* first when the process exits or gets SIGTERM; returns what undoes it.

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
    # Unlike `atexit`, this runs before executors are shut down, which a job's clean-up may need,
    # and before their threads are joined. It cannot be unregistered: an empty call is left.
    calls = [finish]
    if (register := getattr(threading, "_register_atexit", None)) is not None:
        register(lambda: [call() for call in calls])

    def undo() -> None:
        atexit.unregister(finish)
        calls.clear()

    return undo
