"""The processes that are started here, in sessions of their own, and how those are ended.

This file is also the program that ends them when their launcher is gone. As that, ``python -I -S
sessions.py PARENT PREFIX``, it reads the sessions from standard input: ``+4711`` for one to watch,
``-4711`` for one whose first process has ended, which is discarded once it is empty. When the input
ends or the process PARENT is gone, whatever still runs in them is asked to stop and then killed. A
forked child of the parent may hold the input open, which is why both count.

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
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

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
GRACE = 1.0
#: Seconds after which killing is given up: the process is another user's, or stuck in the kernel.
PATIENCE = 10.0
#: Seconds for which a process launched at the last moment may still appear.
_LINGER = 0.2
#: Seconds between two checks where there is no notification.
_PAUSE = 0.02
_SLOW = 1.0
#: How often at most the processes of a session are listed again that are asked to stop.
_LISTINGS = 10


def python(function: str, *arguments: str) -> list[str]:
    """Return the command that calls a function of `runners`, such as ``child.work``.

    It runs in such a Python, with the path of this one and the options that change how code runs:
    -O, -W and -X.
    """
    module, _, name = function.rpartition(".")
    end = len(arguments) + 1
    code = (
        f"import sys; given, sys.path = sys.argv[1:{end}], sys.argv[{end}:]; "
        f"from ipy_bgtasks.runners.{module} import {name}; {name}(*given)"
    )
    options = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    options += [f"-W{each}" for each in sys.warnoptions]
    for name, value in getattr(sys, "_xoptions", {}).items():
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, *options, "-c", code, *arguments, *path]


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, out of reach of the foreground's interrupts.

    Unless *options*, which are those of `Popen`, say otherwise, it has no input and no output.
    Raises `OSError`. While JupyterLab's debugger is on, pydevd starts each Python program under
    itself, where it waits for a client; ours are started past that.
    """
    import subprocess  # not needed by the program that this file is

    monkey = sys.modules.get("_pydev_bundle.pydev_monkey")
    with getattr(monkey, "skip_subprocess_arg_patch", nullcontext)():
        return subprocess.Popen(
            command,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
                "start_new_session": True,
                "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                **options,
            },
        )


def pids() -> list[int]:
    """Return the numbers of all processes; empty without ``/proc``."""
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


