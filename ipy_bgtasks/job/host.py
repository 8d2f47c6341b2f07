"""What a job knows of those around it: the host that shows it, and the runner of its place."""

from __future__ import annotations

from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log
    from ipy_bgtasks.work import Work


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

    def publish(self, job: Record, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """Take a MIME bundle that the job displayed elsewhere; called as `write` is."""
        job.log.publish(data, metadata, transient, update)

    def clear(self, job: Record, wait: bool) -> None:
        """Take the job's wish, from elsewhere, to clear what it has shown."""
        job.log.clear(wait=wait)

    def changed(self, job: Record) -> None:
        """Take note that the job was launched, began, was asked to stop, or reported progress."""

    def retrying(self, job: Record, line: str) -> None:
        """Record, on a line of its own, how an attempt has failed and when the next one comes."""
        last = job.log.tail(1)
        begun = bool(last) and not last[-1].text.endswith("\n")
        job.log.write("stderr", "\n" * begun + line + "\n")

    def context(self) -> Context:
        """Return a context with the session's print options, in which a value is shown."""
        return copy_context()

    def closing(self, job: Record) -> None:
        """Take note that the job's code has ended, just before the job; called in its context."""

    def ended(self, job: Record) -> None:
        """Take note that the job has ended."""


class Absence(Host):
    """The host while none is loaded; remembers the newest jobs that end, for the next one."""

    def __init__(self) -> None:
        self.missed: deque[Record] = deque(maxlen=200)

    def ended(self, job: Record) -> None:
        self.missed.append(job)


class HostSwitch(Host):
    """A host that passes everything on to another, which loading and unloading exchange atomically.

    So jobs that outlive an unloading report to the host of that moment. The other's methods become
    its own, since each job calls several.
    """

    def __init__(self) -> None:
        self.exchange(Absence())

    def exchange(self, host: Host) -> None:
        """Pass everything on to *host* from now on, and report to it the ends that it missed."""
        before = vars(self).get("host")
        events = [name for name in vars(Host) if not name.startswith("_") and name != "has_output"]
        vars(self).update({name: getattr(host, name) for name in events}, host=host)
        for job in getattr(before, "missed", ()):
            host.ended(job)


#: Ignores all events.
SILENT = Host()


class Run:
    """A runner's state for one job, from its start to its end: its `Record.run`."""

    __slots__ = ()

    #: Whether a request to stop has reached the code, and not just come too late.
    reached: bool = True
    #: Whether it was asked to stop by force.
    insists: bool = False
    #: Whether it goes on when this session ends.
    goes_on: bool = False
    #: What keeps it from starting, in words.
    waits_for: str = ""

    def stop(self, force: bool) -> None:
        """Interrupt it; any thread may call."""
        raise NotImplementedError

    def frames(self) -> list[FrameType]:
        """Return the frames of its code if they are in this process, the innermost last."""
        return []

    @property
    def processes(self) -> Any:
        """What pauses the processes it runs in, as `Sessions` do, if they are its own."""
        return None

    def query(self, what: str, text: str, wait: float) -> Any:
        """Return what another process answers, see `runners.child`, in *wait* seconds; or None."""

    @property
    def note(self) -> str:
        """What was done to stop it, in the user's words; empty if there is nothing to say."""
        return ""

    def why_not_stopped(self) -> str:
        """Return why it goes on after it was asked to stop, in a word of `session.foreground`."""
        return ""

    def raises_by_itself(self) -> bool:
        """Return whether the calling thread is the one in which `checkpoint` raises."""
        return False

    def checkpoint(self) -> None:
        """Raise in the calling thread what `%cancel` has pending for it."""


class Runner:
    """A place where work runs. Every method may be called from any thread.

    Those that are defined here say what holds for most places.
    """

    __slots__ = ()

    #: The word users see for the place.
    where: str

    def accept(self, work: Work) -> Work:
        """Return the work as it is sent there; raises `BadInput` for what cannot be sent."""
        return work

    def start(self, job: Record) -> None:
        """Run the job's work, or queue it; returns without waiting for its end."""
        raise NotImplementedError

    def stop(self, job: Record, force: bool) -> None:
        """Ask the job to stop: drop it if it has not started, else interrupt it."""
        if job.run is None:  # it still waits for other jobs
            job.end_cancelled()
        else:
            job.run.stop(force)

    def frames(self, job: Record) -> list[FrameType]:
        """Return the frames of its code if they are in this process, the innermost last."""
        return [] if job.run is None else job.run.frames()

    def needs_this_thread(self) -> bool:
        """Return whether blocking the calling thread would keep this runner's jobs from ending."""
        return False

    def blocks(self, thread: int | None) -> bool:
        """Return whether its job blocks everything else in *thread* until it ends."""
        return False

    def make_room(self, job: Record) -> None:
        """Make sure that *job* can start: the calling thread is about to block until it ends."""

    def waits(self, job: Record) -> str:
        """Return what keeps the job from starting, in words."""
        return "" if job.run is None else job.run.waits_for

    def shutdown(self) -> None:
        """Start nothing more, stop everything, and return immediately: the session ends.

        Called once. The process ends soon afterwards, whatever is still running here then.
        """
