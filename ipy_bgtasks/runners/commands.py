"""Shell commands: as jobs of their own, and in the middle of a job's code.

Each command leads a session of its own, so that neither an interrupt of the foreground nor a
Ctrl-C in the terminal reaches it, and everything that it started can be found and stopped with
it. Its output is read on the service loop: it flows while a cell blocks the user's loop.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import threading
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import (
    kill_signal,
    loops_read_pipes,
    oom_kills,
    opened_process,
    reaped,
    why_killed,
)
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.supervisor import all_of
from ipy_bgtasks.service import in_thread

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.work.reading import Command

#: Seconds between two checks of whether a job that waits for a command was asked to stop.
_LOOK = 0.05
#: Seconds for which output still comes after a command has ended. What the command itself wrote
#: is in the pipe by then; this is for a `tee` behind it, and bounds a child that goes on writing.
_AFTERWARDS = 0.2
#: Seconds between two checks of a session that was asked to stop: the first, and the most.
_PAUSE, _PAUSE_MOST = 0.01, 0.2
#: Seconds after which the supervisor is told of commands that have ended.
_TELLING = 0.1
#: Bytes read at once: as much as a pipe holds, as a rule.
_BLOCK = 65536


class ShellRunner(Runner):
    """Runs shell commands, which have *grace* seconds between SIGTERM and SIGKILL."""

    where = "shell"

    def __init__(self, service: ServiceLoop, supervisor: Supervisor, grace: float = 2.0) -> None:
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
        context = command.context.copy()  # one command may have been launched several times
        try:
            write = lambda name, text: context.run(job.write, name, text)  # noqa: E731
            run = _Run(self, command, write, partial(_end, job))
        except Exception as error:  # no such directory, no more processes, a NUL in the text
            job.fail(error)
            return
        job.pid, job.run = run.process.pid, run
        self.service.loop.call_soon_threadsafe(context.run, job.enter)
        run.begin()
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
        """Return whether it is the service loop's, which ends these jobs."""
        return threading.get_ident() == self.service.thread

    def run_within(
        self, command: Command, take: Callable[[str, str], object], data: bytes = b""
    ) -> int:
        """Run *command* in the calling thread, which is a job's, and return its exit code.

        *take* gets the name of a stream and what was written to it, in this thread. If the job
        is cancelled meanwhile, what cancels it is raised here, after the command and all that it
        started have ended. Raises `OSError` if it cannot be started.
        """
        if os.getpid() != self._owner:  # a forked child, in which the service loop does not run
            process = command()
            for name, output in zip(("stdout", "stderr"), process.communicate(data), strict=True):
                take(name, (output or b"").decode(errors="replace"))
            return process.returncode
        job: Record = current.get()
        news: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        run = _Run(self, command, lambda *text: news.put(text), lambda _: news.put(None))
        was_asked, before, job.pid = job.cancel_requested, job.pid, run.process.pid
        run.begin(data)
        try:
            while True:
                job.checkpoint()
                raises = job.run is not None and job.run.raises_by_itself()
                if job.cancel_requested and not was_asked and not raises:
                    # Its loop, which would raise that, cannot run while it is blocked here.
                    raise asyncio.CancelledError
                with suppress(Empty):
                    if (text := news.get(timeout=_LOOK)) is None:
                        return run.process.returncode
                    take(*text)
        except BaseException:
            while not run.is_stuck():
                run.stop(job.run is not None and job.run.insists)
                if run.over.wait(_LOOK):
                    break
            raise
        finally:
            job.pid = before

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
            run.stopping = True
        if not self.supervisor.close():
            for run in runs:
                run.kill()


def _end(job: Record, run: _Run) -> None:
    code = run.process.returncode
    if run.stopping:
        job.end_cancelled()
    elif code:
        from subprocess import CalledProcessError

        if code == -kill_signal():
            why = why_killed(run.oom_kills, run.peak)
            run.write("stderr", f"[killed by SIGKILL: {why}]\n")
        job.fail(CalledProcessError(code, run.process.args))
    else:
        job.finish(0)


