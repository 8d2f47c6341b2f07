"""Leaving a terminal session: jobs are stopped first; with jobs running, the first `exit` asks.

Output in a terminal: whole lines above the prompt, and notices when jobs end.

Lines of a job are shown when they are complete, so that neither another job nor the foreground
can split them. Notices wait for the prompt, as in bash.

IPython in a terminal as a front end: its screen, its prompt and event loop, its exits.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import streams_by_context as streams
from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.frontends.front_end import Screen
from ipy_bgtasks.frontends.streams import RoutedStream, part_publishers
from ipy_bgtasks.frontends.terminal.above import AbovePrompt, PromptStream
from ipy_bgtasks.frontends.terminal.ends import Notices
from ipy_bgtasks.frontends.tracebacks import formatted, without_our_frames
from ipy_bgtasks.patching import Attribute

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.front_end import Screen
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
    from ipy_bgtasks.frontends.terminal.suspend import Cell, Suspending
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Piece
    from ipy_bgtasks.notify import Notice
    from ipy_bgtasks.streams_by_context import ByContext


class ExitQuestion:
    """The question before leaving: with jobs running, only a second `exit` or Ctrl-D leaves.

    For a shell that is the whole session, in its main thread. *running* returns how many jobs
    would be stopped; 0 if there is nothing to ask.
    """

    def __init__(self, shell: Any, screen: Screen, running: Callable[[], int]) -> None:
        self._shell = shell
        self._screen = screen
        self._running = running
        self._said = False
        self._said_before_cell = False

    def install(self) -> Callable[[], None]:
        """Replace the shell's own exits; returns what undoes it."""
        shell = self._shell
        self._ask_exit, self._prompt = shell.ask_exit, shell.prompt_for_code
        attributes = [
            Attribute(shell, "ask_exit", self._exit),
            Attribute(shell, "prompt_for_code", self._prompt_for_code),
        ]
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)

        def undo() -> None:
            shell.events.unregister("pre_run_cell", self._cell_begins)
            shell.events.unregister("post_run_cell", self._cell_ends)
            for attribute in attributes:
                attribute.restore()

        return undo

    def _prompt_for_code(self) -> str:
        try:
            return str(self._prompt())
        except EOFError:
            if not self._is_to_ask():
                raise  # IPython may have a question of its own
            self._exit()
            return ""

    def _exit(self) -> None:
        if self._is_to_ask() and not (self._said or self._said_before_cell):
            self._said = True
            self._screen.say(_question(self._running()))
        else:
            self._ask_exit()

    def _is_to_ask(self) -> bool:
        return bool(self._running())

    def _cell_begins(self, info: Any) -> None:
        # A look at what runs, between two exits, is no reason to ask again.
        if str(getattr(info, "raw_cell", "")).strip().lstrip("%").partition(" ")[0] == "jobs":
            return
        self._said, self._said_before_cell = False, self._said

    def _cell_ends(self, _result: object) -> None:
        self._said_before_cell = False


def _question(count: int) -> str:
    if count == 1:
        return "1 job is running (%jobs lists it); exit again to leave, it will be stopped"
    return f"{count} jobs are running (%jobs lists them); exit again to leave, they will be stopped"


_TERMINAL = "terminal"

#: Seconds between two updates of the progress of a job that `%fg` waits for.
_BAR_EVERY = 0.25
#: Seconds that the shutdown waits for notices of jobs that are just being shown; the first
#: traceback takes long on a busy machine.
_LAST_WORD = 2.0
#: Seconds that jobs wait for the end of the foreground's partial line.
_BEGUN = 0.25


def _nothing() -> None:
    """Do nothing, as a flush."""


