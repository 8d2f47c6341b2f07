"""The program that tells the addresses of `BgTasks.notify` that a kept job has ended."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from ipy_bgtasks.notify import Address, Ended, deliver, notice_of
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.files import append
from ipy_bgtasks.runners.kept.places import Place
from ipy_bgtasks.runners.kept.runner import outcome_of
from ipy_bgtasks.text import error_line


def main(directory: str) -> None:
    """Run the program: tell it; whom it did not reach is the last line of the job's output."""
    told = files.read_json(directory, files.TELL)
    if told is None:
        return
    with suppress(OSError):
        os.unlink(os.path.join(directory, files.TELL))
    place = Place(directory)
    notice = notice_of(_ended(place, place.job() or {}, place.state()))
    if failed := deliver(notice, [Address(url) for url in told["urls"]]):
        with suppress(OSError):
            append(directory, time.time(), f"[{failed}]\n")
    # What gave no answer is left to a thread that must not hold up the end.
    os._exit(0)


def _ended(place: Place, job: dict[str, Any], state: dict[str, Any]) -> Ended:
    outcome = outcome_of(place, state)
    last = str(state.get("shown", "")) if outcome.error is None else error_line(outcome.error)
    began, ended = state.get("started"), state.get("ended")
    seconds = None if began is None or ended is None else ended - began
    name = str(job.get("name", ""))
    return Ended(str(place.number), name, str(state["state"]), seconds, last)
