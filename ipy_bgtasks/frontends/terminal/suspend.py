"""Ctrl-Z while a cell runs: the cell goes on in the background, and the prompt comes back.

The guarantee: the cell is not touched. It stays on the thread and in the frames in which it runs,
and only the prompt moves. A new thread takes over IPython's own loop of prompt and cell
(`interact`) until a text is typed when the main thread has nothing left to run: that text is handed
to the main thread, and the other thread ends. So at any time one thread, the one that holds the
*turn*, reads from the terminal, and never do two foreground cells run at once.

SIGTSTP and, while the main thread is not the one with the turn, SIGINT are taken by `faulthandler`,
which acts in C and writes a few lines to a socket at which a thread of ours reads. A handler in
Python does not do: it would run on the main thread, and when numpy or a driver of a database
returns there is nothing left to send away. `signal.sigwait` does not do either: the signal would
have to be blocked in all threads, those of libraries included. SIGTSTP is taken only from the first
line of a foreground cell to its end, so that at the prompt, where the terminal is raw and Ctrl-Z
a key, prompt_toolkit suspends IPython as ever. A second Ctrl-Z finds that prompt, and so suspends,
too.

The terminal sends SIGTSTP to the whole process group. What the cell has started there, as
``!make``, stops with it and is continued. Whether such a child uses the terminal itself, as an
editor or a pager does, cannot be seen while it is stopped: it puts the terminal in order and takes
its handler off before it stops. So all are continued first; what makes the terminal raw again, or
handles SIGTSTP, has it, and all are stopped as if we were not there. The same holds for a cell in
`input`, `getpass` or a debugger.

What remains: a SIGINT in the few microseconds in which the main thread, in the background, sets a
handler of its own (`asyncio.run` does) interrupts that cell and not the one in front. A cell that
reads `sys.stdin` without `input` is not noticed,
and shares what is typed with the prompt.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import select
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away
from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.frontends.per_thread import PerThread
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import (
    can_take_signals,
    continue_group,
    give_signal_back,
    handles_stop_signal,
    interrupt_main_thread,
    is_raw,
    stop_group,
    take_signal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.terminal.front_end import TerminalFrontEnd
    from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.sigint import SigintHandler

#: What `faulthandler` writes first, for each signal.
_SIGNAL = b"Stack (most"
#: Seconds in which a child puts the terminal in order and stops, and in which one that was
#: continued makes it its own again.
_STOPS, _RESUMES = 0.02, 0.15
#: Seconds between two tries to interrupt code that is in a library of IPython's, and all.
_AGAIN, _PATIENCE = 0.005, 5.0
#: Seconds that a signal has to get to its thread.
_PASSES = 0.05
#: Seconds after which code that has not moved is taken to be stuck.
_STUCK = 0.5
#: Characters of a value for which the notice of a job's end has room.
_SHORT = 60
#: Seconds that cells in the background have to end when the session does.
_GRACE = 0.5
#: Modules whose functions read from the terminal while they are on a cell's stack.
_ASKING = ("pdb", "cmd", "code", "prompt_toolkit", "IPython.terminal.debugger")

_MAIN = threading.main_thread().ident or 0


class Cell:
    """A text that was typed at the prompt, while it runs."""

    def __init__(self, code: str, number: int, thread: int) -> None:
        self.code = code
        self.number = number
        self.thread = thread
        #: When its code began, a monotonic time.
        self.began: float | None = None
        #: How many cells it runs within itself, itself included.
        self.depth = 0
        #: Whether it awaits, on a loop of its thread, and what then takes an interrupt.
        self.awaits = False
        self.interrupt: SigintHandler | None = None
        #: Whether it waits in `input`, and is to be interrupted there.
        self.asks = self.interrupted = False
        #: Its job, once it was sent to the background.
        self.job: Record | None = None
        #: What its values look like, which are not shown before its end then.
        self.values: list[str] = []
        self.over = False


class _Ended(BaseException):
    """Ends `interact` in a thread to which the prompt does not belong any more."""


class Suspending:
    """The cells of one terminal, and the thread that has the turn. Made once for each shell."""

    def __init__(self, front_end: TerminalFrontEnd, terminal: TerminalLoop) -> None:
        self._front_end = front_end
        self._shell = front_end.shell
        self._terminal = terminal
        self._lock = threading.RLock()
        #: The thread that reads from the terminal and runs what is typed.
        self._turn = _MAIN
        self._cells: dict[int, Cell] = {}
        #: What the main thread waits for while another has the turn: a text, or None for the turn.
        self._handed: Future[str | None] | None = None
        self._signals = _Signals({"SIGTSTP": self._on_stop, "SIGINT": self._on_interrupt})
        self._context = Context()
        self._per_thread: PerThread | None = None
        self._apart = Installation()
        self._changes: Installation | None = None
        self._loaded = False

    def install(self, changes: Installation, terminal: TerminalLoop) -> None:
        """Begin; cells that are in the background when that is undone go on.

        Raises `NotImplementedError` where there are no such signals.
        """
        if not (can_take_signals() and hasattr(signal, "SIGTSTP")):
            raise NotImplementedError
        self._terminal = terminal
        self._loaded = True
        changes.add(self._unload)
        shell, own = self._shell, self._changes
        if own is not None:
            return  # an unloading that has not come to its end yet
        own = self._changes = Installation()
        own.wrap(shell, "prompt_for_code", self._prompt_for_code)
        own.wrap(shell, "ask_exit", self._ask_exit)
        own.wrap(shell, "showtraceback", self._explain)
        own.wrap(shell, "_showtraceback", self._showtraceback)
        own.wrap(shell.displayhook, "write_output_prompt", self._write_output_prompt)
        own.wrap(shell.displayhook, "write_format_data", self._write_format_data)
        own.wrap(builtins, "input", self._input)
        own.wrap(signal, "signal", self._set_handler)
        own.event(shell.events, "pre_run_cell", self._begins)
        own.event(shell.events, "post_run_cell", self._ends)

    def _unload(self) -> None:
        self._loaded = False
        self._close()

    def _close(self) -> None:
        """Undo everything, as soon as the main thread is the only one again."""
        if self._loaded or self._turn != _MAIN or any(each.job for each in self._cells.values()):
            return
        if self._changes is not None:
            self._changes.undo()
            self._changes = None
        self._signals.give_back("SIGTSTP")
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._apart.undo()
        self._per_thread = None

    # The turn

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        return threading.get_ident() == self._turn

    def _main_is_free(self) -> bool:
        return self._handed is not None and not self._handed.done()

    def _hand_over(self, text: str | None, error: BaseException | None = None) -> None:
        """Give the main thread the turn, and what was typed."""
        with self._lock:
            handed = self._handed
            assert handed is not None
            self._turn = _MAIN
            if error is None:
                handed.set_result(text)
            else:
                handed.set_exception(error)
        raise _Ended

    def _prompt_for_code(self, ask: Callable[[], str]) -> str:
        """Return the next text for the calling thread; end that thread if there is none for it."""
        me = threading.get_ident()
        while self._turn != me:
            if me != _MAIN:
                raise _Ended
            if (text := self._wait_for_turn()) is not None:
                return self._typed(text)
        if me != _MAIN and self._main_is_free():
            self._hand_over(None)
        try:
            text = ask()
        except EOFError as error:
            if me != _MAIN and self._main_is_free():
                self._hand_over(None, error)
            raise
        if me != _MAIN and self._main_is_free():
            self._hand_over(text)
        return self._typed(text)

    def _typed(self, text: str) -> str:
        me = threading.get_ident()
        self._cells[me] = Cell(text, self._shell.execution_count, me)
        return text

    def _wait_for_turn(self) -> str | None:
        """Wait, on the main thread, for a text or the turn; jobs of the loop go on."""
        with self._lock:
            if self._turn == _MAIN:
                return None
            handed = self._handed = Future()
        while not handed.done():
            try:
                self._terminal.wait_for(handed, self._signals.forward)
            except KeyboardInterrupt:
                self._signals.forward(None)
        self._signals.give_back("SIGINT")
        self._handed = None
        self._tidy_up()
        return handed.result()

    def _tidy_up(self) -> None:
        """Remove what IPython has left of cells that ended in another order than they began."""
        if not any(each.job for each in self._cells.values()):
            self._front_end.drop_leftover_tee()
            self._forget_threads()
        self._close()

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
        for cell in list(self._cells.values()):
            if cell.job is not None and not cell.job.done():
                cell.job.cancel(False)
        deadline = time.monotonic() + _GRACE
        while not self._main_is_free() and time.monotonic() < deadline:
            time.sleep(_AGAIN)
        if self._main_is_free():
            self._hand_over("")
        # It computes on, and whatever ends the interpreter in good order needs it.
        import atexit

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
        return self._cells.get(threading.get_ident())

    def _begins(self, _info: object) -> None:
        cell = self._here()
        if cell is None or cell.over:
            return
        cell.depth += 1
        if cell.depth > 1:
            return
        if self._per_thread is not None:
            self._shell.display_trap.set()  # a cell that just ended may have taken it off
        if threading.get_ident() == _MAIN:
            self._context = copy_context()
        else:
            self._signals.renew()
            from ipy_bgtasks.waits import stoppable

            stoppable[cell.thread] = None  # no signal ends its sleep
        cell.awaits = asyncio._get_running_loop() is not None
        cell.interrupt = self._terminal.handler_here()
        cell.began = time.monotonic()
        self._take_stop(cell)

    def _take_stop(self, cell: Cell) -> None:
        """Take Ctrl-Z while *cell* runs in the foreground, if that is wanted."""
        with self._lock:
            backgrounds = self._front_end.settings.ctrl_z == "background"
            if not cell.over and cell.job is None and backgrounds:
                self._signals.take("SIGTSTP")

    def _ends(self, result: Any) -> None:
        cell = self._here()
        if cell is None or cell.over:
            return
        cell.depth -= 1
        if cell.depth > 0:
            return
        with self._lock:
            cell.over = True
            if cell.thread != _MAIN:
                from ipy_bgtasks.waits import stoppable

                stoppable.pop(cell.thread, None)
            if cell.job is None:
                self._signals.give_back("SIGTSTP")
                del self._cells[cell.thread]
                return
        self._settle(cell, cell.job, result)

    def _settle(self, cell: Cell, job: Record, result: Any) -> None:
        """End the job of a cell whose code has ended."""
        assert self._per_thread is not None
        self._per_thread.numbers.pop(cell.thread, None)
        self._per_thread.quiet.pop(cell.thread, None)
        error = result.error_before_exec or result.error_in_exec
        try:
            if error is None:
                if long := [text for text in cell.values if "\n" in text or len(text) > _SHORT]:
                    self._front_end.values[job.number] = "".join(
                        f"Out[{cell.number}]: {chr(10) * (chr(10) in text)}{text}\n"
                        for text in long
                    )
                job.finish(result.result)
            elif job.cancel_requested and isinstance(
                error, KeyboardInterrupt | asyncio.CancelledError
            ):
                job.end_cancelled()
            else:
                job.fail(error)
        finally:
            cells_away.pop(cell.thread, None)
            self._cells.pop(cell.thread, None)

    def _is_away(self) -> Cell | None:
        cell = self._here()
        return cell if cell is not None and cell.job is not None else None

    def _set_handler(self, set_handler: Callable[..., Any], number: int, handler: Any) -> Any:
        """Set a handler, and take SIGINT again if that was it: it is for the cell in front."""
        try:
            return set_handler(number, handler)
        finally:
            if number == signal.SIGINT and _MAIN in cells_away:
                self._signals.renew()

    def _ask_exit(self, ask: Callable[[], None]) -> None:
        if self._is_away() is None:
            ask()
        else:
            self._front_end.print_line("exit in a background cell leaves nothing but the cell")
            raise SystemExit

    def _explain(self, show: Callable[..., None], exc: Any = None, *args: Any, **kw: Any) -> None:
        """Show one line where something needs the main thread, which a cell away has."""
        main = self._cells.get(_MAIN)
        error = (exc or sys.exc_info())[1]
        job = None if main is None or threading.get_ident() == _MAIN else main.job
        if job is not None and (what := _needs_main(error)) is not None:
            from IPython.core.error import UsageError

            n = job.number
            line = f"{what}, which is job {n}'s ({job.name}) until that ends: %fg {n} waits for it"
            exc = (UsageError, UsageError(line), None)
        show(exc, *args, **kw)

    def _showtraceback(self, show: Callable[..., None], *args: Any) -> None:
        # As for any job, its end shows it: above the prompt, or in the %fg that waits for it.
        if self._is_away() is None:
            show(*args)

    def _write_output_prompt(self, write: Callable[[], None]) -> None:
        if self._is_away() is None:
            write()

    def _write_format_data(self, write: Callable[..., None], data: Any, *args: Any) -> None:
        if (cell := self._is_away()) is None:
            write(data, *args)
        else:
            cell.values.append(data.get("text/plain", ""))

    def _input(self, ask: Callable[..., str], /, *args: Any) -> str:
        cell = self._here() if caller() is None else None
        if cell is None:
            return ask(*args)
        self._signals.give_back("SIGTSTP")  # to readline, which puts the terminal in order first
        cell.asks = True
        try:
            return ask(*args) if cell.thread == _MAIN else _read_line(cell, *args)
        finally:
            cell.asks = False
            self._take_stop(cell)

    # On the thread that listens for signals

    def _on_stop(self) -> None:
        """Take Ctrl-Z: send the foreground's cell to the background, or stop as ever."""
        cell = self._cells.get(self._turn)
        if cell is None or cell.over or cell.began is None:
            return  # it has just ended, and the prompt is there
        if self._terminal_is_taken(cell):
            with self._signals.passing("SIGTSTP"):
                stop_group()
                time.sleep(_PASSES)  # so that this signal, too, is over before the next is taken
        elif not self._front_end.interrupt_wait(cell.thread):
            self.send_away(cell)

    def _terminal_is_taken(self, cell: Cell) -> bool:
        """Return whether the cell, or a child of it, reads from the terminal; continue children."""
        time.sleep(_STOPS)
        if is_raw():
            return True
        frame = sys._current_frames().get(cell.thread)
        while frame is not None:
            module = str(frame.f_globals.get("__name__"))
            if module in _ASKING or module.startswith("prompt_toolkit."):
                return True
            frame = frame.f_back
        deadline = time.monotonic() + _RESUMES
        while continue_group():
            if is_raw() or handles_stop_signal():
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(_AGAIN)
        return False

    def send_away(self, cell: Cell) -> None:
        """Send a cell of the foreground to the background. Not on its own thread."""
        with self._lock:
            if cell.over or cell.job is not None or not self._keep_for_each_thread():
                return
            self._signals.give_back("SIGTSTP")
            self._front_end.show_backgrounded(self._take(cell))
            self._signals.take("SIGINT")
            self._turn = 0  # nobody's, until that thread is there
        # In a copy of the context in which the cell began: what earlier cells have set is seen.
        run = self._context.copy().run
        threading.Thread(target=run, args=[self._interact], name="bg-prompt", daemon=True).start()

    def _keep_for_each_thread(self) -> bool:
        """Keep for each thread what IPython keeps once; return whether that works here."""
        if self._per_thread is None:
            per_thread = PerThread()
            self._apart.step("ctrl-z", per_thread.install, self._shell)
            if self._apart.missing:
                return False
            self._per_thread = per_thread
        return True

    def _take(self, cell: Cell) -> Record:
        """Make a job of a cell that runs."""
        # IPython counts before it runs a cell, or, before version 9, afterwards.
        assert self._per_thread is not None
        self._per_thread.numbers[cell.thread] = self._shell.execution_count
        self._per_thread.quiet[cell.thread] = cell.code.rstrip().endswith(";")
        self._shell.execution_count = cell.number + 1
        job = self._front_end.launch_cell(cell, lambda: self._interrupt(cell))
        cells_away[cell.thread] = job
        cell.job = job
        return job

    # Interrupts. Any thread may call, but the cell's own.

    def _on_interrupt(self) -> None:
        """Take Ctrl-C while the main thread does not have the turn."""
        cell = self._cells.get(self._turn)
        if cell is None or cell.over or cell.job is not None:
            return  # between two cells
        if not self._front_end.interrupt_wait(cell.thread):
            self._interrupt(cell)

    def _interrupt(self, cell: Cell) -> None:
        if cell.thread == _MAIN:
            self._interrupt_main(cell)
        else:
            pursuing = threading.Thread(target=self._pursue, args=[cell], daemon=True)
            Context().run(pursuing.start)

    def _interrupt_main(self, cell: Cell) -> None:
        """Send the real signal, which also ends a sleep; the handler is the main thread's own."""
        from ipy_bgtasks.waits import processes_waited_for, send_signal

        processes = processes_waited_for(cell.thread)
        deadline = time.monotonic() + _PATIENCE
        while _is_ours(cell.thread) and time.monotonic() < deadline:
            time.sleep(_AGAIN / 5)  # a line of output would be lost
        with self._signals.passing("SIGINT"):
            if not cell.over:
                interrupt_main_thread()
                send_signal(processes, signal.SIGINT)
                time.sleep(_PASSES)

    def _pursue(self, cell: Cell) -> None:
        """Raise `KeyboardInterrupt` in a cell's code, wherever that waits, and say if it cannot."""
        from ipy_bgtasks.async_exceptions import Sent, raise_in_user_code

        start = code_that_runs_cells()
        sent, since = Sent(cell.thread), 0.0
        deadline = time.monotonic() + _PATIENCE
        while not cell.over and sent.pending and time.monotonic() < deadline:
            if since:
                sent.waits.end()
                if time.monotonic() - since > _STUCK:
                    self._front_end.show_stuck(cell)
                    return
            elif cell.asks:
                cell.interrupted = True
                return
            elif cell.interrupt is not None and not cell.interrupt(
                sys._current_frames().get(cell.thread)
            ):
                return  # at its await
            elif start is not None and raise_in_user_code(cell.thread, sent, start):
                since = time.monotonic()
                continue
            time.sleep(_AGAIN)


