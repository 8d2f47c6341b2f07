"""Who is told about jobs: the one thing the lower rooms know of those who watch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log


class Host:
    """Hears of jobs and takes their output; this one only records it.

    Each method is called on the thread where it happens, must return at once and not raise.
    """

    def new_log(self, job: Record) -> Log:
        """Make the job's log; called when it is first needed."""
        from ipy_bgtasks.log.output import Log

        return Log()

    def entering(self, job: Record) -> None:
        """Bind the calling context to the job's place: the job's code is about to run in it."""

    def write(self, job: Record, stream: str, text: str) -> None:
        """Take what the job wrote elsewhere to "stdout" or "stderr".

        Called in a context in which the job was entered.
        """
        job.log.write(stream, text)

    def changed(self, job: Record) -> None:
        """The job was launched, began, was asked to stop, or reported progress."""

    def closing(self, job: Record) -> None:
        """The job's code has ended; the job is about to. Called in the job's own context."""

    def ended(self, job: Record) -> None:
        """The job has ended."""


class Absence(Host):
    """Nobody watches; those who come back are to be told who ended meanwhile, the newest."""

    def __init__(self) -> None:
        self.missed: deque[Record] = deque(maxlen=200)

    def ended(self, job: Record) -> None:
        """Remember it."""
        self.missed.append(job)


class HostSwitch(Host):
    """Passes everything on to one host, which loading and unloading exchange, in one step.

    So jobs that run over an unloading end before whoever watches then.
    """

    def __init__(self) -> None:
        self.host: Host = Absence()

    def exchange(self, host: Host) -> None:
        """Pass everything on to *host* from now on; it hears who ended while nobody watched."""
        before, self.host = self.host, host
        for job in getattr(before, "missed", ()):
            host.ended(job)

    def new_log(self, job: Record) -> Log:
        """Have it made."""
        return self.host.new_log(job)

    def entering(self, job: Record) -> None:
        """Pass it on."""
        self.host.entering(job)

    def write(self, job: Record, stream: str, text: str) -> None:
        """Pass it on."""
        self.host.write(job, stream, text)

    def changed(self, job: Record) -> None:
        """Pass it on."""
        self.host.changed(job)

    def closing(self, job: Record) -> None:
        """Pass it on."""
        self.host.closing(job)

    def ended(self, job: Record) -> None:
        """Pass it on."""
        self.host.ended(job)


#: Tells nobody.
SILENT = Host()
