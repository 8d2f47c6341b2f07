"""Ends the wait that a thread is in, so that an exception sent to it is raised at once.

An exception that another thread sends is raised at the receiver's next step in Python. What
threads do most is wait, in `time.sleep`, `queue.get`, `requests.get`, `subprocess.run`, and there
the next step comes when the wait is over. Python ends such waits for the main thread alone: a
signal interrupts its system calls. For any other thread, this module does what would have ended
the wait anyway, by what is waited for:

1. A `threading.Condition`, and so an `Event`, `Queue`, `Semaphore`, `Barrier` or `Future`: the
   frame of its `wait` holds a lock that the thread is trying to get, and `notify` does nothing
   but release it.
2. `time.sleep`: the C function cannot be ended. While the extension is loaded, `sleep` stands in
   its place, which waits for a lock with a timeout in the threads listed in `stoppable`, and calls
   the original in all others. A name bound before (``from time import sleep``) is the original.
3. A child process: it gets SIGINT with all its descendants, as Ctrl-C in a terminal gives it.
   Which child is seen from a `subprocess.Popen` on the stack or, on Linux, from the system call:
   `wait4`, or a pipe whose other end the child holds.
4. A socket (Linux): `shutdown`. It is never closed, because the number of a descriptor that is
   closed while a thread waits for it may be another file's a moment later.

/proc/self/task/TID/syscall tells which system call a thread is in, with its arguments; a process
may always read that of its own threads. Memory that an argument points to is read through
/proc/self/mem, where an address that is gone meanwhile is an error and not a crash.

**The guarantee: a wait that has ended by itself is not mistaken for one to be ended.** Code that
caught the exception may wait again, in its ``finally:``, for something it needs. Each act is
therefore done in C together with the check that the exception is still pending: the interpreter
switches threads only between two steps of bytecode, so that the receiver cannot raise in between.

Not ended: somebody else's lock, `Thread.join`, `SimpleQueue.get`, and whatever computes. Sending
the thread a signal does not help: Python retries an interrupted call unless a handler raises, and
handlers run on the main thread. What is in the way then is named, a lock and who holds it or a
library, from the frames of threads and the source of their lines; what cannot be told is left out.
"""

from __future__ import annotations

import ast
import linecache
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from inspect import getattr_static
from itertools import compress
from opcode import opmap
from operator import call
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.platforms import descendants, frame_of
from ipy_bgtasks.stacks import expression, is_library, parsed, summary_of

if TYPE_CHECKING:
    from types import FrameType

    from ipy_bgtasks.patching import Installation

    #: What ends a wait, written in C and called without arguments.
    Ending = Callable[[], object]

_sleep: Callable[[Any], None] = time.sleep

#: The threads whose `time.sleep` can be ended, and the lock that each sleeps on.
stoppable: dict[int, Any] = {}
#: The descriptors of sockets that are never shut down: any thread that takes a signal writes there
#: for a moment, and looks as if it waited for somebody to read.
signal_sockets: set[int] = set()


def sleep(seconds: Any, /) -> None:
    """Delay execution for a given number of seconds, which may be a fraction."""
    me = threading.get_ident()
    # What is no plain number, or out of range, gets the original's errors.
    if me not in stoppable or type(seconds) not in (int, float):
        return _sleep(seconds)
    if not 0 < seconds < threading.TIMEOUT_MAX:
        return _sleep(seconds)
    lock = threading.Lock()
    lock.acquire()
    stoppable[me] = lock
    try:
        lock.acquire(timeout=seconds)
    finally:
        stoppable[me] = None
    return None


# It is pickled by reference, and shown, as what it stands for.
sleep.__module__, sleep.__qualname__ = _sleep.__module__, _sleep.__qualname__


def replace_sleep(changes: Installation) -> None:
    """Let `time.sleep` be ended in threads that are `stoppable`."""
    changes.attribute(time, "sleep", sleep)


