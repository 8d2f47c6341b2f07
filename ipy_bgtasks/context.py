"""Which job the running code belongs to, and attributes with a value for each job.

The job is a context variable, so that child tasks inherit it; threads that a job starts are given
it.

Code that captures output sets an attribute that everybody shares, `sys.stdout` or
`shell.display_pub`, and restores it later: `contextlib.redirect_stdout`, `%%capture`, rich's
`Progress`, click's and pytest's runners all do. In a process with several jobs that captures the
output of all of them. With `ByContext` such an attribute is a property of the owner's class: code
that sets it sets it for itself. The child tasks and threads of a job see what the job has set,
as long as it is set, until they set it themselves.

While `give_each_job_its_own` is in force, `sys.stdout`, `stderr` and `displayhook` are such
attributes. That takes a class of its own for the module, since a module by itself has no
properties, and what writes `sys.stdout = ...` could not be noticed.

`print` is C code and bypasses properties: it looks into the module's dictionary. That holds the
real stream as long as nothing is replaced, at no cost, and a stand-in otherwise. Python code that
reads `sys.stdout` never gets the stand-in, so that a replacement that writes on to the stream it
replaced does not recurse.

Before Python 3.14 `print` holds no reference of its own to the stream: what was once in the
dictionary must not be freed while another thread prints. So stand-ins and real streams are kept.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextvars import Context, ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ipy_bgtasks.patching import Installation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The `ipy_bgtasks.job.record.Record` of the job whose code runs; None in the foreground.
current: ContextVar[Any] = ContextVar("ipy_bgtasks.current_job", default=None)

#: What the tasks share that a cell, or another coroutine of the foreground, has started.
cell: ContextVar[object] = ContextVar("ipy_bgtasks.cell", default=None)

#: The jobs of backgrounded cells, by the thread in which they run. Such a cell began in a context
#: of the foreground, in which `current` can no longer be set.
cells_away: dict[int, Any] = {}


def caller() -> Any:
    """Return the record of the job the calling code belongs to; a backgrounded cell counts."""
    job = current.get()
    if job is None and cells_away:
        return cells_away.get(threading.get_ident())
    return job


def job_of(task: asyncio.Task[Any]) -> Any:
    """Return the record of the job that *task* belongs to, as its own or as one it started.

    None if it belongs to none. Any thread may call.
    """
    return _context_of(task).get(current)


def runs_subtask(task: asyncio.Task[Any]) -> bool:
    """Return whether its loop runs a step of a task that the cell of *task* has started.

    Not if that is of a job. Any thread may call.
    """
    now = asyncio.current_task(task.get_loop())
    if now is None or now is task:
        return False
    context = _context_of(now)
    mark = context.get(cell)
    return mark is not None and mark is _context_of(task).get(cell) and not context.get(current)


def _context_of(task: asyncio.Task[Any]) -> Context:
    if (get_context := getattr(task, "get_context", None)) is not None:  # from Python 3.12 on
        context: Context = get_context()
        return context
    return next((r for r in gc.get_referents(task) if isinstance(r, Context)), Context())


#: No value of its own: the enclosing one holds.
UNSET: Any = object()
#: It was deleted: there is no such attribute.
DELETED: Any = object()


class _Own:
    """What one task or thread of a job has set; *outer* is what it inherited."""

    __slots__ = ("__weakref__", "job", "outer", "setter", "value")

    def __init__(self, job: Any, outer: _Own | None) -> None:
        self.job = job
        self.outer = outer
        self.setter = weakref.ref(_task_or_thread())
        self.value = UNSET


class ByContext:
    """One such attribute. Any thread may call.

    *base* is the value for those that have set none.
    """

    def __init__(self, name: str, base: Any) -> None:
        self.name = name
        self.base = base
        self.foreground: Any = UNSET
        self._jobs_own: weakref.WeakSet[_Own] = weakref.WeakSet()
        #: The values of cells that were sent to the background, as they were then.
        self._inherited: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._own: ContextVar[_Own | None] = ContextVar(f"ipy_bgtasks.{name}", default=None)

    def find(self) -> Any:
        """Return the caller's value; `DELETED` if it has none."""
        job = caller()
        if job is None:
            value = self.foreground
        elif job in self._inherited:
            value = self._inherited[job]
        else:
            value = _value(self._own.get(), job)
        return self.base if value is UNSET else value

    def get(self) -> Any:
        """Return the caller's value; raises `AttributeError` if it was deleted."""
        value = self.find()
        if value is DELETED:
            raise AttributeError(f"no attribute {self.name!r}: it was deleted")
        return value

    def put(self, value: Any) -> None:
        """Set the caller's value; one equal to the enclosing value is not stored."""
        job = caller()
        if job is None:
            self.foreground = UNSET if value is self.base else value
            return
        if job in self._inherited:
            self._inherited[job] = UNSET if value is self.base else value
            return
        own = self._own.get()
        if own is not None and own.job is not job:
            own = None  # inherited by a job that another job launched
        if own is None or own.setter() is not _task_or_thread():
            own = _Own(job, own)
            self._own.set(own)
        around = UNSET if own.outer is None else _value(own.outer, job)
        around = self.base if around is UNSET else around
        own.value = UNSET if value is around else value
        (self._jobs_own.discard if own.value is UNSET else self._jobs_own.add)(own)

    @property
    def replaced(self) -> bool:
        """Whether any context has a value of its own at the moment."""
        inherited = any(value is not UNSET for value in list(self._inherited.values()))
        return inherited or self.foreground is not UNSET or bool(self._jobs_own)

    def inherit(self, job: Any) -> None:
        """Give the foreground's value to *job*, which was the foreground until now."""
        self._inherited[job], self.foreground = self.foreground, UNSET

    def delete(self) -> None:
        """Delete it for the caller; raises `AttributeError` if it was deleted before."""
        self.get()
        self.put(DELETED)

    def as_property(self) -> property:
        """Return the property to put in the owner's class."""
        return property(
            lambda _: self.get(), lambda _, value: self.put(value), lambda _: self.delete()
        )


