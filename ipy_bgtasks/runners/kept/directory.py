"""The directories of kept jobs: how far each job is, and how it ended."""

from __future__ import annotations

import builtins
import os
import pickle
import shutil
import stat
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, CannotSend, ProcessDied
from ipy_bgtasks.job.outcome import RETURNED_NONE, JobState, LazyError, LazyValue, Outcome
from ipy_bgtasks.platforms import host_name, state_directory
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.kept import files

if TYPE_CHECKING:
    from collections.abc import Container

_os: Any = os

#: The format of the files; a directory of another one is left alone.
FORMAT = 1
_GONE = ".gone-"
#: Seconds in which a directory is removed.
_REMOVAL = 0.3
#: Seconds after which a directory that never became a job is removed.
_UNFINISHED = 3600.0
_DAY = 86400.0
#: Of more jobs than these the summary tells only the number: each takes a tenth of a millisecond.
_FEW = 6


class JobDirectory:
    """The directory of one kept job. Any thread may call any method."""

    def __init__(self, path: str) -> None:
        self.path = path
        number = JobId.read(os.path.basename(path))
        assert number is not None
        self.number = number
        #: What makes the job unique, since numbers are used again; known once `job` was read.
        self.token = ""

    def job(self) -> dict[str, Any] | None:
        """Return what the job is; None if this is no job of this machine that we can read."""
        job = files.read_json(self.path, files.JOB)
        if job is None or job.get("format") != FORMAT or job.get("host") != host_name():
            return None
        self.token = str(job.get("token", ""))
        return job

    def look(self) -> dict[str, Any]:
        """Return how far the job is, now: its `state`, and more as its watcher wrote it.

        It is `lost` where whoever had to write its end was killed: `settle` does that then.
        """
        before: dict[str, Any] | None = {}
        while True:
            state = files.read_json(self.path, files.STATE)
            if state is not None and "ended" in state:
                return state
            if files.is_held(self.path, files.LAUNCHING if state is None else files.WATCHED):
                return state or {"state": "queued"}
            if state == before:  # whoever gives up a lock has written something before
                return {"state": "cancelled" if state is None else "failed", "lost": True}
            before = state

    def settle(self, pid: int | None = None) -> dict[str, Any]:
        """Look, and end a job that is lost, which may take some seconds.

        *pid* is its process, as far as that is known to a caller whose directory was removed.
        """
        from ipy_bgtasks.runners.kept.watcher import end_what_is_left

        for _ in range(3):
            state = self.look()
            if "lost" not in state:
                return state
            if not os.path.exists(os.path.join(self.path, files.STATE)):
                time.sleep(_REMOVAL)  # perhaps somebody is removing all files, one by one
            if not os.path.isdir(self.path):
                end_what_is_left(self.token, pid)
                why = "its directory was removed"
                return {"state": "failed", "kind": "unwatched", "why": why, "ended": time.time()}
            with suppress(OSError):
                self._write_end()
        return {"state": "failed", "kind": "unwatched", "why": "its state cannot be written"}

    def _write_end(self) -> None:
        """Write the end of a job that nobody watches, unless somebody just does."""
        from ipy_bgtasks.runners.kept.watcher import end_unwatched

        state = files.read_json(self.path, files.STATE)
        lock = files.lock(self.path, files.LAUNCHING if state is None else files.WATCHED)
        if lock is None:
            return
        try:
            if files.read_json(self.path, files.STATE) != state:
                return
            job = files.read_json(self.path, files.JOB) or {}
            if state is None:
                end = {"state": "cancelled", "kind": "never", "why": "the session ended"}
                more = {"host": job.get("host"), "ended": time.time()}
                files.replace_json(self.path, files.STATE, {**end, **more})
            elif "ended" not in state:
                restarted = job.get("boot") != files.boot_id()
                killed = "its watcher was killed by signal 9"
                why = "the machine was restarted" if restarted else killed
                end_unwatched(self.path, str(job.get("token")), state.get("pid"), why)
        finally:
            os.close(lock)

    def request(self, words: str) -> bool:
        """Ask the watcher for something; False if there is none."""
        flags = os.O_WRONLY | _os.O_NONBLOCK | _os.O_NOFOLLOW | _os.O_CLOEXEC
        with suppress(OSError):
            fd = os.open(os.path.join(self.path, files.REQUESTS), flags)
            try:
                os.write(fd, words.encode() + b"\n")
            finally:
                os.close(fd)
            return True
        return False

    def remove(self) -> bool:
        """Remove it with all that is in it, unless it is still needed."""
        with suppress(OSError):
            lock = files.lock(self.path, files.WATCHED)
            if lock is None:
                return False
            name = f"{_GONE}{self.number}-{time.time_ns()}"
            gone = os.path.join(os.path.dirname(self.path), name)
            try:
                os.rename(self.path, gone)
            finally:
                os.close(lock)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False

    # The end

    def outcome(self, state: dict[str, Any]) -> Outcome:
        """Return the outcome that the state of an ended job stands for.

        Its value, or exception, is loaded when it is asked for.
        """
        kind = str(state.get("kind"))
        match kind:
            case "none":
                return RETURNED_NONE
            case "value":
                loaded = _Loaded(self, "its value")
                return Outcome(JobState.FINISHED, LazyValue(loaded, str(state.get("shown", ""))))
            case "status" if not state.get("code"):
                return Outcome(JobState.FINISHED, 0)
            case "cancelled" | "never":
                reason = f"job {self.number} was cancelled"
                if kind == "never":
                    reason = f"job {self.number} never started: {state.get('why')}"
                return Outcome(JobState.CANCELLED, error=CancelledError(reason))
        return Outcome(JobState.FAILED, error=self._error(kind, state))

    def _error(self, kind: str, state: dict[str, Any]) -> BaseException:
        error = state.get("error") or {}
        name, message = str(error.get("type")), str(error.get("message", ""))
        match kind:
            case "error":
                trace = self.trace()
                loaded = _Loaded(self, f"its exception ({name})", trace)
                return LazyError.of(name, message, trace, loaded)
            case "unsendable":
                from ipy_bgtasks.runners.packing import caused

                return caused(CannotSend(str(state.get("message"))), self.trace())
            case "status":
                from subprocess import CalledProcessError

                command = str((self.job() or {}).get("command"))
                return CalledProcessError(int(state["code"]), command)
            case "timeout":
                return TimeoutError(f"job {self.number} took longer than {state['seconds']:g} s")
            case "memory":
                from ipy_bgtasks.platforms import too_much

                return too_much(self.number, int(state["used"]), int(state["limit"]))
            case "died":
                from ipy_bgtasks.runners.processes import how_it_died

                why = str(state.get("sigkill", ""))
                return ProcessDied(how_it_died(int(state["code"]), True, why))
            case "start":
                if hasattr(builtins, name) and error.get("errno") is not None:
                    return OSError(error["errno"], error["strerror"], error["filename"])
                return ProcessDied(f"it could not be started: {message}")
        return ProcessDied(str(state.get("why") or f"its end is unknown: {kind}"))

    def trace(self) -> str:
        """Return the traceback of its failure as text; empty if there is none."""
        path = os.path.join(self.path, files.TRACE)
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
        return ""


