"""The program that watches one kept job: starts it, records its output and its end, stops it.

It needs nothing of the session that started it, is not its child, and ignores the signals that
sessions and terminals get. A fork of it, the guard, ends the job if the watcher itself is killed:
the two share the lock `watched`, so the job counts as watched until the guard has written its end.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from ipy_bgtasks.platforms import oom_kills, reaped, usage_of, why_killed
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.kept import files

# A type checker for Windows knows none of these names.
_os: Any = os
_select: Any = select
_signal: Any = signal

_BLOCK = 65536
#: Seconds for which output still comes after the job's process has ended.
_AFTERWARDS = 0.2
#: Seconds between two checks of a session that is being stopped.
_PAUSE = 0.05
#: Seconds between two writings of the progress.
_PROGRESS = 0.2
#: Seconds between two attempts to write the end on a full disk.
_AGAIN = 1.0
#: Seconds between two checks of whether the directory is still there.
_CHECK = 5.0


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

    def watch(self, session: int) -> None:
        """Have it end this session, which is the job's, too."""
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
        """Dismiss it: the end of the job has been written."""
        if self._pid is None:
            return
        with suppress(OSError):
            os.write(self._pipe, b"done\n")
            os.close(self._pipe)
        with suppress(OSError):
            os.waitpid(self._pid, 0)


def guard(directory: str, token: str, parent: int, pipe: int, session: int | None) -> None:
    """Be the guard: wait until the watcher dismisses it, or is gone."""
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
    files.notify(directory)


def end_what_is_left(token: str, session: int | None) -> None:
    """End the sessions of the processes that carry the job's token.

    Without `/proc` that is *session*, if that is still the job's.
    """
    known = set() if sessions.pids() or session is None else {session}
    group = sessions.Sessions(*known)
    own = _os.getsid(0)
    ending = sessions.Ending(group, sessions.GRACE)
    ending.wait(lambda: sessions.sessions_with(token) - {own})


