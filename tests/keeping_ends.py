"""What tests that keep jobs do at their end."""

from __future__ import annotations

from functools import partial
from typing import Any

from patience import until

from ipy_bgtasks.runners.kept.directory import directories


def end_kept_jobs(patience: float = 20.0) -> None:
    """Stop all kept jobs, and wait for that: a watcher may be about to start its process."""

    def has_ended(place: Any) -> bool:
        if place.job() is None or "ended" in place.settle():
            return True
        place.request("force")
        return False

    for place in directories():
        until(partial(has_ended, place), patience)
