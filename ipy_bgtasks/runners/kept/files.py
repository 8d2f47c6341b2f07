"""The files of a kept job: read, replaced as a whole, and locked; and its output in parts.

The output is lines of JSON, ``[time, stream, text]``, in files that are named by how many bytes
were written before them, so that the oldest can be dropped and a reader still knows where it is.

Imported by the watcher as well, so only a little of the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.runners import sessions

if TYPE_CHECKING:
    from collections.abc import Callable

# A type checker for Windows does not know what is needed here; there it is never called.
_os: Any = os

JOB, STATE, PROGRESS, ANSWER = "job.json", "state.json", "progress.json", "answer.json"
#: The code of a Python job as it is sent, its value or exception, and its traceback as text.
WORK, VALUE, TRACE = "work.pickle", "value.pickle", "traceback.txt"
#: Whom to notify of the end; it holds secrets, and is removed when it is used.
NOTIFY = "tell.json"
#: Locks: held while a session launches the job, and as long as it is watched.
LAUNCHING, WATCHED = "launching", "watched"
#: The pipe by which sessions speak to the watcher.
REQUESTS = "requests"
#: A few blocks that are given back when the disk is full, so that the end can be written.
RESERVE = "reserve"
_RESERVED = 16384

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)


def replace(directory: str, name: str, data: bytes, *, sync: bool = True) -> None:
    """Write a file aside, then put it in place: a crash leaves the old or the new one.

    Without *sync* that holds for crashes of this process only. Raises `OSError`.
    """
    aside = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(os.open(aside, _NEW, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(aside, os.path.join(directory, name))
    except OSError:
        with suppress(OSError):
            os.unlink(aside)
        raise
    if sync:
        with suppress(OSError):
            fd = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def replace_json(directory: str, name: str, content: dict[str, Any], *, sync: bool = True) -> None:
    """Write a dictionary, readable for people too, as `replace` does."""
    text = json.dumps(content, indent=1, ensure_ascii=True)
    replace(directory, name, text.encode(), sync=sync)


def read_json(directory: str, name: str) -> dict[str, Any] | None:
    """Return the dictionary in a file; None if there is none that can be read."""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def leave_notice(directory: str, urls: list[str]) -> None:
    """Leave what is needed to notify these Apprise URLs of the end of a job."""
    content = {"urls": urls, "command": sessions.python("kept.directory.notify", directory)}
    replace_json(directory, NOTIFY, content, sync=False)


def notify(directory: str) -> None:
    """Start the program that notifies them, if there are any; returns at once."""
    if (left := read_json(directory, NOTIFY)) is not None:
        with suppress(OSError):
            sessions.start(left["command"], cwd="/")


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however little the system takes at once; raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def reserve(directory: str) -> None:
    """Set a few blocks aside, for `release`."""
    replace(directory, RESERVE, b" " * _RESERVED, sync=False)


def release(directory: str) -> None:
    """Give back what was set aside."""
    with suppress(OSError):
        os.unlink(os.path.join(directory, RESERVE))


def lock(directory: str, name: str, *, wait: bool = False) -> int | None:
    """Take a lock and return its descriptor, whose closing releases it; None if it is held.

    With *wait*, wait until it is free. Raises `OSError` if there is no such directory.
    """
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | _os.O_NOFOLLOW | _os.O_CLOEXEC
    fd = os.open(os.path.join(directory, name), flags, 0o600)
    try:
        _fcntl: Any = fcntl
        _fcntl.flock(fd, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
    except OSError:
        os.close(fd)
        return None
    return fd


def is_held(directory: str, name: str) -> bool:
    """Return whether somebody holds a lock; False if it does not exist."""
    import fcntl

    try:
        fd = os.open(os.path.join(directory, name), os.O_RDONLY | _os.O_NOFOLLOW | _os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _fcntl: Any = fcntl
        _fcntl.flock(fd, _fcntl.LOCK_SH | _fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def is_ours(path: str) -> bool:
    """Return whether a directory belongs to this user, and nobody else can write into it."""
    try:
        return is_private(os.lstat(path), stat.S_ISDIR)
    except OSError:
        return False


def is_private(seen: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return whether what was seen is of that kind, and only this user can write it."""
    others = stat.S_IWGRP | stat.S_IWOTH
    mine = seen.st_uid == _os.geteuid()
    return is_kind(seen.st_mode) and mine and not seen.st_mode & others


