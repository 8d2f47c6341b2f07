"""The programs of worker processes: each runs one job at a time, and sends its output and its end.

`work` is that of `-p`, which speaks to the session. `work_kept` is that of a kept job, which speaks
to its watcher, and leaves its value in the job's directory; its streams are pipes, so whatever is
written to their descriptors counts as well. They start with as few imports as possible; what a job
may never need comes when it is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import socket
import sys
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn

from ipy_bgtasks.context import current
from ipy_bgtasks.frontends.worker import redraw_displays, send_displays, show_open_figures
from ipy_bgtasks.hooks import refuse_questions, threads_of_jobs
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import kill_group
from ipy_bgtasks.runners import wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from ipy_bgtasks.job.progress import Progress
    from ipy_bgtasks.registry.specs import JobId
    from ipy_bgtasks.runners.remote import Answer


#: Characters of one message of output at most: whoever shows it is to get it in portions.
_PORTION = 1 << 16


class RemoteJob:
    """What stands for the job in the worker process: what `current.get()` returns there."""

    def __init__(self, child: Child, number: int | JobId, name: str = "") -> None:
        self._child = child
        self.number = number
        self.name = name
        self._progress: Progress | None = None

    def __repr__(self) -> str:
        return f"<job {self.number}: {self.name}, in process {self._child.pid}>"

    @property
    def job(self) -> RemoteJob:
        """What users get, which shows them no more than this."""
        return self

    @property
    def progress(self) -> Progress | None:
        """How far the job is; what is set here is shown in the session."""
        return self._progress

    @progress.setter
    def progress(self, value: Progress | float | None) -> None:
        from ipy_bgtasks.job.progress import Progress

        self._progress = now = Progress.of(value)
        shown = None if now is None else (now.done, now.total, now.text)
        self._child.send("progress", self.number, shown)


class Child:
    """The worker that this process is; *link* leads to whoever watches it."""

    def __init__(self, link: _Sockets | _Pipes) -> None:
        self.pid = os.getpid()
        self.job = RemoteJob(self, 0)
        self._link = link
        self._lock = threading.Lock()
        self._main, self._start = threading.get_ident(), sys._getframe(1).f_code
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        sys.argv = [""]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the foreground's, whoever sends it
        current.set(self.job)
        if hasattr(os, "register_at_fork"):
            # A forked child must neither write there nor keep it open after us.
            os.register_at_fork(after_in_child=link.close)
        self.changes = Installation()  # for good
        threads_of_jobs.track(self.changes)
        refuse_questions(self.changes)
        send_displays(self.changes, self.display)
        threading.Thread(target=self._listen, name="bg-questions", daemon=True).start()

    def send(self, *message: Any) -> None:
        """Send one message: its kind, the job's number, and what there is to say.

        In a forked child there is nobody to send it to.
        """
        if os.getpid() == self.pid:
            with self._lock:
                self._link.send(message)

    def display(self, kind: str, *what: Any) -> None:
        """Send what the job whose code calls displays, behind the text it has written."""
        job = current.get() or self.job
        with self._link.displaying():
            self.send("display", job.number, kind, *what)

    def run(self, data: bytes) -> Answer:
        """Run the work of `job`, in a context of its own, and return its answer."""
        answer = copy_context().run(self._run, data)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the user's code may have put anything there
                stream.flush()
        if os.getpid() != self.pid:
            _leave(*answer)
        return answer

    def _run(self, data: bytes) -> Answer:
        from ipy_bgtasks.runners.remote import answer

        current.set(self.job)
        ending = answer(data, self._awaited)
        with contextlib.suppress(Exception):  # a figure that cannot be drawn
            show_open_figures()
        return ending

    def _awaited(self, call: Callable[[], Awaitable[Any]]) -> Any:
        import asyncio

        from ipy_bgtasks.runners.remote import end_of

        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            task = loop.create_task(end_of(call))
            self._task = loop, task
            try:
                return loop.run_until_complete(task)()
            finally:
                self._task = None

    # The thread that listens

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            for question in self._link.questions():
                if question[0] == "stack":
                    frames = [(f.f_code, f.f_lineno) for f in self._frames()]
                    sites = [(code.co_filename, line, code.co_name) for code, line in frames]
                    self.send("answer", self.job.number, question, sites)
                else:  # aside: more may be asked while that takes its time
                    self._show(question)
        # Nobody is there who would hear of the end, nor need what the job has started.
        if hasattr(os, "getpgrp") and os.getpgrp() == self.pid:
            kill_group(self.pid)
        os._exit(1)

    def _show(self, question: Any) -> None:
        from ipy_bgtasks.stacks import aside, evaluate

        def answer() -> None:
            self.send("answer", self.job.number, question, evaluate(self._frames, question[1]))

        aside(answer, "bg-query")

    def _frames(self) -> list[FrameType]:
        from ipy_bgtasks.stacks import await_frames, thread_frames

        if (now := self._task) is not None:
            loop, task = now
            return await_frames(task, self._main, loop)
        return thread_frames(self._main, self._start)


class _Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of the worker."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self.name = f"<{name}>"
        self._stream = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Send it, as the output of the job whose code writes."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        child = self._child
        job = current.get() or child.job
        for start in range(0, len(text), _PORTION):
            portion = str.__str__(text[start : start + _PORTION])
            child.send("text", job.number, self._stream, portion)
        if os.getpid() != child.pid:  # a forked child, whose own output still leads somewhere
            outside = sys.__stdout__ if self._stream == "stdout" else sys.__stderr__
            if outside is not None:
                outside.write(text)
                outside.flush()
        return len(text)


def _leave(kind: str, data: Any, trace: str) -> NoReturn:
    """End a forked child whose code came back to us, which are its parent's, as a script ends."""
    status: Any = 1 if trace else 0
    if kind == "error":
        with contextlib.suppress(BaseException):
            error = pickle.loads(data)
            if isinstance(error, SystemExit):
                status, trace = error.code, ""
    if not isinstance(status, int | None):
        status, trace = 1, f"{status}\n"
    with contextlib.suppress(Exception):
        sys.stderr.write(trace)
        sys.stderr.flush()
    os._exit(status or 0)


