"""Servers to which notices go: one that takes what Apprise sends, one that never answers."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any


class Receiver:
    """Takes what Apprise's ``json://`` sends; *status* is what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        #: What came, in order.
        self.got: SimpleQueue[dict[str, Any]] = SimpleQueue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.put(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"json://user:pass-secret@127.0.0.1:{self._server.server_port}/path-secret"

    def next(self) -> dict[str, Any]:
        """What comes next, its title and message among it."""
        return self.got.get(timeout=30)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiver(status: int = 200) -> Iterator[Receiver]:
    """Run one for a while."""
    server = Receiver(status)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def silence() -> Iterator[tuple[str, threading.Event]]:
    """Run a server that takes connections and never answers: its URL, and whether one came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came = threading.Event()
        kept = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return
                came.set()

        threading.Thread(target=accept, daemon=True).start()
        # Longer than the limit, so that it is the limit that counts.
        url = f"json://user:pass-secret@127.0.0.1:{server.getsockname()[1]}/path-secret?rto=60"
        yield url, came
        for each in kept:
            each.close()