def _is_ours(thread: int) -> bool:
    """Return whether a thread is in this package now, where an exception would tear something."""
    frame = sys._current_frames().get(thread)
    for _ in range(5):
        if frame is None:
            return False
        if str(frame.f_globals.get("__name__")).startswith(("ipy_bgtasks.log", "ipy_bgtasks.fr")):
            return True
        frame = frame.f_back
    return False


#: Messages of Python for what works on the main thread alone, and ours.
_NEED_MAIN = {
    "different loop": "what is awaited here belongs to the event loop of the main thread",
    "different event loop": "what is awaited here belongs to the event loop of the main thread",
    "signal only works in main thread": "handlers of signals are set in the main thread",
    "set_wakeup_fd only works in main thread": "signals are handled in the main thread",
    "can only be called from the main thread": "this works in the main thread",
}


def _needs_main(error: BaseException | None) -> str | None:
    if not isinstance(error, RuntimeError | ValueError):
        return None
    text = str(error)
    return next((line for words, line in _NEED_MAIN.items() if words in text), None)


def _read_line(cell: Cell, prompt: object = "") -> str:
    """Do what `input` does, on another thread than the main one, so that Ctrl-C ends it."""
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], _PASSES)[0]:
        if cell.interrupted:
            cell.interrupted = False
            raise KeyboardInterrupt
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