class _Sockets:
    """The link of a worker process: the sockets to its session."""

    def __init__(self, jobs: socket.socket, control: socket.socket) -> None:
        self._jobs = jobs
        self._control = control
        for sock in (jobs, control):
            sock.setblocking(True)
            sock.set_inheritable(False)  # what a job starts must not keep it open after us

    def send(self, message: tuple[Any, ...]) -> None:
        self._jobs.sendall(wire.packed(*message))

    def displaying(self) -> contextlib.AbstractContextManager[None]:
        """Send a display inside; what is written afterwards comes behind it."""
        return contextlib.nullcontext()

    def questions(self) -> Iterator[Any]:
        """Yield what is asked, "stack" or "show" and a text, until the other end is gone."""
        for messages in wire.received(self._control):
            yield from messages

    def jobs(self) -> Iterator[tuple[Any, ...]]:
        """Yield the jobs as they come, and note that each begins."""
        for messages in wire.received(self._jobs):
            for message in messages:
                self._control.send(wire.BEGUN)
                yield message

    def close(self) -> None:
        self._jobs.close()
        self._control.close()


def work(where: str, live: str) -> None:
    """Be a worker, whose ends of the sockets are where `wire.ends_of_worker` finds them.

    Unless *live* is empty, displays can be updated where they are shown.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    link = _Sockets(*wire.ends_of_worker(where))
    child = Child(link)
    sys.stdout, sys.stderr = _Stream(child, "stdout"), _Stream(child, "stderr")
    if live:
        redraw_displays(child.changes)
    around = list(sys.path), os.getcwd()
    is_first = True
    for number, name, data, news in link.jobs():
        path, directory = around = news or around
        if sys.path != path:
            sys.path[:] = path
        with contextlib.suppress(OSError):
            if directory != os.getcwd():
                os.chdir(directory)
        child.job = RemoteJob(child, number, name)
        if is_first:
            is_first = False
            child.send("begin", number)
        child.send("end", number, child.run(data))


#: Seconds to wait until a display is recorded.
_RECORDED = 1.0
#: Characters of a value's or an error's line.
_LINE = 500
#: Bytes of a value that is read again for its line.
_GLANCE = 10_000_000
_NONE = pickle.dumps(None)


class _Pipes:
    """The link of a kept worker: lines, from and to its watcher. The methods are the same."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks = asks
        self._answers = answers
        self._lines = open(answers, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        self._recorded = threading.Event()
        for fd in (asks, answers):
            os.set_inheritable(fd, False)  # what the job starts must not keep it open after us

    def send(self, message: tuple[Any, ...]) -> None:
        self._lines.write(json.dumps(message, default=_encoded) + "\n")
        self._lines.flush()

    @contextlib.contextmanager
    def displaying(self) -> Iterator[None]:
        """Wait until it is recorded: what is written next goes another way, by the streams."""
        self._recorded.clear()
        yield
        self._recorded.wait(_RECORDED)

    def questions(self) -> Iterator[Any]:
        with open(self._asks, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                if line == "shown\n":
                    self._recorded.set()
                else:
                    yield json.loads(line)

    def close(self) -> None:
        for fd in (self._asks, self._answers):
            with contextlib.suppress(OSError):
                os.close(fd)


def _encoded(value: Any) -> str:
    """Return the bytes of a picture as messages of Jupyter have them."""
    from base64 import b64encode

    return b64encode(value).decode()


def _store(directory: str, answer: Answer) -> dict[str, Any]:
    """Leave an answer in the directory; return what the watcher is to write of it."""
    from ipy_bgtasks.runners.kept import files

    kind, data, trace = answer
    if trace:
        files.replace(directory, files.TRACE, trace.encode("utf-8", "replace"))
    if kind == "unsendable":
        return {"kind": kind, "message": str(data)}
    if data == _NONE and kind == "value":
        return {"kind": "none"}
    files.replace(directory, files.VALUE, data)
    value: Any = None
    with contextlib.suppress(BaseException):  # whoever asks for it is told
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


def work_kept(pipes: str, directory: str, serial: str) -> None:
    """Be the worker: *pipes* are the descriptors of what is asked and what is answered."""
    from ipy_bgtasks.registry.specs import JobId
    from ipy_bgtasks.runners.kept import files

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
