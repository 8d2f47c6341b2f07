"""Messages between the session and a worker process: tuples, each with its length in front."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

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


class Unpacker:
    """Makes messages of what comes over the wire, piece by piece."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """Take a piece in; yield each message that is whole now."""
        buffer = self._buffer
        buffer += data
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


def received(sock: socket.socket) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Yield what comes over a blocking socket, until the other end is gone: messages in batches."""
    unpacker = Unpacker()
    while data := sock.recv(_CHUNK):
        yield unpacker.feed(data)
