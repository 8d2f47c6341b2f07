"""Makes a kernel's stop button hit the user's code, and never the kernel's own around it.

Stock ipykernel lets Python's handler raise ``KeyboardInterrupt`` from the arrival of a request to
its reply. Where that lands between the two in the kernel's own code, the reply is lost and the
front end waits forever; after an await cell the loop iterates there, with steps of jobs.

The stop button while cells are away: it hits the foreground's cell, in whichever thread.

SIGINT is the main thread's, and there runs a cell that was sent away. Only that thread could give
it another handler, and it is busy. So `faulthandler` takes the signal, as for SIGTERM: it acts in
C, from any thread, and writes a few lines to a socket at which a thread of ours reads; sleeping
code of the main thread sleeps on.

Ends an interrupted `await` cell of a kernel with `KeyboardInterrupt`, as in a terminal.

ipykernel cancels the task of the cell, so that the cell ends with asyncio's `CancelledError` and
with asyncio's frames, which tell its author nothing. What the cell itself raises stays as it is.

One line, instead of asyncio's frames, for an await of what belongs to the main thread's loop.

While a cell that was sent away has the main thread, cells run in a subshell, on a loop of its own.
What was made on the main loop (a task, a contended lock) cannot be awaited there.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from contextvars import Context
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.patching import Attribute
from ipy_bgtasks.platforms import (
    can_take_signals,
    give_signal_back,
    interrupt_main_thread,
    take_signal,
)
from ipy_bgtasks.waits import signal_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.cell_queue import CellQueue, CellRun
    from ipy_bgtasks.job.record import Record


#: Seconds after which an interrupt that came too early for a plain cell's code is sent again.
_SOON = 0.01


def spare_the_kernel(shell: Any, diversion: _Diversion) -> Callable[[], None]:
    """Delay an interrupt until the code of its request; returns what undoes it.

    One that comes before the code hits it when it begins; one that comes after it is discarded.
    A second one in the same request is raised in any case. *diversion* takes those that are meant
    for a cell in another thread. Main thread only.
    """
    button = _StopButton(shell.kernel, diversion)
    shell.kernel.pre_handler_hook = button.request_begins
    shell.kernel.post_handler_hook = button.request_ends
    shell.events.register("pre_execute", button.code_begins)
    shell.events.register("post_execute", button.code_ends)

    def undo() -> None:
        button.retire()
        shell.events.unregister("pre_execute", button.code_begins)
        shell.events.unregister("post_execute", button.code_ends)
        ours = {
            "pre_handler_hook": button.request_begins,
            "post_handler_hook": button.request_ends,
        }
        for name, hook in ours.items():
            if vars(shell.kernel).get(name) == hook:
                delattr(shell.kernel, name)

    return undo


class _Diversion(Protocol):
    """A receiver of interrupts while the foreground's cell may run in another thread."""

    def diverts(self) -> bool:
        """Return whether interrupts are taken now."""

    def divert(self) -> bool:
        """Take an interrupt; return whether it is meant for another thread than the main one."""

    def first_sends_away(self) -> bool:
        """Return whether the first interrupt of a cell is to send it to the background."""


class _StopButton:
    """The handling of SIGINT from the beginning of an execute request to its end.

    While interrupts are diverted, it does the same between the requests of the main thread, and
    in those that execute nothing: the cell that interrupts are meant for runs elsewhere.
    """

    def __init__(self, kernel: Any, diversion: _Diversion) -> None:
        self._kernel = kernel
        self._diversion = diversion
        self._handler = self._sigint
        #: The kernel's handler between requests.
        self._between: Any = signal.SIG_IGN
        self._executing = False
        self._held = 0
        self._request = 0

    def request_begins(self) -> None:
        """Set our handler, in place of the kernel's hook, which sets Python's for every request."""
        kernel = self._kernel
        executes = self._is_execute_request()
        if not _in_main_thread() or not (executes or self._diversion.diverts()):
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
        if _in_main_thread() and self._diversion.diverts():
            signal.signal(signal.SIGINT, self._handler)
        else:
            type(self._kernel).post_handler_hook(self._kernel)

    def code_begins(self) -> None:
        """Set Python's handler for a plain cell, as usual: IPython is about to run code."""
        if not _in_main_thread():
            return
        held, self._held = self._held, 0
        if signal.getsignal(signal.SIGINT) == self._handler:
            if not self._diversion.first_sends_away():
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

    def _sigint(self, _: int, frame: FrameType | None) -> None:
        if self._diversion.divert() or not self._executing:
            return
        self._held += 1
        if self._held > 1 or _runs_code(frame):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                error.__traceback__ = None  # the user's own line comes last
                raise

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
#: Seconds in which a second interrupt stops the cell that the first one has sent away.
_TWICE = 2.0
#: Seconds after which code that has not raised what it was sent is taken to be stuck.
_STUCK = 0.5
#: Seconds that a signal has to get to the main thread before the next one is diverted again.
_PASSES = 0.05