def boot_id() -> str:
    """Return what identifies the time since the machine started; empty where that is unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


_PREFIX, _SUFFIX = "output-", ".jsonl"
#: How many parts make up the whole, at the most and the least bytes of one.
_PARTS = 8
_SMALLEST = 4096
#: Bytes read at once.
_CHUNK = 1 << 20

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)

Piece = tuple[float, str, str]


def parts(directory: str) -> list[tuple[int, str]]:
    """Return where each part begins, and its path, in order."""
    found = []
    with suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with suppress(ValueError):
                    start = int(name[len(_PREFIX) : -len(_SUFFIX)])
                    found.append((start, os.path.join(directory, name)))
    return sorted(found)


def _part_at(directory: str, start: int) -> str:
    return os.path.join(directory, f"{_PREFIX}{start:015}{_SUFFIX}")


class OutputWriter:
    """Writes the output; keeps *limit* bytes or little more of it, and drops the oldest first.

    A full disk does not end it: what could not be written is counted, and `write` says so in
    the output once there is room again.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._size = max(limit // _PARTS, _SMALLEST)
        self._total = 0
        self._in_part = 0
        self._fd: int | None = None
        self._starts: list[int] = []
        self._lost = 0
        self.error: OSError | None = None

    def write(self, time: float, stream: str, text: str) -> None:
        """Write one piece; returns when the system has it, or it is lost."""
        if self._lost:
            note = f"[{self._lost:,} characters were not recorded: {self._why()}]\n"
            if not self._append(time, "stderr", note):
                self._lost += len(text)
                return
            self._lost = 0
        if not self._append(time, stream, text):
            self._lost += len(text)

    def close(self) -> None:
        """Have the disk take all of it."""
        if self._fd is not None:
            with suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = None

    def _why(self) -> str:
        return (self.error.strerror or str(self.error)) if self.error is not None else ""

    def _append(self, time: float, stream: str, text: str) -> bool:
        piece = [round(time, 6), stream, text]
        data = (json.dumps(piece, ensure_ascii=False) + "\n").encode()
        try:
            if self._fd is None or self._in_part >= self._size:
                self._next_part()
            assert self._fd is not None
            write_all(self._fd, data)
        except OSError as error:
            self.error = error
            if self._fd is not None:  # half a piece is none
                with suppress(OSError):
                    os.ftruncate(self._fd, self._in_part)
            return False
        self._in_part += len(data)
        self._total += len(data)
        return True

    def _next_part(self) -> None:
        fd = os.open(_part_at(self._directory, self._total), _APPEND, 0o600)
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._in_part = fd, 0
        self._starts.append(self._total)
        while len(self._starts) > 1 and self._total - self._starts[1] >= self._limit - self._size:
            with suppress(OSError):
                os.unlink(_part_at(self._directory, self._starts.pop(0)))


def append(directory: str, time: float, text: str) -> None:
    """Add to the errors of a job that has ended; raises `OSError`."""
    there = parts(directory)
    path = there[-1][1] if there else _part_at(directory, 0)
    with open(os.open(path, _APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(json.dumps([round(time, 6), "stderr", text], ensure_ascii=False) + "\n")


class OutputReader:
    """Reads the output as it comes: all of it, or, where there is more already, the last *size*.

    That is in bytes, or a little less: it begins with a whole line.
    """

    def __init__(self, directory: str, size: int | None = None) -> None:
        self._directory = directory
        self._at = 0  # in bytes of all that was written
        #: Bytes that were dropped before they could be read, or were left out at the start.
        self.missed = 0
        there = parts(directory)
        if size is None or not there:
            return
        start, path = there[-1]
        self._at = there[0][0]
        with suppress(OSError):
            end = start + os.stat(path).st_size
            if end - self._at > size:
                self._at = end - size
                self._at = self._next_line()
        self.missed = self._at

    def read(self) -> list[Piece]:
        """Return pieces that are new, a megabyte of them at most; empty if there is nothing."""
        part = self._part()
        if part is None:
            return []
        start, path = part
        # Looked for before reading: when there is a later part, this one is complete.
        later = [each for each, _ in parts(self._directory) if each > start]
        try:
            with open(path, "rb") as file:
                file.seek(self._at - start)
                data = file.read(_CHUNK)
        except OSError:  # it has just been dropped
            return self.read() if self._part() != part else []
        whole = data[: data.rfind(b"\n") + 1]
        if data and not whole and len(data) == _CHUNK:
            self._at += len(data)  # no piece is that long: it is damaged
        self._at += len(whole)
        if not whole and later:
            self._at = later[0]
            return self.read()
        return [piece for line in whole.splitlines() if (piece := _piece(line)) is not None]

    def _part(self) -> tuple[int, str] | None:
        there = parts(self._directory)
        if not there:
            return None
        if self._at < there[0][0]:
            self.missed += there[0][0] - self._at
            self._at = there[0][0]
        return [each for each in there if each[0] <= self._at][-1]

    def _next_line(self) -> int:
        """Return where the first line begins that begins where it is, or later."""
        if (part := self._part()) is None:
            return self._at
        start, path = part
        with open(path, "rb") as file:
            file.seek(max(self._at - start - 1, 0))
            file.readline()
            return start + file.tell()


def _piece(line: bytes) -> Piece | None:
    try:
        time, stream, text = json.loads(line)
        return float(time), str(stream), str(text)
    except (ValueError, TypeError):
        return None
