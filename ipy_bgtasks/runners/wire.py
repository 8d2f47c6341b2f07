"""What connects the session and a worker process: two sockets, one for jobs, one for questions.

Over both go messages: tuples, each with its length in front. A worker inherits its ends. Where
that is not possible (Windows) it connects to a port of this machine instead, and shows that it is
the one that was started by a key that came by its input.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

#: What a worker writes to the socket of questions as it begins a job. Nobody waits for it there,
#: which would wake a thread for each job; it is looked for when the worker has died.
BEGUN = b"."

_LENGTH = struct.Struct(">Q")

#: Bytes read at once; for more, malloc would ask the system for memory each time.
_CHUNK = 1 << 16


def packed(*message: Any) -> bytes:
    """Return a message as it goes over the wire."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def received(sock: socket.socket) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Yield what comes over a blocking socket, until the other end is gone: messages in batches."""
    buffer = bytearray()
    while data := sock.recv(_CHUNK):
        buffer += data
        yield _whole(buffer)


def _whole(buffer: bytearray) -> Iterator[tuple[Any, ...]]:
    """Yield the messages that are whole, and remove them."""
    start = 0
    while len(buffer) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, start)
        end = start + _LENGTH.size + length
        if len(buffer) < end:
            break
        with memoryview(buffer) as view:
            message = pickle.loads(view[start + _LENGTH.size : end])
        start = end
        yield message
    del buffer[:start]


_HOST = "127.0.0.1"
_KEY_SIZE = 32
#: Seconds between two checks of whether a worker that has not connected yet is still alive.
_LOOK = 0.1

Ends = tuple[socket.socket, socket.socket]


class Inherited:
    """Both pairs of sockets are made before the worker is started."""

    def __init__(self) -> None:
        pairs = socket.socketpair(), socket.socketpair()
        pairs[1][0].setblocking(False)  # what stands there is read, but never waited for
        #: The session's ends.
        self.ends: Ends | None = (pairs[0][0], pairs[1][0])
        self._theirs = [theirs for _, theirs in pairs]
        fds = [each.fileno() for each in self._theirs]
        #: What tells the worker where its ends are, and how it is started for that.
        self.argument = ",".join(map(str, fds))
        self.options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "pass_fds": fds}

    def started(self, _process: subprocess.Popen[bytes]) -> None:
        """Close the worker's ends here, so that their closing is noticed."""
        _close(*self._theirs)

    def connect(self, _process: subprocess.Popen[bytes]) -> Ends | None:
        """Return the session's ends, once the worker has the others."""
        return self.ends

    def close(self) -> None:
        _close(*self._theirs, *(self.ends or ()))


class Connected:
    """The worker connects, when it runs; the methods are those of `Inherited`."""

    def __init__(self) -> None:
        self.ends: Ends | None = None
        self._key = os.urandom(_KEY_SIZE)
        self._listener = socket.create_server((_HOST, 0))
        self._listener.settimeout(_LOOK)
        self.argument = f":{self._listener.getsockname()[1]}"
        self.options: dict[str, Any] = {"stdin": subprocess.PIPE}

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Send the key."""
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as pipe:
            pipe.write(self._key)

    def connect(self, process: subprocess.Popen[bytes]) -> Ends | None:
        """Wait for the worker and return the session's ends; None if it ends instead."""
        found: dict[bytes, socket.socket] = {}
        try:
            while len(found) < 2:
                if process.poll() is not None:
                    _close(*found.values())
                    return None
                with contextlib.suppress(OSError):
                    self._take(found)
        finally:
            self._listener.close()
        found[b"1"].setblocking(False)
        self.ends = found[b"0"], found[b"1"]
        return self.ends

    def _take(self, found: dict[bytes, socket.socket]) -> None:
        from hmac import compare_digest

        connection, _ = self._listener.accept()
        connection.settimeout(1.0)
        sent = b""
        with contextlib.suppress(OSError), connection.makefile("rb") as file:
            sent = file.read(_KEY_SIZE + 1)
        which = sent[_KEY_SIZE:]
        if compare_digest(sent[:_KEY_SIZE], self._key) and which not in found:
            connection.settimeout(None)
            found[which] = connection
        else:  # whoever that is
            connection.close()

    def close(self) -> None:
        _close(self._listener, *(self.ends or ()))


def ends_of_worker(argument: str) -> Ends:
    """Return the worker's ends, in the worker."""
    if argument.startswith(":"):
        key = sys.stdin.buffer.read()
        return _call(argument, key + b"0"), _call(argument, key + b"1")
    first, second = (socket.socket(fileno=int(fd)) for fd in argument.split(","))
    return first, second


def _call(argument: str, key: bytes) -> socket.socket:
    connection = socket.create_connection((_HOST, int(argument[1:])))
    connection.sendall(key)
    return connection


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()
