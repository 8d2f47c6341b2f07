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

from ipy_bgtasks.job import current_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job import Job


class Redirected:
    """Stands in `sys` for *target*: its owner writes there, all others to *before*."""

    def __init__(self, target: Any, before: Any, owner: Job | None) -> None:
        self.__dict__.update(_target=target, _before=before, _owner=owner)
        self.write = target.write

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
        return state["_target"] if current_job() is state["_owner"] else state["_before"]

    def _writer(self, write_target: Callable[[str], Any]) -> Callable[[str], Any]:
        before, owner = self.__dict__["_before"], self.__dict__["_owner"]

        def write(text: str) -> Any:
            return write_target(text) if current_job() is owner else before.write(text)

        write.redirected = True  # type: ignore[attr-defined]
        return write


def keep_redirections_apart(
    route_display: Callable[[Any, Job | None], object],
) -> Callable[[], None]:
    """Begin; returns what ends it.

    *route_display* is called with a publisher that captures what is displayed, and its owner.
    """
    from IPython.utils.capture import capture_output

    undo = [
        _cover_redirect(cls) for cls in (contextlib.redirect_stdout, contextlib.redirect_stderr)
    ]
    undo.append(_cover_capture(capture_output, route_display))

    def undo_all() -> None:
        while undo:
            undo.pop()()

    return undo_all


def _cover_redirect(cls: Any) -> Callable[[], None]:
    enter = cls.__enter__

    @wraps(enter)
    def enter_for_owner(self: Any) -> Any:
        before = getattr(sys, self._stream)
        target = enter(self)
        if target is not None and target is not before:
            setattr(sys, self._stream, Redirected(target, before, current_job()))
        return target

    cls.__enter__ = enter_for_owner

    def undo() -> None:
        if vars(cls).get("__enter__") is enter_for_owner:
            del cls.__enter__  # the two inherit it

    return undo


def _cover_capture(
    cls: Any, route_display: Callable[[Any, Job | None], object]
) -> Callable[[], None]:
    enter = cls.__enter__

    @wraps(enter)
    def enter_for_owner(self: Any) -> Any:
        owner = current_job()
        captured = enter(self)
        for name in ("stdout", "stderr"):
            if getattr(self, name):
                before = getattr(self, f"sys_{name}")
                setattr(sys, name, Redirected(getattr(sys, name), before, owner))
        if self.display and self.shell is not None:
            route_display(self.shell.display_pub, owner)
        return captured

    cls.__enter__ = enter_for_owner

    def undo() -> None:
        if cls.__enter__ is enter_for_owner:
            cls.__enter__ = enter

    return undo
