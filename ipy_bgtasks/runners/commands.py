"""A child process's output and exit, as events on an event loop.

A shell command in the middle of a job's code: it blocks that code, and is stopped with the job.

It has a session of its own and no input, as `%bg !command` has, and is supervised.

Child processes as a place: each job is a shell command in a session of its own.

With a session, neither an interrupt of the foreground nor a Ctrl-C in the terminal reaches it,
and everything that a command started can be found and stopped with it.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import threading
import time
from contextvars import Context
from functools import partial
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from ipy_bgtasks.context import current
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import opened_process, unblock
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.trees import all_of

if TYPE_CHECKING:
    import asyncio
    import subprocess
    from collections.abc import Callable
    from contextvars import Context

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.work.reading import Command

    Take = Callable[[str, str], object]
    News = SimpleQueue[tuple[str, bytes]]


#: Bytes read before the loop runs on: as much as a pipe holds, as a rule.
_BLOCK = 65536


class TextPipe:
    """Reads a pipe as UTF-8 as it comes: passes text to *take*, and calls *closed* at its end.

    At most one block is in memory at a time, so that a fast writer has to wait. Every method is
    for the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: IO[bytes],
        take: Callable[[str], object],
        closed: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._pipe = pipe
        self._take = take
        self._closed = closed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.is_open = True
        try:
            loop.add_reader(pipe.fileno(), self._read)
            if not unblock(pipe.fileno()):
                loop.remove_reader(pipe.fileno())
                raise NotImplementedError
        except NotImplementedError:  # Windows
            threading.Thread(target=self._read_blocking, name="bg-pipe", daemon=True).start()

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._pipe.fileno())
        self._got(data)

    def _got(self, data: bytes) -> None:
        text = self._decoder.decode(data, final=not data)
        if not data:
            self.is_open = False
            self._pipe.close()
        if text:
            self._take(text)
        if not data:
            self._closed()

    def _read_blocking(self) -> None:
        data = b"."
        while data:
            data = self._pipe.read(_BLOCK)
            taken = threading.Event()
            self._loop.call_soon_threadsafe(self._got, data)
            self._loop.call_soon_threadsafe(taken.set)
            taken.wait()


def on_exit(
    loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes], fn: Callable[[], object]
) -> None:
    """Call *fn* on the loop when *process* has ended. Call this on the loop's thread.

    The process may not have been reaped by then; *fn* has to do that.
    """
    watched = opened_process(process.pid)
    if watched is not None:
        descriptor = watched

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            fn()

        loop.add_reader(watched, ended)
        return

    def wait() -> None:
        process.wait()
        loop.call_soon_threadsafe(fn)

    threading.Thread(target=wait, name="bg-wait", daemon=True).start()


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
    was_asked, late = job.cancel_requested, float("inf")
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
    raises = job.run is not None and job.run.raises_by_itself()
    if job.cancel_requested and not was_asked and not raises:
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


#: Seconds for which output still comes after a command has ended. What the command itself wrote
#: is in the pipe by then; this is for a `tee` behind it, and bounds a child that goes on writing.
_AFTERWARDS = 0.2
#: Seconds between two checks of a session that was asked to stop: the first, and the most.
_PAUSE, _PAUSE_MOST = 0.01, 0.2
#: Seconds after which the supervisor is told of commands that have ended.
_TELLING = 0.1


class ShellRunner(Runner):
    """Runs shell commands; their output is read on the service loop.

    So it flows while a cell blocks the user's loop. A command has *grace* seconds between
    SIGTERM and SIGKILL.
    """

    where = "shell"

    def __init__(
        self,
        service: ServiceLoop,
        supervisor: Supervisor,
        grace: float = 2.0,
    ) -> None:
        self.service = service
        self.supervisor = supervisor
        self.grace = grace
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._ended: list[int] = []
        self.runs: set[_Run] = set()

    def start(self, job: Record) -> None:
        """Start the command; when this returns it runs, or the job has failed."""
        work = job.work
        with self._lock:
            if work is None or not job.begin():
                return
        command: Command = work.call  # type: ignore[assignment]
        self.supervisor.start()
        token = self.supervisor.token()
        try:
            process = command({sessions.TOKEN: token})
        except Exception as error:  # no such directory, no more processes, a NUL in the text
            job.fail(error)
            return
        self.supervisor.watch(process.pid, token)
        job.pid = process.pid
        run = job.run = _Run(self, job, process, command.context)
        self.runs.add(run)
        self.service.loop.call_soon_threadsafe(run.attach)
        if job.cancel_requested:
            run.stop(False)

    def stop(self, job: Record, force: bool) -> None:
        """Send SIGTERM to the session and, after the grace period or with *force*, SIGKILL."""
        with self._lock:
            if job.started is None:
                job.end_cancelled()
                return
        run = job.run
        if isinstance(run, _Run):
            run.stop(force)

    def needs_this_thread(self) -> bool:
        """Return False: the service loop ends these jobs."""
        return threading.get_ident() == self.service.thread

    def run_within(
        self, command: Command, take: Callable[[str, str], object], data: bytes = b""
    ) -> int:
        """Run a command in the middle of the calling job's code, as `run_within` says."""
        return run_within(self.supervisor, self.grace, command, take, data)

    def has_ended(self, process: int) -> None:
        """Tell the supervisor, in batches: each message wakes it. For the service loop's thread."""
        self._ended.append(process)
        if len(self._ended) == 1:
            self.service.loop.call_later(_TELLING, self._tell_ended)

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        self.supervisor.unwatch(*ended)

    def shutdown(self) -> None:
        """Stop all commands, without waiting."""
        if os.getpid() != self._owner:
            return
        runs = list(self.runs)
        for run in runs:
            run.abandon()
        if not self.supervisor.close():
            for run in runs:
                run.kill()


