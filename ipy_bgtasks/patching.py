"""Replaces what belongs to other packages for a while, and puts it back.

An `Installation` is the only thing that does so. Code that installs something is given one and
returns nothing: what it replaced is put back in reverse order, so that loading and unloading
mirror each other. Whatever somebody else has put in the place of ours since stays.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, MutableMapping
    from importlib.machinery import ModuleSpec


_MISSING: Any = object()
#: What a step raises that does not find what it needs.
_LACKING = (AttributeError, ImportError, KeyError, NotImplementedError, OSError, TypeError)


class Installation:
    """What was replaced, and how to put it back. Not thread-safe."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        #: The words of the steps that were skipped.
        self.missing: list[str] = []

    def undo(self) -> None:
        """Put everything back, in reverse order, even if something raises on the way."""
        self._undo.close()

    def add(self, undo: Callable[[], object]) -> None:
        """Call *undo* at the end, before what was added earlier."""
        self._undo.callback(undo)

    def enter(self, context: AbstractContextManager[Any]) -> None:
        """Enter *context* now, and leave it at the end."""
        self._undo.enter_context(context)

    def attribute(self, owner: Any, name: str, value: object) -> None:
        """Set an attribute of a module, a class or an instance."""
        before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

        def restore() -> None:
            if vars(owner).get(name) is not value:
                return
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.add(restore)

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Call *around* in place of a method of one instance.

        Its first argument is the original, looked up at each call: what others set on the class
        meanwhile counts. Code that has wrapped ours may still call it after the end, when it only
        calls the original. Raises `AttributeError` if there is no such method.
        """
        before = getattr(owner, name)
        own = name in vars(owner)
        active = [True]

        @functools.wraps(before)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            original = before
            if not own:
                with suppress(AttributeError):
                    original = static(type(owner).__mro__, name)
                    # What was set there may be no method, but None, say.
                    original = original.__get__(owner, type(owner))
            return around(original, *args, **kwargs) if active else original(*args, **kwargs)

        self.attribute(owner, name, wrapper)
        self.add(active.clear)

    def entry(self, entries: MutableMapping[Any, Any], key: Any, value: object) -> None:
        """Set an entry of a dictionary."""
        before = entries.get(key, _MISSING)
        entries[key] = value

        def restore() -> None:
            if entries.get(key) is not value:
                return
            if before is _MISSING:
                del entries[key]
            else:
                entries[key] = before

        self.add(restore)

    def append(self, items: list[Any], item: Any) -> None:
        """Append to a list."""
        items.append(item)
        self.add(lambda: items.remove(item) if item in items else None)

    def event(self, events: Any, name: str, callback: Callable[..., object]) -> None:
        """Register a callback for one of IPython's events."""
        events.register(name, callback)
        self.add(lambda: events.unregister(name, callback))

    def subclass(self, owner: Any, members: dict[str, Any], metaclass: Any = None) -> type:
        """Give one object a subclass of its class with these *members*; returns that class.

        It stays if somebody has subclassed ours in the same way since.
        """
        cls = type(owner)
        members = {"__module__": cls.__module__, "__doc__": cls.__doc__, **members}
        metaclass = metaclass or type(cls)  # that of traitlets, say
        ours: type = metaclass(cls.__name__, (cls,), members)
        owner.__class__ = ours

        def restore() -> None:
            if type(owner) is ours:
                owner.__class__ = cls

        self.add(restore)
        return ours

    def when_imported(self, name: str, act: Callable[[Any], object]) -> None:
        """Call *act* with the module *name* once it is imported.

        If it is imported already, that is at once; else right after its code has run, in the
        thread that imports it and before other code sees it. What *act* raises fails that import.
        """
        if name in sys.modules:
            act(sys.modules[name])
            return
        finder = _Finder(name, act)
        sys.meta_path.insert(0, finder)
        self.add(finder.end)

    def step(self, word: str, install: Callable[..., object], *args: Any) -> None:
        """Call ``install(installation, *args)``, a step that can be left out.

        If what it needs is missing or has changed, what it has done by then is undone, and *word*
        is kept in `missing`.
        """
        inner = Installation()
        try:
            install(inner, *args)
        except _LACKING:
            inner.undo()
            self.missing.append(word)
        except BaseException:
            inner.undo()
            raise
        else:
            self.add(inner.undo)

    def step_on_loop(
        self,
        word: str,
        loop: asyncio.AbstractEventLoop,
        install: Callable[..., object],
        *args: Any,
    ) -> None:
        """Do a step that belongs to the main thread, from whichever thread loads and unloads."""
        inner = Installation()

        def call(function: Callable[..., None], *args: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                function(*args)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(function, *args)

        call(inner.step, word, install, *args)
        self.missing += inner.missing
        self.add(lambda: call(inner.undo))


def static(classes: Iterable[type], name: str) -> Any:
    """Return what the first of *classes* that has an attribute holds under its name.

    Raises `AttributeError` if none has.
    """
    for cls in classes:
        if name in vars(cls):
            return vars(cls)[name]
    raise AttributeError(name)


class _Finder:
    """A module finder, first in line, that finds one module by way of the others."""

    def __init__(self, name: str, act: Callable[[Any], object]) -> None:
        self._name = name
        self._act = act

    def end(self) -> None:
        """Stop waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module by way of the other finders, and hook its execution."""
        if name != self._name:
            return None
        self.end()
        spec = importlib.util.find_spec(name)
        execute = getattr(spec and spec.loader, "exec_module", None)
        if spec is None or execute is None:
            return spec

        def execute_and_act(module: Any) -> None:
            execute(module)
            self._act(module)

        # The loader belongs to this one module.
        spec.loader.exec_module = execute_and_act  # type: ignore[union-attr, method-assign]
        return spec
