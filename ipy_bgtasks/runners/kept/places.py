"""Where kept jobs are: one directory for each, below the user's state directory."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from typing import Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import host_name, state_directory
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.watcher import end_unwatched

_os: Any = os

#: The format of the files; a directory of another one is left alone.
FORMAT = 1
_ENDED = ("finished", "failed", "cancelled")
_GONE = ".gone-"
#: Seconds after which a directory that never became a job is removed.
_UNFINISHED = 3600.0
_DAY = 86400.0


class Place:
    """The directory of one kept job. Any thread may call any method."""

    def __init__(self, path: str) -> None:
        self.path = path
        number = JobId.read(os.path.basename(path))
        assert number is not None
        self.number = number

    def job(self) -> dict[str, Any] | None:
        """Return what the job is; None if this is no job of this machine that we can read."""
        told = files.read_json(self.path, files.JOB)
        here = told is not None and told.get("format") == FORMAT
        return told if here and told is not None and told.get("host") == host_name() else None

    def state(self) -> dict[str, Any]:
        """Return how far it is, now: with `state`, and more as the watcher wrote it.

        Where whoever had to write its end was killed, that is done here.
        """
        for _ in range(3):
            told = files.read_json(self.path, files.STATE)
            if told is not None and told.get("state") in _ENDED:
                return told
            holder = files.LAUNCHING if told is None else files.WATCHED
            if files.is_held(self.path, holder):
                return told or {"state": "queued"}
            self._settle(holder)
        return {"state": "failed", "kind": "unwatched", "why": "its state cannot be written"}

    def _settle(self, holder: str) -> None:
        """Write the end of a job that nobody watches, unless somebody just does."""
        with suppress(OSError):
            lock = files.lock(self.path, holder)
            if lock is None:
                return
            try:
                told = files.read_json(self.path, files.STATE)
                if (holder == files.LAUNCHING) != (told is None) or (told and "ended" in told):
                    return
                self._write_end(told)
            finally:
                os.close(lock)

    def _write_end(self, told: dict[str, Any] | None) -> None:
        job = files.read_json(self.path, files.JOB) or {}
        restarted = job.get("boot") != files.boot_id()
        if told is None:
            why = "the session ended"
            news = {"state": "cancelled", "kind": "never", "why": why, "ended": time.time()}
            files.replace_json(self.path, files.STATE, {"host": job.get("host"), **news})
            return
        if restarted:
            state = {**told, "state": "failed", "kind": "unwatched", "ended": time.time()}
            state["why"] = "the machine was restarted"
            files.replace_json(self.path, files.STATE, state)
            return
        why = "its watcher was killed by signal 9"
        end_unwatched(self.path, str(job.get("token")), told.get("pid"), why)

    def ask(self, words: str) -> bool:
        """Ask the watcher for something; False if nobody hears it."""
        flags = os.O_WRONLY | _os.O_NONBLOCK | _os.O_NOFOLLOW | _os.O_CLOEXEC
        try:
            fd = os.open(os.path.join(self.path, files.REQUESTS), flags)
        except OSError:
            return False
        try:
            os.write(fd, words.encode() + b"\n")
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def remove(self) -> bool:
        """Remove it with all that is in it, unless it is still needed."""
        with suppress(OSError):
            lock = files.lock(self.path, files.WATCHED)
            if lock is None:
                return False
            try:
                gone = os.path.join(
                    os.path.dirname(self.path), f"{_GONE}{self.number}-{time.time_ns()}"
                )
                os.rename(self.path, gone)
            finally:
                os.close(lock)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False


def places() -> list[Place]:
    """Return the directories that may hold jobs, in order of number; none if they are not ours."""
    root = state_directory()
    if root is None or not files.is_ours(root):
        return []
    found = []
    with suppress(OSError):
        for name in os.listdir(root):
            if JobId.read(name) is not None and files.is_ours(path := os.path.join(root, name)):
                found.append(Place(path))
    return sorted(found, key=lambda place: place.number)


def place_of(number: JobId) -> Place | None:
    """Return the directory of one number."""
    return next((each for each in places() if each.number == number), None)


def new_place() -> tuple[Place, int]:
    """Make the directory of a new job; returns it, and its lock `launching`.

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
            path = os.path.join(root, str(JobId.kept(max(taken, default=0) + 1)))
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # another session was faster
                continue
            lock = files.lock(path, files.LAUNCHING)
            assert lock is not None
            _os.mkfifo(os.path.join(path, files.REQUESTS), 0o600)
            return Place(path), lock
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
    for place in places():
        with suppress(OSError):
            if files.read_json(place.path, files.JOB) is None:
                if now - os.stat(place.path).st_mtime > _UNFINISHED and _is_free(place):
                    place.remove()
                continue
            told = files.read_json(place.path, files.STATE) or {}
            if told.get("state") in _ENDED and now - told["ended"] > keep_days * _DAY:
                place.remove()


def _is_free(place: Place) -> bool:
    return not files.is_held(place.path, files.LAUNCHING)
