"""Kept jobs as a place: processes that outlive this one, each with a watcher of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job.runner import Runner
from ipy_bgtasks.platforms import current_directory, has_processes, has_sessions, host_name
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.runners.kept import files, telling
from ipy_bgtasks.runners.kept.following import Following
from ipy_bgtasks.runners.kept.places import FORMAT, Place, new_place
from ipy_bgtasks.text import error_line
from ipy_bgtasks.work.reading import Command

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.numbers import KeptNumber
    from ipy_bgtasks.service import ServiceLoop
    from ipy_bgtasks.work import Work

#: What a watcher runs; its arguments are the path of this package, the directory and the lock.
_WATCHER = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from ipy_bgtasks.runners.kept.watcher import main; main()"
)
#: What a Python job runs: pipes, directory, number, and the path.
_WORKER = (
    "import sys; pipes, place, number, *sys.path = sys.argv[1:]; "
    "from ipy_bgtasks.runners.kept.worker import main; main(pipes, place, number)"
)


class KeptRunner(Runner):
    """Runs work in processes that go on when this one is gone, however it went."""

    where = "kept"

    def __init__(self, service: ServiceLoop, changed: Callable[[Record], object]) -> None:
        if not (has_processes() and has_sessions()):
            raise BadInput("--keep needs the sessions of POSIX, which this platform does not have")
        self.service = service
        self._changed = changed
        #: Seconds between SIGTERM and SIGKILL.
        self.grace = 2.0
        #: Bytes of output that are kept for each job launched from now on.
        self.log_limit = 100_000_000
        #: The Apprise URLs that are told of the end of a job that is to be told of.
        self.urls: list[str] = []
        #: What makes each number's job unique: numbers are used again.
        self.tokens: dict[int, str] = {}
        self._lock = threading.Lock()
        self._tells: set[int] = set()
        self._waiting: dict[int, tuple[Place, int, dict[str, Any]]] = {}

    def accept(self, work: Work) -> Work:
        """The work with all it needs copied; `BadInput` if something cannot be sent."""
        if isinstance(work.call, Command):
            return work
        from importlib.util import find_spec

        if "cloudpickle" not in sys.modules and find_spec("cloudpickle") is None:
            raise BadInput('--keep needs cloudpickle: pip install "ipy_bgtasks[process]"')
        from ipy_bgtasks.runners.packing import pack

        return dataclasses.replace(work, call=pack(work))

    def reserve(self) -> KeptNumber:
        """Make the directory of a job to be launched, and return its number."""
        place, lock = new_place()
        token = f"kept-{os.urandom(8).hex()}"
        self.tokens[place.number] = token
        self._tells.discard(place.number)
        self._waiting[place.number] = place, lock, {"token": token}
        return place.number

    def release(self, number: KeptNumber) -> None:
        """Remove what was reserved for a job that was not launched after all."""
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[0].remove()
            os.close(waiting[1])

    def prepare(
        self, job: Record, *, timeout: float | None, log: str | None, tells: bool = False
    ) -> None:
        """Write down what the job is; from now on other sessions see it as queued.

        With *tells* the addresses of notices are told of its end, also if no session is there.
        """
        place, _, told = self._waiting[job.number]
        now = time.time()
        told.update(
            format=FORMAT,
            host=host_name(),
            boot=files.boot_id(),
            name=job.name,
            code=job.code,
            launched=now,
            timeout=timeout,
            grace=self.grace,
            log_limit=self.log_limit,
            log=None if log is None else os.path.abspath(log),
            directory=current_directory() or os.sep,
        )
        try:
            files.replace_json(place.path, files.JOB, told, sync=False)
            if tells and self.urls:
                telling.leave(place.path, self.urls)
                self._tells.add(place.number)
        except OSError as error:
            raise BadInput(f"--keep cannot write to {place.path}: {error.strerror}") from None
        job.add_done_callback(self._ended)

    def start(self, job: Record) -> None:
        """Hand the job to a watcher; when this returns it does not need this process any more."""
        from ipy_bgtasks.runners.packing import Packed

        work = job.work
        if work is None:
            return
        if not isinstance(work.call, Command | Packed):  # it waited for jobs whose results it uses
            work = self.accept(work)
        with self._lock:
            waiting = self._waiting.pop(job.number, None)
        if waiting is None:
            raise RuntimeError(f"job {job.number} was handed to its watcher before")
        place, lock, told = waiting
        try:
            if isinstance(work.call, Command):
                told.update(_command(work.call))
            else:
                assert isinstance(work.call, Packed)
                files.replace(place.path, files.WORK, work.call.data, sync=False)
                told.update(kind="python", argv=_python(place))
            if told["timeout"] is not None:  # in a group it counts from here
                since = told["launched"] if job.group is None else time.time()
                told["deadline"] = since + told["timeout"]
            files.replace_json(place.path, files.JOB, told)
            _launch(place, lock)
        except OSError as error:
            end: dict[str, Any] = {"state": "failed", "kind": "unwatched"}
            end.update(why=error_line(error), host=host_name(), ended=time.time())
            with contextlib.suppress(OSError):
                files.replace_json(place.path, files.STATE, end)
            raise
        finally:
            os.close(lock)
        self.follow(job, place, own=True)

    def follow(self, job: Record, place: Place, *, own: bool = False) -> None:
        """Have the job hear what its watcher writes; *own* if it was launched here."""
        context = copy_context() if own else None
        run = job.run = Following(job, place, self.service, context, self._changed)
        self.service.loop.call_soon_threadsafe(run.begin)
        if own and job.asked:  # before there was anybody to ask
            self.stop(job, False)

    def stop(self, job: Record, force: bool) -> None:
        """Ask the watcher to stop it, or drop it if it still waits here."""
        run = job.run
        if not isinstance(run, Following):
            job.end_cancelled()
            return
        run.ask("force" if force else f"stop {self.grace}")

    def stack(self, job: Record) -> list[FrameSummary]:
        """The stack as its process tells it; empty for a command, or if it does not answer."""
        run = job.run
        return run.stack() if isinstance(run, Following) else []

    def needs_this_thread(self) -> bool:
        """The service loop ends these jobs."""
        return threading.get_ident() == self.service.thread

    def tells(self, job: Record) -> bool:
        """Return whether its watcher tells the addresses of notices of its end."""
        return job.number in self._tells

    def goes_on(self, job: Record) -> bool:
        """Return whether the job has been handed to its watcher, and needs no session."""
        return isinstance(job.run, Following)

    def _ended(self, job: Record) -> None:
        """Write the end of a job that was never handed over."""
        with self._lock:
            waiting = self._waiting.pop(job.number, None)
        if waiting is None:
            return
        place, lock, _ = waiting
        outcome = job.outcome
        error = None if outcome is None else outcome.error
        told: dict[str, Any] = {"state": str(job.state), "kind": "never", "ended": time.time()}
        told["host"] = host_name()
        told["why"] = str(error).rpartition("never started: ")[2] or "it was cancelled"
        if str(job.state) == "failed" and error is not None:
            told.update(kind="unwatched", why=error_line(error))
        with contextlib.suppress(OSError):
            files.replace_json(place.path, files.STATE, told)
        telling.tell(place.path)
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


def _python(place: Place) -> list[str]:
    from ipy_bgtasks.runners.processes.worker import interpreter_options

    path = [entry for entry in sys.path if isinstance(entry, str)]
    worker = [sys.executable, *interpreter_options(), "-c", _WORKER]
    return [*worker, "{pipes}", place.path, str(place.number.serial), *path]


def _launch(place: Place, lock: int) -> None:
    """Start the watcher, which inherits the lock; it is not our child, nor anybody's we know.

    ipykernel kills its children at its end, and a terminal its session; a shell that starts the
    watcher and ends at once makes it neither.
    """
    package = str(Path(files.__file__).parents[3])
    watcher = [sys.executable, "-I", "-S", "-c", _WATCHER, package, place.path, str(lock)]
    environment = {name: text for name, text in os.environ.items() if name != sessions.TOKEN}
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with open(os.open(os.path.join(place.path, "watcher.txt"), flags, 0o600), "ab") as errors:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *watcher],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
            check=True,
        )
