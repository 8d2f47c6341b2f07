"""How child processes are reached and ended, with all that they started.

A session finds them all; where there are none, a `Tree` does. And a small process ends them when
this one is gone, however it ended.

No code within a process can guarantee that: after a SIGKILL none of it runs. The supervisor is
a plain interpreter that runs `sessions` as a program, in a session of its own, so that signals
to this process's group, or from its terminal, do not reach it.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import has_sessions, kill_signal, signals_blocked
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen


class Supervisor:
    """The handle of the supervisor process, which is started with the first session.

    Any thread may call any method. In a forked child all of them do nothing: the processes are
    the parent's. Where there are no sessions (Windows), or no interpreter to run, nothing is
    supervised.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        # Unique to this process, even among processes that had or will have its number.
        self._prefix = f"{self._owner}-{time.time_ns():x}-"
        self._tokens = itertools.count()
        self._sessions: set[int] = set()
        self._process: Popen[bytes] | None = None
        self._closed: list[Popen[bytes]] = []
        self._broken = not (has_sessions() and sys.executable)

    def launch(self, start: Callable[[dict[str, str]], Popen[bytes]]) -> Popen[bytes]:
        """Start a process that leads a session, all of which ends when this process is gone.

        *start* is given what to add to its environment. Raises what it raises.
        """
        if os.getpid() == self._owner:
            with self._lock:
                self._running()  # so that the process is supervised from the first moment
        # It identifies the process if this one is gone before the supervisor was told of it.
        token = f"{self._prefix}{next(self._tokens)}"
        process = start({sessions.TOKEN: token})
        sessions.sacrifice(process.pid)
        self.watch(process.pid, token)
        return process

    def watch(self, session: int, token: str = "") -> None:
        """End what runs in *session* when this process is gone; *token* is its token."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._sessions.add(session)
            self._send(f"+{session} {token}\n")

    def unwatch(self, *ended: int) -> None:
        """Have what is left of sessions watched, whose first processes have ended."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            known = self._sessions.intersection(ended)
            self._sessions -= known
            if known:
                self._send("".join(f"-{session}\n" for session in known))

    def close(self, wait: float = 0.0) -> bool:
        """End what runs in all sessions, now; returns whether a supervisor does it.

        Waits up to *wait* seconds until the supervisor has done so and ended. A process launched
        later has a new one.
        """
        if os.getpid() != self._owner:
            return False
        with self._lock:
            process, self._process = self._process, None
            self._sessions.clear()
            if process is not None and process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
                self._closed.append(process)
            told = bool(self._closed)
            self._reap(wait)
        return told

    # Inside, with the lock held

    def _send(self, line: str) -> None:
        for is_new in (False, True):
            if (process := self._running()) is None or process.stdin is None:
                return
            if is_new:
                line = "".join(f"+{session}\n" for session in self._sessions)
            try:
                process.stdin.write(line.encode())
                return
            except OSError:  # it was killed: another one takes its place, once
                self._process = None
                with suppress(OSError):
                    process.communicate()
        self._broken = True

    def _running(self) -> Popen[bytes] | None:
        if self._process is None and not self._broken:
            import subprocess

            self._reap(0)
            arguments = [sessions.__file__, str(self._owner), self._prefix]
            command = [sys.executable, "-I", "-S", *arguments]
            pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "bufsize": 0}
            # It inherits the mask, and so blocks these signals from the start.
            with signals_blocked(sessions.IGNORED):
                try:
                    self._process = sessions.start(command, cwd="/", **pipe)
                except OSError:
                    self._broken = True
        return self._process

    def _reap(self, wait: float) -> None:
        import subprocess

        for process in self._closed:
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait)
        self._closed = [process for process in self._closed if process.returncode is None]


def refuse_without_psutil() -> None:
    """Raise `BadInput` if process trees cannot be found here."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise BadInput(
            "here a process can only be stopped with psutil: pip install ipy_bgtasks[process], "
            "or use a thread (%bg -t)"
        ) from None


def all_of(pid: int) -> Sessions | Tree:
    """Return what reaches the process, which leads a session where there are any."""
    return Sessions(pid) if has_sessions() else Tree(pid)


class Tree:
    """A process and all that it started; the same methods as `Sessions`. Not thread-safe.

    psutil knows the parent of each process. A child whose parent has ended can no longer be traced,
    so each process that was found is remembered.
    """

    def __init__(self, pid: int) -> None:
        import psutil

        self._gone = (psutil.NoSuchProcess, psutil.AccessDenied)
        self._known: dict[int, Any] = {}
        with suppress(*self._gone):
            self._known[pid] = psutil.Process(pid)

    def terminate(self) -> bool:
        """Ask all processes to stop; return whether there were any."""
        return self._each(lambda process: process.terminate())

    def kill(self) -> bool:
        """Kill all processes; return whether there were any."""
        return self._each(lambda process: process.send_signal(kill_signal()))

    def is_left(self) -> bool:
        """Return whether any process still runs, and note those that were started since."""
        return self._each(lambda _process: None)

    def pause(self) -> None:
        """Stop all processes where they are."""
        self._each(lambda process: process.suspend())

    def go_on(self) -> None:
        """Let them go on."""
        self._each(lambda process: process.resume())

    def _each(self, do: Callable[[Any], object]) -> bool:
        self._look()
        for process in self._known.values():
            with suppress(*self._gone):
                do(process)
        return bool(self._known)

    def _look(self) -> None:
        import psutil

        for process in list(self._known.values()):
            with suppress(*self._gone):
                for child in process.children(recursive=True):
                    self._known.setdefault(child.pid, child)
        for pid, process in list(self._known.items()):
            with suppress(*self._gone):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    continue
            del self._known[pid]
