"""Kept jobs as a place: processes that outlive this one, each with a watcher of its own.

And what other sessions have launched there, brought into this session's registry.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, CannotSend
from ipy_bgtasks.job.host import Host, Run, Runner
from ipy_bgtasks.job.outcome import LazyValue, Outcome
from ipy_bgtasks.job.progress import Progress
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.platforms import current_directory, has_processes, has_sessions, host_name
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.directory import (
    FORMAT,
    JobDirectory,
    directories,
    new_directory,
    sweep,
)
from ipy_bgtasks.runners.kept.files import OutputReader
from ipy_bgtasks.runners.packing import pack
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.stacks import aside
from ipy_bgtasks.text import error_line
from ipy_bgtasks.work import Work
from ipy_bgtasks.work.reading import Command

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from ipy_bgtasks.log.output import Log
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.specs import JobId
    from ipy_bgtasks.service import ServiceLoop


#: Seconds between two looks: the first, the most of a job that is young, and of any other.
_FIRST, _YOUNG, _QUIET = 0.01, 0.025, 0.25
#: Seconds for which a job is young.
_YOUTH = 2.0
#: Bytes of earlier output that are read for a job of another session …
REPLAYED = 4_000_000
#: … and the seconds for which that may hold up who sees it for the first time.
_CATCH_UP = 0.2


class Following(Run):
    """A job's run, as seen from here. Unless said otherwise, a method is for the service loop.

    *context* is that of the launch, where the job was launched here.
    """

    def __init__(
        self,
        job: Record,
        directory: JobDirectory,
        runner: KeptRunner,
        context: Context | None,
    ) -> None:
        self.job = job
        self.directory = directory
        self._runner = runner
        self._context = context
        self._output = OutputReader(directory.path, REPLAYED if context is None else None)
        self._missed = 0
        self._pause = _FIRST
        self._request = ""
        self._progress: Any = None
        self._settling: Future[dict[str, Any]] | None = None

    @property
    def note(self) -> str:
        if self._request:
            return "its session has not started it yet; it stops as soon as it starts"
        return "its watcher has been asked to stop it"

    goes_on = True

    def stop(self, force: bool) -> None:
        self.request("force" if force else f"stop {self._runner.grace}")

    @property
    def processes(self) -> Following:
        """Itself: its watcher pauses them."""
        return self

    def pause(self) -> None:
        self.request("pause")

    def go_on(self) -> None:
        self.request("go on")

    def request(self, words: str) -> None:
        """Ask its watcher for something, as soon as there is one. Any thread may call."""
        if not self.directory.request(words):
            self._request = words

    def catch_up(self) -> None:
        """Read what it has written so far, for a moment; any thread may call, before `begin`."""
        deadline = time.monotonic() + _CATCH_UP
        while self._read() and time.monotonic() < deadline:
            pass
        self._read_progress()

    def begin(self) -> None:
        """Begin to follow it."""
        if self._context is not None:
            self._context.run(self.job.enter)
        self._look()

    def query(self, what: str, text: str, wait: float) -> Any:
        question = [what, text, os.urandom(4).hex()]
        if not self.directory.request(f"query {json.dumps(question)}"):
            return None
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            told = files.read_json(self.directory.path, files.ANSWER) or {}
            if told.get("question") == question:
                return told["answer"]
            time.sleep(0.005)
        return None

    def _look(self) -> None:
        """Take in what is new, and look again later unless the job has ended."""
        job = self.job
        if job.done():
            return
        state = self._state()
        if self._request and self.directory.request(self._request):
            self._request = ""
        news = self._begin(state)
        more = self._read()
        self._read_progress()
        if more:
            self._pause = 0.0
        elif "ended" in state:
            self._end(state)
            return
        elif news or self._pause == 0.0:
            self._pause = 2 * _YOUNG
        else:
            most = _YOUNG if time.time() - job.launched < _YOUTH else _QUIET
            self._pause = min(self._pause * 1.5, most)
        self._runner.service.loop.call_later(self._pause, self._look)

    def _state(self) -> dict[str, Any]:
        """Return how far the job is; one that is lost is settled on a thread: that takes long."""
        if self._settling is None:
            state = self.directory.look()
            if "lost" not in state:
                return state
            self._settling = aside(partial(self.directory.settle, self.job.pid), "bg-kept")
        if not self._settling.done():
            return {}
        settled, self._settling = self._settling.result(), None
        return settled

    def _begin(self, state: dict[str, Any]) -> bool:
        job = self.job
        news = False
        if job.started is None and "started" in state:
            job.pid = state.get("pid")
            job.begin(time.monotonic() - (time.time() - state["started"]))
            news = True
        if state.get("asked") and not job.cancel_requested:  # by another session
            job.cancel_requested = news = True
            self._runner.changed(job)
        return news

    def _read(self) -> bool:
        """Pass on what it has written; returns whether there may be more."""
        pieces = self._output.read()
        if self._output.missed > self._missed:
            self.job.log.missing(self._output.missed - self._missed)
            self._missed = self._output.missed
        for at, stream, text in pieces:
            with contextlib.suppress(Exception):  # the display's trouble is not the job's
                if self._context is None:
                    _record(self.job.log, at, stream, text)
                elif stream == "display":
                    self._context.run(self.job.show, *json.loads(text))
                else:
                    self._context.run(self.job.write, stream, text)
        return bool(pieces)

    def _read_progress(self) -> None:
        told = files.read_json(self.directory.path, files.PROGRESS)
        if told is not None and told != self._progress:
            self._progress, shown = told, told.get("progress")
            with contextlib.suppress(TypeError, ValueError):
                self.job.progress = None if shown is None else Progress(*shown)

    def _end(self, state: dict[str, Any]) -> None:
        job = self.job
        outcome = self.directory.outcome(state)
        context = Context() if self._context is None else self._context.copy()
        if job.work is not None and job.work.store is not None and outcome.error is None:
            # `name = …`: reading the value may run its type's code, and take long.
            in_thread("bg-kept", context.run, _finish, job, outcome)
        else:
            context.run(job.end_elsewhere, outcome, float(state["ended"]))


def _finish(job: Record, outcome: Outcome) -> None:
    try:
        job.finish(outcome.value.load() if isinstance(outcome.value, LazyValue) else outcome.value)
    except CannotSend as error:
        job.fail(error)


#: What a watcher runs; its arguments are the path of this package, the directory and the lock.
_WATCHER = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from ipy_bgtasks.runners.kept.watcher import main; main()"
)


class KeptRunner(Runner):
    """Runs work in processes that go on when this one is gone, however it went."""

    where = "kept"

    def __init__(self, service: ServiceLoop, changed: Callable[[Record], object]) -> None:
        if not (has_processes() and has_sessions()):
            raise BadInput("--keep needs the sessions of POSIX, which this platform does not have")
        self.service = service
        #: Called with a job that was asked to stop elsewhere.
        self.changed = changed
        #: Seconds between SIGTERM and SIGKILL.
        self.grace = 2.0
        #: Bytes of output that are kept for each job launched from now on.
        self.log_limit = 100_000_000
        #: The Apprise URLs that are told of the end of a job that is to be told of.
        self.urls: list[str] = []
        #: What makes each number's job unique: numbers are used again.
        self.tokens: dict[JobId, str] = {}
        self._lock = threading.Lock()
        self._waiting: dict[JobId, tuple[JobDirectory, int, dict[str, Any]]] = {}

    def accept(self, work: Work) -> Work:
        return work if isinstance(work.call, Command) else pack(work, "--keep")

    def reserve(self) -> JobId:
        """Make the directory of a job to be launched, and return its number."""
        directory, lock = new_directory()
        token = f"kept-{os.urandom(8).hex()}"
        self.tokens[directory.number] = directory.token = token
        self._waiting[directory.number] = directory, lock, {"token": token}
        return directory.number

    def release(self, number: JobId) -> None:
        """Remove what was reserved for a job that was not launched after all."""
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[0].remove()
            os.close(waiting[1])

    def prepare(
        self,
        job: Record,
        *,
        timeout: float | None,
        memory: int | None = None,
        log: str | None,
        notify: bool = False,
    ) -> None:
        """Write down what the job is; from now on other sessions see it as queued.

        With *notify* the addresses of notices are told of its end, also if no session is there.
        """
        directory, _, told = self._waiting[job.number]
        now = time.time()
        told.update(
            format=FORMAT,
            host=host_name(),
            boot=files.boot_id(),
            name=job.name,
            code=job.code,
            launched=now,
            timeout=timeout,
            memory=memory,
            grace=self.grace,
            log_limit=self.log_limit,
            log=None if log is None else os.path.abspath(log),
            directory=current_directory() or os.sep,
        )
        try:
            files.replace_json(directory.path, files.JOB, told, sync=False)
            if notify and self.urls:
                files.leave_notice(directory.path, self.urls)
                job.notified_elsewhere = True
        except OSError as error:
            raise BadInput(f"--keep cannot write to {directory.path}: {error.strerror}") from None
        job.add_done_callback(self._ended)

    def start(self, job: Record) -> None:
        """Hand the job to a watcher; when this returns it does not need this process any more."""
        if (work := job.work) is None:
            return
        call: Any = self.accept(work).call  # it may have waited for jobs whose results it uses
        with self._lock:
            waiting = self._waiting.pop(job.number, None)
        if waiting is None:
            raise RuntimeError(f"job {job.number} was handed to its watcher before")
        directory, lock, told = waiting
        try:
            if isinstance(call, Command):
                told.update(_command(call))
            else:
                files.replace(directory.path, files.WORK, call.data, sync=False)
                serial = str(directory.number.serial)
                argv = sessions.python("child.work_kept", "{pipes}", directory.path, serial)
                told.update(kind="python", argv=argv)
            if told["timeout"] is not None:  # in a group it counts from here
                since = told["launched"] if job.group is None else time.time()
                told["deadline"] = since + told["timeout"]
            files.replace_json(directory.path, files.JOB, told)
            _launch(directory, lock)
        except OSError as error:
            end: dict[str, Any] = {"state": "failed", "kind": "unwatched"}
            end.update(why=error_line(error), host=host_name(), ended=time.time())
            with contextlib.suppress(OSError):
                files.replace_json(directory.path, files.STATE, end)
            raise
        finally:
            os.close(lock)
        self.follow(job, directory, own=True)

    def follow(self, job: Record, directory: JobDirectory, *, own: bool = False) -> None:
        """Have the job follow what its watcher writes; *own* if it was launched here."""
        context = copy_context() if own else None
        run = job.run = Following(job, directory, self, context)
        if not own:  # the first `%jobs` is to show its last line
            run.catch_up()
        self.service.loop.call_soon_threadsafe(run.begin)
        if own and job.cancel_requested:  # before there was anybody to ask
            run.stop(False)

    def needs_this_thread(self) -> bool:
        """Return whether it is the service loop's, which ends these jobs."""
        return threading.get_ident() == self.service.thread

    def _ended(self, job: Record) -> None:
        """Write the end of a job that was never handed over."""
        with self._lock:
            waiting = self._waiting.pop(job.number, None)
        if waiting is None:
            return
        directory, lock, _ = waiting
        outcome = job.outcome
        error = None if outcome is None else outcome.error
        told: dict[str, Any] = {"state": str(job.state), "kind": "never", "ended": time.time()}
        told["host"] = host_name()
        told["why"] = str(error).rpartition("never started: ")[2] or "it was cancelled"
        if str(job.state) == "failed" and error is not None:
            told.update(kind="unwatched", why=error_line(error))
        with contextlib.suppress(OSError):
            files.replace_json(directory.path, files.STATE, told)
        files.notify(directory.path)
        os.close(lock)