class Diversion:
    """Takes SIGINT while a cell that was sent away has the main thread.

    *waits* is given the thread of the foreground's cell: it ends a `%fg` that waits there, and
    says whether there was one. *stuck* is told of a cell that an interrupt does not reach.
    *send_away* sends the foreground's cell away instead, and says whether it does, which is only
    where *first_sends_away* says so.
    """

    def __init__(
        self,
        queue: CellQueue,
        waits: Callable[[int], bool],
        stuck: Callable[[CellRun], object],
        send_away: Callable[[CellRun], bool],
        first_sends_away: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._waits = waits
        self._tell_stuck = stuck
        self._send_away = send_away
        self._first_sends_away = first_sends_away
        #: The cell that an interrupt has sent away last, and when.
        self._sent: tuple[CellRun, float] | None = None
        self._lock = threading.Lock()
        #: Whether SIGINT is diverted now.
        self.active = False
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None

    def begin(self) -> None:
        """Divert from now on. Any thread may call."""
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

    def take(self) -> bool:
        """Take an interrupt that a Python handler got; return whether it is dealt with here."""
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

    def sent_away(self, run: CellRun) -> None:
        """Note that an interrupt has sent this cell away: a second one, soon, stops it."""
        self._sent = run, time.monotonic()

    def _twice(self) -> CellRun | None:
        sent, self._sent = self._sent, None
        if sent is None or sent[0].over or time.monotonic() - sent[1] > _TWICE:
            return None
        return sent[0]

    def interrupt(self, run: CellRun) -> None:
        """Interrupt a cell, wherever it is. Any thread may call."""
        if run.thread == threading.main_thread().ident and hasattr(signal, "pthread_kill"):
            self._interrupt_main()
        elif _is_elsewhere(run):
            run.interrupted = True
            run.task.get_loop().call_soon_threadsafe(run.task.cancel)
        else:
            pursuing = threading.Thread(target=self._pursue, args=[run], daemon=True)
            Context().run(pursuing.start)

    def _register(self) -> None:
        assert self._writer is not None
        take_signal(signal.SIGINT, self._writer.fileno())

    def _interrupt_main(self) -> None:
        """Send the real signal, which also ends a sleep; the handler is the kernel's own."""
        signal_processes(threading.main_thread().ident or 0, signal.SIGINT)
        with self._lock:
            diverted, self.active = self.active, False
            if diverted:
                give_signal_back(signal.SIGINT)
            interrupt_main_thread()
            if diverted:
                time.sleep(_PASSES)
                self.active = True
                self._register()

    def _listen(self) -> None:
        assert self._reader is not None
        while self._reader.recv(65536):
            run = self._queue.running  # before another one begins
            # At once: the signal has reached the cell's child processes, too, and the cell should
            # not go on as if they had ended by themselves.
            at_once = run is not None and not run.over and run.began is not None
            at_once = at_once and not self._first_sends_away()
            if run is not None and at_once and not self._waits(run.thread):
                self.interrupt(run)
            time.sleep(_ONE)
            with suppress(BlockingIOError):
                self._reader.recv(65536, getattr(socket, "MSG_DONTWAIT", 0))
            if at_once:
                continue
            if run is None or run.over:
                run = self._twice()  # else no cell of the foreground's runs
                if run is not None:
                    self.interrupt(run)
            elif run.began is None or not (self._waits(run.thread) or self._send_away(run)):
                self.interrupt(run)

    def _pursue(self, run: CellRun) -> None:
        """Raise `KeyboardInterrupt` in a cell's code, wherever that waits, and say if it cannot."""
        from ipy_bgtasks.async_exceptions import Sent, raise_in_user_code

        start = code_that_runs_cells()
        sent, since = Sent(run.thread), 0.0
        deadline = time.monotonic() + _PATIENCE
        while not run.over and sent.pending and time.monotonic() < deadline:
            if since:
                sent.waits.end()
                if time.monotonic() - since > _STUCK:
                    self._tell_stuck(run)
                    return
            elif run.began is not None:
                if start is None or _is_elsewhere(run):
                    self.interrupt(run)
                    return
                if raise_in_user_code(run.thread, sent, start):
                    since = time.monotonic()
                    continue
            time.sleep(_AGAIN)


def _is_elsewhere(run: CellRun) -> bool:
    """Return whether a cell awaits and is not in the middle of a step: cancelling is enough."""
    return run.task is not None and asyncio.current_task(run.task.get_loop()) is not run.task


def show_interrupts(
    shell: Any, diverted: Callable[[], bool], divert: Callable[[], bool]
) -> Callable[[], None]:
    """Show an interrupt as such from now on; returns what ends that. Any thread may call.

    *diverted* returns whether the cell of the calling thread, not the main one, was interrupted;
    *divert* takes an interrupt that is not for the main thread's, and returns whether it did.
    """
    awaiting = _Awaiting(shell, diverted, divert)
    shown = Attribute(shell, "showtraceback", awaiting.showtraceback)
    events = {"pre_execute": awaiting.begins, "post_run_cell": awaiting.ended}
    for name, callback in events.items():
        shell.events.register(name, callback)

    def undo() -> None:
        shown.restore()
        for name, callback in events.items():
            shell.events.unregister(name, callback)

    return undo


class _Awaiting:
    """The await cells that run now. Each method is called on the thread of its cell."""

    def __init__(
        self, shell: Any, diverted: Callable[[], bool], divert: Callable[[], bool]
    ) -> None:
        self._showtraceback = shell.showtraceback
        self._diverted = diverted
        self._divert = divert
        #: Whether the main thread's cell was interrupted.
        self._interrupted = False
        #: What was shown, by thread.
        self._shown: dict[int, KeyboardInterrupt] = {}

    def begins(self) -> None:
        """Observe an interrupt that goes to the kernel's own handler for await cells."""
        self._shown.pop(threading.get_ident(), None)
        if threading.current_thread() is not threading.main_thread():
            return
        self._interrupted = False
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "__name__", "") != "handle_sigint" or not callable(handler):
            return  # a plain cell

        def interrupt(number: int, frame: Any) -> None:
            if self._divert():
                return
            self._interrupted = True
            handler(number, frame)

        signal.signal(signal.SIGINT, interrupt)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show what the cell ended with."""
        _, error, trace = exc_tuple or sys.exc_info()
        if type(error) is asyncio.CancelledError and self._take():
            self._shown[threading.get_ident()] = error = KeyboardInterrupt()
            exc_tuple = (KeyboardInterrupt, error.with_traceback(trace := _users(trace)), trace)
        self._showtraceback(exc_tuple, *args, **kwargs)

    def _take(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return self._diverted()
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def ended(self, result: Any) -> None:
        """Put the same error into the reply."""
        shown = self._shown.pop(threading.get_ident(), None)
        if shown is not None and type(getattr(result, "error_in_exec", None)) in (
            asyncio.CancelledError,
        ):
            result.error_in_exec = shown


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback up to the last frame that is neither asyncio's nor ours."""
    links: list[TracebackType] = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    while links and _top(links[-1]) in ("asyncio", "ipy_bgtasks"):
        links.pop()
    if links:
        links[-1].tb_next = None
    return links[0] if links else None


def _top(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]


#: asyncio's message, in all versions.
_SAYS = ("different loop", "different event loop")


def explain_other_loop(shell: Any, on_main: Callable[[], Record | None]) -> Callable[[], None]:
    """Show that one line while *on_main* has a job; returns what ends it. Any thread may call."""
    show = shell.showtraceback

    def showtraceback(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        job = on_main() if _is_about_loops(error) else None
        if job is None or threading.current_thread() is threading.main_thread():
            show(exc_tuple, *args, **kwargs)
            return
        from IPython.core.error import UsageError

        line = UsageError(
            "what is awaited here belongs to the event loop of the main thread, which is "
            f"job {job.number}'s ({job.name}) until that ends: wait for it with %fg {job.number}, "
            "or await something that is made here"
        )
        show((UsageError, line, None), *args, **kwargs)

    return Attribute(shell, "showtraceback", showtraceback).restore


def _is_about_loops(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError | ValueError):
        return False
    text = str(error)
    return any(words in text for words in _SAYS)
