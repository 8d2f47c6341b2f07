"""Where output can be seen: the protocol of a front end, and what both kinds share."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.labels import Labels
from ipy_bgtasks.job.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.cards import MakeWidget
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log, Piece

#: Characters of the recorded end that are shown again.
_REPLAY = 64_000
#: Seconds after which those who follow a job get what it wrote.
_SOON = 0.1


class Screen(Host):
    """A front end in which jobs show their output, each in its own place.

    The place in which a job was launched is opaque to everybody else (`Job.origin`). Unless
    said otherwise any thread may call any method. ``later(seconds, function)`` calls a function
    after some time.
    """

    #: Whether what was displayed can be brought up to date later; if not, there is `footer`.
    live = False

    def __init__(self, shell: Any, later: Callable[..., object]) -> None:
        self.shell = shell
        #: Characters of output that are kept for a job launched from now on.
        self.log_limit = 1_000_000
        self._later = later
        self._lock = threading.RLock()
        self._followed: Counter[tuple[int, Any]] = Counter()
        self._reported: set[int] = set()
        self.labels = Labels()
        self._shut_down = False
        self._muted: tuple[int, int] | None = None
        #: Called with each job about which something is new, as often as that is.
        self.watcher: Callable[[Record], object] | None = None

    def install(self) -> Callable[[], None]:
        """Begin to route; returns what ends it. Main thread only."""
        raise NotImplementedError

    def overhear(self, job: Record, name: str, text: str) -> None:
        """Record what a cell that was sent away writes."""
        job.log.write(name, text)
        if self.watcher is not None:
            self.watcher(job)

    def new_log(self, job: Record) -> Log:
        """Make a log within the limit that is set now."""
        from ipy_bgtasks.log.output import Log

        return Log(self.log_limit)

    def here(self) -> Any:
        """The place of whoever calls: a cell, or the place of the job that runs the caller."""
        raise NotImplementedError

    def entering(self, job: Record) -> None:
        """Bind the calling thread's context to the job's place, before the job's code runs."""

    def write(self, job: Record, name: str, text: str) -> None:
        """Write what came from elsewhere as the job's own to "stdout" or "stderr".

        To be called in a context that `prepare` has bound to the job's place.
        """
        raise NotImplementedError

    def show(self, mimebundle: dict[str, Any]) -> None:
        """Display something in the place of whoever calls."""
        raise NotImplementedError

    def show_live(self, mimebundle: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """Display something in the place of whoever calls; returns what puts news there."""
        raise NotImplementedError

    def use_buttons(self, make: MakeWidget) -> Callable[[], None]:
        """Give displayed jobs the buttons that *make* makes; returns what ends that."""
        return lambda: None

    def footer(self, text: str | None) -> None:
        """Keep *text* below all that is printed, until None leaves it where it is."""
        raise NotImplementedError

    def say(self, line: str) -> None:
        """Say one line in the place of whoever calls."""
        print(line)

    def show_job(self, job: Record) -> None:
        """Display a job that is the value of the caller's cell.

        Raises `NotImplementedError` where its repr is all there is to show.
        """
        raise NotImplementedError

    def launching(self, job: Record) -> None:
        """Display a job that is about to start, before its first line."""

    def mute(self, job: Record) -> None:
        """Do not display this job at the end of the cell that runs now."""
        self._muted = (job.number, self.shell.execution_count)

    def display_job(self, job: Record) -> None:
        """What IPython calls to display a job."""
        if self._muted != (job.number, self.shell.execution_count):
            self.show_job(job)

    def place_of(self, job: Record) -> Any:
        """Return the place in which the job was launched, as something that can be hashed."""
        return job.origin

    def changed(self, job: Record) -> None:
        """The job was launched, began, was asked to stop, or got on."""
        if not job.quiet and not job.done():
            self.labels.enter(job, self.place_of(job))
        if self.watcher is not None:
            self.watcher(job)

    def closing(self, job: Record) -> None:
        """The job's code has ended, and what it left open can be shown; in its own context."""

    def tell(self, job: Record, line: str) -> None:
        """Say one line about a job in its own place, at once."""
        raise NotImplementedError

    def ended(self, job: Record) -> None:
        """Show the job's end, and tell who watches."""
        try:
            self.show_end(job)
        finally:
            self.labels.leave(job, self.place_of(job))
            if self.watcher is not None:
                self.watcher(job)

    def show_end(self, job: Record) -> None:
        """Show what there is to show of a job's end, once."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """The session ends: that jobs end is no news any more."""
        self._shut_down = True

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Show the job's output in the caller's place as well; returns what ends that.

        First what this place has not shown yet: the end of the log, or *everything*. *among*
        others that are to be followed there its lines are labelled.
        """
        raise NotImplementedError

    def claim(self, job: Record) -> Callable[[], None]:
        """Leave the job's end to whoever waits in the caller's place; returns what ends that."""
        return self._follow(job, self._place_here())

    def _place_here(self) -> Any:
        """The place of whoever calls, as `_follow` takes it."""
        raise NotImplementedError

    def forget_notice(self, job: Record) -> None:
        """Say nothing of an end that waits to be told: somebody brings it to the foreground."""

    # A failure or an end that somebody is told in another way is not told twice.

    def reported(self, job: Record, yes: bool = True) -> None:
        """Somebody reports the job's end to the user: no notice is needed (or it is again)."""
        with self._lock:
            (self._reported.add if yes else self._reported.discard)(job.number)

    def _is_reported(self, job: Record) -> bool:
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

        def unfollow() -> None:
            with self._lock:
                self._followed[key] -= 1
                if self._followed[key] <= 0:
                    del self._followed[key]
                    if elsewhere:
                        self.labels.leave(job, place)

        return unfollow

    def _follow_log(
        self, job: Record, place: Any, put: Callable[[list[Piece]], None], *, everything: bool
    ) -> Callable[[], None]:
        """Replay the log's end into *put*, and go on with what comes; returns what ends that."""
        from ipy_bgtasks.log.output import Piece  # only now is it needed

        unfollow = self._follow(job, place)
        replaying = threading.Lock()

        def put_in_order(pieces: list[Piece]) -> None:
            with replaying:  # another thread may have news before the old is out
                put(pieces)

        with replaying:
            characters = 1 << 62 if everything else _REPLAY
            entries, unsubscribe = job.log.follow(put_in_order, characters)
            put([Piece(e.stream, e.time, e.text, e.bundle, e.metadata) for e in entries])
        job.log.on_pending(self._drain_soon)

        def end() -> None:
            unsubscribe()
            unfollow()
            with self._lock:
                followed = any(number == job.number for number, _ in self._followed)
            if not followed:
                job.log.on_pending(None)

        return end

    def _drain_soon(self, log: Log) -> None:
        self._later(_SOON, log.drain)

    def _is_followed(self, job: Record, place: Any) -> bool:
        with self._lock:
            return self._followed[job.number, place] > 0
