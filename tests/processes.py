"""What tests of child processes share. Linux only, like those tests."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: A command with children and grandchildren, in a group of its own and deaf to signals too, that
#: prints their numbers.
TREE = (
    "sleep 1000 & echo $!; "
    "sh -c 'sleep 1001 & echo $!; sleep 1002 & echo $!; wait' & echo $!; "
    "sh -c 'trap \"\" TERM HUP INT; echo $$; sleep 1003 & echo $!; wait; wait' & "
    "bash -mc 'sleep 1004 & echo $! $$; wait' & "
    "echo $$; wait"
)
TREE_SIZE = 9


def still_alive(pids: Iterable[int], timeout: float) -> list[int]:
    """Wait until all have ended; returns those that have not after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    return [pid for pid in pids if not _ends(pid, deadline)]


def _ends(pid: int, deadline: float) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0])
    finally:
        os.close(fd)


def is_gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody waited for does not run."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def children_of(parent: int) -> dict[int, str]:
    """The state of each child; Z is one that nobody waited for."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent:
                found[int(stat.parent.name)] = state
    return found


def zombies_of(parent: int) -> list[int]:
    """The children that have ended and that nobody waited for."""
    return [pid for pid, state in children_of(parent).items() if state == "Z"]


def pids_in(text: str) -> list[int]:
    """The numbers that a tree printed."""
    return [int(word) for word in text.split() if word.isdigit()]
