"""Raises an exception in another thread, and only where the user's code runs there.

`PyThreadState_SetAsyncExc` notes an exception for a thread, which raises it at its next step in
Python, whatever code that is. In our own code, a line of output might be lost; in the kernel's, a
message; in `threading`'s, a lock left held. So the thread's stack is inspected first.

The guarantee: **what was found by the inspection still holds when the exception is noted.** From
the one to the other all is C, called through `map`, and the interpreter switches threads only
between two steps of bytecode. A flag and a lock alone, tried first, let about 1,000 of 1.6 million
exceptions land in code of the pool. A thread inside a C function raises when that returns; if it
is a wait, `ipy_bgtasks.waits` ends it right after.

Since Python 3.13 a thread raises it one step later: not where it waits for its turn, but at the
next place where it might. The start of what gives back a lock may be that, in an ``__exit__``, and
then the lock would stay locked (100 of 1,500 in a loop of such blocks; imports have one for all).
So what begins there is done first: see `_give_back`.

What is left: between the end of a call and the next line of the user's ``with`` or ``try`` an
exception may be raised as well, as with any Ctrl-C in a script.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import signal
import sys
from contextlib import suppress
from functools import partial
from itertools import compress
from operator import call, is_
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.foreign import contexts, is_a
from ipy_bgtasks.platforms import frame_of, uncollected
from ipy_bgtasks.stacks import is_library
from ipy_bgtasks.waits import Waits, is_about_to_give_back, is_between_locks, is_waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from ipy_bgtasks.patching import Installation


#: Packages that hand a job's output to the front end …
_SENDING = ("ipykernel", "zmq", "jupyter_client", "tornado", "prompt_toolkit")
#: … and the modules of IPython that do.
_SHOWING = ("IPython.core.displaypub", "IPython.core.display_functions", "IPython.core.displayhook")
#: Parts of this package that only call the user's code and hold no state that could be torn.
_OPEN = ("ipy_bgtasks.work", "ipy_bgtasks.job.progress")
#: … but for this one: between the start of a process and its number nobody could stop it.
_STARTING = "ipy_bgtasks.work.reading"
#: What only waits for a job's end, or for a turn, and may be interrupted in that.
_WAITING = ("ipy_bgtasks.job", "ipy_bgtasks.hooks", "ipy_bgtasks.waits")
#: The machinery of a loop, in which a future may be half done.
_LOOPS = ("asyncio", "uvloop", "trio")
#: What runs a step of a task, and all other callbacks of a loop of asyncio's own.
STEP = asyncio.Handle._run.__code__
#: In these functions of `subprocess` a process has started and nobody knows its number yet.
_LAUNCHING = ("__init__", "_execute_child")


class StopThread(KeyboardInterrupt):
    """Raised by `%cancel` and the stop button in a thread, and nowhere else: its own Ctrl-C."""

    again: Callable[[], object] = int

    if sys.version_info < (3, 13):  # from then on it is shown, as what is raised in ``__del__``

        def __del__(self) -> None:
            """Be sent again where no code saw it.

            A file that nobody holds any more is closed, and what is raised in its ``close``
            forgotten without a word: it came no further than that. Python 3.11 notes only how far
            some code has handled it.
            """
            trace = self.__traceback__
            frame = None if trace is None else trace.tb_frame
            while frame is not None and frame.f_code.co_name != "close":
                frame = frame.f_back
            if trace is None or frame is not None:
                type(self).again()


# What code that catches it sees is the exception it knows.
StopThread.__name__ = StopThread.__qualname__ = "KeyboardInterrupt"
StopThread.__module__ = "builtins"


class StopStep(StopThread, asyncio.CancelledError):
    """Raised in a step of a task: any other `KeyboardInterrupt` would end the loop as well."""


class Sent:
    """One `StopThread` of this *kind* on its way to *thread*, to be raised once.

    *again* is called if it was raised where nothing can be (see `send_again`): in any thread, in
    the middle of anything.
    """

    __slots__ = ("_pending", "_unsent", "exception", "lost", "waits")

    def __init__(
        self,
        thread: int,
        again: Callable[[], object] = int,
        kind: type[StopThread] = StopThread,
    ) -> None:
        pending: list[Any] = [self]
        self._pending = pending
        #: Whether it was raised, and no code could see it.
        self.lost = False
        #: Ends what the thread waits for, as long as the exception is pending.
        self.waits = Waits(thread, pending)
        # Raising it makes an instance, and so, without a line of Python, empties the list.
        first: Callable[[], object] = pending.clear
        if sys.version_info >= (3, 13):
            first = partial([].extend, map(call, (pending.clear, _give_back)))
        members = {
            "__init__": staticmethod(first),
            "__module__": StopThread.__module__,
            "again": staticmethod(again),
        }
        self.exception: type[StopThread] = type(StopThread.__name__, (kind,), members)
        self._unsent = sys.getrefcount(self.exception)

    @property
    def pending(self) -> bool:
        """Whether the thread has yet to raise it."""
        return bool(self._pending)

    @property
    def forgotten(self) -> bool:
        """Whether it was sent and raised, and forgotten before there was an instance.

        Python 3.11 makes one only for code that handles it.
        """
        return self.pending and sys.getrefcount(self.exception) <= self._unsent

    def drop(self) -> None:
        """Note that it will not be raised any more."""
        self._pending.clear()


def _give_back() -> None:
    """Call the function at whose start a `StopThread` is being raised, if it gives back a lock."""
    frame = sys._getframe(1)
    code = frame.f_code
    if not is_about_to_give_back(frame):
        return
    with suppress(Exception):  # what it raises is the block's own affair, and that is over
        given = inspect.getargvalues(frame)
        near = given.locals
        values = [near[name] for name in code.co_varnames[: code.co_argcount]]
        names = code.co_varnames[code.co_argcount : len(given.args)]
        cells = tuple(CellType(near[name]) for name in code.co_freevars)
        FunctionType(code, frame.f_globals, closure=cells or None)(
            *values,
            *(near[given.varargs] if given.varargs else ()),
            **{name: near[name] for name in names},
            **(near[given.keywords] if given.keywords else {}),
        )


def send_again(changes: Installation) -> None:
    """Have a `StopThread` that no code could see be sent again.

    In ``__del__`` and in a callback of a weak reference, which run between any two steps, Python
    prints what is raised and goes on as if nothing had happened.
    """
    show = sys.unraisablehook

    def unraisable(seen: Any) -> None:
        if isinstance(seen.exc_value, StopThread):
            type(seen.exc_value).again()
        else:
            show(seen)

    changes.attribute(sys, "unraisablehook", unraisable)


def raise_in_user_code(
    thread: int,
    sent: Sent,
    start: CodeType,
    *,
    frame: FrameType | None = None,
    own_loop: bool = False,
) -> bool:
    """Raise *sent* in *thread* at its next step, if it is in the user's code right now.

    *start* is the code that calls the user's; with *own_loop* an event loop of ours is in
    between. *frame* is the thread's innermost, where that is known already: to ask takes long where
    there are many threads. Returns whether it was sent; if not, try again in a moment. `Sent.waits`
    then ends what the thread waits for.
    """
    frame = frame_of(thread) if frame is None else frame
    if frame is None or not is_open(frame, start, own_loop=own_loop):
        return False
    set_async_exc, c_ulong, py_object = _python_api()
    target, what = c_ulong(thread), py_object(sent.exception)
    with uncollected(sys._current_frames) as asked:
        unmoved = map(is_, map(dict.get, asked, (thread,)), (frame,))
        # Nor is what was dropped meanwhile.
        targets = compress(compress((target,), sent._pending), unmoved)
        return any(map(set_async_exc, targets, (what,)))


class _Settled(BaseException):
    """Raised and caught here, to leave nothing pending."""


def take_back(thread: int) -> None:
    """Forget what was sent to *thread*, the calling one, and not raised yet.

    The interpreter notes that some exception is pending, and forgets the note only when one is
    raised. On Python 3.11 a tracer (a debugger, coverage) would loop for ever at the next call.
    """
    set_async_exc, c_ulong, py_object = _python_api()
    set_async_exc(c_ulong(thread), py_object())
    with suppress(_Settled):
        set_async_exc(c_ulong(thread), py_object(_Settled))
        for _ in range(100):  # it is raised at one of these steps
            pass


def is_handling_stop(thread: int) -> bool:
    """Return whether *thread* is in a ``finally:`` or ``except:`` that a `StopThread` led to."""
    with uncollected(sys._current_exceptions) as asked:
        handled: Any = next(asked).get(thread)
    return came_of_stop(handled[1] if isinstance(handled, tuple) else handled)


def came_of_stop(error: BaseException | None) -> bool:
    """Return whether *error* is a `StopThread`, or was raised while one was handled."""
    return error is not None and any(is_a(one, StopThread) for one in contexts(error))


def running_loops(frame: FrameType | None, start: CodeType) -> list[asyncio.AbstractEventLoop]:
    """Return the running event loops in variables that functions on the stack of a thread use.

    From the innermost, *frame*, to those called from *start*. One of the loops may run in that
    thread; only that thread can tell which.
    """
    loops: list[asyncio.AbstractEventLoop] = []
    while frame is not None and frame.f_code is not start:
        code, near, far = frame.f_code, frame.f_locals, frame.f_globals
        for name in (*code.co_varnames, *code.co_freevars, *code.co_names):
            value = near.get(name, far.get(name))
            if isinstance(value, asyncio.Runner):  # its loop may not be Python: uvloop's
                value = getattr(value, "_loop", None)
            if isinstance(value, asyncio.AbstractEventLoop) and value not in loops:
                loops += [value] if value.is_running() else []
        frame = frame.f_back
    return loops


def running_trio(frame: FrameType | None, start: CodeType) -> Any:
    """Return what runs trio's loop on the stack of a thread, from the innermost loop; or None.

    trio hands out the way into its loop from other threads only within that loop. What its own
    handler of SIGINT calls is in a variable of `trio.run`.
    """
    while frame is not None and frame.f_code is not start:
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "trio._core._run":
            return frame.f_locals.get("runner")
        frame = frame.f_back
    return None


def close_servers(loop: asyncio.AbstractEventLoop) -> None:
    """Close the servers that listen on *loop*, which is about to end. Call this in its thread.

    `uvicorn.run` and the like leave the socket to the garbage collector, and the port taken
    until then. No loop lists its servers. What is connected to them ends, too, where a server
    knows that: Python 3.13's own fails, in a line on stderr, when it is collected later.
    """
    kinds = {asyncio.base_events.Server, getattr(sys.modules.get("uvloop.loop"), "Server", None)}
    for each in gc.get_objects():
        if type(each) in kinds and each.get_loop() is loop:
            each.close()
            getattr(each, "abort_clients", int)()


def end_servers(loop: asyncio.AbstractEventLoop) -> bool:
    """Have uvicorn's servers that *loop* runs exit as at a Ctrl-C; return whether any now does.

    uvicorn takes signals on the main thread only. An exception in its loop ends it, too, but not
    in good order: the application's own shutdown does not run, and a traceback is shown for it.
    """
    kind = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    if kind is None:
        return False
    running = [
        each
        for each in gc.get_objects()
        if is_a(each, kind)
        and not each.should_exit
        and any(server.get_loop() is loop for server in getattr(each, "servers", ()))
    ]
    for each in running:
        each.handle_exit(signal.SIGINT, None)
    return bool(running)


def is_open(innermost: FrameType, start: CodeType, *, own_loop: bool) -> bool:
    """Return whether what runs is the user's code, or a library's on its behalf.

    For *start* and *own_loop* see `raise_in_user_code`.
    """
    if is_between_locks(innermost):
        return False
    if waits_for_answer(innermost):
        return True
    waiting = is_waiting(innermost)
    frame: FrameType | None = innermost
    while frame is not None:
        if frame.f_code is start:
            return frame is not innermost
        module, function = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        top = module.partition(".")[0]
        if top == "ipy_bgtasks":
            if not (waiting and module.startswith(_WAITING)):
                tears = module == _STARTING or (frame is innermost and module == _OPEN[1])
                return module.startswith(_OPEN) and not tears
        elif (
            top in _SENDING
            or module in _SHOWING
            or (own_loop and top in _LOOPS)
            or (top == "subprocess" and function in _LAUNCHING)
        ):
            return False
        elif not is_library(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


def waits_for_answer(innermost: FrameType) -> bool:
    """Return whether a cell polls for the answer to its `input`, in ipykernel's code for that."""
    frame: FrameType | None = innermost
    while frame is not None and frame.f_code.co_name in ("select", "poll"):
        frame = frame.f_back
    return (
        frame is not None
        and frame is not innermost
        and frame.f_code.co_name == "_input_request"
        and frame.f_globals.get("__name__") == "ipykernel.kernelbase"
    )


def prepare_to_raise() -> None:
    """Import what `raise_in_user_code` needs: among many busy threads that takes a second."""
    _python_api()
    is_library(__file__)


@functools.cache
def _python_api() -> tuple[Any, Any, Any]:
    """Return the C function that raises in a thread, and its types; most sessions never need it."""
    import ctypes

    # A function object of our own: others may have set argument types on the shared one.
    set_async_exc = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
    return set_async_exc, ctypes.c_ulong, ctypes.py_object
