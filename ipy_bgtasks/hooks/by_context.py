"""Attributes that have one value for the foreground, and their own for each job that sets them.

Code that captures output does it by setting an attribute that all code shares, `sys.stdout` or
`shell.display_pub`, and restoring it later. Here the attribute is a property
of the owner's class: code that sets it sets it for itself. The child tasks and threads of a job see
what the job has set, as long as it is set, until they set it themselves.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller

if TYPE_CHECKING:
    from collections.abc import Callable

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
        #: What cells that were sent to the background have taken along.
        self._taken: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._own: ContextVar[_Own | None] = ContextVar(f"ipy_bgtasks.{name}", default=None)

    def find(self) -> Any:
        """Return the caller's value; `DELETED` if it has none."""
        job = caller()
        if job is None:
            value = self.foreground
        elif job in self._taken:
            value = self._taken[job]
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
        if job in self._taken:
            self._taken[job] = UNSET if value is self.base else value
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
        taken = any(value is not UNSET for value in list(self._taken.values()))
        return taken or self.foreground is not UNSET or bool(self._jobs_own)

    def take_along(self, job: Any) -> None:
        """Give the foreground's value to *job*, which was the foreground until now."""
        self._taken[job], self.foreground = self.foreground, UNSET

    def delete(self) -> None:
        """Delete it for the caller; raises `AttributeError` if it was deleted before."""
        self.get()
        self.put(DELETED)

    def as_property(self) -> property:
        """Return the property to put in the owner's class."""
        return property(self._get, lambda _, value: self.put(value), lambda _: self.delete())

    def _get(self, _owner: Any) -> Any:
        value = self.find()
        return self.get() if value is DELETED else value


def give_class(owner: Any, attributes: list[ByContext], **members: Any) -> Callable[[], bool]:
    """Make *attributes* properties of *owner* alone, by a subclass of its class.

    *members* are what else the subclass needs.

    Returns what undoes it, which returns False and does nothing if ours has been subclassed in
    the same way since.
    """
    cls: Any = type(owner)
    members |= {each.name: each.as_property() for each in attributes}
    members |= {"__module__": cls.__module__, "__doc__": cls.__doc__}
    metaclass: Any = type(cls)
    ours = metaclass(cls.__name__, (cls,), members)
    owner.__class__ = ours

    def undo() -> bool:
        if type(owner) is not ours:
            return False
        owner.__class__ = cls
        return True

    return undo


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
