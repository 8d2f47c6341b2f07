"""What differs between platforms, checked here and nowhere else.

Linux has all of it. macOS has neither ``/proc`` nor process descriptors; Windows has no
sessions, no fork and few signals; in a browser (Pyodide) there are neither threads nor processes
nor sockets. Every function checks when it is called and documents the fallback.

`runners.sessions` does not use this module: it runs as a program of its own, without this
package.
"""

from __future__ import annotations

import _thread
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from itertools import chain, tee
from operator import call
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

if TYPE_CHECKING:
    import asyncio
    import subprocess
    from collections.abc import Callable, Collection, Iterator
    from types import FrameType


T = TypeVar("T")

# A type checker for one platform does not know the names of the others.
_os: Any = os
_signal: Any = signal
_socket: Any = socket
_faulthandler: Any = faulthandler
_time: Any = time


def has_threads() -> bool:
    """Return whether threads can be started: not in a browser."""
    return sys.platform not in ("emscripten", "wasi")


def has_processes() -> bool:
    """Return whether programs can be started: not in a browser."""
    return sys.platform not in ("emscripten", "wasi")


def has_sessions() -> bool:
    """Return whether a process can have a session, by which all that it starts is found."""
    return all(hasattr(os, name) for name in ("setsid", "getsid", "killpg"))


def passes_descriptors() -> bool:
    """Return whether a program that is started can be given open sockets: not on Windows."""
    return hasattr(os, "fork")


def hold_descriptors(count: int) -> list[int]:
    """Open *count* descriptors, to be closed when others are needed; none if few are left."""
    if not hasattr(os, "sysconf"):  # no such limit here
        return []
    held: list[int] = []
    with suppress(OSError, ValueError):
        while len(held) < count:
            held.append(os.open(os.devnull, os.O_RDONLY))
        if not 0 <= os.sysconf("SC_OPEN_MAX") < held[-1] + 4 * count:
            return held
    for each in held:
        os.close(each)
    return []


def state_directory() -> str | None:
    """Return where kept jobs are, as the platform has it for programs' state; None: nowhere."""
    if not (has_sessions() and has_processes()):
        return None
    if sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Application Support")
    else:
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "ipy_bgtasks", "kept")


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def has_kept_jobs() -> bool:
    """Return whether there may be kept jobs; nothing is imported or read for that."""
    directory = state_directory()
    return directory is not None and os.path.isdir(directory)


