"""Holds back a thread's partial line until it is complete, or for a fraction of a second.

`print` writes a line in two pieces. Between the two another thread may write to the same cell,
as the foreground does right after it launched a job, and split it.
"""

from __future__ import annotations

import threading
import time
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    Write = Callable[[str], Any]

#: Seconds after which a partial line is shown as it is. Kernels send text as often.
_PATIENCE = 0.2
#: Most characters of a partial line that are held.
_LONG = 4096


class _Held:
    __slots__ = ("context", "fresh", "job", "text", "write")

    def __init__(self, job: Record, text: str, write: Write, context: Context) -> None:
        self.job, self.text, self.write, self.context = job, text, write, context
        self.fresh = True


class WholeLines:
    """Writes a job's text line by line; any thread may call.

    *prepare* binds the calling context to a job's place. What is held too long is shown by a
    thread of our own: waking it is the release of a lock, so that a job which has just started
    keeps the interpreter until its first line is written.
    """

    def __init__(self, prepare: Callable[[Record], object]) -> None:
        self._prepare = prepare
        self._lock = threading.RLock()
        self._held: dict[tuple[int, str, int], _Held] = {}
        self._wake: threading.Lock | None = None
        self._ticking = False
        self._patient = True

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        with self._lock:
            if self._wake is not None:
                return
            self._wake = threading.Lock()
            self._wake.acquire()
        thread = threading.Thread(target=self._run, args=(self._wake,), daemon=True)
        thread.name = "bg-lines"
        try:
            Context().run(thread.start)
        except RuntimeError:
            self._patient = False  # no threads here: nothing can be held back

    def write(self, job: Record, name: str, text: str, write: Write) -> None:
        """Write the complete lines of the calling thread's text, and hold the rest."""
        key = (job.number, name, threading.get_ident())
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                if "\n" not in text and len(held.text) < _LONG:
                    held.text += text
                    return
                del self._held[key]
                text = held.text + text
            if text.endswith("\n") or len(text) > _LONG or not self._patient:
                write(text)
                return
            lines, newline, rest = text.rpartition("\n")
            if newline:
                write(lines + newline)
            if rest:
                self._held[key] = _Held(job, rest, write, copy_context())
                if self._wake is None:
                    self.start()
                if not self._patient:
                    self._put(self._held.pop(key))
                elif not self._ticking and self._wake is not None:
                    self._ticking = True
                    self._wake.release()

    def release(self, job: Record) -> None:
        """Write everything that is held of a job."""
        if not self._held:
            return
        with self._lock:
            for key in [key for key in self._held if key[0] == job.number]:
                self._put(self._held.pop(key))

    def release_all(self) -> None:
        """Write everything that is held."""
        with self._lock:
            while self._held:
                self._put(self._held.popitem()[1])

    def _run(self, wake: threading.Lock) -> None:
        while True:
            wake.acquire()
            time.sleep(_PATIENCE / 2)  # most lines are complete by then: few wake-ups for all jobs
            while self._tick():
                time.sleep(_PATIENCE / 2)

    def _tick(self) -> bool:
        """Show what was held for a whole tick; return whether there may be more."""
        with self._lock:
            for key, held in list(self._held.items()):
                if held.fresh:
                    held.fresh = False
                else:
                    self._put(self._held.pop(key))
            self._ticking = bool(self._held)
            return self._ticking

    def _put(self, held: _Held) -> None:
        held.context.run(self._prepare, held.job)
        held.context.run(held.write, held.text)
