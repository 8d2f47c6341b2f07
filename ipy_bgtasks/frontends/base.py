"""A front end: where jobs show their output, and what both kinds share.

Text goes into the job's log and to the place in which the job was launched, a cell or the
terminal. `%fg` has it shown in another place as well. The rooms above hold one object, from the
first loading on, so that jobs which outlive a reload keep their places.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import context as streams
from ipy_bgtasks.context import caller
from ipy_bgtasks.frontends.installing import kernel_of
from ipy_bgtasks.frontends.streams import Labels, isolate_publisher, translate_errors
from ipy_bgtasks.job.host import Host
from ipy_bgtasks.platforms import on_main_thread
from ipy_bgtasks.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.context import ByContext
    from ipy_bgtasks.frontends.kernel.background_cells import KernelCells
    from ipy_bgtasks.frontends.kernel.cards import Cards
    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.frontends.streams import Translate
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Log, Piece
    from ipy_bgtasks.notify import Notice
    from ipy_bgtasks.patching import Installation
    from ipy_bgtasks.session.control import Core
    from ipy_bgtasks.session.leaving import Leaving
    from ipy_bgtasks.session.settings import BgTasks
    from ipy_bgtasks.stacks import Cells


#: Characters of the log's tail that are shown again.
_REPLAY = 64_000
#: The place of all jobs where there is only one, as in a terminal.
ONLY_PLACE = "here"
#: Seconds after which subscribers get what a job wrote.
_SOON = 0.1


class FrontEnd(Host, ABC):
    """A front end in which jobs show their output, each in its own place.

    The place in which a job was launched is opaque to all other code (`Job.origin`). Unless
    stated otherwise, any thread may call any method.
    """

    #: Those of the newest loading.
    settings: BgTasks

    #: Whether displays can be updated later; if not, there is `footer`.
    live = False
    #: The cards of jobs, where displays are HTML.
    cards: Cards

    def __init__(self, shell: Any, core: Core) -> None:
        self.shell = shell
        #: The shell's own publisher: %%capture replaces it.
        self._publisher = shell.display_pub
        self._core = core
        self._loop = core.loop
        #: ``self._later(seconds, function)`` calls a function after some time.
        self._later = core.service.later
        self.switch_interval = core.service.switch_interval
        self._lock = threading.RLock()
        self.labels = Labels()
        #: Its cells, where one that runs can be sent to the background.
        self.cells: KernelCells | None = None
        #: Takes the thread of the foreground's cell and ends a `%fg` that waits there, if one does.
        self.interrupt_wait: Callable[[int], bool] = lambda _thread: False
        #: Called with a job each time something about it changes.
        self.watcher: Callable[[Record], object] | None = None
        #: Called with each job that has ended, once that is shown.
        self.on_end: Callable[[Record], object] | None = None
        self._followed: Counter[tuple[int, Any]] = Counter()
        self._places_of: Counter[int] = Counter()  # in how many places a job is followed
        self._reported: set[int] = set()
        self._shut_down = False
        #: Confines replacements of the shell's publisher to their context.
        self._captures: ByContext | None = None
        #: What the shell shows in place of exceptions.
        self.translators: list[Translate] = []
        #: The publisher of the `%%capture` in which each job was launched, while that lasts.
        self._captured: dict[int, Any] = {}
        self._muted: tuple[int, int] | None = None

    @property
    def interrupt_backgrounds(self) -> bool:
        """Whether the first interrupt of a cell is to send it to the background."""
        return bool(self.settings.interrupt == "background")

    @property
    def interactive(self) -> bool:
        """Whether there is, or will be, a prompt or a cell at which a user sees what happens."""
        return True

    @property
    def blocking(self) -> Record | None:
        """The job that blocks the event loop, as was reported, if one does."""
        return self._core.runners.watchdog.blocking if self._core.has_runners else None

    def unblock(self) -> bool:
        """Stop the job that blocks the event loop; return whether one does.

        Handlers of signals may call, too.
        """
        if (job := self.blocking) is not None:
            self._core.service.loop.call_soon_threadsafe(job.cancel)
        return job is not None

    def on_block(self, blocked: bool) -> None:
        """Take note that a job blocks the loop, so that an interrupt can stop it; or no longer."""

    def remedy(self, job: Record) -> str:
        """Return what stops a job that blocks the loop, in the user's words; empty for nothing."""
        return ""

    @property
    def attended(self) -> bool:
        """Whether a user may be there now: if a program runs the session, its end is for that."""
        return self.interactive

    # Installing

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""
        changes.step("captures", self._isolate_captures)
        changes.step("tracebacks", translate_errors, self.shell, self.translators)

    def _isolate_captures(self, changes: Installation) -> None:
        self._captures = isolate_publisher(changes, self.shell, self._publisher)

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Install what concerns jobs only, before there is the first."""
        from ipy_bgtasks.frontends.commands import (
            isolate_bars,
            isolate_consoles,
            print_pages_of_jobs,
        )
        from ipy_bgtasks.hooks import refuse_questions

        changes.step("rich", isolate_consoles)
        changes.step("tqdm", isolate_bars)
        changes.step("questions", refuse_questions, kernel_of(self.shell))
        changes.step("pagers", print_pages_of_jobs, self.shell)

    @abstractmethod
    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Have *leaving* stop all jobs before the session's own shutdown."""

    def use_page(
        self, open_page: Callable[[], dict[str, Any] | None], cells: Cells
    ) -> Callable[[], None]:
        """Let a script in the page bring displayed jobs to life; returns what ends that.

        *open_page* sends it there, once, and returns what shows a view of it; None if it cannot.
        """
        return lambda: None

    # Cells

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        return on_main_thread()

    @abstractmethod
    def last_backgrounded(self) -> Record:
        """Return the job of the cell that was just sent to the background; `BadInput` if none."""

    def launch_cell(self, run: RunningCell, interrupt: Callable[[], object]) -> Record:
        """Make a job of a cell that runs, with what the foreground has open."""
        job = self._core.launch_cell(run, interrupt)
        streams.inherit(job)
        if self._captures is not None:
            self._captures.inherit(job)
        return job

    @abstractmethod
    def show_stuck(self, run: RunningCell, line: str) -> None:
        """Show *line*, which says where a cell is stuck: an interrupt does not reach it."""

    # Places

    def here(self) -> Any:
        """Return the caller's place: a cell, or the place of the job that runs the caller."""
        return ONLY_PLACE

    def key(self, place: Any) -> Any:
        """Return what stands for a place, as a hashable."""
        return place

    def place_of(self, job: Record) -> Any:
        """Return the place in which the job was launched, as a hashable."""
        return self.key(job.origin)

    # What is shown in the caller's place

    def print_line(self, line: str) -> None:
        """Print one line."""
        print(printable(line))

    def print_aside(self, line: str) -> None:
        """Print one line that answers nothing; on stderr where output may go into a pipe."""
        print(line)

    def print_last(self, line: str) -> None:
        """Print one line on the process's own stderr: the session ends."""
        self.print_aside(line)

    @abstractmethod
    def show(self, mimebundle: dict[str, Any]) -> None:
        """Display something."""

    def show_live(self, mimebundle: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """Display something; returns what updates it, or shows it anew where that cannot be."""
        self.show(mimebundle)
        return self.show

    def show_job(self, job: Record) -> None:
        """Display a job that is the value of the caller's cell.

        Raises `NotImplementedError` if there is only its repr to show.
        """
        raise NotImplementedError

    def display_job(self, job: Record) -> None:
        """Display a job; called by IPython."""
        if self._muted != (job.number, self.shell.execution_count):
            self.show_job(job)

    def mute(self, job: Record) -> None:
        """Do not display this job at the end of the cell that runs now."""
        self._muted = (job.number, self.shell.execution_count)

    def footer(self, text: str | None) -> None:
        """Keep *text* below all that is printed, until None leaves it where it is.

        Only where there is a below: not in a notebook.
        """

    def alert(self, notice: Notice) -> None:
        """Call for the user's attention, at once; nothing where the front end itself cannot."""

    # What is captured

    def capturing(self) -> Any:
        """Return the publisher by which `%%capture` captures the foreground; None if none does."""
        publisher = streams.UNSET if self._captures is None else self._captures.foreground
        return None if publisher in (streams.UNSET, streams.DELETED) else publisher

    def join_capture(self, job: Record) -> None:
        """Let a `%%capture` around the launch have what the job shows as long as it lasts."""
        if (publisher := self.capturing()) is not None and caller() is None:
            self._captured[job.number] = publisher

    def captured(self, job: Record) -> Any:
        """Return the publisher that captures what the job displays now; None if none does."""
        if not self._captured or (publisher := self._captured.get(job.number)) is None:
            return None
        if publisher is self.capturing():
            return publisher
        self._captured.pop(job.number, None)
        return None

    def capture_text(self, job: Record, name: str, text: str) -> bool:
        """Write a job's text to where the cell that has launched it is captured, if it is."""
        if self.captured(job) is None or (stream := streams.capturing(name)) is None:
            return False
        stream.write(text)
        return True

    # What is shown in the job's place

    def new_log(self, job: Record) -> Log:
        """Make a log with the current limit."""
        from ipy_bgtasks.log.output import Log

        return Log(self.settings.log_limit)

    def launching(self, job: Record) -> None:
        """Display a job that is about to start, before its first line."""

    @abstractmethod
    def output(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> None:
        """Record *text*, which a job wrote to the stream *name*, and show it by *write*."""

    def flush(self, job: Record) -> None:
        """Show what is held back of the job's output, as far as that does no harm."""

    def record(self, job: Record, name: str, text: str) -> bool:
        """Record what a cell in the background writes; return whether that has shown it, too.

        Else it is shown like that of any cell.
        """
        if threading.get_ident() != job.thread:  # one that the cell started when it was none yet
            copy_context().run(self._write_entered, job, name, text)
            return True
        job.log.write(name, text)
        self._notify_watcher(job)
        return False

    def _write_entered(self, job: Record, name: str, text: str) -> None:
        job.enter()
        self.write(job, name, text)

    def publish(self, job: Record, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """Display as the job does that displays in this process: the context is the job's."""
        self.shell.display_pub.publish(data, metadata, transient=transient, update=update)

    def changed(self, job: Record) -> None:
        """Take note that the job was launched, began, was asked to stop, or made progress."""
        grouped = job.group is not None  # with others that take their turns, thousands perhaps
        if not job.quiet and not job.done() and not (grouped and job.started is None):
            self.labels.enter(job, self.place_of(job), among=grouped)
        self._notify_watcher(job)

    @abstractmethod
    def print_at(self, job: Record, line: str) -> None:
        """Print one line about a job in its own place, at once."""

    def ended(self, job: Record) -> None:
        """Show the job's end, and notify observers."""
        try:
            self._show_end(job)
        finally:
            self._captured.pop(job.number, None)
            self.labels.leave(job, self.place_of(job))
            self._notify_watcher(job)
            if self.on_end is not None:
                self.on_end(job)

    @abstractmethod
    def _show_end(self, job: Record) -> None:
        """Show what there is to show of a job's end, once."""

    def discarded(self, job: Record) -> None:
        """Take note that the job is kept no more."""

    def _notify_watcher(self, job: Record) -> None:
        if self.watcher is not None:
            self.watcher(job)

    def shutdown(self) -> None:
        """Show no more ends of jobs: the session ends."""
        self._shut_down = True

    # Ends that are reported in another way, and not twice

    def mark_reported(self, job: Record, yes: bool = True) -> None:
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

    def forget_notice(self, job: Record) -> None:
        """Drop a pending notice of the job's end: it is brought to the foreground."""

    # Following a job in another place

    @abstractmethod
    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Show the job's output in the caller's place as well; returns what ends that.

        First comes what this place has not shown yet: the end of the log, or *everything*. With
        *among*, others will be followed there, so its lines are labelled.
        """

    def claim(self, job: Record) -> Callable[[], None]:
        """Leave the job's end to the wait in the caller's place; returns what ends that."""
        return self._follow(job, self.key(self.here()))

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
        self,
        job: Record,
        place: Any,
        put: Callable[[list[Piece]], None],
        *,
        everything: bool,
        among: bool,
    ) -> Callable[[], None]:
        """Replay the log's tail into *put*, then pass on what follows; returns what ends that.

        *put* is called with the lock held under which labels are in order.
        """
        from ipy_bgtasks.log.output import Piece, joined

        self.labels.enter(job, place, among=among)
        unfollow = self._follow(job, place)
        replaying = threading.Lock()

        def put_in_order(pieces: list[Piece]) -> None:
            # Another thread may have new output before the old is out.
            with replaying, self.labels.order:
                put(pieces)

        with replaying:
            characters = 1 << 62 if everything else _REPLAY
            entries, unsubscribe = job.log.follow(put_in_order, characters)
            pieces = [Piece(e.stream, e.time, e.text, e.bundle, e.metadata) for e in entries]
            with self.labels.order:
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
