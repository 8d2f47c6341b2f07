"""A redirection holds for who made it.

`contextlib.redirect_stdout` and IPython's `%%capture` put another stream into `sys.stdout`, for
the whole process: a cell that captures its output would swallow what jobs print meanwhile, and a
job that redirects would swallow the cell's. While the extension is loaded the replaced stream
still gets what everybody else writes.
"""

from __future__ import annotations

import contextlib
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

#: Where an instance keeps what covers its redirections.
_COVERS = "_ipy_bgtasks_covers"


class Redirected:
    """Stands in `sys` for the target of a redirection.

    Its owner writes there, all others to the stream that was there before. It can be used
    again: before Python 3.14 `print` holds no reference of its own to ``sys.stdout``, and if
    that went away with the redirection while another thread prints, the process would crash.
    """

    def __init__(self) -> None:
        self.__dict__.update(_target=None, _before=None, _owner=None)

    def lead(self, target: Any, before: Any, owner: Record | None) -> None:
        """Begin: *owner* writes to *target*, all others to *before*."""
        self.__dict__.update(_target=target, _before=before, _owner=owner)
        self.write = target.write

    def end(self) -> None:
        """Who still holds it writes to the stream that was there before, too."""
        self.__dict__.update(_target=self.__dict__["_before"], write=self.__dict__["_before"].write)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "write":
            setattr(self.__dict__["_target"], name, value)
        elif hasattr(value, "redirected"):
            self.__dict__["write"] = value
        else:
            # IPython puts its own function over `write` to keep a cell's output: the owner's.
            self.__dict__["write"] = self._writer(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mine(), name)

    def __iter__(self) -> Any:
        return iter(self._mine())

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream that the caller writes to."""
        self._mine().flush()

    def _mine(self) -> Any:
        state = self.__dict__
        return state["_target"] if current.get() is state["_owner"] else state["_before"]

    def _writer(self, write_target: Callable[[str], Any]) -> Callable[[str], Any]:
        before, owner = self.__dict__["_before"], self.__dict__["_owner"]

        def write(text: str) -> Any:
            return write_target(text) if current.get() is owner else before.write(text)

        write.redirected = True  # type: ignore[attr-defined]
        return write


class _Redirections:
    """Puts a `Redirected` over each redirection that an instance of some class makes."""

    def __init__(self) -> None:
        self._free: list[Redirected] = []

    def cover(self, stream: str, target: Any, before: Any, owner: Record | None) -> Redirected:
        """Put one over *target*, which stands in ``sys`` as *stream* now."""
        try:
            redirected = self._free.pop()
        except IndexError:
            redirected = Redirected()
        redirected.lead(target, before, owner)
        setattr(sys, stream, redirected)
        return redirected

    def uncover(self, redirected: Redirected) -> None:
        """It stands in ``sys`` no more."""
        redirected.end()
        self._free.append(redirected)

    def watch(
        self, cls: Any, enter_covered: Callable[[Any, Callable[[Any], Any], list[Any]], Any]
    ) -> Callable[[], None]:
        """Have *enter_covered* called for ``cls.__enter__``; returns what ends that.

        It is given the instance, the method, and a list for what it has put in place.
        """
        enter, leave = cls.__enter__, cls.__exit__

        @wraps(enter)
        def enter_for_owner(self_: Any) -> Any:
            covers: list[Redirected] = []
            entered = enter_covered(self_, enter, covers)
            vars(self_).setdefault(_COVERS, []).append(covers)
            return entered

        @wraps(leave)
        def leave_and_free(self_: Any, *error: Any) -> Any:
            try:
                return leave(self_, *error)
            finally:
                for redirected in vars(self_).get(_COVERS, [[]]).pop():
                    self.uncover(redirected)

        ours = {"__enter__": enter_for_owner, "__exit__": leave_and_free}
        before = {name: vars(cls).get(name) for name in ours}
        for name, method in ours.items():
            setattr(cls, name, method)

        def undo() -> None:
            for name, method in ours.items():
                if vars(cls).get(name) is not method:
                    continue  # somebody has covered it since
                if before[name] is None:
                    delattr(cls, name)  # it was inherited
                else:
                    setattr(cls, name, before[name])

        return undo


def keep_redirections_apart(
    route_display: Callable[[Any, Record | None], object],
) -> Callable[[], None]:
    """Begin; returns what ends it.

    *route_display* is called with a publisher that captures what is displayed, and its owner.
    """
    from IPython.utils.capture import capture_output

    redirections = _Redirections()

    def enter_redirect(self: Any, enter: Callable[[Any], Any], covers: list[Any]) -> Any:
        before = getattr(sys, self._stream)
        target = enter(self)
        if target is not None and target is not before:
            covers.append(redirections.cover(self._stream, target, before, current.get()))
        return target

    def enter_capture(self: Any, enter: Callable[[Any], Any], covers: list[Any]) -> Any:
        owner = current.get()
        captured = enter(self)
        for name in ("stdout", "stderr"):
            if getattr(self, name):
                before = getattr(self, f"sys_{name}")
                covers.append(redirections.cover(name, getattr(sys, name), before, owner))
        if self.display and self.shell is not None:
            route_display(self.shell.display_pub, owner)
        return captured

    undo = [
        redirections.watch(contextlib.redirect_stdout, enter_redirect),
        redirections.watch(contextlib.redirect_stderr, enter_redirect),
        redirections.watch(capture_output, enter_capture),
    ]

    def undo_all() -> None:
        while undo:
            undo.pop()()

    return undo_all