def is_between_locks(innermost: FrameType) -> bool:
    """Return whether an exception raised in *innermost* would leave a lock askew.

    Where a library takes and gives back its locks in Python, as `Condition`, `logging`, tqdm and
    `multiprocessing` do, an exception at the end of the one or at the start of the other leaves
    the lock locked for good, for everybody; and where Python imports, that of all imports.
    `Condition.wait` releases its lock and only then enters the ``try:`` that takes it again.
    """
    code = innermost.f_code
    if code is _WAIT:
        return "gotit" not in innermost.f_locals
    return is_about_to_give_back(innermost) or (
        is_library(code.co_filename)
        and (
            code.co_name.startswith(_LOCKING)
            or (code.co_filename == _IMPORTING and "lock" in code.co_qualname.lower())
        )
    )


def is_about_to_give_back(innermost: FrameType) -> bool:
    """Return whether *innermost* is at the start of a function that gives back a lock."""
    code = innermost.f_code
    return code.co_name in _GIVING_BACK and _RESUME not in code.co_code[: innermost.f_lasti]


def is_waiting(innermost: FrameType) -> bool:
    """Return whether *innermost* is a wait of Python's own that can be ended wherever it is."""
    return innermost.f_code is sleep.__code__ or (
        innermost.f_code is _WAIT and "gotit" in innermost.f_locals
    )


_WAIT = threading.Condition.wait.__code__
#: How the names of functions begin that take or give back a lock.
_LOCKING = ("__enter__", "__exit__", "acquire", "_acquire", "release", "_release", "_is_owned")
#: The names of those that give one back, in anybody's code.
_GIVING_BACK = ("__exit__", "release", "_release", "_release_save")
#: The instruction at which a function starts: after that it may have done something.
_RESUME = bytes([opmap["RESUME"]])
#: The file of what imports modules; its functions and classes for locks have names that say so.
_IMPORTING = "<frozen importlib._bootstrap>"


class Waits:
    """Ends what one thread waits for, again and again while an exception is pending there.

    *pending* is a list that becomes empty the moment the exception is raised. A process is
    sent each signal once.
    """

    __slots__ = ("_pending", "_signals", "_thread", "acted")

    def __init__(self, thread: int, pending: list[Any]) -> None:
        self._thread = thread
        self._pending = pending
        self._signals: set[tuple[int, int]] = set()
        #: Whether anything was done to end a wait.
        self.acted = False

    def end(self, number: int = signal.SIGINT, *, outside: bool = True) -> None:
        """End the present wait, if it is one that can be; processes get the signal *number*.

        With *outside* off, only what is in Python: sockets and processes are left alone.
        """
        frame = frame_of(self._thread)
        if frame is None or not self._pending:
            return
        pids, sockets = _waited_for(frame, self._thread) if outside else ([], [])
        # These first: `subprocess` may sleep between two looks at a process, and wakes up below.
        for pid in pids:
            if (pid, number) not in self._signals:
                self._signals.add((pid, number))
                self._do(partial(os.kill, pid, number))
        if (ending := _of_python(frame, self._thread)) is not None:
            self._do(ending)
        for descriptor in sockets:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
                self._do(partial(duplicate.shutdown, socket.SHUT_RDWR))

    def _do(self, ending: Ending) -> None:
        # From the check to the call in C. What fails has ended by itself, or is gone.
        with suppress(OSError, RuntimeError):
            done = list(map(call, compress((ending,), self._pending)))
            self.acted = self.acted or bool(done)


def can_be_ended(thread: int, frame: FrameType) -> bool:
    """Return whether *thread*, which is in *frame*, is in a wait that `Waits` ends."""
    return _of_python(frame, thread) is not None or any(_waited_for(frame, thread))


def processes_waited_for(thread: int) -> list[int]:
    """Return the processes that *thread* waits for."""
    frame = frame_of(thread)
    return [] if frame is None else _waited_for(frame, thread)[0]


def send_signal(processes: Iterable[int], number: int) -> None:
    """Send a signal to those of *processes* that still run."""
    for pid in processes:
        with suppress(OSError):
            os.kill(pid, number)


def _of_python(frame: FrameType, thread: int) -> Ending | None:
    """Return what ends a wait for a condition, or a `sleep`."""
    if frame.f_code is sleep.__code__:
        lock = stoppable.get(thread)
    elif frame.f_code is _WAIT and is_waiting(frame):
        lock = frame.f_locals.get("waiter")
    else:
        return None
    return None if lock is None else lock.release


#: Whose frames wait for an event loop's own descriptors, among them the one that wakes it.
_LOOPS = ("asyncio", "uvloop", "trio", "tornado", "zmq")


