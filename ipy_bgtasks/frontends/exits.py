"""The ways out of a process: what Python does at exit, with ours before it."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Protocol

from ipy_bgtasks.frontends.sigterm import before_sigterm

if TYPE_CHECKING:
    from collections.abc import Callable


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
