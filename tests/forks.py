"""Processes that start at once: forks of one that has imported what each of them imports first.

A fork is the same program as a started one from its first line on: it runs `python -m MODULE` in
a session of its own, with its own directory, environment and streams, and leaves as Python does.
What it finds imported is a part of what it would import itself. The process that forks has one
thread only, and nothing open.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

#: Variables that a program reads when it is asked for what they say. One that differs in any
#: other from the process that forks has to be started, since that read them when it started.
LATE = {
    "IPYTHONDIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "PYTEST_CURRENT_TEST",
    "XDG_STATE_HOME",
}

AVAILABLE = sys.platform == "linux"

#: Code that leaves in its directory what a program could tell of how it came to be.
FACTS = """
import collections, contextlib, gc, os, pathlib, re, signal, sys, threading, warnings
def targets():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink("/proc/self/fd/" + name)
            if "profile_default" not in target:  # a thread opens and closes the history
                yield re.sub("[0-9]+", "#", target.replace(os.getcwd(), "HERE"))
facts = {
    "modules": sorted(sys.modules),
    "path": sys.path,
    "argv": [sys.argv, sys.orig_argv],
    "flags": [sys.flags, sys.warnoptions],
    "warnings": [str(f) for f in warnings.filters],
    "main": sorted(n for n in vars(sys.modules["__main__"]) if n.startswith("__")),
    "threads": sorted(t.name for t in threading.enumerate()),
    "signals": [signal.getsignal(n) for n in signal.valid_signals()],
    "streams": [sys.__stdin__, sys.__stdout__, sys.__stderr__],
    "lines": [sys.__stdout__.line_buffering, sys.__stderr__.line_buffering],
    "terminal": [os.isatty(n) for n in range(3)],
    "descriptors": collections.Counter(targets()).items(),
    "environment": [pair for pair in os.environ.items() if pair[0] != "PYTEST_CURRENT_TEST"],
    "group": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
    # Python 3.12 begins with some hundred objects frozen, ours with tens of thousands.
    "limits": [gc.get_freeze_count() > 1000, sys.getrecursionlimit()],
}
here = os.getcwd()
text = "\\n".join(f"{name} {value}" for name, values in facts.items() for value in values)
pathlib.Path("facts").write_text(text.replace(here, "HERE"))
"""


class ForkServer:
    """One process that forks; *streams* are of the kind that its forks will have."""

    def __init__(
        self, imports: Sequence[str], environment: dict[str, str], streams: Sequence[int]
    ) -> None:
        self._environment = environment
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Neither a module nor a name that a started program would not have.
            text = f"__import__('pathlib').Path({__file__!r}).read_text()"
            code = f"exec({text} + 'serve({theirs.fileno()})', {{'__name__': 'forks'}})"
            stdin, stdout, stderr = streams
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *imports],
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def can_be(self, environment: dict[str, str]) -> bool:
        """Whether a fork is the same as what starts in that environment."""
        names = (self._environment.keys() | environment.keys()) - LATE
        return all(self._environment.get(n) == environment.get(n) for n in names)

    def fork(
        self,
        module: str,
        *arguments: str,
        env: dict[str, str],
        cwd: str,
        streams: Sequence[int],
        terminal: bool = False,
    ) -> Forked:
        """Return a new process that runs *module* as `python -m` does."""
        order = {"argv": [module, *arguments], "env": env, "cwd": cwd, "terminal": terminal}
        socket.send_fds(self._socket, [json.dumps(order).encode()], streams)
        return Forked(self, int(self._answer()))

    def status_of(self, pid: int) -> int:
        """Return the exit status of a fork that has ended, negative for a signal."""
        self._socket.send(json.dumps({"ended": pid}).encode())
        return int(self._answer())

    def close(self) -> None:
        """End the process that forks."""
        self._socket.close()
        self._process.wait()

    def _answer(self) -> bytes:
        answer = self._socket.recv(100)
        assert answer, "the process that forks has died"
        return answer


def differences(here: Path, there: Path) -> set[str]:
    """Return the facts in which two programs differ that have left them in their directories."""
    one, other = (set((each / "facts").read_text().splitlines()) for each in (here, there))
    return one ^ other


class Forked:
    """A fork, with the face of `subprocess.Popen`."""

    stdin: IO[bytes] | None = None
    stdout = stderr = None

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self.returncode if self._ends(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status."""
        if not self._ends(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ends(self, timeout: float | None) -> bool:
        if self.returncode is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                return False
            os.close(self._pidfd)
            self.returncode = self._server.status_of(self.pid)
        return True


def serve(fd: int) -> None:
    """Fork when told to, until nobody is left who could; each fork goes on as its own program."""
    before = dict(os.environ)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Some modules leave variables for what they import later.
    set_by_imports = {n: v for n, v in os.environ.items() if before.get(n) != v}
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=fd) as control:
        while True:
            order, streams, *_ = socket.recv_fds(control, 1 << 20, 3)
            if not order:
                os._exit(0)
            asked: dict[str, Any] = json.loads(order)
            if "ended" in asked:
                _, status = os.waitpid(asked["ended"], 0)
                control.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose a thread"
            if not os.fork():
                os.setsid()  # before anybody knows of it and signals its group
                control.send(str(os.getpid()).encode())
                break
            for each in streams:
                os.close(each)
    asked["env"] |= set_by_imports
    _become(asked, streams)


def _become(asked: dict[str, Any], streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if asked["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    module, *arguments = asked["argv"]
    sys.argv = ["-m", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    sys.path[0] = asked["cwd"]
    gc.unfreeze()
    runpy._run_module_as_main(module)  # what `-m` itself calls


#: A cell that has the session note when `exit` is executed, in a file in `here`: beside jobs that
#: compute, sending and reading a command takes long.
EXECUTED = """\
_leave = get_ipython().ask_exit
def _ask_exit():
    (here / 'executed').write_text(f"{time.monotonic()} {time.process_time()}"); _leave()
get_ipython().ask_exit = _ask_exit
"""


def stopwatch(running: int, executed: Path | None = None) -> Callable[[], float]:
    """Return what tells the seconds until a child, that ran, has ended.

    They count from now, or from what was noted in `executed`. On the clock, or of the processor: on
    a busy machine those are fewer.
    """
    began, of_others, before = time.monotonic(), cpu_seconds(), cpu_seconds(running)

    def seconds() -> float:
        now, used = time.monotonic(), cpu_seconds()
        if executed is None or not executed.exists():
            return min(now - began, used - before)
        at, own = map(float, executed.read_text().split())
        return min(now - at, used - of_others - own)

    return seconds


def cpu_seconds(running: int | None = None) -> float:
    """Return the CPU time of this process's children: those that have ended, and one that runs.

    Of a process whose threads compute it is the time that passes, on a machine that is idle.
    """
    import psutil

    ended = os.times()
    seconds = ended.children_user + ended.children_system
    if running is not None:
        own = psutil.Process(running).cpu_times()
        seconds += own.user + own.system
    return seconds
