"""A cell that was sent to the background as a place: it runs on where it began.

Nothing is started here: the front end finds the cell running, and reports when it has ended.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ipy_bgtasks.job.host import Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.job.record import Record


class CellRunner(Runner):
    """The runner of one cell; *interrupt* does what the stop button would have done.

    Any thread may call that.
    """

    where = "cell"

    def __init__(self, cell: RunningCell, interrupt: Callable[[], object]) -> None:
        self._cell = cell
        self._interrupt = interrupt

    def blocks(self, thread: int | None) -> bool:
        """Return whether the cell blocks everything else in *thread* until it ends."""
        return thread == self._cell.thread and not self._cell.awaits

    def start(self, job: Record) -> None:
        """Note that it runs already."""
        job.begin(since=self._cell.began)
        job.thread = self._cell.thread

    def stop(self, job: Record, force: bool) -> None:
        """Interrupt it; *force* makes no difference."""
        self._interrupt()

    def frames(self, job: Record) -> list[FrameType]:
        """Return the stack of its thread."""
        return self._cell.frames()

    def needs_this_thread(self) -> bool:
        """Return whether it is this very thread that runs it."""
        return threading.get_ident() == self._cell.thread
