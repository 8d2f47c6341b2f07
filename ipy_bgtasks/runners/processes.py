"""Worker processes as a place: copies of what a job needs go there, its result comes back.

A worker is a plain interpreter in a session of its own, with two sockets to speak to it. Nothing
of `multiprocessing` is in between, and it never looks at the user's `__main__`, which may be a
script without a guard. So it can be killed at any moment, also in C code, with everything that
it started, and only its own job ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections import deque
from contextvars import Context, copy_context
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.job.host import Run, Runner
from ipy_bgtasks.platforms import current_directory, exit_status, has_sessions, kill_group
from ipy_bgtasks.runners import programs
from ipy_bgtasks.runners import wire as protocol
from ipy_bgtasks.runners.trees import all_of
from ipy_bgtasks.runners.wire import new_wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from contextvars import Context
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.supervisor import Supervisor
    from ipy_bgtasks.work import Work


#: Seconds to wait for a worker to say where it is: it may be stuck in C code.
_STACK_WAIT = 0.2
#: Bytes that an idle worker's socket takes at once.
_SMALL = 1 << 16


class Owner(Protocol):
    """Whoever is told of a worker, on the worker's own thread."""

    def said(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """The worker sent a message."""

    def gone(self, worker: Worker, exitcode: int | None) -> None:
        """The worker is dead, and everything it sent was said.

        *exitcode* is None where it was killed on purpose.
        """


class Worker:
    """One worker process. Unless said otherwise any thread may call any method."""

    def __init__(self, owner: Owner, supervisor: Supervisor | None) -> None:
        self.owner = owner
        #: What the owner has given it to do.
        self.run: Any = None
        #: Whether it is dead, and its owner was or is being told.
        self.dead = False
        #: Whether it has started, and so begins a job at once; else it says when it does.
        self.warm = False
        #: Set when nothing of it is left.
        self.closed = threading.Event()
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._stopped = False
        self._reaped = False
        self._stack: _Question | None = None
        self._around: tuple[list[str], str] | None = None  # as the worker knows it
        self._wire = new_wire()
        self._connected = threading.Event()
        try:
            self._process = self._started()
        except BaseException:
            self._wire.close()
            raise
        self.pid = self._process.pid
        self._all = all_of(self.pid)
        thread = threading.Thread(target=self._listen, name="bg-process", daemon=True)
        Context().run(thread.start)  # no job's thread, whichever launches

    def _started(self) -> subprocess.Popen[bytes]:
        wire = self._wire
        command = programs.python("child", wire.argument)

        def start(variables: dict[str, str]) -> subprocess.Popen[bytes]:
            shared = {"stdout": None, "stderr": None, "env": {**os.environ, **variables}}
            return programs.start(command, **shared, **wire.options)

        process = start({}) if self._supervisor is None else self._supervisor.launch(start)
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
        message = protocol.packed(number, name, data, news)
        if len(message) <= _SMALL and self._wire.ends is not None:
            self._send(message)
        else:  # it may not even have started
            sender = threading.Thread(target=self._send, args=[message], daemon=True)
            Context().run(sender.start)

    def has_begun(self) -> bool:
        """Return whether it has begun a job since this was last asked."""
        ends = self._wire.ends
        try:
            return ends is not None and bool(ends[1].recv(_SMALL))
        except OSError:
            return False

    def take_run(self) -> Any:
        """Return the run it was given, to the first who asks: a job may end and its worker die."""
        with self._lock:
            run, self.run = self.run, None
            return run

    def kill(self) -> None:
        """End it and everything in its session, wherever its code is; returns at once."""
        self._stopped = True
        with self._lock, contextlib.suppress(OSError):
            if not has_sessions():
                self._all.kill()
            elif not self._reaped:  # else its number may be somebody else's by now
                kill_group(self.pid)

    def stack(self) -> list[FrameSummary]:
        """Return where it is; empty if it does not say so at once."""
        with self._lock:
            asked = self._stack
            if asked is None:
                asked = self._stack = _Question()
                if not self._ask():
                    self._stack = None
                    return []
        asked.answered.wait(_STACK_WAIT)
        return [FrameSummary(*entry, lookup_line=False) for entry in asked.answer]

    def _ask(self) -> bool:
        if self._wire.ends is None:
            return False
        try:
            self._wire.ends[1].send(protocol.packed("stack"))
        except OSError:
            return False
        return True

    def _send(self, message: bytes) -> None:
        self._connected.wait()
        with contextlib.suppress(OSError):  # it is dead: `gone` comes
            if self._wire.ends is not None:
                self._wire.ends[0].sendall(message)

    # On the thread that listens

    def _listen(self) -> None:
        ends = self._wire.connect(self._process)
        self._connected.set()
        with contextlib.suppress(OSError):
            for messages in protocol.received(ends[0]) if ends is not None else ():
                for message in _joined(messages):
                    self._hear(message)
        # Its socket is gone: it has ended, or does so now. Killed, with what has made groups of
        # its own, it cannot be mistaken for another process: nobody has waited for it yet.
        exitcode = self._exitcode()
        self._stopped = True
        with self._lock:
            self._all.kill()
        self._reap()
        if self._supervisor is not None:
            self._supervisor.unwatch(self.pid)
        self.dead = True
        self.owner.gone(self, exitcode)
        self._wire.close()
        self.closed.set()

    def _reap(self) -> None:
        exit_status(self.pid)  # wait without the lock, where possible
        with self._lock:
            self._process.wait()
            self._reaped = True

    def _exitcode(self) -> int | None:
        """Return how it ended by itself; it is not reaped, so that its number stays its own."""
        if self._stopped:
            return None
        status = exit_status(self.pid)
        if status is None:
            self._reap()
        return self._process.returncode if status is None else status

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "stack":
            with self._lock:
                asked, self._stack = self._stack, None
            if asked is not None:
                asked.answer = message[1]
                asked.answered.set()
        else:
            self.owner.said(self, message)


class _Question:
    """A question to a worker where it is, until it is answered."""

    def __init__(self) -> None:
        self.answer: list[tuple[str, int, str]] = []
        self.answered = threading.Event()


def _joined(messages: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """Return the messages with neighbouring texts of one stream joined; each line comes as one."""
    pending: tuple[Any, ...] | None = None
    texts: list[str] = []
    for message in messages:
        if pending is not None and message[:3] == pending[:3] and message[0] == "text":
            texts.append(message[3])
            continue
        if pending is not None:
            yield (*pending[:3], "".join(texts))
        pending = None
        if message[0] == "text":
            pending, texts = message, [message[3]]
        else:
            yield message
    if pending is not None:
        yield (*pending[:3], "".join(texts))


#: How often a job is given to another worker when one died before the job began.
_ATTEMPTS = 3


class ProcessRunner(Runner):
    """Runs work in at most *max_processes* worker processes, the rest in order of launch.

    What a worker writes is read by a thread of its own, also while a cell blocks the loop.
    *supervisor* ends the workers when this process is killed.
    """

    where = "process"

    def __init__(
        self,
        supervisor: Supervisor | None = None,
        max_processes: int | None = None,
    ) -> None:
        self.supervisor = supervisor
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
        """Return the work with all it needs copied; `BadInput` if something cannot be sent."""
        from importlib.util import find_spec

        if "cloudpickle" not in sys.modules and find_spec("cloudpickle") is None:
            raise BadInput('--process needs cloudpickle: pip install "ipy_bgtasks[process]"')
        from ipy_bgtasks.runners.packing import pack

        return dataclasses.replace(work, call=pack(work))

    def start(self, job: Record) -> None:
        """Hand the job to a worker, or queue it if all are busy."""
        from ipy_bgtasks.runners.packing import Packed

        work = job.work
        if work is None:
            return
        if not isinstance(work.call, Packed):  # it waited for jobs whose results it uses
            work = self.accept(work)
        assert isinstance(work.call, Packed)
        run = job.run = _Run(job, work.call.data, copy_context())
        self._runs[job.number] = run
        self._launch(run)

    def stop(self, job: Record, force: bool) -> None:
        """Drop it from the queue, or kill its worker."""
        run = job.run
        if not isinstance(run, _Run):
            job.end_cancelled()  # it still waits for other jobs
            return
        with self._lock:
            worker = run.worker
            queued = run in self._queue
            if queued:
                self._queue.remove(run)
        if queued:
            job.end_cancelled()
        elif worker is not None:
            worker.kill()

    def stack(self, job: Record) -> list[FrameSummary]:
        """Return the stack as the worker tells it; empty while C code keeps it from answering."""
        run = job.run
        worker = run.worker if isinstance(run, _Run) else None
        return [] if worker is None or job.started is None else worker.stack()

    def discard(self, job: Record) -> None:
        """Forget a job that is not kept any longer, and whatever its threads still write."""
        self._runs.pop(job.number, None)

    def shutdown(self) -> None:
        """Kill all workers, without waiting, as the session ends."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._shut_down = True
            self._queue.clear()
            workers = list(self._workers)
        for worker in workers:
            worker.kill()

    @property
    def workers(self) -> list[Worker]:
        """Return the worker processes there are, idle or not."""
        with self._lock:
            return list(self._workers)

    # From launch to worker

    def _launch(self, run: _Run) -> None:
        with self._lock:
            worker = self._idle.pop() if self._idle and not self._shut_down else None
            if worker is None and not self._shut_down:
                if len(self._workers) + self._starting >= self.max_processes:
                    self._queue.append(run)
                    return
                self._starting += 1
        if self._shut_down:
            run.job.end_cancelled()
            return
        if worker is None:
            worker = self._new_worker(run)
        if worker is not None:
            self._give(worker, run)

    def _new_worker(self, run: _Run) -> Worker | None:
        try:
            worker = Worker(self, self.supervisor)
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
        if worker.dead and worker.take_run() is not None:  # too late for `gone` to see the job
            self._lost(run, None, False)
        elif job.cancel_requested:  # by somebody who found no worker yet
            worker.kill()

    def _next(self, worker: Worker) -> None:
        """Give a worker that has done its job another one, or let it wait."""
        with self._lock:
            if not worker.usable:
                return
            if len(self._workers) > self.max_processes:
                self._workers.discard(worker)
                run = None
            elif self._queue:
                run = self._queue.popleft()
            else:
                self._idle.append(worker)
                return
        if run is None:
            worker.kill()
        else:
            self._give(worker, run)

    def _refill(self) -> None:
        """Start another worker for those who wait, when one is gone."""
        with self._lock:
            if not self._queue or len(self._workers) + self._starting >= self.max_processes:
                return
            run = self._queue.popleft()
        self._launch(run)

    # From worker to end

    def said(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """Take a message that a worker sent."""
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
                run.job.progress = _progress(rest[0])
            elif kind == "begin":
                worker.warm = True
                run.context.run(self._begin, run.job, worker)
        if kind == "end" and worker.take_run() is not None:
            from ipy_bgtasks.runners.packing import ending

            self._end(run, ending(run.job, *rest))
            self._next(worker)

    def gone(self, worker: Worker, exitcode: int | None) -> None:
        """Note that a worker is dead."""
        with self._lock:
            self._workers.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
        run = worker.take_run()
        if run is not None:
            self._lost(run, exitcode, worker.has_begun())
        self._refill()

    def _lost(self, run: _Run, exitcode: int | None, begun: bool) -> None:
        """Fail a job whose worker is dead, once all that it said was heard."""
        if run.job.cancel_requested or self._shut_down:
            self._end(run, run.job.end_cancelled)
        elif not begun and run.attempts < _ATTEMPTS:
            self._launch(run)
        else:
            error = ProcessDied(how_it_died(exitcode, begun))
            self._end(run, lambda: run.job.fail(error))

    def _begin(self, job: Record, worker: Worker) -> None:
        job.enter()
        job.pid = worker.pid
        job.begin()

    def _end(self, run: _Run, end: Callable[[], None]) -> None:
        """End the job, in its own context: what it has to show belongs there."""
        run.worker = None
        run.context.copy().run(end)


class _Run(Run):
    """One job on its way through a worker."""

    def __init__(self, job: Record, data: bytes, context: Context) -> None:
        self.job = job
        self.data = data
        self.context = context
        self.worker: Worker | None = None
        self.attempts = 0


def how_it_died(exitcode: int | None, begun: bool) -> str:
    """Return how a worker died, in a sentence."""
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
    hints = {"SIGKILL": " (out of memory, perhaps)", "SIGSEGV": " (a crash in C code)"}
    return f"the worker process was killed by {name}{hints.get(name, '')}{when}"


def _progress(given: Any) -> Any:
    from ipy_bgtasks.job.progress import Progress

    return None if given is None else Progress(*given)
