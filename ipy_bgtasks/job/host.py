"""The protocol by which the lower layers report on jobs to those that show them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log


class Host:
    """An observer of jobs that takes their output; this one only records it.

    Each method is called on the thread where the event happens, and must return immediately and
    not raise.
    """

    #: Whether a new log holds output already.
    has_output = False

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
        """Take note that the job was launched, began, was asked to stop, or reported progress."""

    def closing(self, job: Record) -> None:
        """Take note that the job's code has ended, just before the job; called in its context."""

    def ended(self, job: Record) -> None:
        """Take note that the job has ended."""


class Absence(Host):
    """The host while none is loaded; remembers the newest jobs that end, for the next one."""

    def __init__(self) -> None:
        self.missed: deque[Record] = deque(maxlen=200)

    def ended(self, job: Record) -> None:
        """Remember the job."""
        self.missed.append(job)


class HostSwitch(Host):
    """A host that passes everything on to another, which loading and unloading exchange atomically.

    So jobs that outlive an unloading report to the host of that moment. The other's methods become
    its own, since each job calls five of them.
    """

    _EVENTS = ("new_log", "entering", "write", "changed", "closing", "ended")

    def __init__(self) -> None:
        self.exchange(Absence())

    def exchange(self, host: Host) -> None:
        """Pass everything on to *host* from now on, and report to it the ends that it missed."""
        before = vars(self).get("host")
        vars(self).update({name: getattr(host, name) for name in self._EVENTS}, host=host)
        for job in getattr(before, "missed", ()):
            host.ended(job)


#: Ignores all events.
SILENT = Host()
