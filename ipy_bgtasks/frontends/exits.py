"""The ways out of a process: jobs are stopped before anything else ends.

At exit Python ends executors and joins threads, and calls what was registered with `atexit`; ours
comes first. SIGTERM would end the process at once. Python calls a signal's handler in the main
thread between two bytecodes, so a main thread that is in C code would never run it. Here
`faulthandler` takes the signal: it acts in C at once and writes a few lines to a socket, which a
thread of ours reads. No Python handler is installed, and one that is installed afterwards takes
over.
"""

from __future__ import annotations

import atexit
import os
import signal
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ipy_bgtasks import platforms
from ipy_bgtasks.context import caller

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ipy_bgtasks.patching import Installation
    from ipy_bgtasks.session.leaving import Leaving


#: Process, user and group of the sender, where the system supplies them.
_CREDENTIALS = struct.Struct("3i")


def before_sigterm(changes: Installation, clean_up: Callable[[], None]) -> None:
    """Call *clean_up* in a thread of its own when SIGTERM comes, then let it end the process.

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


def watch_process(changes: Installation, leaving: Leaving) -> None:
    """Stop all jobs first when the process exits or gets SIGTERM. Any thread may call."""

    def clean_up() -> None:
        leaving.tell()
        leaving.wait()

    before_sigterm(changes, clean_up)
    at_exit(changes, leaving.finish)


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
