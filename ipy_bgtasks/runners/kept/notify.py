"""The program that notifies the addresses of `BgTasks.notify` that a kept job has ended.

Whoever writes the end of the job starts it by `files.notify`: the watcher, which imports little,
leaves with the job.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ipy_bgtasks.notify import Address, Ended, deliver, notice_of
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.directory import JobDirectory
from ipy_bgtasks.text import error_line


def main(path: str) -> None:
    """Run the program; whom it did not reach is the last line of the job's output."""
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
