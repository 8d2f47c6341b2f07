"""Who replaces `sys.stdout` replaces it for itself.

`contextlib.redirect_stdout`, `%%capture`, rich's `Progress`, click's and pytest's runners all do
the same: read `sys.stdout`, put something else there, and put the old one back later. In a process
with several jobs that takes everybody's output. While this is in force, `stdout`, `stderr` and
`displayhook` are properties of the module `sys`, with a value for each context: `by_context`.

`print` is C code and asks no property: it looks into the module's dictionary. That holds the real
stream as long as nobody has replaced anything, at no cost, and a stand-in while somebody has. Who
reads `sys.stdout` in Python never gets the stand-in, so that a replacement that writes on to the
stream it replaced does not meet itself again.

Before Python 3.14 `print` holds no reference of its own to the stream: what once stood in the
dictionary must not go away while another thread prints. So stand-ins and real streams are kept.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.by_context import DELETED, UNSET, ByContext, give_class

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = ("stdout", "stderr")


class _StandIn:
    """Stands in the dictionary of `sys` while a stream is replaced: asks whose text it is."""

    def __init__(self, name: str, find: Callable[[], Any]) -> None:
        self.__dict__.update(_name=name, _find=find)

    def _target(self) -> Any:
        target = self._find()
        if target is DELETED:
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

    def __call__(self, value: Any) -> Any:
        """Show the value of an expression, as the display hook of whoever calls does."""
        return self._target()(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


class _Entry(ByContext):
    """One attribute of `sys`, and what stands for it in the module's dictionary."""

    def __init__(self, name: str) -> None:
        super().__init__(name, None)
        self.stand_in = _StandIn(name, self.find)
        #: What was there before, and what each loading put over it, the last of which is real.
        self.real: list[tuple[object, Any]] = []
        self._once_real: list[Any] = []
        self._lock = threading.RLock()  # a signal handler may print, or replace

    def put(self, value: Any) -> None:
        """Replace the caller's, or, with a real one, be done with that."""
        with self._lock:
            if value is self.stand_in or any(value is each for each in self._once_real):
                value = self.base
            super().put(value)
            self.settle()

    def make_real(self, value: Any) -> None:
        """Let it be what all have who have replaced none."""
        with self._lock:
            if not any(value is each for each in self._once_real):
                self._once_real.append(value)
            self.base = value
            self.settle()

    def take_along(self, job: Any) -> None:
        """Do so, and settle."""
        with self._lock:
            super().take_along(job)
            self.settle()

    def settle(self) -> None:
        """Have the stand-in in its place while anybody needs it, else the real one."""
        if self.real:
            vars(sys)[self.name] = self.stand_in if self.replaced else self.base

    def begin(self, key: object, value: Any) -> None:
        """Let *value* be real until `end`."""
        with self._lock:
            if not self.real:
                before = vars(sys).get(self.name)
                self.foreground = UNSET
                self.make_real(self.base if before is self.stand_in else before)
                self.real.append((None, self.base))
            self.real.append((key, value))
            self.make_real(value)

    def end(self, key: object) -> bool:
        """Let what was real before be it again; returns whether nobody is left."""
        with self._lock:
            self.real = [each for each in self.real if each[0] is not key]
            self.make_real(self.real[-1][1])
            return len(self.real) == 1

    def put_back(self) -> None:
        """Leave in `sys` what was there, or what the foreground has put in its place since."""
        with self._lock:
            self.real.clear()
            if self.foreground is DELETED:
                vars(sys).pop(self.name, None)
            else:
                vars(sys)[self.name] = self.base if self.foreground is UNSET else self.foreground


#: One each for the process, as `sys` is.
_ENTRIES = {name: _Entry(name) for name in (*NAMES, "displayhook")}
_CLASS_BACK: list[Callable[[], bool]] = []


def give_each_job_its_own(real: Mapping[str, Any]) -> Callable[[], None]:
    """Begin, with the *real* streams by name in place of those that are there.

    Returns what ends it, and puts back the streams that were there, or what the foreground has put
    in their place since. Main thread only.
    """
    key = object()
    for name, entry in _ENTRIES.items():
        entry.begin(key, real.get(name, vars(sys).get(name) if not entry.real else entry.base))
    if not _CLASS_BACK:
        _CLASS_BACK.append(give_class(sys, list(_ENTRIES.values()), __reduce__=_as_import))

    def end() -> None:
        alone = [entry.end(key) for entry in _ENTRIES.values()]
        # Under somebody else's class ours stays, and does nothing.
        if all(alone) and _CLASS_BACK[0]():
            _CLASS_BACK.clear()
            for entry in _ENTRIES.values():
                entry.put_back()

    return end


def _as_import(module: Any) -> tuple[Callable[[str], Any], tuple[str]]:
    """Pickle it by name: cloudpickle, which does so with modules, knows them by their very class.

    Functions that use `sys` are sent to processes.
    """
    return importlib.import_module, (module.__name__,)


def real(name: str) -> Any:
    """Return the stream that is nobody's replacement; to be called while each job has its own."""
    return _ENTRIES[name].base


def take_along(job: Any) -> None:
    """Let what the foreground has replaced be *job*'s, which was the foreground until now."""
    for entry in _ENTRIES.values():
        entry.take_along(job)


def make_real(name: str, stream: Any) -> None:
    """Let *stream* be the real one for everybody from now on."""
    _ENTRIES[name].make_real(stream)