def _waited_for(frame: FrameType, thread: int) -> tuple[list[int], list[int]]:
    """Return the processes and the sockets that *thread* waits for, these as descriptors."""
    pids: list[Any] = []  # a process that is just being started has None
    for callee in _callees(frame):
        top = str(callee.f_globals.get("__name__")).partition(".")[0]
        if top in _LOOPS:
            return [], []
        if top == "subprocess":
            near = callee.f_locals
            pids += [
                each.pid
                for each in (near.get("self"), near.get("process"))
                if isinstance(each, subprocess.Popen) and getattr(each, "returncode", 0) is None
            ]
    name, arguments = system_call(thread)
    if name in ("wait4", "waitid"):
        pids.append(arguments[name == "waitid"])
    sockets = []
    for descriptor in _descriptors(name, arguments):
        with suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{descriptor}")
            if link.startswith("socket:") and descriptor not in signal_sockets:
                sockets.append(descriptor)
            pids += _processes_at(descriptor, link)
    pids = [pid for pid in dict.fromkeys(pids) if pid is not None and 1 < pid < 2**31]
    return list(dict.fromkeys(e for pid in pids for e in (pid, *descendants(pid)))), sockets


def _processes_at(descriptor: int, link: str) -> list[int]:
    """Return the processes at the other end of a pipe, or that a process descriptor stands for."""
    if link.startswith("pipe:"):
        return _holders_of(link)
    if "[pidfd]" in link:
        return _numbers(f"/proc/self/fdinfo/{descriptor}", "Pid:")
    return []


