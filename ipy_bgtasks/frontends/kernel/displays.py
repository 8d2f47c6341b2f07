"""Routing of what is displayed: a job's goes to the job, all else where it went."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record


class JobDisplays(Protocol):
    """Takes what jobs display."""

    def display(self, job: Record, data: Any, metadata: Any = None, **options: Any) -> None:
        """A job displayed a MIME bundle, or updated one."""

    def overhear_display(self, job: Record, data: Any, metadata: Any) -> None:
        """A cell that was sent away displayed something, which is shown as that of any cell."""

    def clear(self, job: Record, wait: bool) -> None:
        """A job cleared its output."""


def route_displays(
    publisher: Any, owner: Record | None, displays: JobDisplays, shells_own: Any
) -> Callable[[], None]:
    """Let *publisher* have what its owner displays (None: the foreground), and nothing else.

    What jobs display goes to *displays*. Under `%%capture` the publisher is one that captures;
    what is neither its owner's nor a job's then goes to the shell's own. Returns what undoes it.
    """
    publish, clear_output = publisher.publish, publisher.clear_output

    def publish_routed(data: Any, metadata: Any = None, *args: Any, **kwargs: Any) -> None:
        job = current.get()
        if job is owner:
            if owner is None and cells_away and (away := caller()) is not None:
                displays.overhear_display(away, data, metadata)
            publish(data, metadata, *args, **kwargs)
        elif job is None:
            shells_own.publish(data, metadata, *args, **kwargs)
        else:
            displays.display(job, data, metadata, **kwargs)

    def clear_routed(wait: bool = False) -> None:
        job = current.get()
        if job is owner:
            clear_output(wait)
        elif job is None:
            shells_own.clear_output(wait)
        else:
            displays.clear(job, wait)

    return _replace(publisher, publish=publish_routed, clear_output=clear_routed)


def route_captured(
    route: Callable[[Any, Record | None], object],
) -> Callable[[], None]:
    """Have *route* called with each publisher that captures displays, and its owner.

    `%%capture` puts one in the shell's place for everybody. Returns what undoes it.
    """
    from IPython.utils.capture import capture_output

    enter = capture_output.__enter__

    @wraps(enter)
    def enter_routed(self: Any) -> Any:
        captured = enter(self)
        if self.display and self.shell is not None:
            route(self.shell.display_pub, current.get())
        return captured

    return Attribute(capture_output, "__enter__", enter_routed).restore


def _replace(publisher: Any, **functions: Callable[..., None]) -> Callable[[], None]:
    for name, function in functions.items():
        setattr(publisher, name, function)

    def undo() -> None:
        for name, function in functions.items():
            if vars(publisher).get(name) is function:
                delattr(publisher, name)

    return undo
