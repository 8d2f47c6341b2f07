"""Worker processes as a place: copies of what a job needs go there, its result comes back.

A worker is a plain interpreter in a session of its own, with two sockets to speak to it. Nothing
of `multiprocessing` is in between, and it never looks at the user's `__main__`, which may be a
script without a guard. So it can be killed at any moment, also in C code, with everything that
it started, and only its own job ends.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import ProcessDied
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import (
    current_directory,
    exit_status,
    has_sessions,
    kill_group,
    oom_kills,
    passes_descriptors,
    reaped,
    why_killed,
)
from ipy_bgtasks.runners import sessions, wire
from ipy_bgtasks.runners.supervisor import all_of
from ipy_bgtasks.service import in_thread

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable, Iterable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.work import Work


#: Seconds after which the job of a worker that has not come up says so.
_LATE = 10.0
#: Bytes that an idle worker's socket takes at once.
_SMALL = 1 << 16


class Worker:
    """One worker process. Unless said otherwise any thread may call any method."""

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner
        #: What it was given to do.
        self.run: _Run | None = None
        #: Whether it is dead, and its runner knows or is about to.
        self.dead = False
        #: Whether it has started, and so begins a job at once; else it says when it does.
        self.warm = False
        #: Set when nothing of it is left.
        self.closed = threading.Event()
        #: How many processes had been killed for lack of memory, and, at its end, how much it had.
        self.oom_kills, self.peak = oom_kills(), 0
        self._lock = threading.Lock()
        self._stopped = self._reaped = False
        self._queries: dict[tuple[str, str], Future[Any]] = {}
        self._around: tuple[list[str], str] | None = None  # as the worker knows it
        self._wire = wire.Inherited() if passes_descriptors() else wire.Connected()
        self._connected = threading.Event()
        try:
            self._process = self._started()
        except BaseException:
            self._wire.close()
            raise
        self.pid = self._process.pid
        #: It, and all that it started.
        self.processes = all_of(self.pid)
        in_thread("bg-process", self._listen)

    def _started(self) -> subprocess.Popen[bytes]:
        wire = self._wire
        live = "live" if self._runner.live else ""
        command = sessions.python("child.work", wire.argument, live)

        def start(variables: dict[str, str]) -> subprocess.Popen[bytes]:
            shared = {"stdout": None, "stderr": None, "env": {**os.environ, **variables}}
            return sessions.start(command, **shared, **wire.options)

        supervisor = self._runner.supervisor
        process = start({}) if supervisor is None else supervisor.launch(start)
        wire.started(process)
        return process

    @property
    def usable(self) -> bool:
        """Return whether it can take another job."""
        return not self._stopped

    def submit(self, number: int, name: str, data: bytes) -> None:
        """Have the worker, which is idle, run a job."""
        self.has_begun()  # forget what it wrote for the job before
        around = list(sys.path), current_directory() or os.sep
        news = None if around == self._around else around
        self._around = around
        message = wire.packed(number, name, data, news)
        if len(message) <= _SMALL and self._wire.ends is not None:
            self._send(message)
        else:  # it may not even have started
            in_thread("bg-process", self._send, message)

    def has_begun(self) -> bool:
        """Return whether it has begun a job since this was last asked."""
        ends = self._wire.ends
        try:
            return ends is not None and bool(ends[1].recv(_SMALL))
        except OSError:
            return False

    def take_run(self) -> _Run | None:
        """Return the run it was given, to the first caller: a job may end and its worker die."""
        with self._lock:
            run, self.run = self.run, None
            return run

    def kill(self) -> None:
        """End it and everything in its session, wherever its code is; returns at once."""
        self._stopped = True
        with self._lock, contextlib.suppress(OSError):
            if not has_sessions():
                self.processes.kill()
            elif not self._reaped:  # else its number may be somebody else's by now
                kill_group(self.pid)

    def query(self, what: str, text: str, wait: float) -> Any:
        """Return its answer; None if there is none in *wait* seconds."""
        ends, question = self._wire.ends, (what, text)
        try:
            with self._lock:
                if (answer := self._queries.get(question)) is None and ends is not None:
                    ends[1].send(wire.packed(*question))
                    answer = self._queries[question] = Future()
            return None if answer is None else answer.result(wait)
        except (OSError, TimeoutError):
            return None

    def _send(self, message: bytes) -> None:
        self._connected.wait()
        with contextlib.suppress(OSError):  # it is dead: `_runner.on_exit` is about to be called
            if self._wire.ends is not None:
                self._wire.ends[0].sendall(message)

    # On the thread that listens

    def _listen(self) -> None:
        ends = self._wire.connect(self._process)
        self._connected.set()
        if ends is not None:
            self._note_delay(ends[0])
            with contextlib.suppress(OSError):
                for messages in wire.received(ends[0]):
                    for message in _joined(messages):
                        self._receive(message)
        # Its socket is gone: it has ended, or does so now. Killed, with what has made groups of
        # its own, it cannot be mistaken for another process: nobody has waited for it yet.
        exitcode = self._exitcode()
        self._stopped = True
        with self._lock:
            self.processes.kill()
        self._reap()
        if self._runner.supervisor is not None:
            self._runner.supervisor.unwatch(self.pid)
        self.dead = True
        self._runner.on_exit(self, exitcode)
        self._wire.close()
        self.closed.set()

    def _note_delay(self, sock: socket.socket) -> None:
        """Say so in the output of the job that waits for it if it takes long to come up."""
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            late = not selector.select(_LATE)
        if late and (run := self.run) is not None and not run.job.cancel_requested:
            note = f"[its worker process, {self.pid}, has not come up for {_LATE:g} s]\n"
            run.context.run(run.job.enter)
            run.context.run(run.job.write, "stderr", note)

    def _reap(self) -> None:
        exit_status(self.pid)  # wait without the lock, where possible
        with self._lock:
            self.peak = reaped(self._process)
            self._reaped = True

    def _exitcode(self) -> int | None:
        """Return how it ended by itself; it is not reaped, so that its number stays its own."""
        if self._stopped:
            return None
        status = exit_status(self.pid)
        if status is None:
            self._reap()
        return self._process.returncode if status is None else status

    def _receive(self, message: tuple[Any, ...]) -> None:
        if message[0] != "answer":
            self._runner.on_message(self, message)
            return
        with self._lock:
            answer = self._queries.pop(message[2], None)
        if answer is not None:
            answer.set_result(message[3])


def _joined(messages: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """Return the messages with neighbouring texts of one stream joined; each line comes as one."""
    for stream, group in groupby(messages, lambda each: each[:3] if each[0] == "text" else None):
        if stream is None:
            yield from group
        else:
            yield (*stream, "".join(text for *_, text in group))


#: How often a job is given to another worker when one died before the job began.
_ATTEMPTS = 3


class ProcessRunner(Runner):
    """Runs work in at most *max_processes* worker processes, the rest in order of launch.

    What a worker writes is read by a thread of its own, also while a cell blocks the loop.
    *supervisor* ends the workers when this process is killed. *live* says that what they display
    can be redrawn where it is shown.
    """

    where = "process"

    def __init__(
        self,
        supervisor: Supervisor | None = None,
        max_processes: int | None = None,
        *,
        live: bool = False,
    ) -> None:
        self.supervisor = supervisor
        self.live = live
        self.max_processes = max_processes or os.cpu_count() or 1
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._starting = 0
        self._queue: deque[_Run] = deque()
        self._runs: dict[int, _Run] = {}
        self._shut_down = False

    def accept(self, work: Work) -> Work:
        from ipy_bgtasks.runners.packing import pack

        return pack(work, "--process")

    def start(self, job: Record) -> None:
        """Hand the job to a worker, or queue it if all are busy."""
        if (work := job.work) is None:
            return
        call: Any = self.accept(work).call  # it may have waited for jobs whose results it uses
        run = job.run = _Run(self, job, call.data, copy_context())
        self._runs[job.number] = run
        self._launch(run)

    def drop(self, run: _Run) -> bool:
        """Remove it from the queue; return False if it is not there."""
        with self._lock:
            if queued := run in self._queue:
                self._queue.remove(run)
        return queued

    def discard(self, job: Record) -> None:
        """Forget a job that is not kept any longer, and whatever its threads still write."""
        self._runs.pop(job.number, None)

    def shutdown(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._shut_down = True
            self._queue.clear()
            workers = list(self._workers)
        for worker in workers:
            worker.kill()

    # From launch to worker

    def _launch(self, run: _Run) -> None:
        with self._lock:
            if not self._shut_down:
                self._queue.append(run)
        if self._shut_down:
            run.job.end_cancelled()
        self._fill()

    def _fill(self) -> None:
        """Give what is queued to idle workers, and to new ones as long as there may be more."""
        while True:
            with self._lock:
                busy = len(self._workers) + self._starting - len(self._idle)
                if not self._queue or busy >= self.max_processes:
                    return
                run = self._queue.popleft()
                worker = self._idle.pop() if self._idle else None
                self._starting += worker is None
            if worker is None:
                worker = self._new_worker(run)
            if worker is not None:
                self._give(worker, run)

    def _new_worker(self, run: _Run) -> Worker | None:
        try:
            worker = Worker(self)
        except Exception as error:
            with self._lock:
                self._starting -= 1
            run.job.fail(ProcessDied(f"no worker process could be started: {error}"))
            return None
        with self._lock:
            self._starting -= 1
            self._workers.add(worker)
            shut_down = self._shut_down
        if shut_down:  # meanwhile
            worker.kill()
        return worker

    def _give(self, worker: Worker, run: _Run) -> None:
        run.worker = worker
        worker.run = run
        run.attempts += 1
        job = run.job
        if worker.warm:
            run.context.run(self._begin, job, worker)
        worker.submit(job.number, job.name, run.data)
        if worker.dead and worker.take_run() is not None:  # too late for `on_exit` to see the job
            self._lost(run, None, False)
        elif job.cancel_requested:  # by somebody who found no worker yet
            worker.kill()

    # From worker to end

    def on_message(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """Handle a message that a worker sent, on the worker's own thread."""
        kind, number, *rest = message
        run = self._runs.get(number)
        if run is None:
            return
        with contextlib.suppress(Exception):  # the display's trouble is not the job's
            if kind == "text":
                run.context.run(run.job.write, *rest)
            elif kind == "display":
                run.context.run(run.job.show, *rest)
            elif kind == "progress":
                from ipy_bgtasks.job.progress import Progress

                run.job.progress = None if rest[0] is None else Progress(*rest[0])
            elif kind == "begin":
                worker.warm = True
                run.context.run(self._begin, run.job, worker)
        if kind == "end" and worker.take_run() is not None:
            from ipy_bgtasks.runners.packing import ending

            self._end(run, ending(run.job, *rest))
            with self._lock:
                if is_spare := len(self._workers) > self.max_processes:
                    self._workers.discard(worker)
                elif worker.usable:
                    self._idle.append(worker)
            if is_spare:
                worker.kill()
            self._fill()

    def on_exit(self, worker: Worker, exitcode: int | None) -> None:
        """Handle the end of a worker, after all its messages.

        *exitcode* is None where it was killed on purpose.
        """
        with self._lock:
            self._workers.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
        if (run := worker.take_run()) is not None:
            why = why_killed(worker.oom_kills, worker.peak)
            self._lost(run, exitcode, worker.has_begun(), why)
        self._fill()

    def _lost(self, run: _Run, exitcode: int | None, begun: bool, why: str = "") -> None:
        """Fail a job whose worker is dead, or give it to another if it had not begun."""
        if run.job.cancel_requested or self._shut_down:
            self._end(run, run.job.end_cancelled)
        elif not begun and run.attempts < _ATTEMPTS:
            self._launch(run)
        else:
            error = ProcessDied(how_it_died(exitcode, begun, why))
            self._end(run, lambda: run.job.fail(error))

    def _begin(self, job: Record, worker: Worker) -> None:
        job.enter()
        job.pid = worker.pid
        job.begin()

    def _end(self, run: _Run, end: Callable[[], None]) -> None:
        """End the job, in its own context: what it has to show belongs there."""
        run.worker = None
        run.context.copy().run(end)


@dataclass(eq=False)
class _Run(Run):
    """One job on its way through a worker."""

    runner: ProcessRunner
    job: Record
    data: bytes
    context: Context
    worker: Worker | None = None
    attempts: int = 0

    def stop(self, force: bool) -> None:
        """Drop it from the queue, or kill its worker."""
        if self.runner.drop(self):
            self.job.end_cancelled()
        elif (worker := self.worker) is not None:
            worker.kill()

    def query(self, what: str, text: str, wait: float) -> Any:
        return None if (worker := self.worker) is None else worker.query(what, text, wait)

    @property
    def processes(self) -> Any:
        return None if (worker := self.worker) is None else worker.processes


def how_it_died(exitcode: int | None, begun: bool, why: str = "") -> str:
    """Return how a worker died, in a sentence; *why* is what is known of a SIGKILL."""
    when = "" if begun else " before it could begin"
    if exitcode is None:
        return f"the worker process ended{when}"
    if exitcode >= 0:
        return f"the worker process exited with code {exitcode}{when}"
    import signal

    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hints = {"SIGKILL": why, "SIGSEGV": "a crash in C code"}
    hint = f" ({hints[name]})" if hints.get(name) else ""
    return f"the worker process was killed by {name}{hint}{when}"
