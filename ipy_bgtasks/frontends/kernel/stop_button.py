"""Makes a kernel's stop button hit the user's code, and never the kernel's own around it.

Stock ipykernel lets Python's handler raise ``KeyboardInterrupt`` from the arrival of a request to
its reply. Where that lands between the two in the kernel's own code, the reply is lost and the
front end waits forever; after an await cell the loop iterates there, with steps of jobs.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.platforms import interrupt_main_thread

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which an interrupt that came too early for a plain cell's code is sent again.
_SOON = 0.01


def spare_the_kernel(shell: Any, diversion: Diversion) -> Callable[[], None]:
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


class Diversion(Protocol):
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

    def __init__(self, kernel: Any, diversion: Diversion) -> None:
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
