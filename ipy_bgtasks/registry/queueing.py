"""A job that may not start yet: it waits for others of its group, or for its next attempt."""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Protocol

from ipy_bgtasks.job.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    #: Starts a job on its runner.
    Start = Callable[[Runner, Record], None]


class Line(Protocol):
    """What a queued job waits in."""

    def drop(self, queued: Queued) -> bool:
        """Remove it; return False if it was let go before."""

    def make_room(self, queued: Queued) -> None:
        """Let it go now if the calling job would otherwise keep it from starting."""


class Queued(Runner):
    """The runner of one job until it may start; then it is that of its place.

    So it is cancelled at once, whatever its place is busy with. Any thread may call.
    """

    __slots__ = ("context", "job", "line", "runner", "where")

    def __init__(
        self, job: Record, runner: Runner, line: Line, context: Context | None = None
    ) -> None:
        self.job = job
        self.runner = runner
        #: The place in which it will run.
        self.where = runner.where
        self.line = line
        #: Where it was launched, and will start.
        self.context = copy_context() if context is None else context

    def go(self, start: Start) -> None:
        """Start it, unless it has ended meanwhile; who waits for it looks at it anew."""
        job = self.job
        if not job.done():
            job.move(self.runner)
            self.context.run(start, self.runner, job)
            job.poke()

    def start(self, job: Record) -> None:
        """Do nothing: `go` starts it."""

    def stop(self, job: Record, force: bool) -> None:
        """End it at once, or leave that to its place if it has just been let go."""
        if self.line.drop(self):
            job.end_cancelled()
        else:
            self.runner.stop(job, force)

    def needs_this_thread(self) -> bool:
        """Return whether its place does."""
        return self.runner.needs_this_thread()

    def make_room(self, job: Record) -> None:
        """Let it go if a job that waits for it has its place in the group."""
        self.line.make_room(self)
