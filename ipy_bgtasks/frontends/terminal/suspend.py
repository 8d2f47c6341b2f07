"""Ctrl-Z while a cell runs: the cell goes on in the background, and the prompt comes back.

Only the prompt moves. A new thread takes over IPython's own loop of prompt and cell (`interact`)
until a text is typed when the main thread has nothing left to run: that text is handed to the main
thread, and the other thread ends. So at any time one thread, the one that holds the *turn*, reads
from the terminal, and never do two foreground cells run at once.

SIGTSTP and, while the main thread is not the one with the turn, SIGINT are taken in C (see
`running_cells`). A handler in Python does not do: it would run on the main thread, and when numpy
or a driver of a database returns there is nothing left to send away. SIGTSTP is taken only from the
first line of a foreground cell to its end, so that at the prompt, where the terminal is raw and
Ctrl-Z a key, prompt_toolkit suspends IPython as ever. A second Ctrl-Z finds that prompt, and so
suspends, too.

The terminal sends SIGTSTP to the whole process group. What the cell has started there, as
``!make``, stops with it and is continued. Whether such a child uses the terminal itself, as an
editor or a pager does, cannot be seen while it is stopped: it puts the terminal in order and takes
its handler off before it stops. So all are continued first; what makes the terminal raw again, or
handles SIGTSTP, has it, and all are stopped as if we were not there. The same holds for a cell in
`input`, `getpass` or a debugger.

What remains: a SIGINT in the few microseconds in which the main thread, in the background, sets a
handler of its own (`asyncio.run` does) interrupts that cell and not the one in front. A cell that
reads `sys.stdin` without `input` is not noticed, and shares what is typed with the prompt.

macOS has no ``/proc``, so more remains there (by reading; it was not tried): a child that handles
SIGTSTP, but leaves the terminal in line mode, is taken for one without the terminal; Ctrl-Z takes
0.15 s, since whether there are children is not known; and a Ctrl-C that ends a child, and with it
the cell, may be seen after the cell's end, which then shows no KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import os
import select
import signal
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from traceback import walk_stack
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away
from ipy_bgtasks.frontends.running_cells import MAIN, PASSES, BackgroundCells, RunningCell, until
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import (
    can_take_signals,
    continue_group,
    frame_of,
    handles_stop_signal,
    is_raw,
    let_control_c_interrupt,
    stop_group,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.terminal.front_end import TerminalFrontEnd
    from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.sigint import SigintHandler

#: Seconds in which a child puts the terminal in order and stops, and in which one that was
#: continued makes it its own again.
_STOPS, _RESUMES = 0.02, 0.15
#: Characters of a value for which the notice of a job's end has room.
_SHORT = 60
#: Seconds that cells in the background have to end when the session does.
_GRACE = 0.5
#: Modules whose functions read from the terminal while they are on a cell's stack.
_ASKING = ("pdb", "cmd", "code", "prompt_toolkit", "IPython.terminal.debugger")


class Cell(RunningCell):
    """A text that was typed at the prompt, while it runs."""

    def __init__(self, code: str, number: int, origin: Any) -> None:
        super().__init__(code, origin)
        self.number = number
        self.thread = threading.get_ident()
        #: What takes an interrupt, if it awaits.
        self.handler: SigintHandler | None = None
        #: Whether it waits in `input`, and is to be interrupted there.
        self.asks = self.interrupted = False
        #: What its values look like, which are not shown before its end in the background.
        self.values: list[str] = []

    def interrupt_await(self) -> type[KeyboardInterrupt] | None:
        if self.asks:
            self.interrupted = True
            return None
        return KeyboardInterrupt if self.handler is None else self.handler(frame_of(self.thread))


class _Ended(BaseException):
    """Ends `interact` in a thread to which the prompt does not belong any more."""


class TerminalCells(BackgroundCells[Cell]):
    """The cells of one terminal, and the thread that has the turn. Made once for each shell."""

    front_end: TerminalFrontEnd

    def __init__(
        self, front_end: TerminalFrontEnd, later: Callable[..., object], terminal: TerminalLoop
    ) -> None:
        super().__init__(front_end, later, {"SIGTSTP": self._on_stop, "SIGINT": self._on_interrupt})
        self._terminal = terminal
        #: The thread that reads from the terminal and runs what is typed; 0 for none yet.
        self._turn = MAIN
        self._cells: dict[int, Cell] = {}
        #: What the main thread waits for while another has the turn: a text, or None for the turn.
        self._handed: Future[str | None] | None = None
        #: The context in which the main thread's cell began.
        self._context = Context()
        self._changes: Installation | None = None
        self._loaded = False
        #: Gives the prompt the terminal as it was, while a job blocks it.
        self._prompt_again: Callable[[], None] | None = None

    def install(self, changes: Installation, terminal: TerminalLoop) -> None:
        """Begin; cells that are in the background when that is undone go on.

        Raises `NotImplementedError` where there are no such signals.
        """
        if not (can_take_signals() and hasattr(signal, "SIGTSTP")):
            raise NotImplementedError
        self._terminal = terminal
        self._loaded = True
        changes.add(self._close)
        changes.add(lambda: setattr(self, "_loaded", False))
        if self._changes is not None:
            return  # an unloading that has not come to its end yet
        shell, own = self._shell, Installation()
        self._changes = own
        own.wrap(shell, "prompt_for_code", self._prompt_for_code)
        own.wrap(shell, "ask_exit", self._ask_exit)
        own.append(self.front_end.translators, self.explain)
        own.wrap(shell, "_showtraceback", self._unless_away)
        own.wrap(shell.displayhook, "write_output_prompt", self._unless_away)
        own.wrap(shell.displayhook, "write_format_data", self._write_format_data)
        own.wrap(builtins, "input", self._input)
        own.wrap(signal, "signal", self._set_handler)
        own.event(shell.events, "pre_run_cell", self._on_begin)
        own.event(shell.events, "post_run_cell", self._on_end)

    def _close(self) -> None:
        """Undo everything, as soon as the main thread is the only one again."""
        if self._loaded or self._turn != MAIN or self._away or self._changes is None:
            return
        self._changes.undo()
        self._changes = None
        self.signals.give_back("SIGTSTP")
        self._forget_threads()

    def _forget_threads(self) -> None:
        self.apart.undo()
        self._per_thread = None

    # The turn

    def reaches(self) -> bool:
        return threading.get_ident() == self._turn

    def _main_is_free(self) -> bool:
        """Return whether the main thread waits for a text; if its cell has just ended, it will."""

        def is_settled() -> bool:
            cell = self._cells.get(MAIN)
            return self._handed is not None or (cell is not None and cell.result is None)

        until(is_settled, _GRACE)
        return self._handed is not None and not self._handed.done()

    def _hand_over(self, text: str | None, error: BaseException | None = None) -> None:
        """Give the main thread the turn, and what was typed."""
        with self._lock:
            handed = self._handed
            assert handed is not None
            self._turn = MAIN
            if error is None:
                handed.set_result(text)
            else:
                handed.set_exception(error)
        raise _Ended

    def _prompt_for_code(self, ask: Callable[[], str]) -> str:
        """Return the next text for the calling thread; end that thread if there is none for it."""
        me = threading.get_ident()
        if self._per_thread is not None:
            self._per_thread.separators.pop(me, None)
        while self._turn != me:
            if me != MAIN:
                raise _Ended
            if (text := self._wait_for_turn()) is not None:
                return self._typed(text)
        if me != MAIN and self._main_is_free():
            self._hand_over(None)
        text, end = "", None
        try:
            text = ask()
        except EOFError as error:
            end = error
        if me != MAIN and self._main_is_free():
            self._hand_over(text, end)
        if end is not None:
            raise end
        return self._typed(text)

    def _typed(self, text: str) -> str:
        self._cells[threading.get_ident()] = Cell(
            text, self._shell.execution_count, self.front_end.here()
        )
        return text

    def _wait_for_turn(self) -> str | None:
        """Wait, on the main thread, for a text or the turn; jobs of the loop go on."""
        with self._lock:
            if self._turn == MAIN:
                return None
            handed = self._handed = Future()
        while not handed.done():
            try:
                self._terminal.wait_for(handed, self.signals.forward)
            except KeyboardInterrupt:
                self.signals.forward(None)
        self.signals.give_back("SIGINT")
        self._handed = None
        if not self._away:  # what IPython leaves of cells that end in another order than they began
            self.front_end.drop_leftover_tee()
            self._forget_threads()
        self._close()
        return handed.result()

    def _interact(self) -> None:
        """Prompt and run cells in a thread of its own, while it has the turn."""
        self._turn = threading.get_ident()
        try:
            with self._terminal.own_loop(), suppress(_Ended):
                self._shell.interact()
                self._leave()
        except BaseException:
            # A prompt that cannot be shown must not leave the terminal without any.
            if self._main_is_free():
                with suppress(_Ended):
                    self._hand_over(None)
            raise

    def _leave(self) -> None:
        """End the session from another thread than the main one, which may be busy."""
        for cell in list(self._away):
            if cell.job is not None:
                cell.job.cancel(False)
        if until(self._main_is_free, _GRACE):
            self._hand_over("")
        # It computes on, and whatever ends the interpreter in good order needs it.
        with suppress(Exception):
            getattr(self._shell, "_atexit_once", lambda: None)()
        with suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(0)

    # On the thread of a cell

    def _here(self) -> Cell | None:
        cell = self._cells.get(threading.get_ident())
        return None if cell is None or cell.result is not None else cell

    def _here_away(self) -> Cell | None:
        cell = self._cells.get(threading.get_ident())
        return None if cell is None or cell.job is None else cell

    def _on_begin(self, _info: object) -> None:
        if (cell := self._here()) is None:
            return
        cell.depth += 1
        if cell.depth == 1:
            if cell.thread == MAIN:
                self._context = copy_context()
            cell.awaits = asyncio._get_running_loop() is not None
            cell.handler = self._terminal.handler_here()
            self.begin(cell)
            self.signals.forget("SIGTSTP")  # typed for a cell before, while another was looked at
            self._take_stop(cell)

    def _take_stop(self, cell: Cell) -> None:
        """Take Ctrl-Z while *cell* runs in the foreground, if that is wanted."""
        with self._lock:
            wanted = self.front_end.settings.ctrl_z == "background"
            if wanted and cell.result is None and cell.job is None:
                self.signals.take("SIGTSTP")

    def _on_end(self, result: Any) -> None:
        if (cell := self._here()) is None:
            return
        cell.depth -= 1
        if cell.depth == 0:
            self.end(cell, result)
            with self._lock:
                if cell.job is None:
                    self.signals.give_back("SIGTSTP")
            self._cells.pop(cell.thread, None)

    def _settle(self, run: Cell, job: Record) -> None:
        self.rejoin(run)
        if long := [text for text in run.values if "\n" in text or len(text) > _SHORT]:
            self.front_end.values[job.number] = "".join(
                f"Out[{run.number}]: {chr(10) * (chr(10) in text)}{text}\n" for text in long
            )
        super()._settle(run, job)

    def _set_handler(self, set_handler: Callable[..., Any], number: int, handler: Any) -> Any:
        """Set a handler, and take SIGINT again if that was it: it is for the cell in front."""
        try:
            return set_handler(number, handler)
        finally:
            if number == signal.SIGINT and MAIN in cells_away:
                self.signals.renew()

    def _ask_exit(self, ask: Callable[[], None]) -> None:
        if self._here_away() is None:
            ask()
        else:
            self.front_end.print_line("exit in a background cell leaves nothing but the cell")
            raise SystemExit

    def _unless_away(self, show: Callable[..., None], *args: Any) -> None:
        # As for any job, its end shows it: above the prompt, or in the %fg that waits for it.
        if self._here_away() is None:
            show(*args)

    def _write_format_data(self, write: Callable[..., None], data: Any, *args: Any) -> None:
        if (cell := self._here_away()) is None:
            write(data, *args)
        else:
            cell.values.append(data.get("text/plain", ""))

    def _input(self, ask: Callable[..., str], /, *args: Any) -> str:
        cell = self._here() if caller() is None else None
        if cell is None:
            return ask(*args)
        self.signals.give_back("SIGTSTP")  # to readline, which puts the terminal in order first
        cell.asks = True
        try:
            return ask(*args) if cell.thread == MAIN else _read_line(cell, *args)
        finally:
            cell.asks = False
            self._take_stop(cell)

    # On the thread that listens for signals

    def _foreground(self) -> Cell | None:
        cell = self._cells.get(self._turn)
        if cell is None or cell.began is None or cell.result is not None or cell.job is not None:
            return None
        return cell

    def is_front(self, run: Cell) -> bool:
        return run is self._cells.get(self._turn)

    def _on_stop(self) -> None:
        """Take Ctrl-Z: send the foreground's cell to the background, or stop as ever."""
        if (cell := self._foreground()) is None:
            return  # it has just ended, and the prompt is there
        if self._terminal_is_taken(cell):
            with self.signals.passing("SIGTSTP"):
                stop_group()
                time.sleep(PASSES)  # so that this signal, too, is over before the next is taken
        else:
            self.send_away(cell)

    def on_block(self, blocked: bool) -> None:
        """Have Ctrl-C stop a job that blocks the loop, and so the prompt. Any thread may call."""
        with self._lock:
            if blocked and self._turn == MAIN:
                self._prompt_again = let_control_c_interrupt()
                self.signals.take("SIGINT")
            elif not blocked and self._prompt_again is not None:
                self._prompt_again()
                self._prompt_again = None
                if self._turn == MAIN:
                    self.signals.give_back("SIGINT")

    def _on_interrupt(self) -> None:
        """Take Ctrl-C while the main thread does not have the turn, or a job blocks its loop."""
        if self._turn == MAIN:
            self.front_end.unblock()
        cell = self._foreground()
        if cell is not None and not self.front_end.interrupt_wait(cell.thread):
            self.interrupt(cell)

    def _terminal_is_taken(self, cell: Cell) -> bool:
        """Return whether the cell, or a child of it, reads from the terminal; continue children."""
        time.sleep(_STOPS)
        if _reads_terminal(cell):
            return True
        until(lambda: self.asks(cell) or not continue_group(), _RESUMES)
        return self.asks(cell)

    def asks(self, run: Cell) -> bool:
        """Return whether a cell, or a child of it, has the terminal."""
        return _reads_terminal(run) or handles_stop_signal()

    def send_away(self, run: Cell) -> bool:
        """Send a cell of the foreground to the background, or end its `%fg`."""
        if self.front_end.interrupt_wait(run.thread):
            return True
        with self._lock:
            if run.result is not None or run.job is not None or not self.prepare():
                return False
            assert self._per_thread is not None
            # It would print an empty line at its end, into whatever stands there then.
            self._per_thread.separators[run.thread] = ""
            self.signals.give_back("SIGTSTP")
            self.front_end.show_backgrounded(self.make_job(run))
            self.signals.take("SIGINT")
            self._turn = 0
        # In a copy of the context in which the cell began: what earlier cells have set is seen.
        within = self._context.copy().run
        threading.Thread(
            target=within, args=[self._interact], name="bg-prompt", daemon=True
        ).start()
        return True


def _reads_terminal(cell: Cell) -> bool:
    if cell.asks or is_raw():
        return True
    if (innermost := frame_of(cell.thread)) is None:
        return False
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_stack(innermost))
    return any(each in _ASKING or each.startswith("prompt_toolkit.") for each in modules)


def _read_line(cell: Cell, prompt: object = "") -> str:
    """Do what `input` does, on another thread than the main one, so that Ctrl-C ends it."""
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], PASSES)[0]:
        if cell.interrupted:
            cell.interrupted = False
            raise KeyboardInterrupt
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")
