"""One worker process, seen from the session: a Pebble pool of one, and a wire to its worker.

A pool of one, because the workers of one pool share locks: one that is killed while it holds
them would stop the others. And the worker is given its jobs over the wire, which carries their
output and results, too: Pebble's part is to start it and to tell how it ended. So it can be
killed at any moment, and only its own job ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from contextvars import Context
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.runners.processes import child as worker
from ipy_bgtasks.runners.processes import protocol as wire
from ipy_bgtasks.runners.sessions import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from ipy_bgtasks.runners.supervisor import Supervisor

#: Seconds within which Pebble tells how a worker ended.
_PATIENCE = 1.0
#: Seconds to wait for a worker to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2
#: Bytes that an idle worker's wire takes at once.
_SMALL = 1 << 16
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


class Owner(Protocol):
    """Who hears of a slot, each time on the slot's own thread."""

    def said(self, slot: Slot, message: tuple[Any, ...]) -> None:
        """The worker sent a message."""

    def gone(self, slot: Slot, exitcode: int | None) -> None:
        """The worker is dead, and everything it sent was said."""


class Slot:
    """One worker process. Unless said otherwise any thread may call any method."""

    def __init__(self, owner: Owner, supervisor: Supervisor | None) -> None:
        self.owner = owner
        self.pid: int | None = None
        #: What the owner has given it to do.
        self.run: Any = None
        #: Whether the worker is dead, and its owner was or is being told.
        self.dead = False
        #: Set when nothing of the pool is left.
        self.closed = threading.Event()
        self._supervisor = supervisor
        self._ours, theirs = socket.socketpair()
        self._control, their_control = socket.socketpair()
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._stopped = False
        self._stack: _Question | None = None
        self._around: tuple[list[str], str] | None = None  # as the worker knows it
        # In an empty context: the threads that this starts are not the launching job's.
        Context().run(self._start, theirs, their_control)

    def _start(self, *theirs: socket.socket) -> None:
        from pebble import ProcessPool

        self._pool: Any = ProcessPool(
            max_workers=1,
            context=multiprocessing.get_context("spawn"),
            initializer=worker.begin,
            initargs=[_OneTime(*theirs)],
        )
        try:
            self._serving: Future[None] = self._pool.schedule(worker.serve)
        finally:
            for sock in theirs:
                sock.close()  # so that we hear when the worker's own is gone
        threading.Thread(target=self._listen, name="bg-process", daemon=True).start()

    @property
    def usable(self) -> bool:
        """Whether it can take another job."""
        return not self._stopped

    def submit(self, number: int, name: str, data: bytes) -> None:
        """Have the worker, which is idle, run a job."""
        around = list(sys.path), _directory()
        news = None if around == self._around else around
        self._around = around
        message = wire.packed(number, name, data, news)
        if len(message) <= _SMALL:
            self._send(message)
        else:  # it may not even have started
            sender = threading.Thread(target=self._send, args=[message], daemon=True)
            Context().run(sender.start)

    def take_run(self) -> Any:
        """What it was given, for the first who asks: a job may end and its worker die."""
        with self._lock:
            run, self.run = self.run, None
            return run

    def kill(self) -> None:
        """End the worker and everything in its session, wherever its code is; returns at once."""
        with self._lock:
            first, self._stopped = not self._stopped, True
        if first:
            self._pool.stop()  # and do not start another one
        self._kill_group()
        if first and self.pid is None:  # it only starts, and would complain of what it misses
            for pid in self._starting():
                with contextlib.suppress(OSError, AttributeError):
                    os.kill(pid, signal.SIGKILL)
            closing = threading.Thread(target=self._close, name="bg-reap", daemon=True)
            Context().run(closing.start)

    def _starting(self) -> list[int]:
        """The pool's process, which has not said its number yet; Pebble has no public name."""
        manager = getattr(self._pool, "_pool_manager", None)
        return list(getattr(getattr(manager, "worker_manager", None), "workers", ()))

    def stack(self) -> list[FrameSummary]:
        """Where the worker is; empty if it does not say so at once."""
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
        try:
            self._control.send(wire.packed("stack"), _AT_ONCE)
        except OSError:
            return False
        return True

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it is dead: `gone` comes
            self._ours.sendall(message)

    def _kill_group(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(OSError, AttributeError):
                os.killpg(self.pid, signal.SIGKILL)

    def _kill_session(self) -> None:
        """As `_kill_group`, and what has made groups of its own; that takes longer to find."""
        self._kill_group()
        if self.pid is not None and os.name != "nt":
            send({self.pid}, signal.SIGKILL)

    # On the thread that listens

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            for messages in wire.received(self._ours):
                for message in _joined(messages):
                    self._hear(message)
        exitcode = self._exitcode()
        with self._lock:
            self._stopped = True
        self._kill_session()  # what it started
        self._see_dead()
        if self._supervisor is not None and self.pid is not None:
            self._supervisor.unwatch(self.pid)
        self.dead = True
        self.owner.gone(self, exitcode)
        self._close()
        self._ours.close()
        self._control.close()

    def _see_dead(self) -> None:
        """Wait until it is dead, which a killed process is a moment after its wires are closed."""
        with contextlib.suppress(OSError, AttributeError):  # Pebble saw it first; not everywhere
            if self.pid is not None:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def _close(self) -> None:
        """End what is left of the pool: once, because it closes descriptors by their numbers."""
        with self._closing:
            if not self.closed.is_set():
                self._pool.stop()
                self._pool.join()
                self.closed.set()

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "hello":
            self.pid = message[1]
            if self._supervisor is not None:
                self._supervisor.watch(message[1])
            self._forget_locks()
            if self._stopped:
                self._kill_session()
        elif message[0] == "stack":
            with self._lock:
                asked, self._stack = self._stack, None
            if asked is not None:
                asked.answer = message[1]
                asked.answered.set()
        else:
            self.owner.said(self, message)

    def _forget_locks(self) -> None:
        """Free the names of the pool's locks, which its only worker has opened by now.

        Else they would stay in the system when this process is killed. Pebble uses them to give
        out tasks and to cancel them; there is one task, and it is not cancelled.
        """
        manager = getattr(self._pool, "_pool_manager", None)
        channel = getattr(getattr(manager, "worker_manager", None), "workers_channel", None)
        if (mutex := getattr(channel, "mutex", None)) is not None:
            mutex.unlink()

    def _exitcode(self) -> int | None:
        if self._stopped or self.pid is None:
            return None
        try:
            error = self._serving.exception(_PATIENCE)
        except TimeoutError:
            return None
        # Of a plain exit it only tells that no other worker could be started.
        return getattr(error, "exitcode", 0)


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.sep


class _Question:
    """A worker was asked where it is."""

    def __init__(self) -> None:
        self.answer: list[tuple[str, int, str]] = []
        self.answered = threading.Event()


class _OneTime:
    """The worker's ends of its wires, for one worker.

    When a worker has died, Pebble starts another one; that fails here, in the way in which
    Pebble expects a start to fail.
    """

    def __init__(self, *socks: socket.socket) -> None:
        self._socks = socks

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if any(sock.fileno() < 0 for sock in self._socks):
            raise OSError("these wires had their worker")
        return tuple, (self._socks,)


def _joined(messages: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """With neighbouring texts of one stream as one, which are as many as there are lines."""
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