class _Run(Run):
    """One command. Unless said otherwise, a method is for the service loop's thread."""

    def __init__(
        self,
        runner: ShellRunner,
        job: Record,
        process: subprocess.Popen[bytes],
        context: Context,
    ) -> None:
        self.job = job
        self._runner = runner
        self._loop = runner.service.loop
        self._process = process
        self._all = all_of(process.pid)
        self._context = context.copy()  # one command may have been launched several times
        self._pipes: list[TextPipe] = []
        self._exited = False
        self._stopping = False
        self._kill_at: float | None = None
        self._pause = _PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._over = False

    @property
    def note(self) -> str:
        """What has been done to stop it, in the user's words. Any thread may call."""
        if self._kill_at is None:
            return ""
        if (left := self._kill_at - self._loop.time()) > 0:
            return f"it was sent SIGTERM; SIGKILL follows in {left:.1f} s, or at once with -f"
        return "it was sent SIGKILL; what is left of it cannot be killed"

    def stop(self, force: bool) -> None:
        """Ask it to stop, or kill it with *force*. Any thread may call."""
        self._loop.call_soon_threadsafe(self._stop, force)

    def abandon(self) -> None:
        """Note that it is stopped elsewhere: the job ends cancelled. Any thread may call."""
        self._stopping = True

    def kill(self) -> None:
        """Kill what can be reached at once. Any thread may call."""
        if not self._exited:
            self._all.kill()

    def attach(self) -> None:
        """Begin to read its output and to wait for its exit."""
        self._context.run(self.job.enter)
        for name in ("stdout", "stderr"):
            pipe = getattr(self._process, name)
            take = partial(self._take, name)
            self._pipes.append(TextPipe(self._loop, pipe, take, self._closed))
        on_exit(self._loop, self._process, self._ended)

    def _take(self, name: str, text: str) -> None:
        with contextlib.suppress(Exception):  # a failing display must not stop the command
            self._context.run(self.job.write, name, text)

    # The end: of the command, of its output, and, if it was asked to stop, of all it started

    def _ended(self) -> None:
        self._process.wait()
        self._exited = True
        self._runner.has_ended(self._process.pid)
        if self._stopping:
            self._look()
        else:
            self._finish_soon()

    def _stop(self, force: bool) -> None:
        if self._over or (self._exited and not self._stopping):
            return  # it has finished by itself
        if self._process.poll() is not None and not self._stopping:
            return  # likewise; the callback is about to come
        begins, self._stopping = not self._stopping, True
        if force or self._runner.grace <= 0:
            self._kill_at = self._loop.time()
        elif begins:
            self._kill_at = self._loop.time() + self._runner.grace
            self._all.terminate()
        if begins or force:
            self._look()

    def _look(self) -> None:
        """Check a session that was asked to stop, and kill what is left when it is time."""
        if self._timer is not None:
            self._timer.cancel()
        late = self._kill_at is not None and self._loop.time() >= self._kill_at
        left = self._all.kill() if late else self._all.is_left()
        if self._exited and not left:
            self._finish_soon()
            return
        self._timer = self._loop.call_later(self._pause, self._look)
        self._pause = min(self._pause * 1.5, _PAUSE_MOST)

    def _finish_soon(self) -> None:
        """Finish when all output is read, or a moment later if something keeps a pipe open."""
        self._ending = True
        self._closed()
        if not self._over:
            self._loop.call_later(_AFTERWARDS, self._finish)

    def _closed(self) -> None:
        if self._ending and not any(pipe.is_open for pipe in self._pipes):
            self._finish()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self._runner.runs.discard(self)
        job, process = self.job, self._process
        if self._stopping:
            job.end_cancelled()
        elif process.returncode:
            from subprocess import CalledProcessError

            job.fail(CalledProcessError(process.returncode, process.args))
        else:
            job.finish(0)