class _Signals:
    """Takes signals in C, whatever the main thread does, and acts on a thread of its own."""

    def __init__(self, actions: dict[str, Callable[[], None]]) -> None:
        self._actions = actions
        self._lock = threading.RLock()
        self._taken: set[str] = set()
        self._sockets: dict[str, tuple[socket.socket, socket.socket]] = {}

    def take(self, name: str) -> None:
        """Take the signal from now on."""
        with self._lock:
            if not self._sockets:
                self._sockets = {each: socket.socketpair() for each in self._actions}
                for _, writer in self._sockets.values():
                    writer.setblocking(False)
                thread = threading.Thread(target=self._listen, name="bg-signals", daemon=True)
                Context().run(thread.start)
            if name not in self._taken:
                self._taken.add(name)
                take_signal(getattr(signal, name), self._sockets[name][1].fileno())

    def give_back(self, name: str) -> None:
        """Let the signal go where it went before."""
        with self._lock:
            if name in self._taken:
                self._taken.discard(name)
                give_signal_back(getattr(signal, name))

    def renew(self) -> None:
        """Take SIGINT again, if it is taken: the main thread may have set a handler since."""
        with self._lock:
            if "SIGINT" in self._taken:
                self.give_back("SIGINT")
                self.take("SIGINT")

    def forward(self, _frame: object) -> bool:
        """Act as a `SigintHandler` for a signal that reached the main thread all the same."""
        with suppress(OSError):
            self._sockets["SIGINT"][1].send(_SIGNAL)
        return False

    def passing(self, name: str) -> _Passing:
        """Return a context in which the signal goes where it went before."""
        return _Passing(self, name)

    def _listen(self) -> None:
        names = {reader: name for name, (reader, _) in self._sockets.items()}
        while True:
            for reader in select.select(list(names), [], [])[0]:
                if _SIGNAL not in reader.recv(65536):
                    continue  # the rest of a stack
                try:
                    self._actions[names[reader]]()
                except Exception:
                    sys.excepthook(*sys.exc_info())


class _Passing:
    def __init__(self, signals: _Signals, name: str) -> None:
        self._signals, self._name = signals, name
        self._lock = signals._lock

    def __enter__(self) -> None:
        self._lock.acquire()
        self._taken = self._name in self._signals._taken
        self._signals.give_back(self._name)

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._signals.take(self._name)
        self._lock.release()
