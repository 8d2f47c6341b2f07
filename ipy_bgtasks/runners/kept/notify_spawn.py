"""Has the addresses of `BgTasks.notify` told that a kept job has ended: no session may be there.

What is needed is left beside the job at its launch, readable by its user alone, as the addresses
hold secrets, and removed when it is used. Whoever writes the end of the job starts a program of
its own for it: the watcher imports as little as possible, and leaves with the job.
"""

from __future__ import annotations

from contextlib import suppress

from ipy_bgtasks.runners import programs
from ipy_bgtasks.runners.kept import files


def leave(directory: str, urls: list[str]) -> None:
    """Leave what is needed to tell these Apprise URLs of the end of a job."""
    content = {"urls": urls, "command": programs.python("kept.notify_main", directory)}
    files.replace_json(directory, files.TELL, content, sync=False)


def tell(directory: str) -> None:
    """Have it told that the job has ended, if that was asked for; returns at once.

    Needs only what the watcher has imported.
    """
    told = files.read_json(directory, files.TELL)
    if told is None:
        return
    with suppress(OSError):
        programs.start(told["command"], cwd="/")
