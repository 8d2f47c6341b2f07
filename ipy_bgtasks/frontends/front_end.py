"""Where output is shown: the protocol of a screen, and what both kinds share.

What every front end offers to the rooms above, and what only some can: cells to send away.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ipy_bgtasks.frontends.labels import Labels
from ipy_bgtasks.job.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.kernel.cards import MakeWidget
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log, Piece
    from ipy_bgtasks.notify import Notice


#: Characters of the log's tail that are shown again.
_REPLAY = 64_000
#: Seconds after which subscribers get what a job wrote.
_SOON = 0.1


class Screen(Host):
    """A front end in which jobs show their output, each in its own place.

    The place in which a job was launched is opaque to all other code (`Job.origin`). Unless
    stated otherwise, any thread may call any method. ``later(seconds, function)`` calls a
    function after some time.
    """

    #: Whether displays can be updated later; if not, there is `footer`.
    live = False

    def __init__(self, shell: Any, later: Callable[..., object]) -> None:
        self.shell = shell
        #: Characters of output that are kept for a job launched from now on.
        self.log_limit = 1_000_000
        self._later = later
        self._lock = threading.RLock()
        self._followed: Counter[tuple[int, Any]] = Counter()
        self._places_of: Counter[int] = Counter()  # in how many places a job is followed
        self._reported: set[int] = set()
        self.labels = Labels()
        self._shut_down = False
        self._muted: tuple[int, int] | None = None
        #: Called with a job each time something about it changes.
        self.watcher: Callable[[Record], object] | None = None
        #: Called with each job that has ended, once that is shown.
        self.on_end: Callable[[Record], object] | None = None

    def install(self) -> Callable[[], None]:
        """Route output from now on; returns what ends that. Main thread only."""
        raise NotImplementedError

    def overhear(self, job: Record, name: str, text: str) -> None:
        """Record what a cell that was sent away writes."""
        job.log.write(name, text)
        if self.watcher is not None:
            self.watcher(job)

    def new_log(self, job: Record) -> Log:
        """Make a log with the current limit."""
        from ipy_bgtasks.log.output import Log

        return Log(self.log_limit)

    def here(self) -> Any:
        """Return the caller's place: a cell, or the place of the job that runs the caller."""
        raise NotImplementedError

    def entering(self, job: Record) -> None:
        """Bind the calling thread's context to the job's place, before the job's code runs."""

    def write(self, job: Record, name: str, text: str) -> None:
        """Write what came from elsewhere as the job's own to "stdout" or "stderr".

        Call this in a context that `entering` has bound to the job's place.
        """
        raise NotImplementedError

    def show(self, mimebundle: dict[str, Any]) -> None:
        """Display something in the caller's place."""
        raise NotImplementedError

    def show_live(self, mimebundle: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """Display something in the caller's place; returns what updates it."""
        raise NotImplementedError

    def use_buttons(self, make: MakeWidget) -> Callable[[], None]:
        """Give displayed jobs the buttons that this makes; returns what ends that."""
        return lambda: None

    def footer(self, text: str | None) -> None:
        """Keep *text* below all that is printed, until None leaves it where it is."""
        raise NotImplementedError

    def say(self, line: str) -> None:
        """Print one line in the caller's place."""
        print(line)

    def show_job(self, job: Record) -> None:
        """Display a job that is the value of the caller's cell.

        Raises `NotImplementedError` if there is only its repr to show.
        """
        raise NotImplementedError

    def launching(self, job: Record) -> None:
        """Display a job that is about to start, before its first line."""

    def mute(self, job: Record) -> None:
        """Do not display this job at the end of the cell that runs now."""
        self._muted = (job.number, self.shell.execution_count)

    def display_job(self, job: Record) -> None:
        """Display a job; called by IPython."""
        if self._muted != (job.number, self.shell.execution_count):
            self.show_job(job)

    def place_of(self, job: Record) -> Any:
        """Return the place in which the job was launched, as a hashable."""
        return job.origin

    def publish(self, job: Record, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """Display as the job does that displays in this process: the context is the job's."""
        self.shell.display_pub.publish(data, metadata, transient=transient, update=update)

    def changed(self, job: Record) -> None:
        """Take note that the job was launched, began, was asked to stop, or made progress."""
        grouped = job.group is not None  # with others that take their turns, thousands perhaps
        if not job.quiet and not job.done() and not (grouped and job.started is None):
            self.labels.enter(job, self.place_of(job), among=grouped)
        if self.watcher is not None:
            self.watcher(job)

    def closing(self, job: Record) -> None:
        """Show what the job left open, once its code has ended; called in its own context."""

    def tell(self, job: Record, line: str) -> None:
        """Print one line about a job in its own place, at once."""
        raise NotImplementedError

    def ended(self, job: Record) -> None:
        """Show the job's end, and notify observers."""
        try:
            self.show_end(job)
        finally:
            self.labels.leave(job, self.place_of(job))
            if self.watcher is not None:
                self.watcher(job)
            if self.on_end is not None:
                self.on_end(job)

    def alert(self, notice: Notice) -> None:
        """Call for the user's attention, at once; nothing where the front end itself cannot."""

    def show_end(self, job: Record) -> None:
        """Show what there is to show of a job's end, once."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Show no more ends of jobs: the session ends."""
        self._shut_down = True

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Show the job's output in the caller's place as well; returns what ends that.

        First comes what this place has not shown yet: the end of the log, or *everything*. With
        *among*, others will be followed there, so its lines are labelled.
        """
        raise NotImplementedError

    def claim(self, job: Record) -> Callable[[], None]:
        """Leave the job's end to the wait in the caller's place; returns what ends that."""
        return self._follow(job, self._place_here())

    def _place_here(self) -> Any:
        """Return the caller's place, as `_follow` takes it."""
        raise NotImplementedError

    def forget_notice(self, job: Record) -> None:
        """Drop a pending notice of the job's end: it is brought to the foreground."""

    # A failure or an end that is reported in another way is not reported twice.

    def reported(self, job: Record, yes: bool = True) -> None:
        """Note that the job's end is reported otherwise, and needs no notice (or does again)."""
        with self._lock:
            (self._reported.add if yes else self._reported.discard)(job.number)

    def _is_reported(self, job: Record) -> bool:
        if not self._reported:
            return False
        with self._lock:
            if job.number not in self._reported:
                return False
            self._reported.discard(job.number)
            return True

    def _follow(self, job: Record, place: Any) -> Callable[[], None]:
        key = (job.number, place)
        elsewhere = place != self.place_of(job) or job.quiet
        with self._lock:
            self._followed[key] += 1
            self._places_of[job.number] += self._followed[key] == 1

        def unfollow() -> None:
            with self._lock:
                if key not in self._followed:
                    return
                self._followed[key] -= 1
                if not self._followed[key]:
                    del self._followed[key]
                    self._places_of[job.number] -= 1
                    if not self._places_of[job.number]:
                        del self._places_of[job.number]
                    if elsewhere:
                        self.labels.leave(job, place)

        return unfollow

    def _follow_log(
        self, job: Record, place: Any, put: Callable[[list[Piece]], None], *, everything: bool
    ) -> Callable[[], None]:
        """Replay the log's tail into *put*, then pass on what follows; returns what ends that."""
        from ipy_bgtasks.log.output import Piece, joined

        unfollow = self._follow(job, place)
        replaying = threading.Lock()

        def put_in_order(pieces: list[Piece]) -> None:
            with replaying:  # another thread may have new output before the old is out
                put(pieces)

        with replaying:
            characters = 1 << 62 if everything else _REPLAY
            entries, unsubscribe = job.log.follow(put_in_order, characters)
            pieces = [Piece(e.stream, e.time, e.text, e.bundle, e.metadata) for e in entries]
            put(joined(pieces))  # servers bound how many messages a kernel sends a second
        job.log.on_pending(self._drain_soon)

        def end() -> None:
            unsubscribe()
            unfollow()
            with self._lock:
                followed = job.number in self._places_of
            if not followed:
                job.log.on_pending(None)

        return end

    def _drain_soon(self, log: Log) -> None:
        self._later(_SOON, log.drain)

    def _is_followed(self, job: Record, place: Any) -> bool:
        if not self._followed:  # each job that ends asks, and mostly nobody follows any
            return False
        with self._lock:
            return self._followed[job.number, place] > 0


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
