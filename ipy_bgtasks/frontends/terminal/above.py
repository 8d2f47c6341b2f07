"""Text above a waiting prompt: in order, and none of it left over when the prompt ends.

prompt_toolkit's own stream for this (``patch_stdout``) hands each text to a thread and from there
to the event loop, which may stop with the prompt: such text appears when the loop runs again,
after lines that were written later. And Enter waits for that thread, up to 0.2 s.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds between two paintings of the prompt: text is batched meanwhile.
_APART = 0.1


class AbovePrompt:
    """Shows text above the prompts of prompt_toolkit.

    *write* writes to the terminal. Any thread may call `put`; the rest is for the main thread.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._app: Any = None
        self._write = write
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._due = False
        self._open = False
        self._shown = 0.0

    def put(self, text: str) -> None:
        """Show *text* soon, at the latest when the prompt ends; without a prompt, now."""
        with self._lock:
            self._texts.append(text)
            if not self._open:
                self._write_out()
            elif not self._due:
                self._schedule()

    def open(self, app: Any) -> None:
        """Hold text from now on: the ``Application`` *app*, a prompt, is about to begin."""
        with self._lock:
            self._app = app
            self._open = True
            self._due = False

    def begun(self) -> None:
        """Show what was held: the prompt has begun. Call this on its loop."""
        with self._lock:
            if self._texts:
                self._schedule()

    def close(self) -> None:
        """Write out what is left: the prompt has ended."""
        with self._lock:
            self._open = False
            self._write_out()

    def _schedule(self) -> None:
        # Without a loop the prompt has not begun, or has ended: `begun` or `close` follows.
        if (loop := self._app.loop) is not None:
            with suppress(RuntimeError):  # closed at this very moment
                loop.call_soon_threadsafe(self._bundle)
                self._due = True

    def _bundle(self) -> None:
        wait = self._shown + _APART - time.monotonic()
        if wait > 0 and self._app.loop is not None:
            self._app.loop.call_later(wait, self._show)
        else:
            self._show()

    def _show(self) -> None:
        from prompt_toolkit.application import run_in_terminal

        # A call that is left on a loop of an earlier prompt may come while one waits elsewhere.
        if self._open and self._app.loop is asyncio.get_running_loop():
            run_in_terminal(self._write_above)

    def _write_above(self) -> None:
        with self._lock:
            self._due = False
            self._shown = time.monotonic()
            self._write_out()

    def _write_out(self) -> None:
        texts, self._texts = self._texts, []
        if texts:
            self._write("".join(texts))


class PromptStream:
    """A stand-in for *stream* while the prompt waits: what is written goes above the prompt.

    As with prompt_toolkit's, a partial line, which the prompt would paint over, waits for its
    end or for a flush. After `end` all is written as it comes, until `begin`.
    """

    def __init__(self, stream: TextIO, above: AbovePrompt) -> None:
        self._stream = stream
        self._above = above
        self._lock = threading.Lock()
        self._begun = ""
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Show the complete lines."""
        with self._lock:
            if self._ended:
                self._above.put(text)
                return len(text)
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
            if newline:
                self._above.put(lines + newline)
        return len(text)

    def begin(self) -> None:
        """Hold partial lines from now on: a prompt is about to begin."""
        with self._lock:
            self._ended = False

    def end(self) -> None:
        """Show a partial line, and hold none: the prompt has ended."""
        with self._lock:
            self._ended = True
            begun, self._begun = self._begun, ""
            if begun:
                self._above.put(begun)

    def flush(self) -> None:
        """Show a partial line, too."""
        with self._lock:
            begun, self._begun = self._begun, ""
            if begun:
                self._above.put(begun)
