"""Where an interrupt of a kernel lands: in the code of the foreground's cell, and nowhere else.

Stock ipykernel lets Python's handler raise ``KeyboardInterrupt`` from the arrival of a request to
its reply. Where that lands between the two in the kernel's own code, the reply is lost and the
front end waits forever; after an await cell the loop iterates there, with steps of jobs. So
`guard_requests_from_sigint` delays an interrupt until the code of its request.

ipykernel cancels the task of an interrupted await cell. That waits for the end of a step, in which
the code may sleep or compute for ever, and the cell ends with asyncio's `CancelledError` and with
asyncio's frames, which tell its author nothing. `interrupt_await_cells` raises `KeyboardInterrupt`
in such a step, also in one of a task that the cell has started, and ends every interrupted cell
with it, as in a terminal. What the cell itself raises stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.async_exceptions import STEP, is_open
from ipy_bgtasks.context import cell, cells_away, runs_subtask
from ipy_bgtasks.foreign import is_a
from ipy_bgtasks.frontends.installing import code_that_runs_cells
from ipy_bgtasks.frontends.running_cells import MAIN
from ipy_bgtasks.platforms import interrupt_main_thread, on_main_thread
from ipy_bgtasks.sigint import Interrupted, raising
from ipy_bgtasks.stacks import up_to_the_users

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd
    from ipy_bgtasks.patching import Installation


#: Seconds after which an interrupt that came too early for a cell's code is sent again.
_SOON = 0.01


def guard_requests_from_sigint(changes: Installation, front_end: KernelFrontEnd) -> None:
    """Delay an interrupt until the code of its request.

    One that comes before the code hits it when it begins; one that comes after it is discarded.
    A second one is raised in IPython's code as well, where that catches it: a hook may hang. Main
    thread only.
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
        if not on_main_thread() or not (executes or self._front_end.routes_interrupts()):
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
        self._executing = self._executing and not on_main_thread()
        if on_main_thread() and self._front_end.routes_interrupts():
            signal.signal(signal.SIGINT, self._handler)
        else:
            type(self._kernel).post_handler_hook(self._kernel)

    def code_begins(self) -> None:
        """Set Python's handler for a plain cell, as usual: IPython is about to run code."""
        if not on_main_thread():
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
        if on_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handler)

    def retire(self) -> None:
        """Restore Python's handler for the rest of the request."""
        if signal.getsignal(signal.SIGINT) == self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, frame: FrameType | None) -> type[KeyboardInterrupt] | None:
        if self._front_end.route_interrupt() or not self._executing:
            return None
        self._held += 1
        where = _CODE if self._held == 1 else _CATCHES
        return KeyboardInterrupt if _is_within(where, frame) else None

    def _again(self, request: int) -> None:
        handler = signal.getsignal(signal.SIGINT)
        ours = handler is signal.default_int_handler or handler == self._handler
        if request != self._request or not ours:
            return  # that code has ended
        interrupt_main_thread()

    def _is_execute_request(self) -> bool:
        header = (self._kernel.get_parent("shell") or {}).get("header", {})
        return bool(header.get("msg_type") == "execute_request")


#: IPython's function for the user's code …
_CODE = {"run_code": "IPython.core.interactiveshell"}
#: … and those during which it catches what is raised, that of hooks among them.
_CATCHES = {"run_cell_async": "IPython.core.interactiveshell", "trigger": "IPython.core.events"}


def own_task() -> asyncio.Task[Any] | None:
    """Return the task of a cell that awaits; a plain cell runs in a step of the kernel's."""
    if asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return None
    return task if getattr(task.get_coro(), "__name__", "") == "run_cell_async" else None


def _is_in_step(frame: FrameType | None) -> bool:
    """Return whether the code of a cell that awaits runs right now, and not another task's."""
    start = code_that_runs_cells()
    return (
        frame is not None
        and start is not None
        and _is_within(_CODE, frame)
        and is_open(frame, start, own_loop=True)
    )


