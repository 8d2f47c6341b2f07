"""One worker process, seen from the session: a plain interpreter, and a socket to speak to it.

Nothing of `multiprocessing` is in between: a worker is started like any program, in a session of
its own, and never looks at the user's `__main__`, which may be a script without a guard. So it
can be killed at any moment, with everything it started, and only its own job ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from contextvars import Context
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.platforms import current_directory, exit_status, has_sessions, kill_group
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.processes import protocol
from ipy_bgtasks.runners.processes.wire import new_wire
from ipy_bgtasks.runners.trees import all_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.runners.supervisor import Supervisor

#: What a worker runs; its ends of the wire and its path are told by arguments.
_PROGRAM = (
    "import sys; wire, *sys.path = sys.argv[1:]; "
    "from ipy_bgtasks.runners.processes.child import main; main(wire)"
)
#: Seconds to wait for a worker to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2
#: Bytes that an idle worker's socket takes at once.
_SMALL = 1 << 16


class Owner(Protocol):
    """Whoever is told of a worker, on the worker's own thread."""

    def said(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """The worker sent a message."""

    def gone(self, worker: Worker, exitcode: int | None) -> None:
        """The worker is dead, and everything it sent was said.

        *exitcode* is None where it was killed on purpose.
        """


class Worker:
    """One worker process. Unless said otherwise any thread may call any method."""

    def __init__(self, owner: Owner, supervisor: Supervisor | None) -> None:
        self.owner = owner
        #: What the owner has given it to do.
        self.run: Any = None
        #: Whether it is dead, and its owner was or is being told.
        self.dead = False
        #: Whether it has started, and so begins a job at once; else it says when it does.
        self.warm = False
        #: Set when nothing of it is left.
        self.closed = threading.Event()
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._stopped = False
        self._reaped = False
        self._stack: _Question | None = None
        self._around: tuple[list[str], str] | None = None  # as the worker knows it
        self._wire = new_wire()
        self._connected = threading.Event()
        try:
            self._process = self._started()
        except BaseException:
            self._wire.close()
            raise
        self.pid = self._process.pid
        self._all = all_of(self.pid)
        thread = threading.Thread(target=self._listen, name="bg-process", daemon=True)
        Context().run(thread.start)  # no job's thread, whichever launches

    def _started(self) -> subprocess.Popen[bytes]:
        wire = self._wire
        path = [entry for entry in sys.path if isinstance(entry, str)]
        token = "" if self._supervisor is None else self._supervisor.token()
        process = subprocess.Popen(
            [sys.executable, *interpreter_options(), "-c", _PROGRAM, wire.argument, *path],
            env={**os.environ, sessions.TOKEN: token},
            # Out of reach of the foreground's interrupts:
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            **wire.options,
        )
        wire.started(process)
        if self._supervisor is not None:
            self._supervisor.watch(process.pid, token)
        return process

    @property
    def usable(self) -> bool:
        """Return whether it can take another job."""
        return not self._stopped

    def submit(self, number: int, name: str, data: bytes) -> None:
        """Have the worker, which is idle, run a job."""
        self.has_begun()  # forget what it wrote for the job before
        around = list(sys.path), current_directory() or os.sep
        news = None if around == self._around else around
        self._around = around
        message = protocol.packed(number, name, data, news)
        if len(message) <= _SMALL and self._wire.ends is not None:
            self._send(message)
        else:  # it may not even have started
            sender = threading.Thread(target=self._send, args=[message], daemon=True)
            Context().run(sender.start)

    def has_begun(self) -> bool:
        """Return whether it has begun a job since this was last asked."""
        ends = self._wire.ends
        try:
            return ends is not None and bool(ends[1].recv(_SMALL))
        except OSError:
            return False

    def take_run(self) -> Any:
        """Return the run it was given, to the first who asks: a job may end and its worker die."""
        with self._lock:
            run, self.run = self.run, None
            return run

    def kill(self) -> None:
        """End it and everything in its session, wherever its code is; returns at once."""
        self._stopped = True
        with self._lock, contextlib.suppress(OSError):
            if not has_sessions():
                self._all.kill()
            elif not self._reaped:  # else its number may be somebody else's by now
                kill_group(self.pid)

    def stack(self) -> list[FrameSummary]:
        """Return where it is; empty if it does not say so at once."""
        with self._lock:
            asked = self._stack
            if asked is None:
                asked = self._stack = _Question()
                if not self._ask():
                    self._stack = None
                    return []
        asked.answered.wait(_STACK_WAIT)
        return [FrameSummary(*entry, lookup_line=False) for entry in asked.answer]

    def _ask(self) -> bool:
        if self._wire.ends is None:
            return False
        try:
            self._wire.ends[1].send(protocol.packed("stack"))
        except OSError:
            return False
        return True

    def _send(self, message: bytes) -> None:
        self._connected.wait()
        with contextlib.suppress(OSError):  # it is dead: `gone` comes
            if self._wire.ends is not None:
                self._wire.ends[0].sendall(message)

    # On the thread that listens

    def _listen(self) -> None:
        ends = self._wire.connect(self._process)
        self._connected.set()
        with contextlib.suppress(OSError):
            for messages in protocol.received(ends[0]) if ends is not None else ():
                for message in _joined(messages):
                    self._hear(message)
        # Its socket is gone: it has ended, or does so now. Killed, with what has made groups of
        # its own, it cannot be mistaken for another process: nobody has waited for it yet.
        exitcode = self._exitcode()
        self._stopped = True
        with self._lock:
            self._all.kill()
        self._reap()
        if self._supervisor is not None:
            self._supervisor.unwatch(self.pid)
        self.dead = True
        self.owner.gone(self, exitcode)
        self._wire.close()
        self.closed.set()

    def _reap(self) -> None:
        exit_status(self.pid)  # wait without the lock, where possible
        with self._lock:
            self._process.wait()
            self._reaped = True

    def _exitcode(self) -> int | None:
        """Return how it ended by itself; it is not reaped, so that its number stays its own."""
        if self._stopped:
            return None
        status = exit_status(self.pid)
        if status is None:
            self._reap()
        return self._process.returncode if status is None else status

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "stack":
            with self._lock:
                asked, self._stack = self._stack, None
            if asked is not None:
                asked.answer = message[1]
                asked.answered.set()
        else:
            self.owner.said(self, message)


def interpreter_options() -> list[str]:
    """Return what the user gave this interpreter that changes how code runs: -O, -W and -X."""
    given = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    given += [f"-W{each}" for each in sys.warnoptions]
    for name, value in getattr(sys, "_xoptions", {}).items():
        given.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return given


class _Question:
    """A question to a worker where it is, until it is answered."""

    def __init__(self) -> None:
        self.answer: list[tuple[str, int, str]] = []
        self.answered = threading.Event()


def _joined(messages: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """Return the messages with neighbouring texts of one stream joined; each line comes as one."""
    pending: tuple[Any, ...] | None = None
    texts: list[str] = []
    for message in messages:
        if pending is not None and message[:3] == pending[:3] and message[0] == "text":
            texts.append(message[3])
            continue
        if pending is not None:
            yield (*pending[:3], "".join(texts))
        pending = None
        if message[0] == "text":
            pending, texts = message, [message[3]]
        else:
            yield message
    if pending is not None:
        yield (*pending[:3], "".join(texts))
