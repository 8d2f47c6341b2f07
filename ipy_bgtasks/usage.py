"""What the processes of jobs use, and why the system has killed one.

Linux tells it in `/proc`, where one look finds the processes of all sessions; elsewhere psutil
does, if it is there. Nothing is measured while nobody looks. Nearly nothing is imported here, since
the watchers of kept jobs import it, too.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection

    from ipy_bgtasks.job.record import Record

# A type checker for Windows does not know what this needs.
_os: Any = os

#: Seconds between two looks at what limited jobs use.
_LOOK = 1.0


class Usage(NamedTuple):
    """What some processes use together."""

    cpu: float = 0.0  # seconds of processor time so far, of those that live
    memory: int = 0  # bytes of physical memory
    processes: int = 0

    def __str__(self) -> str:
        many = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{size_text(self.memory)}{many}"

    def plus(self, cpu: float, memory: int) -> Usage:
        """Return it with one more process."""
        return Usage(self.cpu + cpu, self.memory + memory, self.processes + 1)


def usage_of(leaders: Collection[int]) -> dict[int, Usage]:
    """Return what the sessions use that these processes lead; without those that are gone.

    Empty where nobody tells.
    """
    found: dict[int, Usage] = {}
    if not leaders:
        return found
    if not os.path.exists("/proc/self/stat"):
        return _usage_of_trees(leaders)
    tick, page = _os.sysconf("SC_CLK_TCK"), _os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the state follows it.
            fields = file.read().rpartition(b")")[2].split()
            leader = int(fields[3])
            if leader in leaders:
                cpu = (int(fields[11]) + int(fields[12])) / tick
                found[leader] = found.get(leader, Usage()).plus(cpu, int(fields[21]) * page)
    return found


def _usage_of_trees(leaders: Collection[int]) -> dict[int, Usage]:
    try:
        import psutil
    except ImportError:
        return {}
    found: dict[int, Usage] = {}
    for leader in leaders:
        with suppress(psutil.Error):
            first = psutil.Process(leader)
            for process in (first, *first.children(recursive=True)):
                times, memory = process.cpu_times(), process.memory_info().rss
                cpu = times.user + times.system
                found[leader] = found.get(leader, Usage()).plus(cpu, memory)
    return found


def size_text(count: float) -> str:
    """Return a number of bytes as ``3.1 GB`` or ``512 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def oom_kills() -> int:
    """Return how many processes Linux has killed for lack of memory since it started; -1: unknown.

    Those of other containers count as well.
    """
    with suppress(OSError, ValueError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return -1


def reaped(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child; return the most memory it ever had, in bytes, or 0 where that is unknown.

    What the system tells begins with the memory that the parent had when it forked, so that only
    what is more than this process ever had is the child's own.
    """
    with suppress(AttributeError, ChildProcessError):
        _, status, used = _os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        import resource as module

        resource: Any = module
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 if sys.platform == "darwin" else 1024
        return int(used.ru_maxrss) * unit if used.ru_maxrss > own else 0
    process.wait()
    return 0


def why_killed(oom_before: int, peak: int) -> str:
    """Return what is known of a process that got a SIGKILL which we did not send.

    *oom_before* is what `oom_kills` told when it started, *peak* what `reaped` told.
    """
    now = oom_kills()
    if now >= 0 and now == oom_before:
        why = "not for lack of memory"
    else:
        why = "out of memory, perhaps" if now < 0 else "probably out of memory"
        with suppress(AttributeError, ValueError, OSError):
            machine = _os.sysconf("SC_PAGE_SIZE") * _os.sysconf("SC_PHYS_PAGES")
            why += f", machine {size_text(machine)}"
    return f"{why}: peak {size_text(peak)}" if peak else why


def too_much(number: object, used: int, limit: int) -> MemoryError:
    """Return what a job fails with that used more memory than it may."""
    return MemoryError(f"job {number} used {size_text(used)} of {size_text(limit)}")


class MemoryLimits:
    """Stops jobs whose processes use more memory than they may; looks once a second.

    A limit of the system's (RLIMIT_AS) would count what is reserved and never used, of which numpy
    reserves a lot. *later* calls a function after some seconds. Any thread may call.
    """

    def __init__(self, later: Callable[..., object]) -> None:
        self._later = later
        self._limits: dict[Record, int] = {}

    def watch(self, job: Record, limit: int) -> None:
        """Have the job fail with `MemoryError` as soon as it is seen to use more bytes."""
        first = not self._limits
        self._limits[job] = limit
        job.add_done_callback(lambda job: self._limits.pop(job, None))
        if first:
            self._later(_LOOK, self._look)

    def _look(self) -> None:
        limits = {job.pid: (job, limit) for job, limit in list(self._limits.items()) if job.pid}
        for pid, used in usage_of([pid for pid in limits if pid is not None]).items():
            job, limit = limits[pid]
            if used.memory > limit:
                job.stop_for(too_much(job.number, used.memory, limit))
        if self._limits:
            self._later(_LOOK, self._look)