def _callees(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of libraries that the user's innermost function has called, and its own."""
    while frame is not None:
        yield frame
        if not is_library(frame.f_code.co_filename):
            return
        frame = frame.f_back


#: The numbers of system calls on Linux, by the machine.
_CALLS = {
    "x86_64": {
        **{0: "read", 1: "write", 7: "poll", 23: "select", 42: "connect", 43: "accept"},
        **{44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 61: "wait4"},
        **{232: "epoll_wait", 247: "waitid", 270: "select", 271: "poll", 281: "epoll_wait"},
        **{288: "accept", 441: "epoll_wait"},
    },
    "aarch64": {
        **{22: "epoll_wait", 63: "read", 64: "write", 72: "select", 73: "poll", 95: "waitid"},
        **{202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg"},
        **{212: "recvmsg", 242: "accept", 260: "wait4", 441: "epoll_wait"},
    },
}
#: Those that wait for the one descriptor that is their first argument.
_OF_ONE = ("read", "write", "connect", "accept", "sendto", "recvfrom", "sendmsg", "recvmsg")
#: More descriptors than this are an event loop's, or a server's.
_FEW = 64


def system_call(thread: int) -> tuple[str, list[int]]:
    """Return the system call that *thread* is in, and its arguments; an empty name if unknown."""
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if thread == threading.main_thread().ident:
        native: int | None = os.getpid()  # a process that was forked still has its parent's
    else:
        native = next((t.native_id for t in threading.enumerate() if t.ident == thread), None)
    if calls is None or native is None:
        return "", []
    try:
        with open(f"/proc/self/task/{native}/syscall") as file:
            number, *arguments = file.read().split()
        return calls.get(int(number), ""), [int(each, 16) for each in arguments]
    except (OSError, ValueError):  # it is gone, or computes: "running"
        return "", []


def _descriptors(name: str, arguments: list[int]) -> list[int]:
    """Return the descriptors that a system call waits for."""
    if name in _OF_ONE:
        return arguments[:1]
    if name == "poll" and 0 < arguments[1] <= _FEW:
        array = _memory(arguments[0], 8 * arguments[1])
        return [int.from_bytes(array[at : at + 4], sys.byteorder) for at in range(0, len(array), 8)]
    if name == "select" and 0 < arguments[0] <= 1024:
        size = (arguments[0] + 63) // 64 * 8
        sets = [_memory(address, size) for address in arguments[1:4] if address]
        bits = [int.from_bytes(each, sys.byteorder) for each in sets]
        return [n for n in range(arguments[0]) if any(each >> n & 1 for each in bits)]
    if name == "epoll_wait":
        found = _numbers(f"/proc/self/fdinfo/{arguments[0]}", "tfd:")
        return found if len(found) <= _FEW else []
    return []


def _memory(address: int, size: int) -> bytes:
    try:
        with open("/proc/self/mem", "rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)
    except OSError:
        return b""


def _numbers(path: str, key: str) -> list[int]:
    """Return the numbers that follow *key* in the lines of a file."""
    with suppress(OSError), open(path) as file:
        return [int(line.split()[1]) for line in file if line.startswith(key)]
    return []


def _holders_of(pipe: str) -> list[int]:
    """Return the descendants of this process that have *pipe* open, as its link names it."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            folder = f"/proc/{pid}/fd"
            if any(os.readlink(f"{folder}/{each}") == pipe for each in os.listdir(folder)):
                found.append(pid)
    return found


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def locks_wanted(frame: FrameType) -> list[Any]:
    """Return the locks that *frame*, the innermost of a thread, may be trying to get."""
    node: Any = parsed(expression(summary_of(frame)))
    if isinstance(node, ast.With):  # until Python 3.12 that is where all of its items are entered
        nodes = [item.context_expr for item in node.items]
    else:
        nodes = [node.func.value] if _method(node) in ("acquire", "__enter__") else [node]
    return [each for node in nodes if type(each := _value(node, frame)) in _LOCKS]


def held_since(thread: int, lock: Any) -> FrameSummary | None:
    """Return the line at which code that runs in *thread* took *lock*; None if it did not.

    Only an `RLock` knows its owner, and only in its repr. Of another, the source is asked: whether
    a function is in a ``with`` block of that lock, or below a call of its `acquire`.
    """
    owner = re.search(r"owner=(\d+)", repr(lock))
    if owner is not None and int(owner[1]) != thread:
        return None
    inner = frame = frame_of(thread)
    while frame is not None:
        wanted = frame is inner and lock in locks_wanted(frame)
        line = _taken_at(frame, lock, wanted)
        if line is not None:
            while is_library(frame.f_code.co_filename) and frame.f_back is not None:
                frame = frame.f_back
                line = frame.f_lineno
            return FrameSummary(frame.f_code.co_filename, line, "", lookup_line=False)
        frame = frame.f_back
    return None if owner is None or inner is None else summary_of(inner)


def _taken_at(frame: FrameType, lock: Any, wanted: bool) -> int | None:
    """Return the line at which *frame* took *lock*, which it has not given back since.

    *wanted* is whether its present line tries to get it.
    """
    code, now, taken = frame.f_code, frame.f_lineno, None
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None
    nodes: list[Any] = [n for n in ast.walk(tree) if isinstance(n, ast.With | ast.Call)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if not code.co_firstlineno <= node.lineno <= now or (wanted and node.lineno == now):
            continue
        if isinstance(node, ast.With):
            inside = node.body[0].lineno <= now <= (node.body[-1].end_lineno or 0)
            if inside and any(_value(i.context_expr, frame) is lock for i in node.items):
                return node.lineno
        elif _method(node) in ("acquire", "release") and _value(node.func.value, frame) is lock:
            taken = node.lineno if _method(node) == "acquire" else None
    return taken


def _method(node: Any) -> str:
    return getattr(getattr(node, "func", None), "attr", "")


def _value(node: Any, frame: FrameType) -> Any:
    """Return what a dotted name stands for in *frame*, without running code; None if unknown."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        return getattr_static(_value(node.value, frame), node.attr, None)
    return None


def library_at_work(thread: int) -> tuple[str, bool]:
    """Return the library in whose C code a thread is, and whether that computes and waits for none.

    The name is empty for Python's own, and where it is not known.
    """
    frame = frame_of(thread)
    if frame is None:
        return "", False
    module = str(frame.f_globals.get("__name__"))
    if not is_library(frame.f_code.co_filename):
        node: Any = parsed(expression(summary_of(frame)))
        what = _value(getattr(node, "func", None) or getattr(node, "left", None), frame)
        try:
            module = str(getattr(what, "__module__", None) or type(what).__module__)
        except Exception:  # it is the user's, and may do anything
            return "", False
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("__main__", "ipy_bgtasks", "None"):
        return "", False
    return top, not system_call(thread)[0]
