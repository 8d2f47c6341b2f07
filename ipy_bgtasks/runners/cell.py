"""A cell that was sent to the background as a place: it runs on where it began.

Nothing is started here: the front end found the cell running, and tells when it has ended.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record


class CellRunner:
    """One cell that runs in *thread* since *began*, a monotonic time.

    *awaits* is whether it lets other tasks of that thread's loop go on. *interrupt* does what
    the stop button would have done, *stack* tells where the code is; any thread may call both.
    """

    where = "cell"

    def __init__(
        self,
        *,
        thread: int,
        began: float,
        awaits: bool,
        interrupt: Callable[[], object],
        stack: Callable[[], list[FrameSummary]],
    ) -> None:
        self._thread = thread
        self._began = began
        self._awaits = awaits
        self._interrupt = interrupt
        self._stack = stack

    def blocks(self, thread: int | None) -> bool:
        """Whether nothing else of *thread*'s goes on until the cell ends."""
        return thread == self._thread and not self._awaits

    def start(self, job: Record) -> None:
        """Note that it runs already."""
        job.begin(since=self._began)
        job.thread = self._thread

    def stop(self, job: Record, force: bool) -> None:
        """Interrupt it; *force* is the same, again."""
        self._interrupt()

    def stack(self, job: Record) -> list[FrameSummary]:
        """Where its thread is."""
        return self._stack()

    def needs_this_thread(self) -> bool:
        """Whether it is this very thread that runs it."""
        return threading.get_ident() == self._thread

    def make_room(self, job: Record) -> None:
        """It runs already."""

    def shutdown(self) -> None:
        """It ends with the process; its job is cancelled as any other."""
