"""IPython in a terminal: whole lines above the prompt, and notices when jobs end.

Lines of a job are shown when they are complete, so that neither another job nor the foreground
can split them. Notices wait for the prompt, as in bash. Leaving stops all jobs first, and with
jobs running the first `exit` only asks.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import context as streams
from ipy_bgtasks.context import caller, cells_away
from ipy_bgtasks.frontends.base import ONLY_PLACE, FrontEnd
from ipy_bgtasks.frontends.streams import (
    RoutedStream,
    formatted,
)
from ipy_bgtasks.frontends.terminal.above import AbovePrompt, EndNotices, PromptStream, sequences
from ipy_bgtasks.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
    from ipy_bgtasks.frontends.terminal.suspend import TerminalCells
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.fold import Screen
    from ipy_bgtasks.log.output import Piece
    from ipy_bgtasks.notify import Notice
    from ipy_bgtasks.patching import Installation
    from ipy_bgtasks.session.control import Core
    from ipy_bgtasks.session.leaving import Leaving


#: Seconds between two updates of the progress of a job that `%fg` waits for.
_BAR_EVERY = 0.25
#: Seconds that the shutdown waits for notices of jobs that are just being shown; the first
#: traceback takes long on a busy machine.
_LAST_WORD = 2.0
#: Seconds that jobs wait for the end of the foreground's partial line.
_BEGUN = 0.25
#: The same after ``Out[3]: ``. What follows is made already, but on a busy machine comes late.
_VALUE = 5.0
#: Seconds that a line waits which its job may still redraw.
_REDRAWN = 0.3
#: What a job writes to redraw its lines.
_REDRAWS = re.compile(r"\r(?!\n)|\x1b\[\d*[AF]")


class TerminalFrontEnd(FrontEnd):
    """A terminal session, or a shell without any terminal: one place for all jobs."""

    def __init__(self, shell: Any, core: Core) -> None:
        super().__init__(shell, core)
        self._terminal: TerminalLoop | None = None
        self._suspending: TerminalCells | None = None
        #: What is shown at the end of a cell in the background, where its notice has no room.
        self.values: dict[int, str] = {}
        self._prompts = hasattr(shell, "prompt_for_code")
        self._notices = EndNotices(self._put, self._later, self._notice, self._notice_of_group)
        #: What a job has written since its last line that was shown.
        self._partial: dict[int, str] = {}
        #: The same of those that redraw their lines: bars are shown when they stand.
        self._bars: dict[int, Screen] = {}
        #: The terminal's stream, as far as it is not routed.
        self._stdout: Any = sys.stdout
        self._above_prompt = AbovePrompt(self._write_outside)
        #: Whether a prompt waits.
        self._prompting = False
        self._besides: dict[str, tuple[Any, PromptStream, RoutedStream]] = {}
        #: Whether the foreground has a partial line, and what waits for its end.
        self._begun, self._patience = False, _BEGUN
        self._waiting: list[str] = []
        #: The jobs whose ends are just being shown, and whether somebody waits for that.
        self._ending: list[Record] = []
        self._last_words = False
        self._shown = threading.Condition(self._lock)
        #: Whether it was asked if jobs may be stopped, in the cell that runs, or the one before.
        self._asked = self._asked_before_cell = False
        self._footer: str | None = None
        self._bar: str | None = None  # the footer that `%fg` shows

    # Installing

    def install(self, changes: Installation) -> None:
        """Route output, and let the prompt and await cells share the loop."""
        shell = self.shell
        self._route(changes)
        super().install(changes)
        changes.step("partial lines", self._hold_lines_until_value)
        if self._prompts:
            changes.step("prompt", self._share_loop)
        # An embedded shell is left for the program around it, which waits for the main thread.
        if self._terminal is not None and shell.pt_app is not None and not _is_embedded(shell):
            changes.step("ctrl-z", self._background_cells, self._terminal)

    def _background_cells(self, changes: Installation, terminal: TerminalLoop) -> None:
        from ipy_bgtasks.frontends.terminal.suspend import TerminalCells

        cells = self._suspending or TerminalCells(self, self._later, terminal)
        cells.install(changes, terminal)
        self._suspending = cells

    def _route(self, changes: Installation) -> None:
        """Route both streams through this front end."""
        # What another shell's code captures with just now, that shell puts away and may close.
        found = {name: _unrouted(streams.real(name)) for name in streams.NAMES}
        self._stdout = found["stdout"]
        streams.give_each_job_its_own(
            changes,
            {
                name: RoutedStream(stream, name, self, self._holding_lines(stream, name))
                for name, stream in found.items()
            },
        )
        changes.add(self._end_begun_line)

    def _hold_lines_until_value(self, changes: Installation) -> None:
        """Let lines of jobs wait for the value that follows ``Out[3]: ``.

        IPython writes that to the terminal, bypassing Python's streams.
        """

        def write_output_prompt(original: Callable[[], None]) -> None:
            with self._lock:
                original()
                self._begun, self._patience = True, _VALUE

        changes.wrap(self.shell.displayhook, "write_output_prompt", write_output_prompt)

    def _share_loop(self, changes: Installation) -> None:
        from ipy_bgtasks.frontends.terminal.loop import TerminalLoop

        terminal = TerminalLoop(self.shell, self._loop, self.around_prompt)
        line = terminal.install(changes)
        if line and self.interactive:
            self.print_aside(f"ipy_bgtasks: {line}")
        self._terminal = terminal

    @property
    def interactive(self) -> bool:
        """Whether there is, or will be, a prompt: not with ``-c`` or a script alone."""
        return self._prompts and getattr(self.shell.parent, "interact", True)

    def prepare_for_jobs(self, changes: Installation) -> None:
        from ipy_bgtasks.frontends.commands import give_children_no_input

        super().prepare_for_jobs(changes)
        changes.step("input of children", give_children_no_input)

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Have *leaving* stop all jobs before IPython's own shutdown, and ask before that."""
        from ipy_bgtasks.frontends.installing import before_clean_up

        # A job's clean-up may need the user's names.
        changes.step("exit", before_clean_up, self.shell, leaving.finish)
        if self._prompts:
            changes.step("exit", self._ask_before_exit, leaving.begin)

    def last_backgrounded(self) -> Record:
        """Refuse: a terminal takes no input while a cell runs."""
        from ipy_bgtasks.errors import BadInput

        if there := [f"job {job.number} ({job.name})" for job in set(cells_away.values())]:
            raise BadInput(f"in the background already: {', '.join(there)}")
        if self._suspending is None:
            raise BadInput(
                "`%bg` alone sends away a cell that runs, in a notebook; here start it with "
                "%fg CODE or %%fg, and Ctrl-C sends it to the background"
            )
        raise BadInput(
            "no cell runs that could go to the background: Ctrl-Z, while one runs, sends it away; "
            "%bg CODE launches CODE"
        )

    # Cells in the background

    def reaches(self) -> bool:
        return super().reaches() if self._suspending is None else self._suspending.reaches()

    def on_block(self, blocked: bool) -> None:
        if self._suspending is not None:
            self._suspending.on_block(blocked)

    def remedy(self, job: Record) -> str:
        return "" if self._suspending is None else "Ctrl-C stops it"

    def show_backgrounded(self, job: Record) -> None:
        """Say so at once, below the ^Z or whatever else the cursor's line begins with."""
        with self._lock:
            self._end_begun_line()
            self._put(f"\n[{job.number}]+ goes on in the background: {job.name}\n")

    def show_stuck(self, run: RunningCell, line: str) -> None:
        more = "; Ctrl-Z sends it to the background" if run.job is None else ""
        self.print_aside(f"{line}{more}")

    def record(self, job: Record, name: str, text: str) -> bool:
        """Take what a cell in the background writes as that of any job."""
        self.output(job, name, text, self._write)
        return True

    def drop_leftover_tee(self) -> None:
        """Remove from the streams what IPython's capturing of cells has left there."""
        for name in streams.NAMES:
            if isinstance(stream := streams.real(name), RoutedStream):
                stream.drop_leftover_tee()

    # The prompt

    @contextmanager
    def around_prompt(self) -> Iterator[Callable[[], None]]:
        """Show everything above the prompt while it waits.

        Yields what must be called when the prompt has begun. Main thread only.
        """
        self._end_begun_line()
        above = self._above_prompt
        before = {name: streams.real(name) for name in streams.NAMES}
        beside = {name: self._beside(name, stream) for name, stream in before.items()}
        above.open(self.shell.pt_app.app)
        with self._lock:
            self._prompting = True
        for name, stream in beside.items():
            # Atomically: a thread that prints meanwhile finds one or the other.
            streams.make_real(name, stream)
        if held := self._notices.release():
            self._put(held)
        try:
            yield above.begun
        finally:
            with self._lock:
                above.close()
                self._prompting = False
            # Not before, or what threads print now would overtake what they printed before.
            for name, real in before.items():
                self._besides[name][1].end()
                streams.make_real(name, real)
            self._notices.hold()

    def _beside(self, name: str, stream: Any) -> RoutedStream:
        """Return the stand-in for *stream* while a prompt waits: the same object each time."""
        if name not in self._besides or self._besides[name][0] is not stream:
            prompt = PromptStream(stream, self._above_prompt)
            self._besides[name] = stream, prompt, RoutedStream(prompt, name, self)
        _, prompt, beside = self._besides[name]
        prompt.begin()
        return beside

    # Lines that the foreground has begun

    def _holding_lines(self, stream: Any, name: str) -> Callable[[str], Any]:
        """Return a foreground `write` during whose partial lines the lines of jobs wait."""

        def write(text: str) -> Any:
            with self._lock:
                if cells_away and (job := caller()) is not None:
                    # Sent to the background while it waited for the lock, and a prompt is there.
                    self.output(job, name, text, self._write)
                    return len(text)
                count = stream.write(text)  # which IPython replaces during a cell
                if text:
                    self._begun, self._patience = not text.endswith("\n"), _BEGUN
                if self._waiting and not self._begun:
                    self._end_begun_line()
            return count

        return write

    def _end_begun_line(self, only: list[str] | None = None) -> None:
        """Show what has waited, on a line of its own; nothing if other than *only* waits."""
        with self._lock:
            if only is not None and only is not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
            begun, self._begun = self._begun, False
            if waiting:
                self._put("".join(["\n" * begun, *waiting]))

    def _put(self, text: str) -> None:
        with self._lock:
            if self._begun:
                if not self._waiting:
                    waiting = self._waiting
                    self._later(self._patience, lambda: self._end_begun_line(waiting))
                self._waiting.append(text)
                return
            if self._footer is not None:
                end = "" if text.endswith("\n") else "\n"
                text = f"{self._erase_footer()}{text}{end}{self._footer}\n"
            self._write(text)

    def _write(self, text: str) -> None:
        """Write to the terminal, above a prompt that waits."""
        if self._prompting:
            self._above_prompt.put(text)
        else:
            self._write_outside(text)

    def _write_outside(self, text: str) -> None:
        self._stdout.write(printable(text, self._stdout))
        self._stdout.flush()

    # What is shown

    def show(self, mimebundle: dict[str, Any]) -> None:
        """Print the plain text."""
        print(printable(mimebundle.get("text/plain", "")))

    def print_aside(self, line: str) -> None:
        """Print one line on stderr."""
        print(printable(line, sys.stderr), file=sys.stderr)

    def print_at(self, job: Record, line: str) -> None:
        """Print one line at once; over the prompt, if that cannot move as its loop is blocked."""
        app: Any = getattr(getattr(self.shell, "pt_app", None), "app", None)
        with self._lock:
            if not self._prompting or app is None:
                self._put(line + "\n")
                return
            self._write_outside(f"\r\x1b[J{line}\r\n")
            loop = app.loop

        def redraw() -> None:
            if app.is_running:
                app.renderer.reset()
                app.invalidate()

        if loop is not None:  # else it has yet to be drawn
            loop.call_soon_threadsafe(redraw)

    def alert(self, notice: Notice) -> None:
        """Ring, and ask for a notification of the desktop: in a terminal, also while a cell runs.

        The sequences are never put into a line that is being written, nor into a prompt.
        """
        isatty = getattr(self._stdout, "isatty", bool)
        if isatty() and (text := sequences(notice, os.environ)):
            self._ring(text)

    def _ring(self, text: str, patient: bool = True) -> None:
        with self._lock:
            if patient and self._begun:  # perhaps in the middle of a sequence of its own
                self._later(_BEGUN, self._ring, text, False)
            else:
                self._write(text)

    def output(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> None:
        """Record a job's text, and show its complete lines."""
        job.log.write(name, text)
        self._notify_watcher(job)
        if job.quiet or self.capture_text(job, name, text):
            return
        with self._lock:
            if job.number in self._bars or _REDRAWS.search(text):
                self._redraw(job, text)
            else:
                self._put_lines(job, self._partial.pop(job.number, "") + text)

    def _put_lines(self, job: Record, text: str) -> None:
        """Show complete lines; within the lock, or another thread's next line overtakes them."""
        lines, newline, rest = text.rpartition("\n")
        if rest:
            self._partial[job.number] = rest
        if newline:
            self._put(self.labels.put(job, ONLY_PLACE, "", lines + newline))

    def _redraw(self, job: Record, text: str) -> None:
        """Take text that redraws lines, or follows such: a line is shown once it has stood."""
        from ipy_bgtasks.log.fold import Screen

        bars = self._bars.get(job.number)
        if bars is None:
            bars = self._bars[job.number] = Screen()
            bars.feed(self._partial.pop(job.number, ""))
        bars.feed(text)
        if text.strip() and not _REDRAWS.search(text):
            self._put_stood(job, bars, bars.text)
        elif not bars.watched and bars.at_end and "\n" in bars.text:
            bars.watched = True
            self._later(_REDRAWN, self._settle, job, bars, bars.text)

    def _settle(self, job: Record, bars: Screen, earlier: str) -> None:
        with self._lock:
            bars.watched = False
            if self._bars.get(job.number) is bars:
                # Character by character, as it is.
                self._put_stood(job, bars, os.path.commonprefix((earlier, bars.text)))  # noqa: RUF071

    def _put_stood(self, job: Record, bars: Screen, stood: str) -> None:
        """Show the complete lines of what has stood, unless the cursor is above the last."""
        if bars.at_end:
            stood = stood[: stood.rfind("\n") + 1]
            bars.text = bars.text[len(stood) :]
            stood = re.sub(" +\n", "\n", stood)  # what was erased by spaces
            if not bars.text:
                del self._bars[job.number]
            if stood:
                self._put(self.labels.put(job, ONLY_PLACE, "", stood))

    def retrying(self, job: Record, line: str) -> None:
        """Record and show the line."""
        super().retrying(job, line)
        if not job.quiet:
            self._notices.retrying(job, line)

    def write(self, job: Record, name: str, text: str) -> None:
        self.output(job, name, text, self._write)

    # Ends of jobs

    def _show_end(self, job: Record) -> None:
        """Show the rest of a line, a failed job's traceback, and the notice."""
        self._ending.append(job)
        try:
            self._show_rest(job)
        finally:
            self._ending.remove(job)
            if self._last_words:
                with self._shown:
                    self._shown.notify_all()

    def _show_rest(self, job: Record) -> None:
        with self._lock:
            bars = self._bars.pop(job.number, None)
            rest = self._partial.pop(job.number, "") if bars is None else bars.text.rstrip("\n")
            value = self.values.pop(job.number, "")
        if rest:
            self._put(self.labels.put(job, ONLY_PLACE, "", rest + "\n"))
        outcome = job.outcome
        assert outcome is not None
        reported = self._is_reported(job)
        if self._shut_down or self._is_followed(job, ONLY_PLACE):
            return

        def text() -> str:
            if not failed or (error := outcome.error) is None:
                return value
            return "\n".join(formatted(self.shell, error, outcome.traceback)) + "\n"

        # A command's exit status is in the notice, its own words are above.
        failed = outcome.state == "failed" and not job.quiet
        if failed and job.group is None:
            from ipy_bgtasks.views.describe import exit_status

            failed = not exit_status(job)
        self._notices.add(job, text if failed or value else None, notice=not reported)

    def _notice(self, job: Record) -> str:
        from ipy_bgtasks.views.display import notice

        registry = self._core.registry
        return notice(job, registry.current, registry.previous)

    def _notice_of_group(self, name: str) -> str:
        """Return the line on a group; empty while one of its jobs goes on."""
        from ipy_bgtasks.views.tables import group_line

        groups = (each for each in self._core.registry.groups() if each.name == name)
        group = next(groups, None)
        return "" if group is None or not group.is_over else group_line(group)

    def forget_notice(self, job: Record) -> None:
        self._notices.forget(job)

    def shutdown(self) -> None:
        """Show, on stderr, what waited for a prompt that will not come."""
        self._last_words = True
        with self._shown:
            self._shown.wait_for(lambda: not self._ending, _LAST_WORD)
        super().shutdown()
        if text := self._notices.release():
            sys.stderr.write(printable(text, sys.stderr))
            sys.stderr.flush()

    # Leaving

    def _ask_before_exit(self, changes: Installation, stop: Callable[[], None]) -> None:
        """Ask before leaving with jobs running: only a second `exit` or Ctrl-D leaves.

        *stop* stops them.
        """
        from ipy_bgtasks.hooks import exit_of_job

        shell, embedded = self.shell, _is_embedded(self.shell)

        def running() -> int:
            """Return how many jobs would be stopped; 0 if there is nothing to ask."""
            return len(self._core.own_jobs()) if self.settings.confirm_exit else 0

        def prompt_for_code(original: Callable[[], str]) -> str:
            try:
                return original()
            except EOFError:
                if not running():
                    raise  # IPython may have a question of its own
                shell.ask_exit()
                return ""

        def ask_exit(original: Callable[[], None]) -> None:
            exit_of_job()
            if (count := running()) and not (self._asked or self._asked_before_cell):
                self._asked = True
                return self.print_line(_question(count, embedded))
            original()
            if not shell.keep_running and not embedded:
                stop()  # at once: beside jobs that compute, each of IPython's next steps waits

        def begins(info: Any) -> None:
            # A look at what runs, between two exits, is no reason to ask again.
            if str(getattr(info, "raw_cell", "")).strip().lstrip("%").partition(" ")[0] != "jobs":
                self._asked, self._asked_before_cell = False, self._asked

        changes.wrap(shell, "ask_exit", ask_exit)
        changes.wrap(shell, "prompt_for_code", prompt_for_code)
        changes.event(shell.events, "pre_run_cell", begins)
        changes.event(
            shell.events, "post_run_cell", lambda _: setattr(self, "_asked_before_cell", False)
        )

    # Following a job

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Show what was kept quiet, or *everything*, and go on with what is kept quiet.

        The job's progress is shown below, where lines can be replaced.
        """
        if not (job.quiet or everything) or (job.done() and not job.has_output):
            unfollow = self._follow(job, ONLY_PLACE)
            unwatch = self._show_progress(job)

            def end_both() -> None:
                unwatch()
                unfollow()

            return end_both

        def put(pieces: list[Piece]) -> None:
            text = "".join(piece.text for piece in pieces)
            self._put(self.labels.put(job, ONLY_PLACE, "", text))

        end = self._follow_log(job, ONLY_PLACE, put, everything=everything, among=among)
        if job.quiet:
            return end
        end()  # what comes from now on is shown anyway
        return self._follow(job, ONLY_PLACE)

    def _show_progress(self, job: Record) -> Callable[[], None]:
        if job.done() or not sys.__stdout__ or not sys.__stdout__.isatty():
            return lambda: None
        over = threading.Event()

        def look() -> None:
            from ipy_bgtasks.views.describe import row

            if over.is_set() or job.done() or self._footer_is_anothers():
                return
            if (seen := row(job)).fraction is not None:
                self._bar = f"[{seen.number}] {seen.last}"
                self.footer(self._bar)
            self._later(_BAR_EVERY, look)

        def end() -> None:
            over.set()
            if self._bar is not None and not self._footer_is_anothers():
                self._bar = None
                self.footer(None)

        self._later(_BAR_EVERY, look)
        return end

    def _footer_is_anothers(self) -> bool:
        return self._footer is not None and self._footer != self._bar

    def footer(self, text: str | None) -> None:
        """Keep *text* at the bottom until the next replaces it; None leaves it there."""
        with self._lock:
            if text == self._footer:
                return
            erase, self._footer = self._erase_footer(), text
            if text is not None:
                self._write(f"{erase}{text}\n")

    def _erase_footer(self) -> str:
        return "" if self._footer is None else f"\x1b[{self._footer.count(chr(10)) + 1}A\r\x1b[J"


def _unrouted(stream: Any) -> Any:
    """Return the terminal's own stream; a job may have restored one of ours after an unloading."""
    while isinstance(stream, RoutedStream | PromptStream):
        stream = vars(stream)["_stream"]
    return stream


def _is_embedded(shell: Any) -> bool:
    """Return whether `IPython.embed` has made it, so that a program goes on when it is left."""
    return hasattr(shell, "embedded_active")


def _question(count: int, embedded: bool) -> str:
    one = count == 1
    then = f"end{'s' * one} with the program" if embedded else "will be stopped"
    return (
        f"{count} {'job is' if one else 'jobs are'} running (%jobs lists {'it' if one else 'them'}"
        f"); exit again to leave, {'it' if one else 'they'} {then}"
    )
