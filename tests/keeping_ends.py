"""What tests that keep jobs do at their end."""

from __future__ import annotations

import time

from ipy_bgtasks.runners.kept.directory import directories


def end_kept_jobs(patience: float = 20.0) -> None:
    """Stop all kept jobs, and wait for that: a watcher may be about to start its process."""
    deadline = time.monotonic() + patience
    for place in directories():
        while place.job() is not None and "ended" not in place.settle():
            place.request("force")
            assert time.monotonic() < deadline
            time.sleep(0.01)