def has_task_factories(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether *loop* can make tasks while a task factory is set.

    Pyodide's cannot from Python 3.14 on: it needs a function of asyncio's that is gone.
    """
    return not type(loop).__module__.startswith("pyodide")


def socket_pair() -> tuple[socket.socket, socket.socket] | None:
    """Return two connected sockets, or None where there are no sockets."""
    try:
        return socket.socketpair()
    except (AttributeError, OSError):
        return None


def wake_up_descriptor(descriptor: int) -> int:
    """Have signals written to *descriptor*; return the previous one, or -1. Main thread only.

    Raises `NotImplementedError` where that is not supported.
    """
    set_descriptor = getattr(_signal, "set_wakeup_fd", None)
    if set_descriptor is None:
        raise NotImplementedError
    return int(set_descriptor(descriptor, warn_on_full_buffer=False))


def can_take_signals() -> bool:
    """Return whether C code can act on a signal at once, whatever the main thread does."""
    return hasattr(faulthandler, "register") and hasattr(socket.socket, "recvmsg")


def take_signal(number: int, descriptor: int) -> None:
    """Have the stack written to *descriptor* on the signal, in place of its action.

    In CPython 3.12 before 3.12.8, and in 3.13.0, that may crash (gh-123967) while the thread lets
    go of the interpreter amid clearing a frame. No other way to hear of a signal as early leaves
    all else alone: the descriptor that Python writes to is asyncio's, and a mask goes to children.
    """
    _faulthandler.register(number, descriptor, all_threads=False)


def give_signal_back(number: int) -> None:
    """Undo `take_signal`."""
    _faulthandler.unregister(number)


def ask_for_senders(receiver: socket.socket) -> None:
    """Have messages to *receiver* carry their sender's process, where the system supports it."""
    if (option := getattr(socket, "SO_PASSCRED", None)) is not None:
        receiver.setsockopt(socket.SOL_SOCKET, option, 1)


def receive_extra(receiver: socket.socket, size: int) -> list[bytes]:
    """Wait for a message and return its ancillary data, up to *size* bytes."""
    _, extra, _, _ = receiver.recvmsg(4096, _socket.CMSG_SPACE(size))  # type: ignore[attr-defined, unused-ignore]
    return [data for _, _, data in extra]


def at_fork(
    *,
    before: Callable[[], object],
    after_in_parent: Callable[[], object],
    after_in_child: Callable[[], object],
) -> None:
    """Call these around every fork from now on, on platforms that fork."""
    if (register := getattr(_os, "register_at_fork", None)) is not None:
        register(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


def on_main_thread() -> bool:
    """Return whether the caller runs on the main thread, the one that signals reach."""
    return threading.current_thread() is threading.main_thread()


def interrupt_main_thread(number: signal.Signals = signal.SIGINT) -> None:
    """Send a signal to the main thread; any thread may call."""
    if (kill := getattr(_signal, "pthread_kill", None)) is not None:
        kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def is_pending(number: int) -> bool:
    """Return whether a signal has been sent to this process that no thread has handled yet.

    That includes one whose handler has not returned, during which the system blocks it; on a busy
    machine that takes a while. Only the main thread is looked at, which nearly always gets it, and
    only Linux tells: `signal.sigpending` knows of blocked ones alone.
    """
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        masks = [int(lines[name], 16) for name in ("ShdPnd", "SigPnd", "SigBlk")]
        return any(mask >> (number - 1) & 1 for mask in masks)
    except (OSError, KeyError):
        return False


@contextmanager
def signals_blocked(numbers: Collection[int]) -> Iterator[None]:
    """Block the signals inside the block; a process started there inherits the mask."""
    if (set_mask := getattr(_signal, "pthread_sigmask", None)) is None:
        yield
        return
    before = set_mask(_signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        set_mask(_signal.SIG_SETMASK, before)


def unblock_signals(numbers: Collection[int]) -> None:
    """Unblock the signals for the calling thread."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, numbers)


def kill_signal() -> int:
    """Return the number of the signal that no process survives, or what comes closest."""
    return int(getattr(signal, "SIGKILL", signal.SIGTERM))


def loops_read_pipes() -> bool:
    """Return whether an event loop reads any pipe: on Windows only those that are made for it."""
    return hasattr(os, "fork")


def opened_process(pid: int) -> int | None:
    """Return a descriptor that can be read when *pid* has ended; None where there is none."""
    try:
        return int(_os.pidfd_open(pid))
    except (AttributeError, OSError):
        return None


def environment() -> dict[Any, Any]:
    """Return the environment for a child process: as bytes, of which nothing is decoded, or text.

    `encoded` turns what is to be added into the same.
    """
    variables = _os.environb if os.supports_bytes_environ else os.environ
    return dict(variables)


def encoded(text: str) -> Any:
    """Return a name or value as `environment` has them."""
    return os.fsencode(text) if os.supports_bytes_environ else text


@contextmanager
def uncollected(ask: Callable[[], T]) -> Iterator[Iterator[T]]:
    """Yield an iterator of one step, which calls *ask*; from then on no garbage is collected.

    For `sys._current_frames`, `sys._current_exceptions`, and what has to follow on them in C.
    Before Python 3.12 the collector runs wherever something is allocated, and what it runs may let
    other threads go on. These two hold a lock then (until 3.11.9, gh-106883), for which the
    other threads wait without letting go of the interpreter: for ever.

    From the collector's end to that of *ask* all is C, so no other thread can put it on between.
    """
    if sys.version_info >= (3, 12):
        yield map(call, (ask,))
        return
    enabled = gc.isenabled()
    try:
        yield filter(None, map(call, (gc.disable, ask)))
    finally:
        if enabled:
            gc.enable()


def current_frames() -> dict[int, FrameType]:
    """Return the innermost frame of every thread. Any thread may call this."""
    with uncollected(sys._current_frames) as asked:
        return next(asked)


def frame_of(thread: int) -> FrameType | None:
    """Return the innermost frame of *thread*; None if it runs none. Any thread may call this."""
    return current_frames().get(thread)


def processor_times(threads: Collection[int]) -> dict[int, float]:
    """Return the seconds of processor time of those *threads* that run, where the system tells."""
    clock_of = getattr(_time, "pthread_getcpuclockid", None)
    times: dict[int, float] = {}
    if clock_of is not None:
        # The C library crashes when it is asked for a thread that has ended. So from the look at
        # which there are to the last question all is C code, in which no other thread can end.
        with suppress(OSError), uncollected(sys._current_frames) as frames:
            idents, asked = tee(chain.from_iterable(map(set(threads).intersection, frames)))
            for thread, clock in list(zip(idents, map(clock_of, asked), strict=False)):
                times[thread] = _time.clock_gettime(clock)
    return times


def is_paused(pid: int) -> bool | None:
    """Return whether a process is stopped, as by SIGSTOP; None where that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the state follows it.
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return None


def continue_group() -> bool:
    """Continue our process group; return whether there may be a child of ours in it."""
    _os.killpg(0, _signal.SIGCONT)
    return sys.platform != "linux" or any(_children_in_group())


def stop_group() -> None:
    """Send our process group what the terminal sends it at Ctrl-Z."""
    _os.killpg(0, _signal.SIGTSTP)


def is_raw() -> bool:
    """Return whether a program has taken the terminal, our input, out of line mode or off echo."""
    import termios as module

    termios: Any = module  # a type checker for Windows knows none of its names
    try:
        modes = termios.tcgetattr(0)[3]
    except termios.error:
        return False
    return not (modes & termios.ICANON and modes & termios.ECHO)


def let_control_c_interrupt() -> Callable[[], None]:
    """Have Ctrl-C send SIGINT though a prompt has taken the terminal; returns what undoes that."""
    import termios as module

    termios: Any = module
    try:
        before, modes = termios.tcgetattr(0), termios.tcgetattr(0)
    except termios.error:
        return lambda: None
    modes[3] |= termios.ISIG | termios.NOFLSH  # what was typed before it stays
    for key in (termios.VQUIT, termios.VSUSP):
        modes[6][key] = b"\0"  # stays a character
    termios.tcsetattr(0, termios.TCSANOW, modes)
    now = termios.tcgetattr(0)

    def undo() -> None:
        if termios.tcgetattr(0) == now:  # unless the prompt is over
            termios.tcsetattr(0, termios.TCSANOW, before)

    return undo


def handles_stop_signal() -> bool:
    """Return whether a program that we have started in our process group handles SIGTSTP.

    As those do that put the terminal in order first. False where that cannot be told.
    """
    for pid in _children_in_group():
        try:
            with (
                open(f"/proc/{pid}/cmdline", "rb") as theirs,
                open("/proc/self/cmdline", "rb") as own,
            ):
                if theirs.read() == own.read():
                    continue  # our own fork, with our own handlers
            with open(f"/proc/{pid}/status") as file:
                caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
        except (OSError, StopIteration):
            continue
        if int(caught, 16) >> (_signal.SIGTSTP - 1) & 1:
            return True
    return False


def _children_in_group() -> Iterator[int]:
    """Yield the processes of our group that descend from this one; none without ``/proc``."""
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if _os.getpgid(pid) == _os.getpgrp():
                yield pid


def descendants(pid: int) -> list[int]:
    """Return the processes that *pid* has started and those that these have, as /proc tells."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    return found


def kill_group(group: int) -> None:
    """Kill a process and its group, where there are groups; an OSError if it is gone."""
    kill = getattr(_os, "killpg", os.kill)
    kill(group, kill_signal())


def leave_forked_child(error: BaseException | None) -> NoReturn:
    """End a process that the user's code has forked, as Python would after *error*, or at its end.

    Nothing of the parent's is undone there: it holds copies of all, and none of its threads.
    """
    status, shown = 0, None
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        shown = None if isinstance(error.code, int | None) else str(error.code)
    elif error is not None:
        import traceback  # what watches a kept job needs this module, and no traceback

        status, shown = 1, "".join(traceback.format_exception(error)).rstrip()
    try:
        if shown is not None:
            os.write(2, f"{shown}\n".encode(errors="replace"))
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status & 0xFF)


def exit_status(pid: int) -> int | None:
    """Wait for a child process to end, without reaping it.

    Returns its status as `subprocess` has it, negative for a signal; None if it is unknown.
    """
    try:
        seen = _os.waitid(_os.P_PID, pid, _os.WEXITED | _os.WNOWAIT)
    except (AttributeError, OSError):
        return None
    if seen is None:
        return None
    status = int(seen.si_status)
    return status if seen.si_code == _os.CLD_EXITED else -status


def current_directory() -> str | None:
    """Return the current directory; None if it was removed, where a child may still be."""
    try:
        return os.getcwd()
    except OSError:
        return None


class Usage(NamedTuple):
    """What some processes use together."""

    cpu: float = 0.0  # seconds of processor time so far, of those that live
    memory: int = 0  # bytes of physical memory
    processes: int = 0

    def __str__(self) -> str:
        many = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{size_text(self.memory)}{many}"

    def since(self, before: Usage, seconds: float) -> str:
        """Return it as ``98% CPU, 3.1 GB``, given what it was some seconds before."""
        cpu = f"{max(self.cpu - before.cpu, 0) / seconds:.0%} CPU, " if seconds else ""
        return f"{cpu}{self}"

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