class TerminalScreen(Screen):
    """A terminal, which is one place for all jobs.

    *notice* returns the line that says that a job has ended, *group_notice* the one that says so
    of all jobs of a group; it is empty as long as one of them goes on.
    """

    def __init__(
        self,
        shell: Any,
        later: Callable[..., object],
        notice: Callable[[Record], str],
        group_notice: Callable[[str], str],
    ) -> None:
        super().__init__(shell, later)
        self._notices = Notices(self._put, later, notice, group_notice)
        self._partial: dict[int, str] = {}
        #: What is shown at the end of a cell that was sent away, where its notice has no room.
        self.values: dict[int, str] = {}
        self._write: Callable[[str], Any] = sys.stdout.write
        self._flush: Callable[[], Any] = sys.stdout.flush
        #: How to write above the prompt, while that waits.
        self._outside: tuple[Callable[[str], Any], Callable[[], Any]] | None = None
        #: The jobs whose ends are just being shown, and whether somebody waits for that.
        self._telling: list[Record] = []
        self._last_words = False
        self._told = threading.Condition(self._lock)
        #: Whether the foreground has a partial line, and what waits for its end.
        self._begun = False
        self._waiting: list[str] = []
        self._above_prompt: AbovePrompt | None = None
        self._besides: dict[str, tuple[Any, PromptStream, RoutedStream]] = {}
        self._footer: str | None = None
        self._bar: str | None = None  # the footer that `%fg` shows
        self._isatty: Callable[[], bool] = lambda: False

    def install(self) -> Callable[[], None]:
        """Route both streams through this screen."""
        found = {name: _unrouted(getattr(sys, name)) for name in streams.NAMES}
        self._write, self._flush = found["stdout"].write, found["stdout"].flush
        self._isatty = getattr(found["stdout"], "isatty", self._isatty)
        put_back = streams.give_each_job_its_own(
            {
                name: RoutedStream(stream, name, self, self._spare_begun_lines(stream.write))
                for name, stream in found.items()
            }
        )

        def undo() -> None:
            self._end_begun_line()
            put_back()

        return undo

    def spare_values(self) -> Callable[[], None]:
        """Let lines of jobs wait for the value that follows ``Out[3]: ``; returns what undoes it.

        IPython writes that to the terminal, bypassing Python's streams.
        """
        hook = self.shell.displayhook
        write_out = hook.write_output_prompt

        def write_output_prompt() -> None:
            with self._lock:
                write_out()
                self._begun = True

        return Attribute(hook, "write_output_prompt", write_output_prompt).restore

    @contextmanager
    def around_prompt(self) -> Iterator[Callable[[], None]]:
        """Show everything above the prompt while it waits.

        Yields what must be called when the prompt has begun. Main thread only.
        """
        self._end_begun_line()
        above = self._above()
        before = {name: streams.real(name) for name in streams.NAMES}
        beside = {name: self._beside(name, stream, above) for name, stream in before.items()}
        outside = self._write, self._flush
        above.open(self.shell.pt_app.app)
        with self._lock:
            self._outside = outside
            self._write, self._flush = above.put, _nothing
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
                self._write, self._flush = outside
                self._outside = None
            # Not before, or what threads print now would overtake what they printed before.
            for name, real in before.items():
                self._besides[name][1].end()
                streams.make_real(name, real)
            self._notices.hold()

    def _spare_begun_lines(self, write: Callable[[str], Any]) -> Callable[[str], Any]:
        """Return a foreground `write` during whose partial lines the lines of jobs wait."""

        def spare(text: str) -> Any:
            with self._lock:
                count = write(text)
                if text:
                    self._begun = not text.endswith("\n")
                if self._waiting and not self._begun:
                    self._end_begun_line()
            return count

        return spare

    def _end_begun_line(self, only: list[str] | None = None) -> None:
        """Show what has waited, on a line of its own; nothing if other than *only* waits."""
        with self._lock:
            if only is not None and only is not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
            begun, self._begun = self._begun, False
            if waiting:
                self._put("".join(["\n" * begun, *waiting]))

    def _above(self) -> AbovePrompt:
        if self._above_prompt is None:
            self._above_prompt = AbovePrompt(self._write, self._flush)
        return self._above_prompt

    def _beside(self, name: str, stream: Any, above: AbovePrompt) -> RoutedStream:
        """Return the stand-in for *stream* while a prompt waits: the same object each time."""
        if name not in self._besides or self._besides[name][0] is not stream:
            prompt = PromptStream(stream, above)
            self._besides[name] = stream, prompt, RoutedStream(prompt, name, self)
        _, prompt, beside = self._besides[name]
        prompt.begin()
        return beside

    def here(self) -> Any:
        """Return the terminal: there is only one place."""
        return _TERMINAL

    def show(self, mimebundle: dict[str, Any]) -> None:
        """Print the plain text."""
        print(mimebundle.get("text/plain", ""))

    def tell(self, job: Record, line: str) -> None:
        """Print one line at once; over the prompt, if that cannot move as its loop is blocked."""
        app: Any = getattr(getattr(self.shell, "pt_app", None), "app", None)
        with self._lock:
            outside, loop = self._outside, None if app is None else app.loop
            if outside is None or loop is None:
                self._put(line + "\n")
                return
            write, flush = outside
            write(f"\r\x1b[J{line}\r\n")
            flush()

        def redraw() -> None:
            if app.is_running:
                app.renderer.reset()
                app.invalidate()

        loop.call_soon_threadsafe(redraw)

    def put_below(self, line: str) -> None:
        """Print a line at once, below the ^Z or whatever else the cursor's line begins with."""
        with self._lock:
            self._begun = False
            self._end_begun_line()
            self._put(f"\n{line}\n")

    def alert(self, notice: Notice) -> None:
        """Ring, and ask for a notification of the desktop: in a terminal, also while a cell runs.

        The sequences are never put into a line that is being written, nor into a prompt.
        """
        from ipy_bgtasks.frontends.terminal.ends import sequences

        if self._isatty() and (text := sequences(notice, os.environ)):
            self._ring(text)

    def _ring(self, text: str, patient: bool = True) -> None:
        with self._lock:
            if patient and self._begun:  # perhaps in the middle of a sequence of its own
                self._later(_BEGUN, self._ring, text, False)
            else:
                self._write(text)
                self._flush()

    def show_end(self, job: Record) -> None:
        """Show the rest of a line, a failed job's traceback, and the notice."""
        self._telling.append(job)
        try:
            self._show_end(job)
        finally:
            self._telling.remove(job)
            if self._last_words:
                with self._told:
                    self._told.notify_all()

    def _show_end(self, job: Record) -> None:
        with self._lock:
            rest = self._partial.pop(job.number, "")
            value = self.values.pop(job.number, "")
        if rest:
            self._put(self.labels.put(job, _TERMINAL, "", rest + "\n"))
        outcome = job.outcome
        assert outcome is not None
        told = self._is_reported(job)
        if self._shut_down or self._is_followed(job, _TERMINAL):
            return
        failed = outcome.state == "failed" and not job.quiet
        text: Callable[[], str] | None = None
        if failed:
            text = lambda: "\n".join(formatted(self.shell, outcome)) + "\n"  # noqa: E731
        elif value:
            text = lambda: value  # noqa: E731
        self._notices.tell(job, text, notice=not told)

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Show what was kept quiet, or *everything*, and go on with what is kept quiet.

        The job's progress is shown below, where lines can be replaced.
        """
        if not (job.quiet or everything) or (job.done() and not job.has_output):
            unfollow = self._follow(job, _TERMINAL)
            unwatch = self._show_progress(job)

            def end_both() -> None:
                unwatch()
                unfollow()

            return end_both

        self.labels.enter(job, _TERMINAL, among=among)

        def put(pieces: list[Piece]) -> None:
            with self.labels.order:
                text = "".join(piece.text for piece in pieces)
                self._put(self.labels.put(job, _TERMINAL, "", text))

        end = self._follow_log(job, _TERMINAL, put, everything=everything)
        if job.quiet:
            return end
        end()  # what comes from now on is shown anyway
        return self._follow(job, _TERMINAL)

    def _show_progress(self, job: Record) -> Callable[[], None]:
        if job.done() or not sys.__stdout__ or not sys.__stdout__.isatty():
            return lambda: None
        over = threading.Event()

        def look() -> None:
            from ipy_bgtasks.views.rows import row

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

    def take(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> None:
        """Record a job's text, and show its complete lines."""
        job.log.write(name, text)
        if self.watcher is not None:
            self.watcher(job)
        if job.quiet:
            return
        with self._lock:
            text = self._partial.pop(job.number, "") + text
            lines, newline, rest = text.rpartition("\n")
            if rest:
                self._partial[job.number] = rest
            if newline:  # within the lock, or another thread's next line overtakes it
                self._put(self.labels.put(job, _TERMINAL, "", lines + newline))

    def overhear(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> bool:
        """Take what a cell that was sent away writes as that of any job."""
        self.take(job, name, text, write)
        return True

    def untangle(self) -> None:
        """Remove from the streams what IPython's capturing of cells has left there."""
        for name in streams.NAMES:
            if isinstance(stream := streams.real(name), RoutedStream):
                stream.untangle()

    def write(self, job: Record, name: str, text: str) -> None:
        """Take text as if the job had written it here."""
        self.take(job, name, text, self._write)

    def flush(self, job: Record) -> None:
        """Do nothing: a partial line stays held, since it would split what is shown."""

    def _place_here(self) -> Any:
        return _TERMINAL

    def forget_notice(self, job: Record) -> None:
        """Drop a notice of the job's end that waits for the prompt."""
        self._notices.forget(job)

    def shutdown(self) -> None:
        """Show, on stderr, what waited for a prompt that will not come."""
        self._last_words = True
        with self._told:
            self._told.wait_for(lambda: not self._telling, _LAST_WORD)
        super().shutdown()
        if text := self._notices.release():
            sys.stderr.write(text)
            sys.stderr.flush()

    def footer(self, text: str | None) -> None:
        """Keep *text* at the bottom until the next replaces it; None leaves it there."""
        with self._lock:
            if text == self._footer:
                return
            erase, self._footer = self._erase_footer(), text
            if text is not None:
                self._write(f"{erase}{text}\n")
                self._flush()

    def _erase_footer(self) -> str:
        return "" if self._footer is None else f"\x1b[{self._footer.count(chr(10)) + 1}A\r\x1b[J"

    def _put(self, text: str) -> None:
        with self._lock:
            if self._begun:
                if not self._waiting:
                    waiting = self._waiting
                    self._later(_BEGUN, lambda: self._end_begun_line(waiting))
                self._waiting.append(text)
                return
            if self._footer is not None:
                end = "" if text.endswith("\n") else "\n"
                text = f"{self._erase_footer()}{text}{end}{self._footer}\n"
            self._write(text)
            self._flush()


def _unrouted(stream: Any) -> Any:
    """Return the terminal's own stream; a job may have restored one of ours after an unloading."""
    while isinstance(stream, RoutedStream | PromptStream):
        stream = vars(stream)["_stream"]
    return stream


class TerminalFrontEnd:
    """One terminal session, or a shell without any terminal, from the first loading on.

    *notice* returns the line that says that a job has ended, *group_notice* that for a group, or an
    empty text while one of its jobs goes on; *running* returns how many jobs an
    exit would stop, or 0 if there is nothing to ask.
    """

    def __init__(
        self,
        shell: Any,
        loop: asyncio.AbstractEventLoop,
        later: Callable[..., object],
        *,
        notice: Callable[[Record], str],
        group_notice: Callable[[str], str],
        running: Callable[[], int],
        launch_cell: Callable[..., Record],
    ) -> None:
        self.screen = TerminalScreen(shell, later, notice, group_notice)
        self._shell = shell
        self._loop = loop
        self._running = running
        self._prompts = hasattr(shell, "prompt_for_code")
        self._captures: ByContext | None = None
        self.shell = shell
        self.waits: Callable[[int], bool] = lambda _thread: False
        self.sends_away: Callable[[], bool] = lambda: False
        self.ctrl_z: Callable[[], bool] = lambda: True
        self.cells = None
        self._launch_cell = launch_cell
        self._terminal: TerminalLoop | None = None
        self._suspending: Suspending | None = None

    def install(self, changes: Installation) -> None:
        """Route output, and let the prompt and await cells share the loop."""
        changes.add(self.screen.install())
        changes.step("captures", self._part_captures)
        changes.step("partial lines", self.screen.spare_values)
        changes.step("tracebacks", lambda: without_our_frames(self._shell))
        if self._prompts:
            changes.step("prompt", self._share_loop)
        # An embedded shell is left for the program around it, which waits for the main thread.
        embedded = hasattr(self._shell, "embedded_active")
        if self._terminal is not None and self._shell.pt_app is not None and not embedded:
            changes.step("ctrl-z", self._send_cells_away)

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Keep jobs from asking, and apart on rich's one console. Any thread may call."""
        from ipy_bgtasks.frontends.consoles import part_consoles
        from ipy_bgtasks.hooks import refuse_questions

        changes.step("rich", part_consoles)
        changes.step("questions", refuse_questions)

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        if self._suspending is not None:
            return self._suspending.reaches()
        return threading.current_thread() is threading.main_thread()

    def sent_away(self) -> Record:
        """Refuse: a terminal takes no input while a cell runs."""
        from ipy_bgtasks.context import cells_away
        from ipy_bgtasks.errors import BadInput

        if away := [f"job {job.number} ({job.name})" for job in list(cells_away.values())]:
            raise BadInput(f"runs in the background already: {', '.join(away)}")
        if self._suspending is None:
            raise BadInput(
                "`%bg` alone sends away a cell that runs, in a notebook; here start it with "
                "%fg CODE or %%fg, and Ctrl-C sends it to the background"
            )
        raise BadInput(
            "no cell runs that could go to the background: Ctrl-Z, while one runs, sends it away; "
            "%bg CODE launches CODE"
        )

    def launch_cell(self, cell: Cell, interrupt: Callable[[], object]) -> Record:
        """Make a job of a cell that runs."""
        from ipy_bgtasks.stacks import thread_stack

        below = code_that_runs_cells()
        job = self._launch_cell(
            cell.code,
            origin=_TERMINAL,
            thread=cell.thread,
            began=cell.began,
            awaits=cell.awaits,
            interrupt=interrupt,
            stack=lambda: thread_stack(cell.thread, below),
        )
        streams.take_along(job)
        if self._captures is not None:
            self._captures.take_along(job)
        return job

    def say_sent_away(self, job: Record) -> None:
        """Say that a cell goes on, on a line of its own."""
        self.screen.put_below(f"[{job.number}]+ goes on in the background: {job.name}")

    def say_stuck(self, cell: Cell) -> None:
        """Say that no exception reaches a cell where it is."""
        from ipy_bgtasks.stacks import doing, innermost, place, thread_stack

        frame = innermost(thread_stack(cell.thread, code_that_runs_cells()))
        where = "" if frame is None else f" {doing(frame)} ({place(frame)})"
        line = f"still in{where}; it stops when that returns"
        if cell.job is None:
            line += "; Ctrl-Z sends it to the background"
        print(line, file=sys.stderr)

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before IPython's own shutdown, and ask a question before that."""
        from ipy_bgtasks.frontends.installing import before_clean_up

        # A job's clean-up may need the user's names.
        changes.step("exit", lambda: before_clean_up(self._shell, leaving.finish))
        if self._prompts and not hasattr(self._shell, "embedded_active"):
            question = ExitQuestion(self._shell, self.screen, self._running)
            changes.step("exit", question.install)

    def _part_captures(self) -> Callable[[], None]:
        self._captures, undo = part_publishers(self._shell, self._shell.display_pub)
        return undo

    def _share_loop(self) -> Callable[[], None]:
        from ipy_bgtasks.frontends.terminal.loop import TerminalLoop

        terminal = TerminalLoop(self._shell, self._loop, around_prompt=self.screen.around_prompt)
        line = terminal.install()
        if line and getattr(self._shell.parent, "interact", True):  # else there will be no prompt
            self.screen.say(f"ipy_bgtasks: {line}")
        self._terminal = terminal
        return terminal.uninstall

    def _send_cells_away(self) -> Callable[[], None]:
        from ipy_bgtasks.frontends.terminal.suspend import Suspending

        assert self._terminal is not None
        suspending = self._suspending or Suspending(self, self._terminal)
        undo = suspending.install()
        self._suspending = suspending
        return undo