class _Loaded:
    """Loads what a job has left, once; any thread may call."""

    def __init__(self, directory: JobDirectory, what: str, trace: str = "") -> None:
        self._directory = directory.path
        self._what = what
        self._trace = trace
        self._lock = threading.Lock()
        self._got: list[Any] = []

    def __call__(self) -> Any:
        """Return it; raises `CannotSend`, which names the file, if it cannot be loaded."""
        from ipy_bgtasks.runners.packing import caused

        with self._lock:
            if not self._got:
                self._got.append(self._load())
            value = self._got[0]
        # Each time anew: raising an exception makes its traceback grow.
        return caused(value, self._trace) if isinstance(value, BaseException) else value

    def _load(self) -> Any:
        path = os.path.join(self._directory, files.VALUE)
        flags = os.O_RDONLY | _os.O_NOFOLLOW | _os.O_CLOEXEC
        try:
            if not files.is_ours(self._directory):
                raise OSError(1, "others can write to its directory")
            with open(os.open(path, flags), "rb") as file:
                if not files.is_private(os.fstat(file.fileno()), stat.S_ISREG):
                    raise OSError(1, "others can write to it")
                data = file.read()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotSend(f"{self._what} cannot be read from {path}: {reason}") from None
        try:
            return pickle.loads(data)
        except BaseException as error:
            from ipy_bgtasks.runners.packing import caused

            line = " ".join(f"{type(error).__name__}: {error}".split())
            unreadable = CannotSend(f"{self._what} cannot be loaded: {line}; it is kept in {path}")
            raise caused(unreadable, self._trace) from unreadable.__cause__


