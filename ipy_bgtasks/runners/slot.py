"""One worker process, seen from the session: a Pebble pool of one, and a wire to its worker.

A pool of one, because the workers of one pool share locks: one that is killed while it holds
them would stop the others. So a worker can be killed at any moment, and only its own job ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from contextvars import Context
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.runners import wire, worker
from ipy_bgtasks.runners.sessions import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from multiprocessing.process import BaseProcess

    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.service import ServiceLoop

#: Seconds that a worker which was cut off has to end by itself, so that we learn how it ended.
_PATIENCE = 1.0
#: Seconds to wait for a worker to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2


class Owner(Protocol):
    """Who hears of a slot. `said` is called on the service loop, `gone` on a thread of its own."""

    def said(self, slot: Slot, message: tuple[Any, ...]) -> None:
        """The worker sent a message."""

    def gone(self, slot: Slot, exitcode: int | None) -> None:
        """The worker is dead, and everything it sent was said."""


class Slot:
    """One worker process. Unless said otherwise any thread may call any method."""

    def __init__(self, owner: Owner, service: ServiceLoop, supervisor: Supervisor | None) -> None:
        self.owner = owner
        self.pid: int | None = None
        #: What the owner has given it to do.
        self.run: Any = None
        #: Whether the worker is dead, and its owner was or is being told.
        self.dead = False
        #: Set when nothing of the pool is left.
        self.closed = threading.Event()
        self._service = service
        self._supervisor = supervisor
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._process: BaseProcess | None = None
        self._unpacker = wire.Unpacker()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._lock = threading.Lock()
        self._stopped = False
        # In an empty context: the threads that this starts are not the launching job's.
        Context().run(self._start, theirs)

    def _start(self, theirs: socket.socket) -> None:
        from pebble import ProcessPool

        self._pool: Any = ProcessPool(
            max_workers=1,
            context=multiprocessing.get_context("spawn"),
            initializer=worker.begin,
            initargs=[_OneTime(theirs)],
        )
        try:
            started = self._pool.active  # asking starts it
        finally:
            theirs.close()  # so that we hear when the worker's own is gone
        if not started:
            raise OSError("no worker process could be started")
        self._reading = self._service.submit(self._read())

    @property
    def usable(self) -> bool:
        """Whether it can take another job."""
        return not self._stopped

    def submit(self, number: int, name: str, data: bytes) -> Future[Any]:
        """Have the worker run a job."""
        return self._pool.schedule(worker.run, (number, name, data))  # type: ignore[no-any-return]

    def take_run(self) -> Any:
        """What it was given, for the first who asks: a job may return and its worker die."""
        with self._lock:
            run, self.run = self.run, None
            return run

    def kill(self) -> None:
        """End the worker and everything in its session, wherever its code is; returns at once."""
        with self._lock:
            first, self._stopped = not self._stopped, True
        if first:
            self._pool.stop()  # and do not start another one
        self._kill_session()
        if first and self.pid is None:  # it has not said so yet
            threading.Thread(target=self._pool.join, name="bg-reap", daemon=True).start()

    def stack(self, number: int) -> list[FrameSummary]:
        """Where the worker is; empty if it does not say so at once."""
        if threading.get_ident() == self._service.thread:
            return []
        asking = self._service.submit(self._ask_stack(number))
        try:
            entries: Iterable[tuple[str, int, str]] = asking.result(_STACK_WAIT * 2)
        except (TimeoutError, OSError):
            return []
        return [FrameSummary(*entry, lookup_line=False) for entry in entries]

    def _kill_session(self) -> None:
        if self.pid is None:
            return
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(self.pid, signal.SIGKILL)
        if os.name != "nt":
            send({self.pid}, signal.SIGKILL)

    # On the service loop

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._ours, wire.CHUNK):
                self._hear(data)
        threading.Thread(target=self._reap, name="bg-reap", daemon=True).start()

    def _hear(self, data: bytes) -> None:
        for message in _joined(self._unpacker.feed(data)):
            if message[0] == "hello":
                self._greet(message[1])
            elif message[0] == "stack":
                if (asked := self._asked.pop(message[1], None)) and not asked.done():
                    asked.set_result(message[2])
            else:
                self.owner.said(self, message)

    def _greet(self, pid: int) -> None:
        self.pid = pid
        # Now: what has ended is no longer among the children.
        children = multiprocessing.active_children()
        self._process = next((each for each in children if each.pid == pid), None)
        if self._supervisor is not None:
            self._supervisor.watch(pid)
        if self._stopped:
            self._kill_session()

    async def _ask_stack(self, number: int) -> Any:
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        self._ours.send(wire.packed("stack", number))
        return await asyncio.wait_for(answer, _STACK_WAIT)

    # The end, on a thread of its own

    def _reap(self) -> None:
        exitcode = self._exitcode()
        with self._lock:
            self._stopped = True
        self._kill_session()  # what it started
        self._ours.close()
        if self._supervisor is not None and self.pid is not None:
            self._supervisor.unwatch(self.pid)
        self.dead = True
        self.owner.gone(self, exitcode)
        self._pool.stop()
        self._pool.join()
        self.closed.set()

    def _exitcode(self) -> int | None:
        process = self._process
        if process is None:
            return None
        process.join(_PATIENCE)
        if process.is_alive():  # somebody closed its wire
            self._kill_session()
            process.join()
        return process.exitcode


class _OneTime:
    """The worker's end of the wire, for one worker.

    When a worker has died, Pebble starts another one; that fails here, in the way in which
    Pebble expects a start to fail.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._sock.fileno() < 0:
            raise OSError("this wire had its worker")
        return _as_it_is, (self._sock,)


def _as_it_is(sock: socket.socket) -> socket.socket:
    return sock


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
