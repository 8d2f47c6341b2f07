"""The processes of a session, and the program that ends them when their launcher is gone.

Run as a program, ``python -I -S sessions.py PARENT``, it reads from standard input which
sessions there are: ``+4711`` for one to watch, ``-4711`` for one whose first process has ended,
which is forgotten once it is empty. When the input ends or the process PARENT is gone, whatever
still runs in them is asked to stop and then killed. A forked child of the parent may hold the
input open, which is why both count.

Nothing but the standard library is imported here, and little of it, so that it starts fast.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress

_PROC = "/proc"
#: Seconds between being asked to stop and being killed, once the launcher is gone.
_GRACE = 1.0
#: Seconds after which killing is given up: a process of another user, or stuck in the system.
_PATIENCE = 10.0
#: Seconds between two looks where nobody tells.
_PAUSE = 0.02
_SLOW = 1.0


def send(sessions: Collection[int], number: int) -> bool:
    """Send a signal to every live process of *sessions*; returns whether there was any.

    The signal 0 only asks. Without ``/proc`` it is the process group of each session's first
    process that is reached, which is all of it unless a command made groups of its own.
    """
    if not sessions:
        return False
    try:
        names = os.listdir(_PROC)
    except OSError:
        names = []
    if not any(name.isdigit() for name in names):
        return _send_to_groups(sessions, number)
    found = False
    for name in names:
        if name.isdigit() and _is_alive_in(int(name), sessions):
            found = True
            _send(int(name), number)
    return found


def terminate(sessions: Collection[int]) -> bool:
    """Ask all processes of *sessions* to stop, the suspended ones too; whether there was any."""
    found = send(sessions, signal.SIGTERM)
    if found:
        send(sessions, signal.SIGCONT)
    return found


def _is_alive_in(pid: int, sessions: Collection[int]) -> bool:
    try:
        if os.getsid(pid) not in sessions:
            return False
        with open(f"{_PROC}/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the state follows it.
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _send(pid: int, number: int) -> None:
    with suppress(OSError):  # it ended meanwhile, or became another user's
        os.kill(pid, number)


def _send_to_groups(sessions: Collection[int], number: int) -> bool:
    found = False
    for group in sessions:
        with suppress(OSError):
            os.killpg(group, number)
            found = True
    return found


class _Watch:
    """What the program knows: the sessions, and whether somebody still needs them."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._input = sys.stdin.fileno()
        self._rest = b""
        self._live: set[int] = set()
        self._ended: set[int] = set()
        self._looked = time.monotonic()
        os.set_blocking(self._input, False)
        try:
            self._process: int | None = os.pidfd_open(parent)
        except (AttributeError, OSError):
            self._process = None

    def run(self) -> None:
        """Watch until the parent is gone, then end what is left."""
        watched = [fd for fd in (self._input, self._process) if fd is not None]
        while os.getppid() == self._parent:
            pause = _SLOW if self._ended or self._process is None else None
            select.select(watched, [], [], pause)
            if not self._read():
                break
            self._forget_empty()
        self._read()
        _end({*self._live, *self._ended})

    def _read(self) -> bool:
        """Take in what was written; False at the end of the input."""
        try:
            while data := os.read(self._input, 65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._note(line)
        except BlockingIOError:
            return True
        return False

    def _note(self, line: bytes) -> None:
        session = int(line[1:])
        self._live.discard(session)
        self._ended.discard(session)
        (self._live if line[:1] == b"+" else self._ended).add(session)

    def _forget_empty(self) -> None:
        """Numbers of empty sessions may be given to others: none is kept longer than a moment."""
        now = time.monotonic()
        if not self._ended or now - self._looked < _SLOW:
            return
        self._looked = now
        self._ended = {session for session in self._ended if send({session}, 0)}


def _end(sessions: set[int]) -> None:
    began = time.monotonic()
    left = terminate(sessions)
    while left and time.monotonic() - began < _PATIENCE:
        time.sleep(_PAUSE)
        left = send(sessions, 0 if time.monotonic() - began < _GRACE else signal.SIGKILL)


def main() -> None:
    """The program. It outlives whatever is sent to its parent's processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _Watch(int(sys.argv[1])).run()


if __name__ == "__main__":
    main()
