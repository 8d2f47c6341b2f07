"""A child process's output and exit, as events on an event loop."""

from __future__ import annotations

import codecs
import os
import threading
from typing import IO, TYPE_CHECKING

from ipy_bgtasks.platforms import opened_process, unblock

if TYPE_CHECKING:
    import asyncio
    import subprocess
    from collections.abc import Callable

#: Bytes read before the loop runs on: as much as a pipe holds, as a rule.
_BLOCK = 65536


class TextPipe:
    """Reads a pipe as UTF-8 as it comes: passes text to *take*, and calls *closed* at its end.

    At most one block is in memory at a time, so that a fast writer has to wait. Every method is
    for the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: IO[bytes],
        take: Callable[[str], object],
        closed: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._pipe = pipe
        self._take = take
        self._closed = closed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.is_open = True
        try:
            loop.add_reader(pipe.fileno(), self._read)
            if not unblock(pipe.fileno()):
                loop.remove_reader(pipe.fileno())
                raise NotImplementedError
        except NotImplementedError:  # Windows
            threading.Thread(target=self._read_blocking, name="bg-pipe", daemon=True).start()

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._pipe.fileno())
        self._got(data)

    def _got(self, data: bytes) -> None:
        text = self._decoder.decode(data, final=not data)
        if not data:
            self.is_open = False
            self._pipe.close()
        if text:
            self._take(text)
        if not data:
            self._closed()

    def _read_blocking(self) -> None:
        data = b"."
        while data:
            data = self._pipe.read(_BLOCK)
            taken = threading.Event()
            self._loop.call_soon_threadsafe(self._got, data)
            self._loop.call_soon_threadsafe(taken.set)
            taken.wait()


def on_exit(
    loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes], fn: Callable[[], object]
) -> None:
    """Call *fn* on the loop when *process* has ended. Call this on the loop's thread.

    The process may not have been reaped by then; *fn* has to do that.
    """
    watched = opened_process(process.pid)
    if watched is not None:
        descriptor = watched

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            fn()

        loop.add_reader(watched, ended)
        return

    def wait() -> None:
        process.wait()
        loop.call_soon_threadsafe(fn)

    threading.Thread(target=wait, name="bg-wait", daemon=True).start()
