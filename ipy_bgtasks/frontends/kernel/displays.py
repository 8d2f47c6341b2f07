"""Routing of displays: a job's go to the job, all others where they went before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.context import caller, cells_away, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record


class JobDisplays(Protocol):
    """A receiver of what jobs display."""

    def display(self, job: Record, data: Any, metadata: Any = None, **options: Any) -> None:
        """Take a MIME bundle that a job displayed, or updated."""

    def overhear_display(self, job: Record, data: Any, metadata: Any) -> None:
        """Record what a cell that was sent away displays; it is shown like that of any cell."""

    def clear(self, job: Record, wait: bool) -> None:
        """Clear the job's output, at its request."""


def route_displays(publisher: Any, displays: JobDisplays) -> Callable[[], None]:
    """Let *publisher*, the shell's own, pass to *displays* what jobs display.

    Returns what undoes it.
    """
    publish, clear_output = publisher.publish, publisher.clear_output

    def publish_routed(data: Any, metadata: Any = None, *args: Any, **kwargs: Any) -> None:
        job = current.get()
        if job is None:
            if cells_away and (away := caller()) is not None:
                displays.overhear_display(away, data, metadata)
            publish(data, metadata, *args, **kwargs)
        else:
            displays.display(job, data, metadata, **kwargs)

    def clear_routed(wait: bool = False) -> None:
        job = current.get()
        if job is None:
            clear_output(wait)
        else:
            displays.clear(job, wait)

    return _replace(publisher, publish=publish_routed, clear_output=clear_routed)


def _replace(publisher: Any, **functions: Callable[..., None]) -> Callable[[], None]:
    for name, function in functions.items():
        setattr(publisher, name, function)

    def undo() -> None:
        for name, function in functions.items():
            if vars(publisher).get(name) is function:
                delattr(publisher, name)

    return undo
