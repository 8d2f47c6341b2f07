"""Hooks in Python itself: how a job gets its threads, what it cannot do, and the process's end.

There are two ways to a thread, `Thread.start` and `ThreadPoolExecutor.submit`. A new thread begins
with an empty context, so its output could not be attributed to a job: one that a job starts runs
in a copy of the job's context, and so does each call that a job hands to a `ThreadPoolExecutor`,
whose threads belong to no job. These two are installed with the first loading and stay there, since
other hooks may have been wrapped around them; while nothing is loaded they do nothing.

At exit Python waits for threads that are not daemons, and for all threads of executors. What a job
started must end with the session, as the job does: its threads are daemons, and an executor's
thread that is busy for a job is recorded, so that Python need not wait for it. Jobs are stopped
before anything else ends, also on SIGTERM.

`input`, `getpass` and `breakpoint` raise at once in a background job, which cannot ask.
"""

from __future__ import annotations

import atexit
import builtins
import getpass
import os
import signal
import struct
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as _pools
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial, update_wrapper, wraps
from traceback import walk_stack
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import platforms
from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.errors import CannotAsk

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation


#: The packages whose threads serve the session, whichever cell has started them.
_NOT_OF_CELLS = ("ipy_bgtasks", "IPython", "ipykernel", "zmq", "tornado", "prompt_toolkit")
#: Seconds between two looks at whether another cell's question has been answered.
_TURN = 0.05


def refuse_questions(changes: Installation, kernel: Any = None) -> None:
    """Make questions raise in jobs from now on.

    *kernel* is ipykernel's, which installs its own `input` for each cell and removes it
    afterwards, so both it and what it restores must be covered.
    """
    guarded: list[tuple[object, object]] = []
    for holder, name, what in _places(kernel):
        original = getattr(holder, name)
        ask = _Guarded(original, what)
        guarded.append((ask, original))
        setattr(holder, name, ask)

    def undo() -> None:
        # The kernel moves functions about: one of ours may be elsewhere than where it was put.
        for holder, name, _ in _places(kernel):
            found = getattr(holder, name)
            originals = [original for ask, original in guarded if ask is found]
            if not originals:
                continue
            setattr(holder, name, originals[0])
            if holder is kernel and not name.startswith("_"):
                delattr(holder, name)  # there it hid the class's method

    changes.add(undo)


def _places(kernel: Any) -> Iterator[tuple[Any, str, str]]:
    yield builtins, "input", "input"
    yield getpass, "getpass", "getpass"
    yield sys, "breakpointhook", "breakpoint"
    if kernel is not None:
        yield kernel, "raw_input", "input"
        yield kernel, "getpass", "getpass"
        if hasattr(kernel, "_sys_raw_input"):
            yield kernel, "_sys_raw_input", "input"
        if hasattr(kernel, "_save_getpass"):
            yield kernel, "_save_getpass", "getpass"


class _Guarded:
    """A function that asks, for all but jobs.

    What a call calls is looked up first: the function itself, so that no frame of ours stands
    between it and the user's line, where `breakpoint` would stop.
    """

    def __init__(self, original: Callable[..., Any], what: str) -> None:
        update_wrapper(self, original)
        self._original = original
        self._what = what

    @property
    def __call__(self) -> Callable[..., Any]:
        """The function; raises `CannotAsk` in a job."""
        job = caller()
        if job is None:
            while _is_asking_elsewhere():
                time.sleep(_TURN)
            return self._original
        raise CannotAsk(
            f"{self._what}() in job {job.number}: a background job cannot ask; "
            "hand it what it needs as an argument"
        )


def _is_asking_elsewhere() -> bool:
    """Return whether a cell in another thread waits for an answer.

    An answer does not say to which question it belongs, and the kernel gives it to whoever looks
    first. A cell that was sent away while it asked had begun before anything was installed here:
    its stack tells.
    """
    for thread, innermost in platforms.current_frames().items():
        for frame, _ in walk_stack(innermost) if thread != threading.get_ident() else ():
            if frame.f_code.co_name == "_input_request":
                return str(frame.f_globals.get("__name__")) == "ipykernel.kernelbase"
    return False