def _command(command: Command) -> dict[str, Any]:
    shell = os.environ.get("SHELL", "")
    shell = shell if os.access(shell, os.X_OK) else "/bin/sh"
    return {
        "kind": "command",
        "command": command.text,
        "argv": list(command.argv) or [shell, "-c", command.text],
        "directory": command.directory or os.sep,
    }


def _launch(directory: JobDirectory, lock: int) -> None:
    """Start the watcher, which inherits the lock; it is not our child, nor anybody's we know.

    ipykernel kills its children at its end, and a terminal its session; a shell that starts the
    watcher and ends at once makes it neither.
    """
    package = str(Path(files.__file__).parents[3])
    watcher = [sys.executable, "-I", "-S", "-c", _WATCHER, package, directory.path, str(lock)]
    environment = {name: text for name, text in os.environ.items() if name != sessions.TOKEN}
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with open(os.open(os.path.join(directory.path, "watcher.txt"), flags, 0o600), "ab") as errors:
        shell = ["/bin/sh", "-c", '"$@" &', "sh", *watcher]
        options: dict[str, Any] = {"stderr": errors, "cwd": "/", "env": environment}
        if sessions.start(shell, pass_fds=[lock], **options).wait():
            raise OSError("its watcher cannot be started")


class Finder:
    """Finds kept jobs on the disk. Any thread may call any method."""

    def __init__(self, registry: Registry, runner: KeptRunner, days: Callable[[], float]) -> None:
        self._registry = registry
        self._runner = runner
        self._days = days
        self._lock = threading.Lock()

    def look(self) -> None:
        """Take in the kept jobs that are not in the registry yet; drop those that are gone."""
        with self._lock:
            sweep(self._days())
            there = directories()
            found = []
            for directory in there:
                told = directory.job()
                if told is None or self._is_known(directory, told):
                    continue
                found.append((directory, told, directory.settle()))
            # The oldest comes last: each is taken in as the oldest of all.
            found.sort(key=lambda one: one[2].get("ended", float("inf")), reverse=True)
            for directory, told, state in found:
                self._runner.tokens[directory.number] = str(told["token"])
                self._adopt(directory, told, state)
            left = {directory.number for directory in there}
            for job in self._registry:
                if job.number in self._registry.adopted and job.done() and job.number not in left:
                    self._registry.discard(job)

    def prune(self) -> int:
        """Remove the kept jobs that have ended; returns how many of other sessions there were."""
        with self._lock:
            removed = 0
            for directory in directories():
                if directory.job() is not None and "ended" in directory.settle():
                    known = self._registry.get(directory.number) is not None
                    removed += directory.remove() and not known
            return removed

    def _is_known(self, directory: JobDirectory, told: dict[str, Any]) -> bool:
        known = self._registry.get(directory.number)
        if known is None:
            return False
        if self._runner.tokens.get(directory.number) == told["token"]:
            return True
        if known.done():  # its directory was pruned elsewhere, and its number used again
            self._registry.discard(known)
        return not known.done()

    def _adopt(self, directory: JobDirectory, told: dict[str, Any], state: dict[str, Any]) -> None:
        name = str(told.get("name", ""))
        work = Work(int, name, str(told.get("code", "")), False)  # which is not called here
        ended = "ended" in state
        registry = self._registry
        job = Record(
            directory.number,
            work,
            self._runner,
            name=name,
            quiet=True,
            host=_Archive(registry.host, directory) if ended else registry.host,
        )
        job.launched = float(told["launched"])
        if "started" in state:
            job.begin(time.monotonic() - (time.time() - state["started"]))
        if not ended:
            job.pid, job.cancel_requested = state.get("pid"), "asked" in state
            registry.adopt(job)
            self._runner.follow(job, directory)
            return
        job.end_elsewhere(directory.outcome(state), float(state["ended"]))
        job.end_shown = True
        registry.adopt(job)


class _Archive(Host):
    """The host of a job that had ended: its log is read from the disk when it is looked at."""

    has_output = True

    def __init__(self, host: Host, directory: JobDirectory) -> None:
        self._host = host
        self._directory = directory

    def new_log(self, job: Record) -> Log:
        log = self._host.new_log(job)
        reader = OutputReader(self._directory.path, REPLAYED)
        while pieces := reader.read():
            for at, stream, text in pieces:
                _record(log, at, stream, text)
        if reader.missed:
            log.missing(reader.missed)
        return log


def _record(log: Log, at: float, stream: str, text: str) -> None:
    """Record what a job has written or displayed earlier."""
    if stream != "display":
        log.write(stream, text, at)
        return
    kind, *shown = json.loads(text)
    if kind == "publish":
        log.publish(*shown)
    else:
        log.clear(wait=shown[0])