def _value(own: _Own | None, job: Any) -> Any:
    while own is not None and own.job is job:
        if own.value is not UNSET:
            return own.value
        own = own.outer
    return UNSET


def _task_or_thread() -> Any:
    if asyncio._get_running_loop() is not None and (task := asyncio.current_task()) is not None:
        return task
    return threading.current_thread()


NAMES = ("stdout", "stderr")


class _StandIn:
    """Stand-in in the dictionary of `sys` while a stream is replaced; finds the caller's stream."""

    def __init__(self, name: str, find: Callable[[], Any]) -> None:
        self.__dict__.update(_name=name, _find=find)

    def _target(self) -> Any:
        target = self._find()
        if target is DELETED:
            raise RuntimeError(f"lost sys.{self._name}")
        return target

    def write(self, text: str) -> Any:
        """Write to the caller's stream; if that is None, nowhere, as `print` does."""
        target = self._target()
        return None if target is None else target.write(text)

    def flush(self) -> None:
        """Flush the caller's stream."""
        if (target := self._target()) is not None:
            target.flush()

    def fileno(self) -> int:
        """Return the descriptor of the caller's stream; raises what `faulthandler` raises."""
        target = self._target()
        if target is None:
            raise RuntimeError(f"sys.{self._name} is None")
        descriptor: int = target.fileno()
        return descriptor

    def __call__(self, value: Any) -> Any:
        """Show the value of an expression, as the caller's display hook does."""
        return self._target()(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


class _Entry(ByContext):
    """One attribute of `sys`, and its stand-in in the module's dictionary."""

    def __init__(self, name: str) -> None:
        super().__init__(name, None)
        self.stand_in = _StandIn(name, self.find)
        #: What was there before, and what each loading put over it, the last of which is real.
        self.real: list[tuple[object, Any]] = []
        self._once_real: list[Any] = []
        self._lock = threading.RLock()  # a signal handler may print, or replace

    def put(self, value: Any) -> None:
        """Replace the caller's stream; a real one ends the replacement."""
        with self._lock:
            if value is self.stand_in or any(value is each for each in self._once_real):
                value = self.base
            super().put(value)
            self.settle()

    def make_real(self, value: Any) -> None:
        """Make *value* the stream of all code that has replaced none."""
        with self._lock:
            if not any(value is each for each in self._once_real):
                self._once_real.append(value)
            self.base = value
            self.settle()

    def inherit(self, job: Any) -> None:
        """Give the foreground's value to *job*, and settle."""
        with self._lock:
            super().inherit(job)
            self.settle()

    def settle(self) -> None:
        """Put the stand-in in the dictionary while it is needed, else the real stream."""
        if self.real:
            vars(sys)[self.name] = self.stand_in if self.replaced else self.base

    def begin(self, key: object, value: Any) -> None:
        """Make *value* real until `end`."""
        with self._lock:
            if not self.real:
                before = vars(sys).get(self.name)
                self.foreground = UNSET
                self.make_real(self.base if before is self.stand_in else before)
                self.real.append((None, self.base))
            self.real.append((key, value))
            self.make_real(value)

    def end(self, key: object) -> bool:
        """Restore what was real before; returns whether no loading is left."""
        with self._lock:
            self.real = [each for each in self.real if each[0] is not key]
            self.make_real(self.real[-1][1])
            return len(self.real) == 1

    def put_back(self) -> None:
        """Leave in `sys` the original, or what the foreground has replaced it with since."""
        with self._lock:
            self.real.clear()
            if self.foreground is DELETED:
                vars(sys).pop(self.name, None)
            else:
                vars(sys)[self.name] = self.base if self.foreground is UNSET else self.foreground


class _ModuleClass(type):
    """The class of the class of `sys`, which must be taken for the class of all modules.

    Code names that class by `type(sys)`: for `isinstance(os, type(sys))`, to compare it with
    `type(os)`, to make modules by `type(sys)("name")`, or to derive from it. All that is answered
    as before, and pickling, which looks classes up in dictionaries, finds modules by it.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
        plain = tuple(ModuleType if type(base) is cls else base for base in bases)
        if any(type(base) is cls for base in bases):
            return type(name, plain, members)
        return super().__new__(cls, name, bases, members)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return ModuleType(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, ModuleType)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, ModuleType)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is ModuleType

    def __hash__(cls) -> int:
        return hash(ModuleType)


#: One each for the process, as `sys` is.
_ENTRIES = {name: _Entry(name) for name in (*NAMES, "displayhook")}
_CLASS = Installation()
_CLASSES: list[type] = []


def give_each_job_its_own(changes: Installation, real: Mapping[str, Any]) -> None:
    """Give each job its own streams, with the *real* ones by name in place of the current ones.

    In the end the original streams are there again, or what the foreground has replaced them with
    since. Main thread only.
    """
    key = object()
    for name, entry in _ENTRIES.items():
        entry.begin(key, real.get(name, vars(sys).get(name) if not entry.real else entry.base))
    if not _CLASSES:
        members: dict[str, Any] = {e.name: e.as_property() for e in _ENTRIES.values()}
        if sys.version_info >= (3, 14):
            members["__getattr__"] = _has_none
        _CLASSES.append(_CLASS.subclass(sys, members, _ModuleClass))

    def end() -> None:
        last = [entry.end(key) for entry in _ENTRIES.values()]
        # Beneath another subclass ours stays, and does nothing.
        if all(last) and type(sys) is _CLASSES[0]:
            _CLASS.undo()
            _CLASSES.clear()
            for entry in _ENTRIES.values():
                entry.put_back()

    changes.add(end)


def _has_none(module: Any, name: str) -> NoReturn:
    """Say that there is no such attribute.

    That a class has `__getattr__` keeps Python 3.14 from reading attributes of modules, once it
    has seen some, from their dictionaries, without asking for properties.
    """
    raise AttributeError(
        f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=module
    )


def real(name: str) -> Any:
    """Return the stream that is not a replacement: while no job has its own, the present one."""
    entry = _ENTRIES[name]
    return entry.base if entry.real else getattr(sys, name)


def capturing(name: str) -> Any:
    """Return what the foreground has put in the place of a stream; None if nothing."""
    value = _ENTRIES[name].foreground
    return None if value is UNSET or value is DELETED else value


def make_real(name: str, stream: Any) -> None:
    """Make *stream* the real one for all code from now on."""
    _ENTRIES[name].make_real(stream)


def inherit(job: Any) -> None:
    """Give what the foreground has replaced to *job*, which was the foreground until now."""
    for entry in _ENTRIES.values():
        entry.inherit(job)
