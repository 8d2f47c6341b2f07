"""Threads that belong to no job, and the private event loop that one of them runs.

It goes on while a cell blocks the user's loop. Timers above all: a timeout must fire even then, and
a job that uses too much memory be stopped.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.platforms import has_threads, too_much, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from ipy_bgtasks.job.record import Record


def in_thread(name: str, fn: Callable[..., object], *args: Any) -> threading.Thread:
    """Call ``fn(*args)`` in a daemon thread that belongs to no job, whichever job's code calls."""
    thread = threading.Thread(target=fn, args=args, name=name, daemon=True)
    Context().run(thread.start)
    return thread


#: Seconds; Python's own switch interval is 5 ms. With 64 threads that compute, any other waits for
#: a third of a second, at each step; and a request takes a dozen steps, of two or three threads.
SHORT = 0.0005


class SwitchInterval:
    """Shortens Python's switch interval while somebody needs that. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed: set[str] = set()
        self._before = 0.0

    def short(self, who: str, needed: bool) -> bool:
        """Shorten the switch interval, or restore it; return whether it was shortened now."""
        if needed == (who in self._needed):
            return False
        with self._lock:
            others = self._needed - {who}
            self._needed = others | ({who} if needed else set())
            if others:
                return False
            now = sys.getswitchinterval()
            if needed and now > SHORT:
                self._before = now
                sys.setswitchinterval(SHORT)
                return True
            if not needed and self._before and abs(now - SHORT) < SHORT / 2:  # unchanged since
                sys.setswitchinterval(self._before)
            self._before = 0.0
            return False


#: Seconds between two looks at what limited jobs use.
_LOOK = 1.0


class ServiceLoop:
    """An asyncio loop that runs in a daemon thread of its own, started when first used.

    Where there are no threads, as in a browser, *substitute* is used instead. Every method may
    be called from any thread.
    """

    def __init__(self, substitute: asyncio.AbstractEventLoop | None = None) -> None:
        self._lock = threading.Lock()
        self._substitute = substitute
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The identifier of its thread, once there is one.
        self.thread: int | None = None
        self.switch_interval = SwitchInterval()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        if (loop := self._loop) is None:
            with self._lock:
                if (loop := self._loop) is None:
                    loop = self._loop = self._start()
        return loop

    def later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Callable[[], None]:
        """Call ``fn(*args)`` on the service thread after *seconds*; returns what cancels it."""
        loop = self.loop
        handle: asyncio.TimerHandle | None = None
        called_off = False

        def begin() -> None:
            nonlocal handle
            if not called_off:
                handle = loop.call_later(seconds, fn, *args)

        def call_off() -> None:
            nonlocal called_off
            called_off = True
            if handle is not None:
                loop.call_soon_threadsafe(handle.cancel)

        loop.call_soon_threadsafe(begin)
        return call_off

    def submit(self, coro: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run *coro* on the service loop."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop)

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._substitute is not None and not has_threads():
            return self._substitute  # and no second loop where a page has only one
        loop = asyncio.new_event_loop()
        try:
            in_thread("bg-service", self._run, loop)
        except RuntimeError:
            loop.close()
            if self._substitute is None:
                raise
            return self._substitute
        return loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        asyncio.set_event_loop(loop)
        loop.run_forever()


class Soon:
    """Calls *call* once, however often it is asked for meanwhile. Any thread may call.

    *later* calls a function after some seconds. There is no lock: at worst it is called twice.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], object], call: Callable[[], None]
    ) -> None:
        self._later = later
        self._call = call
        self._due = float("inf")  # on the monotonic clock

    def within(self, seconds: float) -> None:
        """Have it called after so many seconds, unless it will be earlier."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._later(seconds, self._run)

    def _run(self) -> None:
        self._due = float("inf")  # first: what comes from here on asks again
        self._call()


#: How often a second a job displays or clears: servers drop what is sent beyond 1,000 messages a
#: second, whoever sent it, and text may stand between two displays.
DISPLAYS = 400
#: Seconds between two looks.
_NAP = 0.01


class Pace:
    """Bounds how often a second something is done, to *most* times. Any thread may call."""

    def __init__(self, most: int) -> None:
        self._times: deque[float] = deque(maxlen=most)

    def has_room(self) -> bool:
        """Return whether it may be done now, and count it if so."""
        now = time.monotonic()
        if len(self._times) == self._times.maxlen and now - self._times[0] < 1:
            return False
        self._times.append(now)
        return True

    def wait(self) -> None:
        """Block until it may be done. Not on a loop that others use."""
        while not self.has_room():
            time.sleep(_NAP)


class MemoryLimits:
    """Stops jobs whose processes use more memory than they may; looks once a second.

    A limit of the system's (RLIMIT_AS) would count what is reserved and never used, of which numpy
    reserves a lot. *later* calls a function after some seconds. Any thread may call.
    """

    def __init__(self, later: Callable[..., object]) -> None:
        self._later = later
        self._limits: dict[Record, int] = {}

    def watch(self, job: Record, limit: int) -> None:
        """Have the job fail with `MemoryError` as soon as it is seen to use more bytes."""
        first = not self._limits
        self._limits[job] = limit
        job.add_done_callback(lambda job: self._limits.pop(job, None))
        if first:
            self._later(_LOOK, self._look)

    def _look(self) -> None:
        limits = {pid: each for each in list(self._limits.items()) if (pid := each[0].pid)}
        for pid, used in usage_of(limits).items():
            job, limit = limits[pid]
            if used.memory > limit:
                job.stop_for(too_much(job.number, used.memory, limit))
        if self._limits:
            self._later(_LOOK, self._look)
