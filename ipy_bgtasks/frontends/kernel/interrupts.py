"""Where an interrupt of a kernel lands: in the code of the foreground's cell, and nowhere else.

Stock ipykernel lets Python's handler raise ``KeyboardInterrupt`` from the arrival of a request to
its reply. Where that lands between the two in the kernel's own code, the reply is lost and the
front end waits forever; after an await cell the loop iterates there, with steps of jobs. So
`guard_requests_from_sigint` delays an interrupt until the code of its request.

While a cell in the background has the main thread, the foreground's cell runs in another one.
SIGINT is the main thread's; only that thread could give it another handler, and it is busy. So
`faulthandler` takes the signal, as for SIGTERM: it acts in C, from any thread, and writes a few
lines to a socket at which a thread of ours reads; sleeping code of the main thread sleeps on.
`SigintRouter` then interrupts the cell it is meant for.

ipykernel cancels the task of an interrupted await cell, so that it ends with asyncio's
`CancelledError` and with asyncio's frames, which tell its author nothing. `show_interrupts` ends
it with `KeyboardInterrupt`, as in a terminal. What the cell itself raises stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from contextlib import suppress
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.foreign import is_a
from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.platforms import (
    can_take_signals,
    give_signal_back,
    interrupt_main_thread,
    is_pending,
    take_signal,
)
from ipy_bgtasks.sigint import raising
from ipy_bgtasks.stacks import up_to_the_users
from ipy_bgtasks.waits import processes_waited_for, send_signal

if TYPE_CHECKING:
    from ipy_bgtasks.async_exceptions import Sent
    from ipy_bgtasks.frontends.kernel.background_cells import BackgroundCells
    from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun
    from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd
    from ipy_bgtasks.patching import Installation


#: Seconds after which an interrupt that came too early for a plain cell's code is sent again.
_SOON = 0.01


def guard_requests_from_sigint(changes: Installation, front_end: KernelFrontEnd) -> None:
    """Delay an interrupt until the code of its request.

    One that comes before the code hits it when it begins; one that comes after it is discarded.
    A second one in the same request is raised in any case. Main thread only.
    """
    button = _StopButton(front_end)
    shell = front_end.shell
    changes.attribute(shell.kernel, "pre_handler_hook", button.request_begins)
    changes.attribute(shell.kernel, "post_handler_hook", button.request_ends)
    changes.event(shell.events, "pre_execute", button.code_begins)
    changes.event(shell.events, "post_execute", button.code_ends)
    changes.add(button.retire)


class _StopButton:
    """The handling of SIGINT from the beginning of an execute request to its end.

    While interrupts are routed, it does the same between the requests of the main thread, and in
    those that execute nothing: the cell that interrupts are meant for runs in another thread.
    """

    def __init__(self, front_end: KernelFrontEnd) -> None:
        self._kernel = front_end.shell.kernel
        self._front_end = front_end
        self._handler = raising(self._handle)
        #: The kernel's handler between requests.
        self._between: Any = signal.SIG_IGN
        self._executing = False
        self._held = 0
        self._request = 0

    def request_begins(self) -> None:
        """Set our handler, in place of the kernel's hook, which sets Python's for every request."""
        kernel = self._kernel
        executes = self._is_execute_request()
        if not _in_main_thread() or not (executes or self._front_end.routes_interrupts()):
            type(kernel).pre_handler_hook(kernel)
            return
        self._held = 0
        self._request += 1
        self._executing = executes
        if (before := signal.signal(signal.SIGINT, self._handler)) != self._handler:
            self._between = before
        kernel.saved_sigint_handler = self._between

    def request_ends(self) -> None:
        """Reset the handler, in place of the kernel's hook, which makes interrupts ignored."""
        self._executing = self._executing and not _in_main_thread()
        if _in_main_thread() and self._front_end.routes_interrupts():
            signal.signal(signal.SIGINT, self._handler)
        else:
            type(self._kernel).post_handler_hook(self._kernel)

    def code_begins(self) -> None:
        """Set Python's handler for a plain cell, as usual: IPython is about to run code."""
        if not _in_main_thread():
            return
        held, self._held = self._held, 0
        if signal.getsignal(signal.SIGINT) == self._handler:
            # Else an interrupt sends the cell to the background, and must not be raised in it.
            if self._front_end.cells is None or not self._front_end.interrupt_backgrounds:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if held:  # raised here it would be IPython's, which calls this
                again = threading.Timer(_SOON, self._again, [self._request])
                again.daemon = True
                again.start()
        elif held:  # an await cell, which the kernel's own handler cancels
            signal.raise_signal(signal.SIGINT)

    def code_ends(self) -> None:
        """Set our handler again: IPython has run code, perhaps within that of a cell."""
        if _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handler)

    def retire(self) -> None:
        """Restore Python's handler for the rest of the request."""
        if signal.getsignal(signal.SIGINT) == self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, frame: FrameType | None) -> bool:
        if self._front_end.route_interrupt() or not self._executing:
            return False
        self._held += 1
        return self._held > 1 or _runs_code(frame)

    def _again(self, request: int) -> None:
        handler = signal.getsignal(signal.SIGINT)
        ours = handler is signal.default_int_handler or handler == self._handler
        if request != self._request or not ours:
            return  # that code has ended
        interrupt_main_thread()

    def _is_execute_request(self) -> bool:
        header = (self._kernel.get_parent("shell") or {}).get("header", {})
        return bool(header.get("msg_type") == "execute_request")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _runs_code(frame: FrameType | None) -> bool:
    """Return whether IPython's `run_code` is at work: user code, or what it called."""
    while frame is not None:
        if frame.f_code.co_name == "run_code":
            return str(frame.f_globals.get("__name__")) == "IPython.core.interactiveshell"
        frame = frame.f_back
    return False


