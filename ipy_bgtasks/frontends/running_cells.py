"""Cells while they run: sending one to the background, interrupting it, and ending its job.

What a kernel and a terminal have in common. The cell is not touched: it stays in the thread and in
the frames in which it runs, and the next cells run in another thread.

While a cell in the background has the main thread, SIGINT is for the cell in front, in another
thread. Signals are the main thread's; only that thread could set another handler, and it is busy.
So `faulthandler` takes the signal: it acts in C, from any thread, and writes a few lines to a
socket at which a thread of ours reads; sleeping code of the main thread sleeps on.
`signal.sigwait` does not do: the signal would have to be blocked in all threads, those of libraries
included.
"""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from traceback import walk_stack
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ipy_bgtasks.context import cells_away
from ipy_bgtasks.frontends.installing import code_that_runs_cells
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import (
    can_take_signals,
    frame_of,
    give_signal_back,
    interrupt_main_thread,
    is_pending,
    on_main_thread,
    take_signal,
)
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.sigint import Interrupted
from ipy_bgtasks.stacks import doing, innermost, place, summaries, thread_frames
from ipy_bgtasks.waits import (
    is_between_locks,
    processes_waited_for,
    send_signal,
    signal_sockets,
    stoppable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from traceback import FrameSummary
    from types import FrameType

    from ipy_bgtasks.async_exceptions import Sent
    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.job.record import Record


#: What `faulthandler` writes first, for each signal.
_SIGNAL = b"Stack (most"
#: Seconds between two looks at what another thread does, and at what a signal on its way writes.
AGAIN, _SOON = 0.005, 0.001
#: Seconds for which code that is in a library is tried to interrupt.
_PATIENCE = 5.0
#: Seconds that a signal has to get to its thread before the next one is taken again.
PASSES = 0.05
#: Seconds for which one that is on its way is waited for; a busy machine takes a while.
_ARRIVES = 0.5
#: Seconds after which code that has not raised what it was sent is taken to be stuck.
_STUCK = 0.5

MAIN = threading.main_thread().ident or 0

#: Messages of Python for what works on the main thread alone, and ours.
_NEED_MAIN = {
    "different loop": "what is awaited here belongs to the event loop of the main thread",
    "different event loop": "what is awaited here belongs to the event loop of the main thread",
    "signal only works in main thread": "handlers of signals are set in the main thread",
    "set_wakeup_fd only works in main thread": "signals are handled in the main thread",
    "can only be called from the main thread": "this works in the main thread",
}


def until(holds: Callable[[], object], seconds: float, every: float = AGAIN) -> bool:
    """Look for some *seconds* whether something holds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


class RunningCell(ABC):
    """A cell from its start to its end."""

    def __init__(self, code: str, origin: Any) -> None:
        self.code = code
        #: The place in which its output is shown.
        self.origin = origin
        #: Set on the cell's thread when its code begins: when (a monotonic time), as what number,
        #: and in which thread.
        self.began: float | None = None
        self.number = 0
        self.thread = 0
        #: The threads that it has not started.
        self.earlier: set[threading.Thread] = set()
        #: How many cells it runs within itself, itself included.
        self.depth = 0
        #: Whether it lets other tasks of its thread's loop go on.
        self.awaits = False
        #: Whether its thread has a number and a value of its own, apart from the shell's.
        self.apart = False
        #: What IPython says became of it, when its code has ended.
        self.result: Any = None
        #: Its job, once it was sent to the background.
        self.job: Record | None = None
        #: What an interrupt has sent to its thread.
        self.stop: Sent | None = None
        self.pursuer: threading.Thread | None = None

    @property
    def elapsed(self) -> float:
        """The seconds since its code began."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    @abstractmethod
    def interrupt_await(self) -> type[KeyboardInterrupt] | None:
        """Interrupt it at its await, or where it asks, if it is there.

        Returns what is to be raised in its thread now, if anything: in its own code, or
        `Interrupted` in a step of a task that it has started.
        """

    def frames(self) -> list[FrameType]:
        """Return where its code is. Any thread may call."""
        return thread_frames(self.thread, code_that_runs_cells())

    def stack(self) -> list[FrameSummary]:
        """Return the same as summaries."""
        return summaries(self.frames())


C = TypeVar("C", bound=RunningCell)


class BackgroundCells(ABC, Generic[C]):
    """Sends the cells of one shell to the background, and ends their jobs.

    *actions* are called on a thread of their own for the signals that are taken.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        later: Callable[..., object],
        actions: dict[str, Callable[[], object]],
    ) -> None:
        self.front_end = front_end
        self._later = later
        self._shell = front_end.shell
        self._lock = threading.RLock()
        self.signals = Signals(actions)
        self._per_thread: PerThread | None = None
        self.apart = Installation()
        #: The cells in the background whose code runs.
        self._away: set[C] = set()
        #: The cell in the main thread to which an interrupt is on its way.
        self._meant: C | None = None

    # What IPython keeps once

    @property
    def unable(self) -> bool:
        """Whether it was tried, and this version of IPython is not built as needed."""
        return bool(self.apart.missing)

    def prepare(self) -> bool:
        """Keep for each thread what IPython keeps once; return whether that works here."""
        if self._per_thread is None and not self.unable:
            per_thread = PerThread()
            self.apart.step("background cells", per_thread.install, self._shell)
            self._per_thread = None if self.unable else per_thread
        return not self.unable

    def set_apart(self, run: C) -> None:
        """Give the thread of a cell that runs a number of its own; the shell's is the next."""
        assert self._per_thread is not None
        # IPython counts before it runs a cell, or, before version 9, afterwards.
        self._per_thread.numbers[run.thread] = self._shell.execution_count
        self._per_thread.quiet[run.thread] = run.code.rstrip().endswith(";")
        self._shell.execution_count = run.number + 1
        run.apart = True

    def rejoin(self, run: C) -> None:
        """Undo `set_apart` for a cell that is over."""
        if run.apart and self._per_thread is not None:
            self._per_thread.numbers.pop(run.thread, None)
            self._per_thread.quiet.pop(run.thread, None)

    # From the beginning of a cell to its end

    def begin(self, run: C) -> None:
        """Note that the code of a cell begins, on the calling thread."""
        if self._per_thread is not None:
            self._shell.display_trap.set()  # a cell that just ended may have taken it off
        run.thread = threading.get_ident()
        if run.thread != MAIN:
            stoppable[run.thread] = None  # no signal ends its sleep
        self.signals.renew()  # the main thread may have set a handler since
        run.began = time.monotonic()
        run.earlier = set(threading.enumerate())
        if after := self.front_end.settings.background_after:
            self._later(after, self._overdue, run, after)

    def _overdue(self, run: C, after: float) -> None:
        """Send a cell to the background that takes longer than it may in the foreground.

        One that waits for an answer, or that does not run alone, has as long again.
        """
        if run.result is not None or run.job is not None:
            return
        if self.asks(run) or not self.send_away(run):
            self._later(after, self._overdue, run, after)

    @abstractmethod
    def asks(self, run: C) -> bool:
        """Return whether a cell waits for the user, who would not find it in the background."""

    @abstractmethod
    def send_away(self, run: C) -> bool:
        """Send a cell of the foreground to the background, and say so; False if it cannot go now.

        Not for the cell's own thread.
        """

    def make_job(self, run: C) -> Record:
        """Make a job of a cell that runs, with what the foreground has open."""
        from ipy_bgtasks.hooks import threads_of_jobs

        if not run.apart:
            self.set_apart(run)
        self._away.add(run)
        job = self.front_end.launch_cell(run, partial(self.interrupt, run))
        cells_away[run.thread] = job
        threads_of_jobs.adopt(set(threading.enumerate()) - run.earlier, job)
        run.earlier.clear()
        with self._lock:
            run.job = job
        if run.result is not None:  # it has ended meanwhile
            self._settle(run, job)
        return job

    def end(self, run: C, result: Any) -> None:
        """Note that the code of a cell has ended, on its thread; its job ends with it."""
        if run.thread != MAIN and self.missed(run) and result.success:
            result.error_in_exec = error = KeyboardInterrupt()
            self._shell.showtraceback((KeyboardInterrupt, error, None))
        with self._lock:
            run.result, job = result, run.job
            stoppable.pop(run.thread, None)
        if job is not None:
            self._settle(run, job)

    def missed(self, run: C, died: bool = False) -> bool:
        """Return whether an interrupt came before the end of a cell and was not raised in it.

        The signal ends the cell's child processes, too: where the last line waits for one, it may
        be over before our thread gets its turn. A child that has *died* of the signal says that it
        comes, even if the thread that has received it is not through with its handler.
        """
        came = self.is_front(run) and self.signals.arrives("SIGINT", expected=died)
        if (sent := run.stop) is not None:
            came = came or sent.pending
            sent.drop()
        return came

    def _settle(self, run: C, job: Record) -> None:
        from ipy_bgtasks.hooks import threads_of_jobs

        result = run.result
        error = result.error_before_exec or result.error_in_exec
        try:  # the thread is still the job's: it shows figures left open
            if error is None:
                job.finish(result.result)
            elif job.cancel_requested and isinstance(
                error, KeyboardInterrupt | asyncio.CancelledError
            ):
                job.end_cancelled()
            else:
                job.fail(error)
        finally:
            cells_away.pop(run.thread, None)
            threads_of_jobs.release(job)
            self._away.discard(run)

    def explain(self, error: BaseException) -> BaseException:
        """Return one line for what needs the main thread, which a cell in the background has.

        What was made on the main thread's loop (a task, a contended lock) cannot be awaited on
        that of another thread.
        """
        job: Record | None = cells_away.get(MAIN)
        if (
            job is None
            or threading.get_ident() == MAIN
            or not isinstance(error, RuntimeError | ValueError)
        ):
            return error
        text = str(error)
        what = next((line for words, line in _NEED_MAIN.items() if words in text), None)
        if what is None:
            return error
        from IPython.core.error import UsageError

        n = job.number
        line = f"{what}, which is job {n}'s ({job.name}) until that ends: %fg {n} waits for it"
        return UsageError(line)

    # Interrupts

    def interrupt(self, run: C) -> None:
        """Interrupt a cell, wherever it is. Any thread may call, but the cell's own."""
        if run.thread == MAIN and hasattr(signal, "pthread_kill"):
            self._interrupt_main(run)
        elif run.pursuer is None or not run.pursuer.is_alive():
            from ipy_bgtasks.async_exceptions import Sent, StopStep, StopThread

            run.stop = Sent(run.thread, kind=StopStep if run.awaits else StopThread)
            run.pursuer = in_thread("bg-stop", self._pursue, run, run.stop)

    @abstractmethod
    def is_front(self, run: C) -> bool:
        """Return whether an interrupt is meant for a cell, and to be raised in it."""

    def _interrupt_main(self, run: C) -> None:
        """Send the real signal, which also ends a sleep; the handler is the main thread's own."""
        processes = processes_waited_for(run.thread)
        until(lambda: not _is_delicate(run.thread), _PATIENCE, _SOON)
        with self.signals.passing("SIGINT"):
            if run.result is None:
                self._meant = run
                interrupt_main_thread()
                send_signal(processes, signal.SIGINT)  # later, or the cell might go on without
                until(lambda: not is_pending(signal.SIGINT), _PATIENCE, _SOON)
                time.sleep(PASSES)

    def is_meant(self) -> bool:
        """Return whether an interrupt that has reached the main thread is ours, for a cell there.

        On a busy machine its handler may be called when the signal is taken again.
        """
        run, self._meant = self._meant, None
        return run is not None and run.result is None

    def _pursue(self, run: C, sent: Sent) -> None:
        """Raise `KeyboardInterrupt` in a cell's code, wherever that waits, and say if it cannot."""
        since, deadline = 0.0, time.monotonic() + _PATIENCE
        while run.result is None and sent.pending and time.monotonic() < deadline:
            if since:
                sent.waits.end()
                if time.monotonic() - since > _STUCK:
                    frame = innermost(run.stack())
                    where = "" if frame is None else f" {doing(frame)} ({place(frame)})"
                    line = f"still in{where}; it stops when that returns"
                    self.front_end.show_stuck(run, line)
                    return
            elif run.began is not None and self._interrupt_code(run, sent):
                since = time.monotonic()
                continue
            time.sleep(AGAIN)

    def _interrupt_code(self, run: C, sent: Sent) -> bool:
        """Interrupt a cell at its await, or else have *sent* raised; return whether that is so."""
        from ipy_bgtasks.async_exceptions import STEP, raise_in_user_code

        frame = frame_of(run.thread)
        kind = run.interrupt_await()
        subtask = kind is Interrupted
        # What was made before the cell began to await would end the loop, not the task.
        if kind is None or (subtask and not issubclass(sent.exception, asyncio.CancelledError)):
            sent.drop()
            return False
        start = STEP if subtask else code_that_runs_cells()
        return start is not None and raise_in_user_code(
            run.thread, sent, start, frame=frame, own_loop=subtask
        )


def _is_delicate(thread: int) -> bool:
    """Return whether an exception in a thread now would lose a line of output, or hold a lock."""
    if (innermost := frame_of(thread)) is None:
        return False
    if is_between_locks(innermost):
        return True
    near = (str(frame.f_globals.get("__name__")) for frame, _ in islice(walk_stack(innermost), 5))
    return any(module.startswith(("ipy_bgtasks.log", "ipy_bgtasks.fr")) for module in near)


class Signals:
    """Takes signals in C, whatever the main thread does, and acts on a thread of its own.

    It does nothing where the platform cannot do that. Any thread may call.
    """

    def __init__(self, actions: dict[str, Callable[[], object]]) -> None:
        self._actions = actions
        self._lock = threading.RLock()
        self._taken: set[str] = set()
        self._sockets: dict[str, tuple[socket.socket, socket.socket]] = {}
        #: Held from reading what a signal has written until its action is over.
        self._acting = threading.Lock()

    def takes(self, name: str) -> bool:
        """Return whether the signal is taken."""
        return name in self._taken

    def take(self, name: str) -> None:
        """Take the signal from now on."""
        with self._lock:
            if name in self._taken or not can_take_signals():
                return
            if not self._sockets:
                self._sockets = {each: socket.socketpair() for each in self._actions}
                for each in sum(self._sockets.values(), ()):
                    each.setblocking(False)
                    signal_sockets.add(each.fileno())
                in_thread("bg-signals", self._listen)
            self._taken.add(name)
            take_signal(getattr(signal, name), self._sockets[name][1].fileno())
            self._block_at_start()

    def give_back(self, name: str) -> None:
        """Let the signal go where it went before."""
        with self._lock:
            if name in self._taken:
                self._taken.discard(name)
                give_signal_back(getattr(signal, name))
                self._block_at_start()

    def _block_at_start(self) -> None:
        # There are no threads of jobs yet if there is no job.
        if (hooks := sys.modules.get("ipy_bgtasks.hooks")) is not None:
            taken = {int(getattr(signal, name)) for name in self._taken}
            hooks.threads_of_jobs.blocked_at_start = taken

    def renew(self) -> None:
        """Take SIGINT again, if it is taken: the main thread may have set a handler since."""
        with self._lock:
            if "SIGINT" in self._taken:
                self.give_back("SIGINT")
                handler = signal.getsignal(signal.SIGINT)
                if on_main_thread() and handler is not None:
                    signal.signal(signal.SIGINT, handler)  # not what was there when it was taken
                self.take("SIGINT")

    def arrives(self, name: str, expected: bool = False) -> bool:
        """Return whether a signal has come, if it is taken, and no action was called for it yet.

        None is called then. One that is *expected*, or on its way, is waited for.
        """

        def has_come() -> bool:
            with self._acting:
                return _read(self._sockets[name][0])

        if not self.takes(name):
            return False
        arriving = expected or is_pending(getattr(signal, name))
        return has_come() or (arriving and until(has_come, _ARRIVES, _SOON))

    def forget(self, name: str) -> None:
        """Drop a signal on which nobody has acted yet: what it was meant for is over."""
        if self._sockets:
            _read(self._sockets[name][0])

    def settle(self, name: str) -> None:
        """Give the thread that acts a moment for a signal that was sent before this call."""

        def is_on_its_way() -> bool:
            # In the order of its way, or it might go past us.
            return (
                is_pending(getattr(signal, name))
                or bool(select.select([self._sockets[name][0]], [], [], 0)[0])
                or self._acting.locked()
            )

        if self.takes(name):
            until(lambda: not is_on_its_way(), _ARRIVES, _SOON)

    def forward(self, _frame: object = None) -> None:
        """Act as a `SigintHandler` for a signal that reached the main thread all the same."""
        with suppress(OSError):
            self._sockets["SIGINT"][1].send(_SIGNAL)

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """Let the signal go where it went before, inside the block."""
        with self._lock:
            taken = name in self._taken
            self.give_back(name)
            try:
                yield
            finally:
                if taken:
                    self.take(name)

    def _listen(self) -> None:
        names = {reader: name for name, (reader, _) in self._sockets.items()}
        while True:
            for reader in select.select(list(names), [], [])[0]:
                with self._acting:
                    try:
                        if _read(reader):
                            self._actions[names[reader]]()
                    except Exception:
                        sys.excepthook(*sys.exc_info())


def _read(reader: socket.socket) -> bool:
    """Read what is there; return whether a signal is, and not just the rest of a stack."""
    with suppress(BlockingIOError):
        return _SIGNAL in reader.recv(65536)
    return False


_NONE = object()


class PerThread:
    """Attributes of the shell and its display hook that a thread may have of its own.

    IPython's shell knows one cell at a time: one number for the cell that runs, and one place for
    its value. With a cell in the background a second one runs in another thread at the same time.
    Both get a subclass of their class, with properties; a thread without a value of its own sees
    the shared one, as before.
    """

    def __init__(self) -> None:
        #: The number of the cell that a thread runs, where that is not the foreground's.
        self.numbers: dict[int, int] = {}
        #: Whether the value of the cell that a thread runs is not to be shown.
        self.quiet: dict[int, bool] = {}
        #: What a thread prints before it prompts, if that is not the shell's `separate_in`.
        self.separators: dict[int, str] = {}
        self._results: dict[int, Any] = {}
        self._messages: dict[int, Any] = {}

    def install(self, changes: Installation, shell: Any) -> None:
        """Begin; the value of the cell that runs now stays where it is.

        To be undone while no two cells run.
        """
        hook, quiet = shell.displayhook, type(shell.displayhook).quiet
        _ = shell.display_trap.set

        def quiet_here(hook: Any) -> bool:
            own = self.quiet.get(threading.get_ident())
            return bool(quiet(hook) if own is None else own)

        number = thread_property(type(shell).execution_count, self.numbers, own_only=True)
        separator = thread_property(type(shell).separate_in, self.separators, own_only=True)
        changes.subclass(shell, {"execution_count": number, "separate_in": separator})
        # IPython counts the cells that use these, and the last one takes them off. What counts is
        # not made for two threads: a cell that began at that moment had its value shown nowhere.
        for trap in (shell.display_trap, shell.builtin_trap):
            changes.enter(trap)
        changes.add(lambda: setattr(hook, "exec_result", None))
        members = {
            "exec_result": thread_property(type(hook).exec_result, self._results),
            "msg": thread_property(None, self._messages),
            "quiet": quiet_here,
        }
        changes.subclass(hook, members)


def thread_property(trait: Any, own: dict[int, Any], *, own_only: bool = False) -> property:
    """Return a property that is *trait* unless the calling thread has an entry in *own*.

    With *own_only* a thread without an entry sets the trait; else what it sets is its own.
    """

    def read(instance: Any) -> Any:
        value = own.get(threading.get_ident(), _NONE)
        if value is not _NONE:
            return value
        return None if trait is None else trait.__get__(instance, type(instance))

    def write(instance: Any, value: Any) -> None:
        ident = threading.get_ident()
        if own_only and ident not in own:
            trait.__set__(instance, value)
        else:
            own[ident] = value

    return property(read, write)
