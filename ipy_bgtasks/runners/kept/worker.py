"""The program of a kept Python job: runs it, and leaves its value in the job's directory.

Its streams are pipes to the watcher, so whatever is written to their descriptors counts as well.
Two more pipes carry lines of JSON: what the job reports, and what the watcher asks.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.hooks import refuse_questions, threads_of_jobs
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import kill_group
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.child import Child, RemoteJob
from ipy_bgtasks.runners.kept import files

if TYPE_CHECKING:
    from ipy_bgtasks.runners.remote import Answer

_os: Any = os

#: Characters of a value's or an error's line.
_LINE = 500
#: Bytes of a value that is read again for its line.
_GLANCE = 10_000_000
_NONE = pickle.dumps(None)


class KeptWorker(Child):
    """What this process is: the worker of one kept job."""

    def __init__(self, asks: int, answers: int) -> None:
        self.pid = os.getpid()
        self.job = RemoteJob(self, 0)
        self._asks = asks
        self._answers = answers
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._task = None

    def begin(self) -> None:
        """Get ready for the job."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="replace", write_through=True)
        _os.register_at_fork(after_in_child=self._let_go)  # a child is none of the watcher's
        changes = Installation()  # for good
        threads_of_jobs.track(changes)
        refuse_questions(changes)
        threading.Thread(target=self._listen, name="bg-questions", daemon=True).start()

    def send(self, *message: Any) -> None:
        """Tell the watcher; in a forked child there is nobody to tell."""
        if os.getpid() != self.pid:
            return
        kind, _number, *rest = message
        if kind == "progress":
            self._say(kind="progress", progress=_plain(rest[0]))

    def run(self, directory: str, number: int) -> None:
        """Run the job, and say how it ended once that is on the disk."""
        told = files.read_json(directory, files.JOB) or {}
        self.job = RemoteJob(self, JobId.kept(number), str(told.get("name", "")))
        with open(os.path.join(directory, files.WORK), "rb") as file:
            data = file.read()
        answer = self._answer(self.job, data)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the user's code may have put anything there
                stream.flush()
        try:
            end = _kept(directory, answer)
        except OSError as error:
            end = {"kind": "unsendable", "message": f"its result cannot be written: {error}"}
        self._say(kind="end", answer=end)

    def _say(self, **answer: Any) -> None:
        data = memoryview((json.dumps(answer) + "\n").encode())
        with self._lock:
            while data:
                data = data[os.write(self._answers, data) :]

    def _let_go(self) -> None:
        for fd in (self._asks, self._answers):
            with suppress(OSError):
                os.close(fd)

    def _listen(self) -> None:
        while data := os.read(self._asks, 4096):
            for _ in range(data.count(b"\n")):
                self._say(kind="stack", stack=self._stack())
        # Watcher and guard are gone: nobody would hear of the end.
        with suppress(OSError):
            kill_group(self.pid)
        os._exit(1)


def _kept(directory: str, answer: Answer) -> dict[str, Any]:
    """Leave an answer in the directory; returns what the watcher is to write of it."""
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

    return kind_line(value) or short_repr(value, _LINE)


def _plain(shown: tuple[Any, ...] | None) -> list[Any] | None:
    return None if shown is None else list(shown)


def main(pipes: str, directory: str, number: str) -> None:
    """Be the worker: *pipes* are the descriptors of what is asked and what is answered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the foreground's, whoever sends it
    asks, answers = (int(fd) for fd in pipes.split(","))
    for fd in (asks, answers):
        os.set_inheritable(fd, False)  # what the job starts must not keep it open after us
    sys.argv = [""]
    worker = KeptWorker(asks, answers)
    current.set(worker.job)
    worker.begin()
    worker.run(directory, int(number))
    os._exit(0)