#: Seconds in which what is written belongs to one signal.
_ONE = 0.02
#: Seconds between two tries to interrupt code that is in a library of the kernel's, and all.
_AGAIN, _PATIENCE = 0.005, 5.0
#: Seconds between two looks for what a signal on its way writes.
_SHORT = 0.001
#: Seconds in which a second interrupt stops the cell that the first sent to the background.
_TWICE = 2.0
#: Seconds after which code that has not raised what it was sent is taken to be stuck.
_STUCK = 0.5
#: Seconds that a signal has to get to the main thread before the next one is routed again.
_PASSES = 0.05


class SigintRouter:
    """Takes SIGINT while a cell in the background has the main thread."""

    def __init__(self, cells: BackgroundCells, queue: CellQueue) -> None:
        self._cells = cells
        self._queue = queue
        #: The cell that an interrupt has sent to the background last, and when.
        self._backgrounded: tuple[CellRun, float] | None = None
        self._lock = threading.Lock()
        #: Held from reading what a signal has written until its cell is interrupted.
        self._taking = threading.Lock()
        #: When something was read last.
        self._last = 0.0
        #: Whether SIGINT is routed now.
        self.active = False
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None

    def begin(self) -> None:
        """Route SIGINT from now on. Any thread may call."""
        with self._lock:
            if self.active or not can_take_signals():
                return
            if self._reader is None:
                self._reader, self._writer = socket.socketpair()
                self._writer.setblocking(False)
                thread = threading.Thread(target=self._listen, name="bg-sigint", daemon=True)
                Context().run(thread.start)
            self.active = True
            self._register()

    def renew(self) -> None:
        """Take the signal again: the main thread has set a handler since, as each cell does."""
        with self._lock:
            if self.active:
                give_signal_back(signal.SIGINT)
                self._register()

    def route(self) -> bool:
        """Route an interrupt that a Python handler got; return whether that is done here."""
        if not self.active or self._writer is None:
            return False
        self._writer.send(b"\n")
        return True

    def end(self) -> None:
        """Let SIGINT go where it went before. Any thread may call."""
        with self._lock:
            if self.active:
                self.active = False
                give_signal_back(signal.SIGINT)

    def backgrounded(self, run: CellRun) -> None:
        """Note that an interrupt sent this cell to the background: a second one, soon, stops it."""
        self._backgrounded = run, time.monotonic()

    def _interrupted_twice(self) -> CellRun | None:
        sent, self._backgrounded = self._backgrounded, None
        if sent is None or sent[0].over or time.monotonic() - sent[1] > _TWICE:
            return None
        return sent[0]

    def interrupt(self, run: CellRun) -> None:
        """Interrupt a cell, wherever it is. Any thread may call."""
        if run.thread == threading.main_thread().ident and hasattr(signal, "pthread_kill"):
            self._interrupt_main()
        elif _is_awaiting(run):
            run.interrupted = True
            run.task.get_loop().call_soon_threadsafe(run.task.cancel)
        else:
            from ipy_bgtasks.async_exceptions import Sent

            run.stop = Sent(run.thread)
            pursuing = threading.Thread(target=self._pursue, args=[run, run.stop], daemon=True)
            Context().run(pursuing.start)

    def missed(self, run: CellRun) -> bool:
        """Return whether an interrupt came before the end of a cell and was not raised in it.

        The signal ends the cell's child processes, too: where the last line waits for one, it may
        be over before our thread gets its turn. Call this in the cell's thread, once.
        """
        came, deadline = False, time.monotonic() + _PASSES
        if self.active and not self._cells.front_end.interrupt_backgrounds:
            arriving = is_pending(signal.SIGINT)
            while True:
                with self._taking:
                    came = self._take()
                if came or not arriving or time.monotonic() > deadline:
                    break
                time.sleep(_SHORT)
        if (sent := run.stop) is not None:
            came = came or sent.pending
            sent.drop()
        return came

    def _take(self) -> bool:
        """Read what is there; return whether that is a signal, and not the rest of one."""
        assert self._reader is not None
        before, now = self._last, time.monotonic()
        with suppress(BlockingIOError):
            self._reader.recv(65536, getattr(socket, "MSG_DONTWAIT", 0))
            self._last = now
            return now - before > _ONE
        return False

    def _register(self) -> None:
        assert self._writer is not None
        take_signal(signal.SIGINT, self._writer.fileno())

    def _interrupt_main(self) -> None:
        """Send the real signal, which also ends a sleep; the handler is the kernel's own."""
        processes = processes_waited_for(threading.main_thread().ident or 0)
        with self._lock:
            routed, self.active = self.active, False
            if routed:
                give_signal_back(signal.SIGINT)
            interrupt_main_thread()
            send_signal(processes, signal.SIGINT)  # later, or the cell might go on without them
            if routed:
                time.sleep(_PASSES)
                self.active = True
                self._register()

    def _listen(self) -> None:
        assert self._reader is not None
        front_end = self._cells.front_end
        while self._reader.recv(1, socket.MSG_PEEK):
            with self._taking:
                if not self._take():
                    continue
                run = self._queue.newest  # before another one begins
                # At once: the signal has reached the cell's child processes, too, and the cell
                # should not go on as if they had ended by themselves.
                at_once = run is not None and not run.over and run.began is not None
                at_once = at_once and not front_end.interrupt_backgrounds
                if run is not None and at_once and not front_end.interrupt_wait(run.thread):
                    self.interrupt(run)
            if at_once:
                continue
            time.sleep(_ONE)
            if run is None or run.over:
                run = self._interrupted_twice()  # else no cell of the foreground's runs
                if run is not None:
                    self.interrupt(run)
            elif run.began is None or not (
                front_end.interrupt_wait(run.thread) or self._cells.background_interrupted(run)
            ):
                self.interrupt(run)

    def _pursue(self, run: CellRun, sent: Sent) -> None:
        """Raise `KeyboardInterrupt` in a cell's code, wherever that waits, and say if it cannot."""
        from ipy_bgtasks.async_exceptions import raise_in_user_code

        start, since = code_that_runs_cells(), 0.0
        deadline = time.monotonic() + _PATIENCE
        while not run.over and sent.pending and time.monotonic() < deadline:
            if since:
                sent.waits.end()
                if time.monotonic() - since > _STUCK:
                    self._cells.front_end.show_stuck(run)
                    return
            elif run.began is not None:
                if start is None or _is_awaiting(run):
                    self.interrupt(run)
                    return
                if raise_in_user_code(run.thread, sent, start):
                    since = time.monotonic()
                    continue
            time.sleep(_AGAIN)


