"""How many kept jobs there are: the little that each loading looks at, and quickly."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container

from ipy_bgtasks.platforms import host_name, state_directory
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.kept import files

#: With more jobs than this only their number is told: each takes a tenth of a millisecond.
_FEW = 6


def summary_line(known: Container[int | JobId]) -> str:
    """Return how many kept jobs there are beside the *known*, in a line; empty if there are none.

    Nothing is done about those that nobody watches any more; they count as failed.
    """
    root = state_directory()
    if root is None or not files.is_ours(root):
        return ""
    found = [
        os.path.join(root, name)
        for name in os.listdir(root)
        if (number := JobId.read(name)) is not None and number not in known
    ]
    if len(found) > _FEW:
        return f"{len(found)} kept jobs (%jobs)"
    states = Counter(state for path in sorted(found) if (state := state_of(path)))
    total = states.total()
    if not total:
        return ""
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{total} kept job{'s' * (total != 1)}: {listed} (%jobs)"


def state_of(path: str) -> str:
    """Return a job's state in a word; empty if this is no job of this machine."""
    if not files.is_ours(path):
        return ""
    state = files.read_json(path, files.STATE)
    told = state or files.read_json(path, files.JOB)
    if told is None or told.get("host") != host_name():
        return ""
    if state is not None and "ended" in state:
        return str(state["state"])
    if files.is_held(path, files.LAUNCHING if state is None else files.WATCHED):
        return "queued" if state is None else "running"
    return "cancelled" if state is None else "failed"