class ThreadsOfJobs:
    """The threads that work for jobs. Any thread may call."""

    def __init__(self) -> None:
        self._loads = 0
        self._hooked = False
        self._lock = threading.Lock()
        self._busy: set[threading.Thread] = set()
        self._submitting = threading.local()
        #: Those that a cell had started when it became a job.
        self._adopted: dict[int, threading.Thread] = {}
        #: The signals that `faulthandler` takes at the moment (`running_cells.Signals`).
        self.blocked_at_start: set[int] = set()

    def track(self, changes: Installation) -> None:
        """Track the threads of jobs from now on."""
        with self._lock:
            self._loads += 1
            if not self._hooked:
                self._hooked = True
                self._hook()
        changes.add(self._end)

    def _end(self) -> None:
        with self._lock:
            self._loads -= 1

    def adopt(self, threads: Iterable[threading.Thread], job: Record) -> None:
        """Have what *threads* print be *job*'s until they end: its cell started them before."""
        for thread in threads:
            code = getattr(thread, "_target", None) or type(thread)
            if getattr(code, "__module__", "").partition(".")[0] not in _NOT_OF_CELLS:
                assert thread.ident is not None
                self._adopted[thread.ident] = thread
                cells_away[thread.ident] = job

    def release(self, job: Record | None = None) -> None:
        """Forget those that have ended, and those of pools, which work for others once *job* has.

        Before a thread starts: it may get the identifier of one that has ended.
        """
        pools: Any = getattr(_pools, "_threads_queues", {})
        for ident, thread in list(self._adopted.items()):
            if not thread.is_alive() or (cells_away.get(ident) is job and thread in pools):
                self._adopted.pop(ident, None)
                cells_away.pop(ident, None)

    def let_go(self) -> None:
        """Let Python exit without waiting for the threads that are busy for jobs now."""
        waited_for: Any = getattr(_pools, "_threads_queues", {})
        with getattr(_pools, "_global_shutdown_lock", self._lock):
            for thread in list(self._busy):
                waited_for.pop(thread, None)

    def _hook(self) -> None:
        start = threading.Thread.start
        submit: Callable[..., Any] = ThreadPoolExecutor.submit

        @wraps(start)
        def start_for_job(thread: threading.Thread) -> None:
            if self._adopted:
                self.release()
            if self._loads:
                self._starting(thread)
            if self.blocked_at_start:
                self._start_blocked(thread, start)
            else:
                start(thread)

        @wraps(submit)
        def submit_for_job(
            executor: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> Future[Any]:
            if not self._loads or (job := caller()) is None:
                return submit(executor, fn, *args, **kwargs)  # type: ignore[no-any-return]
            call = partial(_context_of(job).run, self._call, fn, *args, **kwargs)
            self._submitting.for_job = True
            try:
                # In an empty context, because it may start a thread that others will use.
                return Context().run(submit, executor, call)
            finally:
                self._submitting.for_job = False

        threading.Thread.start = start_for_job  # type: ignore[method-assign, assignment]
        ThreadPoolExecutor.submit = submit_for_job  # type: ignore[method-assign, assignment]

    def _starting(self, thread: threading.Thread) -> None:
        if not getattr(self._submitting, "for_job", False):
            if (job := caller()) is None:
                return
            context, run = _context_of(job), thread.run
            thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        thread.daemon = True

    def _start_blocked(self, thread: threading.Thread, start: Callable[..., None]) -> None:
        """Start a thread which no signal reaches before it runs code of Python's.

        The C library blocks all signals while it makes a thread, so what comes then is taken by the
        thread that unblocks them first: the new one. As long as that has no state of Python's,
        `faulthandler` writes nothing, and the signal would be lost.
        """
        signals, run = list(self.blocked_at_start), thread.run

        def run_unblocked() -> None:
            platforms.unblock_signals(signals)
            run()

        thread.run = run_unblocked  # type: ignore[method-assign]
        with platforms.signals_blocked(signals):
            start(thread)

    def _call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        thread = threading.current_thread()
        self._busy.add(thread)
        try:
            return fn(*args, **kwargs)
        except BaseException as error:
            if error.__traceback__ is not None:  # drop our own frame
                error.__traceback__ = error.__traceback__.tb_next
            raise
        finally:
            self._busy.discard(thread)


def _context_of(job: Record) -> Context:
    """Return a copy of the caller's context for code of *job*, the caller's."""
    context = copy_context()
    if current.get() is None:  # of a cell that was sent to the background
        context.run(job.enter)
    return context


#: One for the process, as the hooks are.
threads_of_jobs = ThreadsOfJobs()


def executor_for_jobs(changes: Installation, loop: asyncio.AbstractEventLoop) -> None:
    """Give jobs a default executor of their own on *loop*.

    A thread that was started for other code can no longer be made a daemon: a job's
    `asyncio.to_thread` uses none of those. Does nothing for a loop that is not written in Python.
    """
    executors: list[ThreadPoolExecutor] = []

    def run_in_executor(original: Any, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        if executor is None and current.get() is not None:
            if not executors:
                executors.append(ThreadPoolExecutor(thread_name_prefix="bg-executor"))
            executor = executors[0]
        return original(executor, func, *args)

    with suppress(AttributeError, TypeError):
        changes.wrap(loop, "run_in_executor", run_in_executor)


#: Process, user and group of the sender, where the system supplies them.
_CREDENTIALS = struct.Struct("3i")


def before_sigterm(changes: Installation, clean_up: Callable[[], None]) -> None:
    """Call *clean_up* in a thread of its own when SIGTERM comes, then let it end the process.

    Python calls a signal's handler in the main thread between two bytecodes, so a main thread that
    is in C code would never run it. Here `faulthandler` takes the signal: it acts in C at once and
    writes a few lines to a socket, which a thread of ours reads. No Python handler is installed,
    and one that is installed afterwards takes over.

    Does nothing where SIGTERM does not have its default action, in forked children, and on
    Windows. Code that keeps the interpreter lock while it runs delays this. Any thread may call.
    """
    if not platforms.can_take_signals():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    if (pair := platforms.socket_pair()) is not None:
        watch = _Watch(clean_up, *pair)
        watch.begin()
        changes.add(watch.end)


class _Watch:
    """A wait for one SIGTERM."""

    def __init__(
        self, clean_up: Callable[[], None], reader: socket.socket, writer: socket.socket
    ) -> None:
        self._clean_up = clean_up
        self._reader, self._writer = reader, writer
        self._lock = threading.Lock()
        self._active = True

    def begin(self) -> None:
        self._writer.setblocking(False)  # a second signal must not wait in its handler
        platforms.ask_for_senders(self._reader)
        try:
            threading.Thread(target=self._wait, name="bg-sigterm", daemon=True).start()
        except RuntimeError:  # no threads here: SIGTERM ends the process at once, as usual
            self._active = False
            self._reader.close()
            self._writer.close()
            return
        self._take()
        # A child that ends by SIGTERM at once must not have taken it from its parent, which
        # rules out doing this in the child only. Hooks cannot be removed; these become idle.
        platforms.at_fork(
            before=self._before_fork, after_in_parent=self._forked, after_in_child=self._child
        )

    def end(self) -> None:
        with self._lock:
            if not self._active:
                return
            self._active = False
            self._give_back()
        self._writer.send(b"\n")  # ends the thread

    def _wait(self) -> None:
        while self._active and not self._is_ours():
            pass
        if self._active:
            try:
                self._clean_up()
            finally:
                with self._lock:
                    self._active = False
                    self._give_back()
                os.kill(os.getpid(), signal.SIGTERM)
        self._reader.close()
        self._writer.close()

    def _is_ours(self) -> bool:
        """Wait for a signal; return whether it was for this process, and not one forked in C."""
        extra = platforms.receive_extra(self._reader, _CREDENTIALS.size)
        return all(_CREDENTIALS.unpack(data)[0] == os.getpid() for data in extra)

    def _take(self) -> None:
        platforms.take_signal(signal.SIGTERM, self._writer.fileno())

    def _give_back(self) -> None:
        """Restore the default action, or the handler that was installed since."""
        handler = signal.getsignal(signal.SIGTERM)
        platforms.give_signal_back(signal.SIGTERM)
        if handler is not signal.SIG_DFL:
            with suppress(ValueError):  # only the main thread may; others rarely need to
                signal.signal(signal.SIGTERM, handler)

    def _before_fork(self) -> None:
        self._lock.acquire()
        if self._active and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._give_back()

    def _forked(self) -> None:
        if self._active and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._take()
        self._lock.release()

    def _child(self) -> None:
        self._lock = threading.Lock()
        if self._active:
            self._active = False
            self._reader.close()
            self._writer.close()


def exit_of_job() -> None:
    """Raise `SystemExit` in a job that calls `exit()`, which would end the session otherwise."""
    if caller() is not None:
        error = SystemExit()
        error.add_note("exit() in a job ends that job; at the prompt it ends the session")
        raise error


def at_exit(changes: Installation, finish: Callable[[], None]) -> None:
    """Call *finish* when the interpreter begins to end, before it waits for any thread.

    Any thread may call.
    """
    atexit.register(finish)
    changes.add(lambda: atexit.unregister(finish))
    # Unlike `atexit`, this runs before executors are shut down, which a job's clean-up may need,
    # and before their threads are joined. It cannot be unregistered: an empty call is left.
    calls = [finish]
    if (register := getattr(threading, "_register_atexit", None)) is not None:
        register(lambda: [call() for call in calls])
        changes.add(calls.clear)


class _Unflushable:
    """A stand-in for a stream that cannot be flushed by Python itself, at its end."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        modules = [str(each.f_globals.get("__name__")) for each, _ in walk_stack(sys._getframe())]
        if all(module.startswith("ipy_bgtasks.") for module in modules):
            raise OSError  # no code of others calls this
        self._stream.flush()


def fail_at_exit() -> None:
    """Let the process, which is ending, do so with a status other than 0, and in good order.

    At exit nothing in Python can set the status any more. `os._exit` could, but would skip other
    `atexit` handlers and lose what open files hold back. What is left is documented with
    `sys.exit`: the status is 120 if Python cannot flush the standard streams at its very end.
    ipykernel has restored the original ones by then.
    """
    for name in ("stderr", "__stderr__"):
        vars(sys)[name] = _Unflushable(vars(sys)[name])