def _is_awaiting(run: CellRun) -> bool:
    """Return whether a cell awaits and is not in the middle of a step: cancelling is enough."""
    return run.task is not None and asyncio.current_task(run.task.get_loop()) is not run.task


def show_interrupts(changes: Installation, front_end: KernelFrontEnd) -> None:
    """Show an interrupt as such from now on. Any thread may call."""
    cells, events = _AwaitCells(front_end), front_end.shell.events
    changes.append(front_end.translators, cells.translate)
    changes.event(events, "pre_execute", cells.on_begin)
    changes.event(events, "post_run_cell", cells.on_end)


class _AwaitCells:
    """The await cells that run now. Each method is called on the thread of its cell."""

    def __init__(self, front_end: KernelFrontEnd) -> None:
        self._front_end = front_end
        #: Whether the main thread's cell was interrupted.
        self._interrupted = False
        #: What was shown, by thread.
        self._shown: dict[int, KeyboardInterrupt] = {}

    def on_begin(self) -> None:
        """Observe an interrupt that goes to the kernel's own handler for await cells."""
        self._shown.pop(threading.get_ident(), None)
        if threading.current_thread() is not threading.main_thread():
            return
        self._interrupted = False
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "__name__", "") != "handle_sigint" or not callable(handler):
            return  # a plain cell

        def interrupt(number: int, frame: Any) -> None:
            if self._front_end.route_interrupt():
                return
            self._interrupted = True
            handler(number, frame)

        signal.signal(signal.SIGINT, interrupt)

    def translate(self, error: BaseException) -> BaseException:
        """Return what is shown of what a cell ended with."""
        if is_a(error, KeyboardInterrupt) or not self._was_interrupted(error):
            return error
        shown = KeyboardInterrupt().with_traceback(up_to_the_users(error.__traceback__))
        self._shown[threading.get_ident()] = shown
        return shown

    def _was_interrupted(self, error: BaseException) -> bool:
        cancelled = type(error) is asyncio.CancelledError
        if threading.current_thread() is not threading.main_thread():
            cells = self._front_end.cells
            return cells is not None and cells.interrupted_here(cancelled)
        interrupted, self._interrupted = cancelled and self._interrupted, False
        return interrupted

    def on_end(self, result: Any) -> None:
        """Put the same error into the reply."""
        shown = self._shown.pop(threading.get_ident(), None)
        if shown is not None and result.error_in_exec is not None:
            result.error_in_exec = shown
