"""The program of a kept Python job: runs it, and leaves its value in the job's directory.

Its streams are pipes to the watcher, so whatever is written to their descriptors counts as well.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.child import Child, Link, RemoteJob
from ipy_bgtasks.runners.kept import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipy_bgtasks.runners.remote import Answer

#: Seconds to wait until a display is recorded.
_RECORDED = 1.0
#: Characters of a value's or an error's line.
_LINE = 500
#: Bytes of a value that is read again for its line.
_GLANCE = 10_000_000
_NONE = pickle.dumps(None)


class _Pipes(Link):
    """The link of a kept worker: lines, from and to its watcher."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks = asks
        self._answers = answers
        self._recorded = threading.Event()
        for fd in (asks, answers):
            os.set_inheritable(fd, False)  # what the job starts must not keep it open after us

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message as JSON."""
        line = json.dumps(message, default=_encoded) + "\n"
        files.write_all(self._answers, line.encode())

    def before_display(self) -> None:
        """Prepare to wait until it is recorded."""
        self._recorded.clear()

    def after_display(self) -> None:
        """Wait until it is recorded: what is written next goes another way, by the streams."""
        self._recorded.wait(_RECORDED)

    def questions(self) -> Iterator[Any]:
        """Yield what each line asks that is not on a display, as JSON."""
        with open(self._asks, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                if line == "shown\n":
                    self._recorded.set()
                else:
                    yield json.loads(line)

    def close(self) -> None:
        """Close both pipes."""
        for fd in (self._asks, self._answers):
            with suppress(OSError):
                os.close(fd)


def _encoded(value: Any) -> str:
    """Return the bytes of a picture as messages of Jupyter have them."""
    from base64 import b64encode

    return b64encode(value).decode()


def _store(directory: str, answer: Answer) -> dict[str, Any]:
    """Leave an answer in the directory; return what the watcher is to write of it."""
    kind, data, trace = answer
    if trace:
        files.replace(directory, files.TRACE, trace.encode("utf-8", "replace"))
    if kind == "unsendable":
        return {"kind": kind, "message": str(data)}
    if data == _NONE and kind == "value":
        return {"kind": "none"}
    files.replace(directory, files.VALUE, data)
    value: Any = None
    with suppress(BaseException):  # whoever asks for it is told
        value = pickle.loads(data) if kind == "error" or len(data) <= _GLANCE else None
    if kind == "value":
        shown = f"a value of {len(data):,} bytes" if value is None else _line_of(value)
        return {"kind": kind, "shown": shown}
    from ipy_bgtasks.foreign import type_name
    from ipy_bgtasks.text import message_of

    told = {"type": type_name(value), "message": message_of(value)[:_LINE]}
    return {"kind": kind, "error": told}


def _line_of(value: object) -> str:
    if type(value) in (bool, int, float):
        return repr(value)
    from ipy_bgtasks.text import short_repr
    from ipy_bgtasks.views.value import kind_line

    try:
        return kind_line(value) or short_repr(value, _LINE)
    except BaseException:  # it is the user's class
        return f"a value of type {type(value).__name__}"


def main(pipes: str, directory: str, serial: str) -> None:
    """Be the worker: *pipes* are the descriptors of what is asked and what is answered."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace", write_through=True)
    asks, answers = map(int, pipes.split(","))
    worker = Child(_Pipes(asks, answers))
    job = files.read_json(directory, files.JOB) or {}
    worker.job = RemoteJob(worker, JobId.kept(int(serial)), str(job.get("name", "")))
    with open(os.path.join(directory, files.WORK), "rb") as file:
        data = file.read()
    answer = worker.run(data)
    try:
        end = _store(directory, answer)
    except OSError as error:
        end = {"kind": "unsendable", "message": f"its result cannot be written: {error}"}
    worker.send("end", worker.job.number, end)
    os._exit(0)