class Watcher:
    """Watches one job, from its start to its end."""

    def __init__(self, directory: str, launching: int) -> None:
        self._directory = directory
        job = files.read_json(directory, files.JOB)
        assert job is not None
        self._job = job
        self._lock = files.lock(directory, files.WATCHED, wait=True)
        self._launching = launching
        self._output = files.OutputWriter(directory, int(job["log_limit"]))
        self._copy: int | None = None
        if job.get("log") is not None:
            with suppress(OSError):
                self._copy = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._state: dict[str, Any] = {"state": "running", "host": job["host"]}
        self._state["watcher"] = os.getpid()
        self._answer: dict[str, Any] | None = None
        self._progress: list[Any] | None = None
        self._progress_due = float("inf")
        self._ending: sessions.Ending | None = None
        self._is_left = False
        self._why = ""
        self._deadline = float(job.get("deadline") or "inf")
        self._memory_due = 0.0 if job.get("memory") else float("inf")
        self._oom_kills, self._peak = oom_kills(), 0
        self._exited: float | None = None
        self._rest: dict[str, bytes] = {}
        self._process: subprocess.Popen[bytes]
        self._control: int | None = None
        self._pipes: dict[int, str] = {}
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }

    def run(self) -> None:
        """Watch the job from its start to its end."""
        directory = self._directory
        with suppress(OSError):
            files.reserve(directory)
        requests = os.open(os.path.join(directory, files.REQUESTS), os.O_RDWR | _os.O_NONBLOCK)
        self._woken, wakes = os.pipe()
        for fd in (self._woken, wakes):
            _os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        self._guard = Guard(directory, self._job["token"])
        self._guard.start()
        try:
            self._start()
        except (OSError, ValueError) as error:
            described: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
            if isinstance(error, OSError):  # with what makes it again
                described |= {"errno": error.errno, "strerror": error.strerror}
                described["filename"] = str(error.filename)
            self._end({"kind": "start", "error": described}, "failed")
            return
        self._pipes[requests] = "requests"
        self._pipes[self._woken] = "woken"
        self._look()
        while not self._is_over():
            self._turn()
            self._look()
        self._finish()

    # The start

    def _start(self) -> None:
        job = self._job
        environment = dict(_os.environb)
        environment[os.fsencode(sessions.TOKEN)] = os.fsencode(job["token"])
        environment.setdefault(b"PYTHONUNBUFFERED", b"1")
        argv = list(job["argv"])
        ours: tuple[int, ...] = ()
        theirs: tuple[int, ...] = ()
        if job["kind"] == "python":
            reads, answers = os.pipe()
            asks, writes = os.pipe()
            ours, theirs = (reads, writes), (asks, answers)
            argv = [word if word != "{pipes}" else f"{asks},{answers}" for word in argv]
        try:
            self._process = process = sessions.start(
                argv,
                cwd=job["directory"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=theirs,
            )
        finally:
            for fd in theirs:
                os.close(fd)
        self._all = sessions.Sessions(process.pid)
        sessions.sacrifice(process.pid)
        self._guard.watch(process.pid)
        for name in ("stdout", "stderr"):
            self._pipes[getattr(process, name).fileno()] = name
        if theirs:
            self._pipes[ours[0]], self._control = "answers", ours[1]
        self._state.update(pid=process.pid, started=time.time())
        self._write_state()
        os.close(self._launching)

    # While it runs

    def _turn(self) -> None:
        """Wait for something to happen, or until something is due."""
        now = time.time()
        due = min(self._deadline, self._progress_due, self._memory_due)
        pause = min(due - now, _CHECK)
        if self._ending is not None or self._exited is not None:
            pause = min(pause, _PAUSE)
        self._read_from(list(self._pipes), max(pause, 0) * 1000 + 1)

    def _read_from(self, pipes: list[int], milliseconds: float) -> None:
        """Read what comes through one of the pipes, for which it waits that long."""
        poll = _select.poll()
        for fd in pipes:
            poll.register(fd, _select.POLLIN)
        for fd, _ in poll.poll(milliseconds):
            if fd in self._pipes:
                self._read(fd, self._pipes[fd])

    def _read(self, fd: int, name: str) -> None:
        try:
            data = os.read(fd, _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if name in self._decoders:
            self._write(name, self._decoders[name].decode(data, final=not data))
        elif name in ("answers", "requests"):
            *lines, self._rest[name] = (self._rest.get(name, b"") + data).split(b"\n")
            for line in lines:
                with suppress(ValueError, TypeError, KeyError, IndexError):
                    if name == "answers":
                        self._answered(*json.loads(line))
                    else:
                        self._requested(line)
        if not data and name != "requests":
            del self._pipes[fd]
            if name == "answers":
                os.close(fd)

    def _write(self, stream: str, text: str) -> None:
        if not text:
            return
        self._output.write(time.time(), stream, text)
        if self._copy is not None:
            try:
                files.write_all(self._copy, text.encode())
            except OSError:
                self._copy = None

    def _display(self, shown: list[Any]) -> None:
        """Record what the job displays, behind what it has written: a pipe holds one block."""
        self._read_from([fd for fd, name in self._pipes.items() if name in self._decoders], 0)
        self._output.write(time.time(), "display", json.dumps(shown))
        self._control_write(b"shown\n")

    def _control_write(self, line: bytes) -> None:
        if self._control is not None:
            with suppress(OSError):
                os.write(self._control, line)

    def _answered(self, kind: str, _number: str, content: Any, *more: Any) -> None:
        """Take what the job's Python process sends."""
        match kind:
            case "display":
                self._display([content, *more])
            case "progress":
                self._progress = content
                if self._progress_due == float("inf"):
                    self._progress_due = time.time() + _PROGRESS
            case "answer":  # to the question that is the content
                told = {"question": content, "answer": more[0]}
                files.replace_json(self._directory, files.ANSWER, told, sync=False)
            case "end":
                self._answer = content

    def _requested(self, line: bytes) -> None:
        """Take what a session asks for."""
        words = line.decode().split()
        match words:
            case ["stop", grace]:
                self._stop("cancel", float(grace))
            case ["force"]:
                self._stop("cancel", 0.0)
            case ["pause"] if self._exited is None:
                self._all.pause()
                self._state.setdefault("paused", time.time())
                self._write_state()
            case ["go", "on"]:
                self._all.go_on()  # also if it was paused by somebody else
                now = time.time()
                self._deadline += now - self._state.pop("paused", now)
                self._write_state()
            case ["query", *_]:
                self._control_write(line.removeprefix(b"query ") + b"\n")

    def _stop(self, why: str, grace: float) -> None:
        if self._exited is not None or self._answer is not None:
            return  # it has ended by itself
        if not self._why:
            self._why = self._state["asked"] = why
            with suppress(OSError):
                self._write_state()
            self._ending = sessions.Ending(self._all, grace)
        elif grace <= 0 and self._ending is not None:
            self._ending.hurry()

    def _look(self) -> None:
        """See what has become of the job's process, and do what is due."""
        now = time.time()
        self._guard.renew()
        if self._exited is None:
            pid = self._process.pid
            if _os.waitid(_os.P_PID, pid, _os.WEXITED | _os.WNOWAIT | _os.WNOHANG) is not None:
                self._peak = reaped(self._process)
                self._exited = now
            elif now >= self._memory_due:
                self._memory_due = now + 1
                used = usage_of([pid]).get(pid)
                if used is not None and used.memory > self._job["memory"]:
                    self._state["used"] = used.memory
                    self._stop("memory", float(self._job["grace"]))
        if now >= self._deadline and "paused" not in self._state:
            self._deadline = float("inf")
            self._stop("timeout", float(self._job["grace"]))
        if now >= self._progress_due:
            self._progress_due = float("inf")
            with suppress(OSError):
                content = {"progress": self._progress}
                files.replace_json(self._directory, files.PROGRESS, content, sync=False)
        if not os.path.isdir(self._directory):
            self._stop("removed", 0.0)
        self._is_left = self._ending is not None and self._ending.step()

    def _is_over(self) -> bool:
        if self._exited is None or self._is_left:
            return False
        is_open = any(name in ("stdout", "stderr", "answers") for name in self._pipes.values())
        return not is_open or time.time() - self._exited >= _AFTERWARDS

    # The end

    def _finish(self) -> None:
        self._all.kill()  # nobody would watch what it left
        for name, decoder in self._decoders.items():
            self._write(name, decoder.decode(b"", final=True))
        code = self._process.returncode
        if code == -_signal.SIGKILL and not self._why:
            why = self._state["sigkill"] = why_killed(self._oom_kills, self._peak)
            if self._job["kind"] != "python":
                self._output.write(time.time(), "stderr", f"[killed by SIGKILL: {why}]\n")
        if self._answer is not None:
            bad = self._answer["kind"] in ("error", "unsendable")
            self._end(self._answer, "failed" if bad else "finished")
        elif self._why == "timeout":
            self._end({"kind": "timeout", "seconds": self._job["timeout"]}, "failed")
        elif self._why == "memory":
            self._end({"kind": "memory", "limit": self._job["memory"]}, "failed")
        elif self._why:
            self._end({"kind": "cancelled"}, "cancelled")
        elif self._job["kind"] == "python":
            self._end({"kind": "died", "code": code}, "failed")
        else:
            self._end({"kind": "status", "code": code}, "failed" if code else "finished")

    def _end(self, how: dict[str, Any], state: str) -> None:
        self._state.update(how, state=state, ended=time.time())
        self._output.close()
        files.release(self._directory)
        while os.path.isdir(self._directory):
            try:
                self._write_state()
                break
            except OSError:  # the disk is full: to say nothing is better than to say what is wrong
                time.sleep(_AGAIN)
        self._guard.dismiss()
        files.notify(self._directory)

    def _write_state(self) -> None:
        files.replace_json(self._directory, files.STATE, self._state)


def main() -> None:
    """Run the program: its arguments are the job's directory and the lock's descriptor."""
    directory, launching = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(launching, False)
    for number in sessions.IGNORED:
        # Not SIG_IGN, which the job would inherit.
        signal.signal(number, lambda *_: None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    with suppress(OSError):
        _os.setsid()
    Watcher(directory, launching).run()
