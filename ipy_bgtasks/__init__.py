"""Shell job control for Python, inside the IPython or Jupyter session you already have.

``%load_ext ipy_bgtasks`` adds the magics `%bg`, `%fg`, `%jobs` and `%cancel`. The names below
are for use from Python; each is imported when it is first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.background import (
        call_in_background,
        run_in_foreground,
        schedule_coroutine,
    )
    from ipy_bgtasks.errors import BadInput, BgTasksError, Detached, WouldBlock
    from ipy_bgtasks.job import Job, current_job
    from ipy_bgtasks.job.outcome import JobState
    from ipy_bgtasks.job.tracking import track
    from ipy_bgtasks.views.collection import jobs

__all__ = [
    "BadInput",
    "BgTasksError",
    "Detached",
    "Job",
    "JobState",
    "WouldBlock",
    "call_in_background",
    "current_job",
    "jobs",
    "load_ipython_extension",
    "run_in_foreground",
    "schedule_coroutine",
    "track",
    "unload_ipython_extension",
]

_HOMES = {
    "BadInput": "errors",
    "BgTasksError": "errors",
    "Detached": "errors",
    "Job": "job",
    "JobState": "job.outcome",
    "WouldBlock": "errors",
    "call_in_background": "background",
    "current_job": "job",
    "jobs": "views.collection",
    "run_in_foreground": "background",
    "schedule_coroutine": "background",
    "track": "job.tracking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext ipy_bgtasks` calls."""
    from ipy_bgtasks.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext ipy_bgtasks` calls."""
    from ipy_bgtasks.extension import unload

    unload(shell)
