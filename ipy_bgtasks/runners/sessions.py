"""The processes of a session, and the program that ends them when their launcher is gone.

Run as a program, ``python -I -S sessions.py PARENT PREFIX``, it reads the sessions from standard
input: ``+4711`` for one to watch, ``-4711`` for one whose first process has ended, which is
discarded once it is empty. When the input ends or the process PARENT is gone, whatever
still runs in them is asked to stop and then killed. A forked child of the parent may hold the
input open, which is why both count.

The parent may be killed after it launched a process and before it could say so. Therefore each
has a token in its environment, PREFIX and a number, which ``+4711 PREFIX1`` registers: a process
with a token that was not registered is ours, too. What a watched process moved to a session of
its own has a registered token, and is left alone.

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
from typing import Any

#: The environment variable that holds the token.
TOKEN = "IPY_BGTASKS_TOKEN"

#: The signals that the program ignores.
IGNORED = {
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
}

# A type checker for Windows does not know what this program needs; there it does not run.
_os: Any = os
_signal: Any = signal

_PROC = "/proc"
#: Seconds between being asked to stop and being killed, once the launcher is gone.
_GRACE = 1.0
#: Seconds after which killing is given up: the process is another user's, or stuck in the kernel.
PATIENCE = 10.0
#: Seconds for which a process launched at the last moment may still appear.
_LINGER = 0.2
#: Seconds between two checks where there is no notification.
_PAUSE = 0.02
_SLOW = 1.0


def send(sessions: Collection[int], number: int) -> bool:
    """Send a signal to every live process of *sessions*; returns whether there was any.

    The signal 0 only checks. Without ``/proc`` only the process group of each session's first
    process is reached, which is all of it unless a command made groups of its own.
    """
    if not sessions:
        return False
    if not (processes := _processes()):
        return _send_to_groups(sessions, number)
    found = False
    for pid in processes:
        if _is_alive_in(pid, sessions):
            found = True
            _send(pid, number)
    return found


def terminate(sessions: Collection[int]) -> bool:
    """Ask all processes of *sessions* to stop, even suspended ones; returns whether any exist."""
    found = send(sessions, signal.SIGTERM)
    if found:
        send(sessions, _signal.SIGCONT)
    return found


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


class _Tokens:
    """The numbers of the tokens that were registered, which come nearly in order."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._variable = f"{TOKEN}={prefix}".encode()
        self._all_below = 0
        self._above: set[int] = set()

    def hand_in(self, token: bytes) -> None:
        self._above.add(int(token.removeprefix(self._prefix)))
        while self._all_below in self._above:
            self._above.discard(self._all_below)
            self._all_below += 1

    def strays(self) -> set[int]:
        """Return the sessions whose first process has a token that was not registered."""
        found = set()
        for pid in _processes():
            with suppress(OSError, ValueError):
                if _os.getsid(pid) == pid and self._is_missing(pid):
                    found.add(pid)
        return found

    def _is_missing(self, pid: int) -> bool:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        for variable in variables:
            if variable.startswith(self._variable):
                number = int(variable.removeprefix(self._variable))
                return number >= self._all_below and number not in self._above
        return False


def _is_alive_in(pid: int, sessions: Collection[int]) -> bool:
    try:
        if _os.getsid(pid) not in sessions:
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
            _os.killpg(group, number)
            found = True
    return found


class _Watch:
    """The program's state: the sessions, and whether they are still needed."""

    def __init__(self, parent: int, prefix: str) -> None:
        self._parent = parent
        self._tokens = _Tokens(prefix)
        self._input = sys.stdin.fileno()
        self._rest = b""
        self._live: set[int] = set()
        self._ended: set[int] = set()
        self._looked = time.monotonic()
        _os.set_blocking(self._input, False)
        try:
            self._process: int | None = _os.pidfd_open(parent)
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
        self._end()

    def _read(self) -> bool:
        """Read what was written; return False at the end of the input."""
        try:
            while data := os.read(self._input, 65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._note(line)
        except BlockingIOError:
            return True
        return False

    def _note(self, line: bytes) -> None:
        number, _, token = line[1:].partition(b" ")
        session = int(number)
        if token:
            self._tokens.hand_in(token)
        self._live.discard(session)
        self._ended.discard(session)
        (self._live if line[:1] == b"+" else self._ended).add(session)

    def _forget_empty(self) -> None:
        """Discard empty sessions at once, since their numbers may be reused."""
        now = time.monotonic()
        if not self._ended or now - self._looked < _SLOW:
            return
        self._looked = now
        self._ended = {session for session in self._ended if send({session}, 0)}

    def _end(self) -> None:
        began = time.monotonic()
        sessions = {*self._live, *self._ended}
        asked: set[int] = set()
        passed, left = 0.0, True
        while passed < _LINGER or (left and passed < PATIENCE):
            sessions |= self._tokens.strays()
            terminate(sessions - asked)
            asked = set(sessions)
            left = send(sessions, 0 if passed < _GRACE else _signal.SIGKILL)
            time.sleep(_PAUSE)
            passed = time.monotonic() - began


def main() -> None:
    """Run the program, which ignores the signals sent to its parent's processes."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _Watch(int(sys.argv[1]), sys.argv[2]).run()


if __name__ == "__main__":
    main()
