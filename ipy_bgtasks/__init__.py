"""Shell job control for Python, inside the IPython or Jupyter session you already have.

``%load_ext ipy_bgtasks`` adds the magics `%bg`, `%fg`, `%jobs` and `%cancel`. The names below
are for use from Python; each is imported when it is first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.background import call_in_background as call_in_background
    from ipy_bgtasks.background import run_in_foreground as run_in_foreground
    from ipy_bgtasks.background import schedule_coroutine as schedule_coroutine
    from ipy_bgtasks.errors import BadInput as BadInput
    from ipy_bgtasks.errors import BgTasksError as BgTasksError
    from ipy_bgtasks.errors import CannotAsk as CannotAsk
    from ipy_bgtasks.errors import CannotSend as CannotSend
    from ipy_bgtasks.errors import Detached as Detached
    from ipy_bgtasks.errors import NoSuchJob as NoSuchJob
    from ipy_bgtasks.errors import ProcessDied as ProcessDied
    from ipy_bgtasks.errors import WouldBlock as WouldBlock
    from ipy_bgtasks.ipython.programs import Jobs as Jobs
    from ipy_bgtasks.ipython.programs import jobs as jobs
    from ipy_bgtasks.ipython.programs import launch as launch
    from ipy_bgtasks.job.handle import Job as Job
    from ipy_bgtasks.job.handle import current_job as current_job
    from ipy_bgtasks.job.handle import on_cancel as on_cancel
    from ipy_bgtasks.job.outcome import JobState as JobState
    from ipy_bgtasks.job.progress import Progress as Progress
    from ipy_bgtasks.job.progress import track as track

#: Each public name, and the module that defines it.
_HOMES = {
    "BadInput": "errors",
    "BgTasksError": "errors",
    "CannotAsk": "errors",
    "CannotSend": "errors",
    "Detached": "errors",
    "Job": "job.handle",
    "JobState": "job.outcome",
    "Jobs": "ipython.programs",
    "NoSuchJob": "errors",
    "ProcessDied": "errors",
    "Progress": "job.progress",
    "WouldBlock": "errors",
    "call_in_background": "background",
    "current_job": "job.handle",
    "jobs": "ipython.programs",
    "launch": "ipython.programs",
    "on_cancel": "job.handle",
    "run_in_foreground": "background",
    "schedule_coroutine": "background",
    "track": "job.progress",
}

__all__ = [*_HOMES, "load_ipython_extension", "unload_ipython_extension"]


if not TYPE_CHECKING:  # which would take any name for one of ours

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
    """Load into *shell*; called by `%load_ext ipy_bgtasks`."""
    from ipy_bgtasks.ipython.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Undo what loading did; called by `%unload_ext ipy_bgtasks`."""
    from ipy_bgtasks.ipython.extension import unload

    unload(shell)