def _is_within(functions: dict[str, str], frame: FrameType | None) -> bool:
    """Return whether one of these functions, given with its module, has led to *frame*."""
    while frame is not None:
        module = functions.get(frame.f_code.co_name)
        if module is not None and frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False


def interrupt_await_cells(
    changes: Installation, front_end: KernelFrontEnd, later: Callable[..., object]
) -> None:
    """Interrupt await cells at once, and show it as such, from now on. Any thread may call.

    *later* calls a function after some seconds.
    """
    cells, events = _AwaitCells(front_end, later), front_end.shell.events
    changes.append(front_end.translators, cells.translate)
    changes.event(events, "pre_execute", cells.on_begin)
    changes.event(events, "post_run_cell", cells.on_end)


class _AwaitCells:
    """The await cells that run now. Public methods are called on the thread of their cell."""

    def __init__(self, front_end: KernelFrontEnd, later: Callable[..., object]) -> None:
        self._front_end = front_end
        self._later = later
        #: Whether the main thread's cell was interrupted.
        self._interrupted = False
        #: Whether an interrupt of it is on its way through the loop.
        self._asked = False
        #: What was shown, by thread.
        self._shown: dict[int, KeyboardInterrupt] = {}

    def on_begin(self) -> None:
        """Observe an interrupt that goes to the kernel's own handler for await cells."""
        self._shown.pop(threading.get_ident(), None)
        task = own_task()
        if task is not None and cell.get() is None:  # else this runs within another one
            cell.set(task)
        if task is None or not on_main_thread():
            return
        self._interrupted = self._asked = False
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "__name__", "") != "handle_sigint" or not callable(handler):
            return  # a plain cell
        signal.signal(signal.SIGINT, raising(partial(self._interrupt, handler, task)))

    def _interrupt(
        self, handler: Any, task: asyncio.Task[Any], frame: FrameType | None
    ) -> type[KeyboardInterrupt] | None:
        if self._front_end.route_interrupt():
            return None
        if _is_in_step(frame):
            self._asked = False
            return KeyboardInterrupt
        self._front_end.unblock()  # what blocks the loop keeps it from the cell
        self._interrupted = True
        handler(signal.SIGINT, frame)
        # A step of a task has a moment to end by itself: a library may do something in it.
        blocks = self._asked or self._is_away()
        if not self._is_away():
            # The cancellation reaches the cell after two turns of the loop. A step that begins by
            # then may take for ever.
            self._asked = True
            loop = task.get_loop()
            loop.call_soon_threadsafe(loop.call_soon, loop.call_soon, self._has_reached)
            self._later(_SOON, self._again)
        if frame is None or not (blocks and runs_subtask(task)):
            return None
        return Interrupted if is_open(frame, STEP, own_loop=True) else None

    def _is_away(self) -> bool:
        """Return whether an interrupt of the main thread may be for a cell in another thread."""
        return MAIN in cells_away or self._front_end.routes_interrupts()

    def _has_reached(self) -> None:
        self._asked = False

    def _again(self) -> None:
        if self._asked and not self._is_away():
            interrupt_main_thread()

    def translate(self, error: BaseException) -> BaseException:
        """Return what is shown of what a cell ended with."""
        if is_a(error, KeyboardInterrupt) or not self._was_interrupted(error):
            return error
        shown = KeyboardInterrupt().with_traceback(up_to_the_users(error.__traceback__))
        self._shown[threading.get_ident()] = shown
        return shown

    def _was_interrupted(self, error: BaseException) -> bool:
        cancelled = type(error) is asyncio.CancelledError
        if not on_main_thread():
            cells = self._front_end.cells
            return cells is not None and cells.interrupted_here(error)
        interrupted, self._interrupted = cancelled and self._interrupted, False
        return interrupted

    def on_end(self, result: Any) -> None:
        """Put the same error into the reply."""
        self._asked = self._asked and not on_main_thread()
        shown = self._shown.pop(threading.get_ident(), None)
        if shown is not None and result.error_in_exec is not None:
            result.error_in_exec = shown
