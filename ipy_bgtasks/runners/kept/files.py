"""The files of a kept job: read, replaced as a whole, and locked.

Imported by the watcher as well, so only a little of the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Any

# A type checker for Windows does not know what is needed here; there it is never called.
_os: Any = os

JOB, STATE, PROGRESS, STACK = "job.json", "state.json", "progress.json", "stack.json"
#: The code of a Python job as it is sent, its value or exception, and its traceback as text.
WORK, VALUE, TRACE = "work.pickle", "value.pickle", "traceback.txt"
#: Whom to tell of the end; it holds secrets, and is removed when it is used.
TELL = "tell.json"
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
        _sync_directory(directory)


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


def reserve(directory: str) -> None:
    """Set a few blocks aside, for `release`."""
    replace(directory, RESERVE, b" " * _RESERVED, sync=False)


def release(directory: str) -> None:
    """Give back what was set aside."""
    with suppress(OSError):
        os.unlink(os.path.join(directory, RESERVE))


def _sync_directory(directory: str) -> None:
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


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
        seen = os.lstat(path)
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == _os.geteuid() and not seen.st_mode & others


def boot_id() -> str:
    """Return what identifies the time since the machine started; empty where that is unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
