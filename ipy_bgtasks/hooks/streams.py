"""Who replaces `sys.stdout` replaces it for itself: each job has a `sys.stdout` of its own.

`contextlib.redirect_stdout`, `%%capture`, rich's `Progress`, click's and pytest's runners all do
the same: read `sys.stdout`, put something else there, and put the old one back later. In a process
with several jobs that takes everybody's output. While this is in force, the class of the module
`sys` has a property for each stream, which keeps what a job puts there for that job, its tasks
and its threads, and what the foreground puts there for the foreground.

`print` is C code and asks no property: it looks into the module's dictionary. That holds the real
stream as long as nobody has replaced anything, at no cost, and a `_Router` while somebody has. Who
reads `sys.stdout` in Python never gets the router, so that a replacement that writes on to the
stream it replaced does not meet itself again.

Before Python 3.14 `print` holds no reference of its own to the stream: what once stood in the
dictionary must not go away while another thread prints. So routers and real streams are kept.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = ("stdout", "stderr")

#: Stands for a stream that somebody has deleted from `sys`.
_DELETED = object()


class _Router:
    """Stands in the dictionary of `sys` while streams are replaced: asks whose text it is."""

    def __init__(self, streams: _Streams, name: str) -> None:
        self.__dict__.update(_streams=streams, _name=name)

    def _target(self) -> Any:
        target = self._streams.of_caller(self._name)
        if target is _DELETED:
            raise RuntimeError(f"lost sys.{self._name}")
        return target

    def write(self, text: str) -> Any:
        """Write to the stream of whoever calls; to None as `print` does, nowhere."""
        target = self._target()
        return None if target is None else target.write(text)

    def flush(self) -> None:
        """Flush the stream of whoever calls."""
        if (target := self._target()) is not None:
            target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


class _Streams:
    """The streams of everybody. Any thread may call; the main thread loads and unloads."""

    def __init__(self) -> None:
        #: The real streams, while this is in force.
        self.real: dict[str, Any] = {}
        #: What was put in their place: by the foreground (None), and by each job.
        self.replaced: dict[Any, dict[str, Any]] = {}
        self._lock = threading.RLock()  # a signal handler may print, or replace
        self._routers = {name: _Router(self, name) for name in NAMES}
        self._once_real: list[Any] = []  # kept: see above

    def of_caller(self, name: str) -> Any:
        """Return the stream of whoever calls, or `_DELETED`."""
        own = self.replaced.get(current.get())
        return self.real[name] if own is None else own.get(name, self.real[name])

    def put(self, name: str, stream: Any) -> None:
        """Replace the caller's stream, or, with a real one, be done with that."""
        owner = current.get()
        with self._lock:
            if not any(stream is each for each in self._once_real):
                self.replaced.setdefault(owner, {})[name] = stream
                sys.__dict__[name] = self._routers[name]
            elif (own := self.replaced.get(owner)) is not None:
                own.pop(name, None)
                self._settle(owner)

    def forget(self, owner: Any) -> None:
        """A job has ended: what it left in `sys` was its own."""
        with self._lock:
            if self.replaced.pop(owner, None) is not None:
                self._settle(owner)

    def make_real(self, name: str, stream: Any) -> None:
        """Let *stream* be the real one from now on, for everybody."""
        with self._lock:
            if not any(stream is each for each in self._once_real):
                self._once_real.append(stream)
            self.real[name] = stream
            if sys.__dict__.get(name) is not self._routers[name]:
                sys.__dict__[name] = stream

    def _settle(self, owner: Any) -> None:
        """Take the routers out of the way as far as nobody needs them any more."""
        if not self.replaced.get(owner, True):
            self.replaced.pop(owner, None)
        for name in NAMES:
            if not any(name in own for own in list(self.replaced.values())):
                sys.__dict__[name] = self.real[name]


_streams = _Streams()


def _stream_of_sys(name: str) -> property:
    def read(_sys: ModuleType) -> Any:
        stream = _streams.of_caller(name)
        if stream is _DELETED:
            raise AttributeError(f"module 'sys' has no attribute {name!r}")
        return stream

    def write(_sys: ModuleType, stream: Any) -> None:
        _streams.put(name, stream)

    def delete(_sys: ModuleType) -> None:
        _streams.put(name, _DELETED)

    return property(read, write, delete)


class _Sys(ModuleType):
    """The class of the module `sys` while each job has streams of its own."""

    stdout = _stream_of_sys("stdout")
    stderr = _stream_of_sys("stderr")


def give_each_job_its_own(real: Mapping[str, Any]) -> Callable[[], None]:
    """Begin, with the *real* streams by name in place of those that are there.

    Returns what ends it, and puts back the streams that were there, or what the foreground has put
    in their place since. Main thread only.
    """
    before = {name: sys.__dict__.get(name) for name in NAMES}
    for name in NAMES:
        _streams.make_real(name, real.get(name, before[name]))
        _streams._once_real.append(before[name])
    sys.__class__ = _Sys

    def end() -> None:
        if type(sys) is _Sys:
            sys.__class__ = ModuleType  # type: ignore[assignment]
        foreground = _streams.replaced.get(None, {})
        _streams.replaced.clear()
        for name in NAMES:
            kept = foreground.get(name, before[name])
            if kept is _DELETED:
                sys.__dict__.pop(name, None)
            else:
                sys.__dict__[name] = kept

    return end


def real(name: str) -> Any:
    """Return the stream that is nobody's replacement; to be called while each job has its own."""
    return _streams.real[name]


def make_real(name: str, stream: Any) -> None:
    """Let *stream* be the real one for everybody from now on."""
    _streams.make_real(name, stream)


def forget(job: Any) -> None:
    """A job has ended: what it left in `sys` goes with it."""
    if _streams.replaced:
        _streams.forget(job)
