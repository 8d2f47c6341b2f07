"""What every front end offers to the rooms above, and what only some can: cells to send away."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.screen import Screen
    from ipy_bgtasks.job.record import Record


class ForegroundCell(NamedTuple):
    """A cell that runs in the foreground."""

    id: str
    code: str
    #: Its prompt number.
    number: int
    #: When its code began, in seconds since the epoch.
    began: float


class ForegroundCells(Protocol):
    """The cells of a front end that can send them to the background. Any thread may call."""

    #: Told, on the thread of a cell, whether one begins (True) or is over; None for nobody.
    watcher: Callable[[bool], object] | None

    def now(self) -> ForegroundCell | None:
        """Return the cell that runs in the foreground, if its code has begun."""

    def send_away_by_id(self, cell: str) -> bool:
        """Send that cell to the background; return whether it runs in the foreground."""

    def hear(self, comm: str) -> None:
        """Have the messages of this comm, of a widget of ours, not wait for a cell that runs."""

    def hear_no_more(self, comm: str) -> None:
        """Take back `hear`."""


class FrontEnd(Protocol):
    """A front end, from the first loading on: one for a kernel, one for a terminal."""

    @property
    def screen(self) -> Screen:
        """Where jobs are shown."""

    @property
    def cells(self) -> ForegroundCells | None:
        """Its cells, where one that runs can be sent to the background."""

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

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Install what concerns jobs only, before there is the first. Any thread may call."""

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before the session's own shutdown."""