class _Run(Run):
    """One command that runs. Unless said otherwise, a method is for the service loop's thread.

    *write* gets the name of a stream and what was written to it, *done* is called when the
    command has ended and its output was written; both on the service loop.
    """

    def __init__(
        self,
        runner: ShellRunner,
        command: Command,
        write: Callable[[str, str], object],
        done: Callable[[_Run], object],
    ) -> None:
        #: How many processes had been killed for lack of memory, and, at its end, how much it had.
        self.oom_kills, self.peak = oom_kills(), 0
        self.process = runner.supervisor.launch(command)
        #: Whether it was asked to stop.
        self.stopping = False
        #: Set when it has ended and its output was written.
        self.over = threading.Event()
        self._runner = runner
        self._loop = runner.service.loop
        self.write = write
        self._done = done
        self._all = all_of(self.process.pid)
        self._pipes: list[TextPipe] = []
        self._exited = self._finishing = False
        self._ending: sessions.Ending | None = None
        self._pause = _PAUSE
        self._timer: asyncio.TimerHandle | None = None
        runner.runs.add(self)

    @property
    def processes(self) -> Any:
        return self._all

    @property
    def note(self) -> str:
        if self._ending is None:
            return ""
        if (left := self._ending.kill_at - time.monotonic()) > 0:
            return f"it was sent SIGTERM; SIGKILL follows in {left:.1f} s, or at once with -f"
        return "it was sent SIGKILL; what is left of it cannot be killed"

    def is_stuck(self) -> bool:
        """Return whether it was killed long ago, and still is there. Any thread may call."""
        ending = self._ending
        return ending is not None and time.monotonic() > ending.kill_at + sessions.PATIENCE

    def stop(self, force: bool) -> None:
        """Ask it to stop, or kill it with *force*. Any thread may call."""
        self._loop.call_soon_threadsafe(self._stop, force)

    def kill(self) -> None:
        """Kill what can be reached at once. Any thread may call."""
        if not self._exited:
            self._all.kill()

    def begin(self, data: bytes = b"") -> None:
        """Begin to read its output, after *data* was given to it. Any thread may call."""
        if (stdin := self.process.stdin) is not None:
            in_thread("bg-pipe", _feed, stdin, data)
        self._runner.service.submit(self._attach())

    async def _attach(self) -> None:
        for name in ("stdout", "stderr"):
            if (pipe := getattr(self.process, name)) is not None:
                reader = TextPipe(partial(self._pass_on, name), self._closed)
                self._pipes.append(reader)
                await reader.read(self._loop, pipe)
        on_exit(self._loop, self.process, self._ended)

    def _pass_on(self, name: str, text: str) -> None:
        with suppress(Exception):  # a failing display must not stop the command
            self.write(name, text)

    # The end: of the command, of its output, and, if it was asked to stop, of all it started

    def _ended(self) -> None:
        self.peak = reaped(self.process)
        self._exited = True
        self._runner.has_ended(self.process.pid)
        if self.stopping:
            self._look()
        else:
            self._finish_soon()

    def _stop(self, force: bool) -> None:
        if self.over.is_set() or (not self.stopping and self.process.poll() is not None):
            return  # it has finished by itself
        self.stopping = True
        if self._ending is None:
            self._ending = sessions.Ending(self._all, 0 if force else self._runner.grace)
        elif force:
            self._ending.hurry()
        else:
            return
        self._look()

    def _look(self) -> None:
        """Check a session that was asked to stop, and kill what is left when it is time."""
        if self._timer is not None:
            self._timer.cancel()
        left = self._all.is_left() if self._ending is None else self._ending.step()
        if self._exited and not left:
            self._finish_soon()
            return
        self._timer = self._loop.call_later(self._pause, self._look)
        self._pause = min(self._pause * 1.5, _PAUSE_MOST)

    def _finish_soon(self) -> None:
        """Finish when all output is read, or a moment later if something keeps a pipe open."""
        self._finishing = True
        self._closed()
        self._loop.call_later(_AFTERWARDS, self._finish)

    def _closed(self) -> None:
        if self._finishing and not any(pipe.is_open for pipe in self._pipes):
            self._finish()

    def _finish(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self._runner.runs.discard(self)
            self._done(self)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(OSError), pipe:  # it may not read all of its input
        pipe.write(data)


class TextPipe(asyncio.Protocol):
    """Takes what comes through a pipe: passes it to *take* as text, and calls *closed* at its end.

    At most one block is in memory at a time, so that a fast writer has to wait. Every method is
    for the loop's thread.
    """

    def __init__(self, take: Callable[[str], object], closed: Callable[[], object]) -> None:
        self._take = take
        self._closed = closed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.is_open = True

    async def read(self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes]) -> None:
        """Begin to read the pipe."""
        if loops_read_pipes():
            await loop.connect_read_pipe(lambda: self, pipe)
        else:
            in_thread("bg-pipe", self._read_blocking, loop, pipe)

    def data_received(self, data: bytes, final: bool = False) -> None:
        if text := self._decoder.decode(data, final):
            self._take(text)

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        self.data_received(b"", final=True)
        self._closed()

    def _read_blocking(self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes]) -> None:
        with pipe:
            while data := pipe.read(_BLOCK):
                taken = threading.Event()
                loop.call_soon_threadsafe(self.data_received, data)
                loop.call_soon_threadsafe(taken.set)
                taken.wait()
        loop.call_soon_threadsafe(self.connection_lost, None)


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

    in_thread("bg-wait", wait)
