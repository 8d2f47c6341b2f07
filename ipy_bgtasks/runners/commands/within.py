"""A shell command in the middle of a job's code: it blocks that code, and is stopped with the job.

It has a session of its own and no input, as `%bg !command` has, and is supervised.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import threading
import time
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from ipy_bgtasks.context import current
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.trees import all_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.work.reading import Command

    Take = Callable[[str, str], object]
    News = SimpleQueue[tuple[str, bytes]]

#: Seconds between two checks of whether the job was asked to stop or the command has ended.
_LOOK = 0.05
#: Seconds for which output still comes after a command has ended.
_AFTERWARDS = 0.2
#: Seconds between two checks of whether a session that was asked to stop has ended.
_PAUSE = 0.02
_BLOCK = 65536


def run_within(
    supervisor: Supervisor, grace: float, command: Command, take: Take, data: bytes = b""
) -> int:
    """Run *command* in the calling thread, which is a job's, and return its exit code.

    *take* gets what it writes, with the name of the stream, in this thread. If the job is
    cancelled meanwhile, what cancels it is raised here, after the command and all it started
    were asked to stop, and killed *grace* seconds later. Raises `OSError` if it cannot be started.
    """
    job: Record = current.get()
    supervisor.start()
    token = supervisor.token()
    process = command({sessions.TOKEN: token})
    supervisor.watch(process.pid, token)
    before, job.pid = job.pid, process.pid
    try:
        _follow(job, process, take, data)
    except BaseException:
        _end(process, 0.0 if job.run is not None and job.run.insists else grace)
        raise
    finally:
        job.pid = before
        supervisor.unwatch(process.pid)
    return process.returncode


def _follow(job: Record, process: subprocess.Popen[bytes], take: Take, data: bytes) -> None:
    """Pass on what it writes until it has ended, and stop it if the job is asked to stop."""
    news: News = SimpleQueue()
    pipes = {"stdout": process.stdout, "stderr": process.stderr}
    decoders = {}
    for name, pipe in pipes.items():
        if pipe is not None:
            decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")
            _in_background(_read, pipe, name, news)
    if process.stdin is not None:
        _in_background(_write, process.stdin, data)
    was_asked, late = job.asked, float("inf")
    while decoders and time.monotonic() < late:
        _stop_if_asked(job, was_asked)
        if late == float("inf") and process.poll() is not None:
            late = time.monotonic() + _AFTERWARDS
        try:
            name, block = news.get(timeout=_LOOK)
        except Empty:
            continue
        decoder = decoders[name]
        if text := decoder.decode(block, final=not block):
            take(name, text)
        if not block:
            del decoders[name]
    while process.poll() is None:  # it has closed its output, but still runs
        _stop_if_asked(job, was_asked)
        time.sleep(_LOOK)


def _stop_if_asked(job: Record, was_asked: bool) -> None:
    """Raise what cancels the job; one that is cleaning up after that may run commands."""
    job.checkpoint()
    if job.asked and not was_asked and (job.run is None or not job.run.raises_by_itself()):
        # Its loop, which would raise that, cannot run while it is blocked here.
        raise asyncio.CancelledError


def _read(pipe: IO[bytes], name: str, news: News) -> None:
    block = b"."
    while block:
        try:
            block = os.read(pipe.fileno(), _BLOCK)
        except (OSError, ValueError):
            block = b""
        news.put((name, block))
    pipe.close()


def _write(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except OSError:  # it does not read all of its input
        pass


def _in_background(function: Callable[..., None], *args: object) -> None:
    # In an empty context: such a thread belongs to no job.
    thread = threading.Thread(target=function, args=args, name="bg-pipe", daemon=True)
    Context().run(thread.start)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Stop it and all that it started; what cannot be killed is abandoned after a while."""
    kill_at = time.monotonic() + grace
    started = all_of(process.pid)
    started.terminate()
    while time.monotonic() < kill_at + sessions.PATIENCE:
        late = time.monotonic() >= kill_at
        left = started.kill() if late else started.is_left()
        if process.poll() is not None and not left:
            return
        time.sleep(_PAUSE)
