"""The guard of a watcher: a fork of it that ends the job if the watcher is killed.

It shares the watcher's lock, so the job counts as watched until the guard has written its end.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.kept import files, telling

_os: Any = os
_signal: Any = signal

#: Seconds between asking the job to stop and killing it.
_GRACE = 1.0
_PAUSE = 0.02


class Guard:
    """The watcher's handle of its guard."""

    def __init__(self, directory: str, token: str) -> None:
        self._directory = directory
        self._token = token
        self._session: int | None = None
        self._pid: int | None = None
        self._pipe = -1

    def start(self) -> None:
        """Fork the guard; only where there is one thread."""
        ours = os.getpid()
        reads, self._pipe = os.pipe()
        pid = _os.fork()
        if pid:
            os.close(reads)
            self._pid = pid
            return
        status = 1
        try:
            os.close(self._pipe)
            signal.set_wakeup_fd(-1)
            guard(self._directory, self._token, ours, reads, self._session)
            status = 0
        finally:
            os._exit(status)

    def tell(self, session: int) -> None:
        """Tell it the job's session."""
        self._session = session
        with suppress(OSError):
            os.write(self._pipe, f"{session}\n".encode())

    def renew(self) -> None:
        """Fork another one if it was killed."""
        if self._pid is None:
            return
        with suppress(OSError):
            if _os.waitpid(self._pid, _os.WNOHANG)[0] == 0:
                return
        with suppress(OSError):
            os.close(self._pipe)
        self._pid = None
        with suppress(OSError):  # no more processes: the job goes on without
            self.start()

    def dismiss(self) -> None:
        """Let it go: the job has ended, and that is written."""
        if self._pid is None:
            return
        with suppress(OSError):
            os.write(self._pipe, b"done\n")
            os.close(self._pipe)
        with suppress(OSError):
            os.waitpid(self._pid, 0)


def guard(directory: str, token: str, parent: int, pipe: int, session: int | None) -> None:
    """Be the guard: wait until the watcher lets it go, or is gone."""
    rest = b""
    while os.getppid() == parent:
        try:
            data = os.read(pipe, 256)
        except InterruptedError:
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"done":
                return
            session = int(line)
        if not data:
            break
    end_unwatched(directory, token, session, "its watcher was killed")


def end_unwatched(directory: str, token: str, session: int | None, why: str) -> None:
    """End what is left of a job whose watcher is gone, and write that it failed.

    The caller holds the lock `watched`.
    """
    end_what_is_left(token, session)
    state = files.read_json(directory, files.STATE) or {}
    if "ended" in state:
        return
    files.release(directory)
    state.update(state="failed", kind="unwatched", why=why, ended=time.time())
    with suppress(OSError):
        files.replace_json(directory, files.STATE, state)
    telling.tell(directory)


def end_what_is_left(token: str, session: int | None) -> None:
    """Stop and kill the processes that carry the job's token, and those of its session."""
    found = {session} if session is not None and _is_of(session, token) else set()
    asked, began = False, time.monotonic()
    while (passed := time.monotonic() - began) < sessions.PATIENCE:
        carriers = [pid for pid in _pids() if pid != os.getpid() and _carries(pid, token)]
        late = passed >= _GRACE
        left = sessions.send(found, _signal.SIGKILL if late else 0) if found else False
        if not carriers and not left:
            return
        if not asked or late:
            asked = True
            sessions.terminate(found)
            for pid in carriers:
                with suppress(OSError):
                    os.kill(pid, _signal.SIGKILL if late else _signal.SIGTERM)
                    os.kill(pid, _signal.SIGCONT)
        time.sleep(_PAUSE)


def _is_of(session: int, token: str) -> bool:
    """Return whether a session is the job's, and not that of whoever has its number now."""
    if not os.path.isdir("/proc/self"):
        return True
    return any(_session_of(pid) == session and _carries(pid, token) for pid in _pids())


def _session_of(pid: int) -> int:
    try:
        return int(_os.getsid(pid))
    except OSError:
        return -1


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _carries(pid: int, token: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{sessions.TOKEN}={token}".encode() in file.read().split(b"\0")
    except OSError:
        return False
