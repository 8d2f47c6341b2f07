"""Has the addresses of `BgTasks.notify` notified of a kept job's end, even if no session runs.

What is needed is left beside the job at its launch, readable by its user alone, as the addresses
hold secrets, and removed when it is used. Whoever writes the end of the job starts
`notify_main` as a program: the watcher, which imports little, leaves with the job.
"""

from __future__ import annotations

from contextlib import suppress

from ipy_bgtasks.runners import programs
from ipy_bgtasks.runners.kept import files


def leave(directory: str, urls: list[str]) -> None:
    """Leave what is needed to notify these Apprise URLs of the end of a job."""
    content = {"urls": urls, "command": programs.python("kept.notify_main", directory)}
    files.replace_json(directory, files.NOTIFY, content, sync=False)


def spawn(directory: str) -> None:
    """Start the program, if the end of the job is to be notified; returns at once."""
    if (left := files.read_json(directory, files.NOTIFY)) is not None:
        with suppress(OSError):
            programs.start(left["command"], cwd="/")