# All of them


def directories() -> list[JobDirectory]:
    """Return the directories that may hold jobs, in order of number; none if they are not ours."""
    root = state_directory()
    if root is None or not files.is_ours(root):
        return []
    found = []
    with suppress(OSError):
        for name in os.listdir(root):
            path = os.path.join(root, name)
            if JobId.read(name) is not None and files.is_ours(path):
                found.append(JobDirectory(path))
    return sorted(found, key=lambda directory: directory.number)


def new_directory() -> tuple[JobDirectory, int]:
    """Make the directory of a new job; return it, and its lock `launching`.

    Raises `BadInput` if that cannot be.
    """
    root = state_directory()
    assert root is not None
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        if not files.is_ours(root):
            raise BadInput(f"--keep needs {root} to be yours alone; others can write there")
        while True:
            taken = [n.serial for name in os.listdir(root) if (n := JobId.read(name))]
            path = os.path.join(root, JobId.kept(max(taken, default=0) + 1))
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # another session was faster
                continue
            lock = files.lock(path, files.LAUNCHING)
            assert lock is not None
            _os.mkfifo(os.path.join(path, files.REQUESTS), 0o600)
            return JobDirectory(path), lock
    except OSError as error:
        raise BadInput(f"--keep cannot write to {root}: {error.strerror or error}") from None


def sweep(keep_days: float) -> None:
    """Remove what ended more than *keep_days* ago, and what a crash left behind."""
    root = state_directory()
    if root is None or not files.is_ours(root):
        return
    with suppress(OSError):
        for name in os.listdir(root):
            if name.startswith(_GONE):
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    now = time.time()
    for directory in directories():
        with suppress(OSError):
            if files.read_json(directory.path, files.JOB) is None:
                is_old = now - os.stat(directory.path).st_mtime > _UNFINISHED
                if is_old and not files.is_held(directory.path, files.LAUNCHING):
                    directory.remove()
                continue
            state = files.read_json(directory.path, files.STATE) or {}
            if now - state.get("ended", now) > keep_days * _DAY:
                directory.remove()


def startup_summary(known: Container[int | JobId]) -> str:
    """Return how many kept jobs there are beside the *known*, in a line; empty if there are none.

    Nothing is done about those that nobody watches any more; they count as failed.
    """
    found = [each for each in directories() if each.number not in known]
    if len(found) > _FEW:
        return f"{len(found)} kept jobs (%jobs)"
    states = Counter(str(each.look()["state"]) for each in found if each.job() is not None)
    if not (total := states.total()):
        return ""
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{total} kept job{'s' * (total != 1)}: {listed} (%jobs)"


def notify(path: str) -> None:
    """Notify the addresses of `BgTasks.notify` of the end of a job, as a program of its own.

    Whoever writes the end starts it by `files.notify`: the watcher, which imports little, leaves
    with the job. Whom it did not reach is the last line of the job's output.
    """
    from ipy_bgtasks.notify import Address, Ended, deliver, notice_of
    from ipy_bgtasks.text import error_line

    left = files.read_json(path, files.NOTIFY)
    if left is None:
        return
    with suppress(OSError):
        os.unlink(os.path.join(path, files.NOTIFY))
    directory = JobDirectory(path)
    state, name = directory.settle(), str((directory.job() or {}).get("name", ""))
    error = directory.outcome(state).error
    last = str(state.get("shown", "")) if error is None else error_line(error)
    began, ended = state.get("started"), state.get("ended")
    seconds = None if began is None or ended is None else ended - began
    notice = notice_of(Ended(directory.number, name, str(state["state"]), seconds, last))
    if failed := deliver(notice, [Address(url) for url in left["urls"]]):
        with suppress(OSError):
            files.append(path, time.time(), f"[{failed}]\n")
    # What gave no answer is left to a thread that must not hold up the end.
    os._exit(0)