def token_of(pid: int) -> str:
    """Return the token of a process; empty if it has none, or is another user's."""
    with suppress(OSError), open(f"{_PROC}/{pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name == TOKEN.encode():
                return os.fsdecode(value)
    return ""


def sessions_with(token: str) -> set[int]:
    """Return the sessions of the processes that have a token; empty without ``/proc``."""
    found = set()
    for pid in pids() if token else ():
        if token_of(pid) == token:
            with suppress(OSError):
                found.add(_os.getsid(pid))
    return found


def sacrifice(pid: int) -> None:
    """Have Linux kill a process, or what it starts, before others when memory is short."""
    with suppress(OSError), open(f"{_PROC}/{pid}/oom_score_adj", "w") as file:
        file.write("1000")


class Sessions:
    """The live processes of some sessions; `supervisor.Tree` has the same methods.

    Without ``/proc`` only the process group of each session's first process is reached, which is
    all of it unless a command made groups of its own.
    """

    def __init__(self, *ids: int) -> None:
        self.ids = set(ids)

    def terminate(self) -> bool:
        """Ask all processes to stop, even suspended ones; return whether there were any."""
        asked: set[int] = set()
        found, known = self.send(signal.SIGTERM, asked), 0
        # Again for what they had just forked; none forks while a signal waits for it. Those that
        # take no notice might go on for ever.
        for _ in range(_LISTINGS):
            if len(asked) == known:
                break
            known = len(asked)
            self.send(signal.SIGTERM, asked)
        if found:
            self.send(_signal.SIGCONT)
        return found

    def kill(self) -> bool:
        """Kill all processes; return whether there were any."""
        return self.send(_signal.SIGKILL)

    def is_left(self) -> bool:
        """Return whether any process still runs."""
        return self.send(0)

    def pause(self) -> None:
        """Stop all processes where they are."""
        self.send(_signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        self.send(_signal.SIGCONT)

    def send(self, number: int, but: set[int] | None = None) -> bool:
        """Send a signal to all processes; return whether there were any.

        Those that are in *but* get none, and the others are added to it.
        """
        if not self.ids:
            return False
        if processes := pids():
            found = {pid for pid in processes if _is_alive_in(pid, self.ids)}
            for pid in found - (but or set()):
                with suppress(OSError):  # it ended meanwhile, or became another user's
                    os.kill(pid, number)
            if but is not None:
                but |= found
            return bool(found)
        reached = False
        for group in self.ids:
            with suppress(OSError):
                _os.killpg(group, number)
                reached = True
        return reached


def _is_alive_in(pid: int, sessions: set[int]) -> bool:
    try:
        if _os.getsid(pid) not in sessions:
            return False
        with open(f"{_PROC}/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the state follows it.
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


class Ending:
    """The end of a group of processes, asked to stop now and killed *grace* seconds later."""

    def __init__(self, group: Any, grace: float) -> None:
        #: When what is left is killed, a monotonic time.
        self.kill_at = time.monotonic() + grace
        self._group = group
        if grace > 0:
            group.terminate()

    def hurry(self) -> None:
        """Have it killed now."""
        self.kill_at = min(self.kill_at, time.monotonic())

    def step(self) -> bool:
        """Kill what is left if it is time; return whether anything was left."""
        late = time.monotonic() >= self.kill_at
        return bool(self._group.kill() if late else self._group.is_left())

    def wait(self, find: Callable[[], set[int]], linger: float = 0.0) -> None:
        """Wait until nothing is left, of what *find* returns either: more sessions to be ended.

        Waits for *linger* seconds at least, and gives up what cannot be killed after a while.
        """
        began = time.monotonic()
        while True:
            for session in find() - self._group.ids:
                self._group.ids.add(session)
                Sessions(session).terminate()
            left, now = self.step(), time.monotonic()
            if (not left and now >= began + linger) or now >= self.kill_at + PATIENCE:
                return
            time.sleep(_PAUSE)


class _Tokens:
    """The numbers of the tokens that were registered, which come nearly in order."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._all_below = 0
        self._above: set[int] = set()

    def register(self, token: str) -> None:
        self._above.add(int(token.removeprefix(self._prefix)))
        while self._all_below in self._above:
            self._above.discard(self._all_below)
            self._all_below += 1

    def strays(self) -> set[int]:
        """Return the sessions whose first process has a token that was not registered."""
        found = set()
        for pid in pids():
            with suppress(OSError, ValueError):
                if _os.getsid(pid) == pid and (token := token_of(pid)).startswith(self._prefix):
                    number = int(token.removeprefix(self._prefix))
                    if number >= self._all_below and number not in self._above:
                        found.add(pid)
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
            if self._ended and (now := time.monotonic()) - self._looked >= _SLOW:
                self._looked = now  # at once, since their numbers may be reused
                self._ended = {session for session in self._ended if Sessions(session).is_left()}
        self._read()
        group = Sessions(*self._live, *self._ended)
        Ending(group, GRACE).wait(self._tokens.strays, _LINGER)

    def _read(self) -> bool:
        """Read what was written; return False at the end of the input."""
        try:
            while data := os.read(self._input, 65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._update(line.decode())
        except BlockingIOError:
            return True
        return False

    def _update(self, line: str) -> None:
        number, _, token = line[1:].partition(" ")
        session = int(number)
        if token:
            self._tokens.register(token)
        self._live.discard(session)
        self._ended.discard(session)
        (self._live if line[0] == "+" else self._ended).add(session)


def main() -> None:
    """Run the program, which ignores the signals sent to its parent's processes."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _Watch(int(sys.argv[1]), sys.argv[2]).run()


if __name__ == "__main__":
    main()
