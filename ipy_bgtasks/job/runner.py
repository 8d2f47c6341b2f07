"""What a job needs of the place where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record


class Run:
    """What a runner keeps about one job, from its start to its end: its `Record.run`."""

    __slots__ = ()

    @property
    def note(self) -> str:
        """What was done to stop it, in the user's words; empty if there is nothing to say."""
        return ""

    def why_not_stopped(self) -> str:
        """Why it goes on after it was asked to stop, in one of the words of `session.stopping`."""
        return ""

    @property
    def insists(self) -> bool:
        """Whether it is to stop at all costs."""
        return False

    def raises_by_itself(self) -> bool:
        """Whether the calling thread is the one in which `checkpoint` raises."""
        return False

    def checkpoint(self) -> None:
        """Raise in the calling thread what `%cancel` has in store for it."""


class Runner(Protocol):
    """A place where work runs. Every method may be called from any thread."""

    #: The word users see for the place.
    where: str

    def start(self, job: Record) -> None:
        """Run the job's work, or queue it; returns without waiting for its end."""

    def stop(self, job: Record, force: bool) -> None:
        """Ask the job to stop: drop it if it has not started, else interrupt it."""

    def stack(self, job: Record) -> list[FrameSummary]:
        """Where the job is right now, the innermost entry last; empty if it cannot be told."""

    def needs_this_thread(self) -> bool:
        """Whether blocking the calling thread would keep this runner's jobs from ending."""

    def make_room(self, job: Record) -> None:
        """The calling thread is about to block until *job* ends: see that it can start."""

    def shutdown(self) -> None:
        """The session ends: start nothing more, stop everything, and return at once.

        Told once. The process ends soon afterwards, whatever is still running here then.
        """
