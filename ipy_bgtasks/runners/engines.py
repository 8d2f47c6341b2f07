"""The kinds of executors that users may have, and how each is driven.

An engine hands work to the user's object, which gives a handle: a future, or anything else with
`done`, `result` and `cancel`. It is chosen by the type of the object; nothing is imported for that.
"""

from __future__ import annotations

import codecs
import concurrent.futures
import contextlib
import pickle
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from operator import attrgetter, methodcaller
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ipy_bgtasks.errors import BadInput, ProcessDied
from ipy_bgtasks.runners import remote
from ipy_bgtasks.runners.packing import Calling, Complete
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.text import short_repr

if TYPE_CHECKING:
    from ipy_bgtasks.runners.executors import Submission


class Engine:
    """Runs work on an executor; as it is on anything with ``submit(fn, *args)``.

    Any thread may call `submit` and `drop`; one thread at a time calls `look`.
    """

    #: The word users see for the place.
    where = "executor"
    #: Whether it runs the very call, in a thread of this process, or packed work elsewhere.
    is_local = False
    #: Whether work must carry all it needs, because this package may not be installed there.
    is_complete = True
    #: What to say of a call that was asked to stop and goes on.
    note = "a call that has begun there cannot be stopped, and is still running there"
    #: The most seconds between two looks.
    pause = 0.5
    #: What runs packed work there, and gives its answer.
    _answer: Callable[..., Any] = staticmethod(remote.answer)

    def __init__(self, target: Any) -> None:
        self._target = target

    def submit(self, run: Submission, work: Any) -> Any:
        """Have a job's call, or its packed work as bytes, run; returns the handle."""
        handle = self._target.submit(pickle.loads, self._packed(work))
        if not (hasattr(handle, "done") and hasattr(handle, "result")):
            raise BadInput(
                f"{type(self._target).__name__}.submit() gave {short_repr(handle, 40)}, which has "
                "no done() and result() to follow the job by"
            )
        return handle

    def _packed(self, *args: Any) -> bytes:
        """Return bytes that there need only be unpickled, which runs the work."""
        return pickle.dumps(Calling(self._runs, *args))

    @cached_property
    def _runs(self) -> Complete:
        return Complete(self._answer)

    def look(self, run: Submission) -> None:
        """See whether a call has begun, and whether one that calls nobody back has ended.

        May take a while. Raises `ProcessDied` if nothing more will come of it.
        """
        running = getattr(run.handle, "running", None)
        if not run.calls_back and run.handle.done():
            run.settle(run.handle.result)
        elif running is None or running():  # a process pool also counts the next in its queue
            run.begin()

    def drop(self, run: Submission, force: bool) -> bool:
        """Ask it to stop; return whether it is certain not to run, now or later. May take long.

        False if its handle will tell.
        """
        return bool(run.handle.cancel()) and run.calls_back

    def was_dropped(self, run: Submission, error: BaseException) -> bool:
        """Return whether *error*, which is not the job's own, says that the call was dropped."""
        if run.calls_back:
            return isinstance(error, concurrent.futures.CancelledError)
        return run.job.cancel_requested

    def leave(self, waiting: list[Submission]) -> None:
        """Drop those that have not begun, without waiting: the session ends."""


class Threads(Engine):
    """A pool of threads in this process."""

    is_local = True

    def submit(self, run: Submission, work: Any) -> Any:
        return self._target.submit(work)


class Processes(Engine):
    """A pool of processes on this machine, which import this package."""

    is_complete = False

    def submit(self, run: Submission, work: Any) -> Any:
        return self._target.submit(remote.answer, work)


class Pebble(Engine):
    """A Pebble pool of processes, which kills a worker to cancel its call."""

    is_complete = False

    def submit(self, run: Submission, work: Any) -> Any:
        return self._target.schedule(remote.answer, args=(work,))

    def drop(self, run: Submission, force: bool) -> bool:
        """Cancel the call, and wait until the worker is dead."""
        # It is "cancelled" at once, but notifies its waiters when the worker is gone.
        return bool(run.handle.cancel() and concurrent.futures.wait([run.handle]).done)


class PebbleThreads(Threads):
    """A Pebble pool of threads in this process."""

    def submit(self, run: Submission, work: Any) -> Any:
        return self._target.schedule(work)


class Parallel(Engine):
    """An ipyparallel view."""

    where = "ipyparallel"
    note = "ipyparallel does not stop a call that has begun; it is still running there"
    _answer = staticmethod(remote.answer_on_engine)

    def submit(self, run: Submission, work: Any) -> Any:
        return self._target.apply_async(pickle.loads, self._packed(work))

    def look(self, run: Submission) -> None:
        if self._target.client._closed:  # which never resolves its futures then
            raise ProcessDied("the ipyparallel client was closed")
        reported = run.handle.data
        if any(reported) if isinstance(reported, list) else reported:
            run.begin()

    def drop(self, run: Submission, force: bool) -> bool:
        """Have the engines drop a queued call; its future then says so."""
        self._target.client.abort(run.handle, block=False)
        return False

    def was_dropped(self, run: Submission, error: BaseException) -> bool:
        return type(error).__name__ in ("TaskAborted", "CancelledError")


class _Answer(Future[Any]):
    """The future of a Dask task's answer, with the task."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task


class Dask(Engine):
    """A Dask `Client`."""

    where = "dask"
    note = "Dask does not stop a call that has begun; it is still running there"
    _answer = staticmethod(remote.answer_on_dask)

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self._topic = f"ipy_bgtasks-{uuid.uuid4().hex}"
        self._begun: set[str] = set()
        self._subscribed = False
        self._holds = Complete(remote.held_on_dask)
        self._lock = threading.Lock()
        self._done: list[_Answer] = []
        self._fetching = False

    def submit(self, run: Submission, work: Any) -> Any:
        key = f"bg{run.job.number}-{uuid.uuid4().hex}"
        if not self._subscribed:
            self._subscribed = True
            self._target.subscribe_topic(self._topic, lambda event: self._begun.add(event[1]))
        data = self._packed(work, self._topic, key)
        answer = _Answer(self._target.submit(pickle.loads, data, key=key, pure=False))
        answer.task.add_done_callback(lambda _: self._fetch_soon(answer))
        return answer

    def look(self, run: Submission) -> None:
        if self._target.status in ("closing", "closed"):
            raise ProcessDied("the Dask client was closed")
        if run.handle.task.key in self._begun:
            self._begun.discard(run.handle.task.key)
            run.begin()

    def drop(self, run: Submission, force: bool) -> bool:
        """Cancel the task, and wait until no worker runs it any more."""
        task = run.handle.task
        task.cancel()
        pause = 0.02
        while self._target.status == "running":
            answers = self._target.run(self._holds, task.key, on_error="return")
            if all(holds is False for holds in answers.values()):
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return False

    def was_dropped(self, run: Submission, error: BaseException) -> bool:
        return False  # only we drop single tasks, so that an error means a lost cluster

    # Answers are fetched many at a time: each request costs a round on the client's loop.

    def _fetch_soon(self, answer: _Answer) -> None:
        self._begun.discard(answer.task.key)
        with self._lock:
            self._done.append(answer)
            if self._fetching:
                return
            self._fetching = True
        in_thread("bg-dask", self._fetch)

    def _fetch(self) -> None:
        while True:
            with self._lock:
                answers, self._done = self._done, []
                if not answers:
                    self._fetching = False
                    return
            try:
                values = self._target.gather([answer.task for answer in answers])
            except BaseException:  # from one of them: fetch each on its own
                values = None
            for index, answer in enumerate(answers):
                try:
                    value = answer.task.result() if values is None else values[index]
                except BaseException as error:
                    answer.set_exception(error)
                else:
                    answer.set_result(value)


#: The seconds between two questions to Slurm: at first, and later, as its administrators wish.
_SOON, _LATER = 2.0, 15.0
#: Seconds that a result may take to be seen in a shared folder.
_LAG = 15.0
#: The states, besides COMPLETED, of jobs that Slurm does not go on with.
_ENDS = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


class _File:
    """A file that grows, as text; what submitit itself logs there is left out."""

    def __init__(self, path: Any, stream: str) -> None:
        self.path, self.stream = path, stream
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """Return what is new."""
        with open(self.path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        return re.sub(r"submitit INFO \(\d{4}-.*?\) - .*\n", "", self._decoder.decode(data))


class Submitit(Engine):
    """A submitit executor: jobs of Slurm, or processes of this machine."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        cluster = getattr(target, "cluster", None) or type(target).name()
        self.where = "submitit" if cluster == "local" else cluster
        self.note = "submitit has been asked to end it"
        self._is_slurm = cluster == "slurm"
        if self._is_slurm:
            self.note, self.pause = "Slurm has asked it to end, and will kill it (KillWait)", 2.0
        self._queue: dict[str, tuple[str, str]] = {}
        self._asked = self._answered = 0.0
        self._interval = _SOON

    def look(self, run: Submission) -> None:
        """Pass on what it has written; see whether there are its files, and its results."""
        job = run.handle
        tasks = [job.task(n) for n in range(job.num_tasks)]  # raises in a batch of submitit's
        if run.own is None:
            run.job.where = f"{self.where} {job.job_id}"
            files = [
                _File(getattr(task.paths, stream), stream)
                for stream in ("stdout", "stderr")
                for task in tasks
            ]
            # And since when it is known, and since when Slurm has been done with it.
            run.own = SimpleNamespace(files=files, since=time.monotonic(), gone=None)
            self._interval = _SOON
        end = self._slurms_end(run) if self._is_slurm else job.done() and job.state
        has_results = all(task.paths.result_pickle.exists() for task in tasks)
        for file in run.own.files:
            if file.path.exists():
                run.begin()
                run.write(file.stream, file.read())
        if has_results:
            run.settle(job.result if len(tasks) == 1 else job.results)
        elif end:
            raise ProcessDied(f"{run.job.where} ended without a result: {end}")

    def leave(self, waiting: list[Submission]) -> None:
        """Take them from the queue, where they would begin when the session is gone."""
        if waiting and self._is_slurm:
            numbers = [run.handle.job_id for run in waiting]
            subprocess.Popen(["scancel", *numbers], start_new_session=True)

    def _slurms_end(self, run: Submission) -> str:
        """Return the state in which Slurm has left a job; empty if it may go on."""
        now = time.monotonic()
        if now > self._asked + self._interval:
            self._asked, self._interval = now, min(self._interval * 1.3, _LATER)
            command = ["squeue", "--me", "-r", "-h", "-t", "all", "-o", "%i|%T|%r"]
            found = subprocess.run(command, capture_output=True, text=True, timeout=30)
            if found.returncode == 0:  # else it does not answer just now
                lines = [line.split("|", 2) for line in found.stdout.splitlines()]
                self._queue = {number: (state, reason) for number, state, reason in lines}
                self._answered = now
        state, reason = self._queue.get(run.handle.job_id, ("", ""))
        run.waits_for = f"Slurm: {reason}" if state == "PENDING" else ""
        if state in _ENDS:
            return state
        if (state and state != "COMPLETED") or self._answered < run.own.since:
            run.own.gone = None
            return ""
        run.own.gone = run.own.gone or now
        return (state or "squeue does not list it") if now > run.own.gone + _LAG else ""


class _RayAnswer(_Answer):
    """The future of a Ray task's answer, which waits for the last of the output."""

    def __init__(self, task: Any, run: Submission, streams: int) -> None:
        super().__init__(task)
        self.run = run
        self.streams = streams  # that have not ended
        self._until = 0.0
        self._came: Future[Any] = task.future()
        self._came.add_done_callback(lambda _: self.see())

    def see(self) -> None:
        """Be done if the task is, and its output, or if that does not come."""
        if self._came.done() and not self._until:
            self._until = time.monotonic() + 1.0
        if self._until and (self.streams <= 0 or time.monotonic() > self._until):
            error = self._came.exception()
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # already
                self.set_result(self._came.result()) if error is None else self.set_exception(error)


class _RayOutput:
    """What Ray prints of its workers' output, without that of jobs, which goes to the jobs.

    It stands in for the handler that prints: *show*.
    """

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show
        self.answers: WeakValueDictionary[str, _RayAnswer] = WeakValueDictionary()

    def __call__(self, data: dict[str, Any]) -> None:
        """Take lines that one task has printed."""
        name = data.get("task_name") or ""
        answer = self.answers.get(name)
        if answer is None:
            return self._show(data)
        for line in data["lines"]:
            text, mark, what = line.partition(name)
            answer.run.write(
                "stderr" if data["is_err"] else "stdout", text if mark else f"{line}\n"
            )
            answer.streams -= what == " ends"
        answer.see()

    @classmethod
    def installed(cls) -> _RayOutput | None:
        """Return the one in place, put there now if need be; None if Ray prints nothing here.

        Ray has no public way to this (2.60). Where it looks otherwise, Ray goes on printing.
        """
        module = sys.modules.get("ray._private.ray_logging")
        dispatcher = getattr(module, "global_worker_stdstream_dispatcher", None)
        handlers = getattr(dispatcher, "handlers", [])
        for index, (name, handler) in enumerate(handlers):
            if name == "ray_print_logs":
                output = handler if isinstance(handler, cls) else cls(handler)
                handlers[index] = name, output
                return output
        return None


class Ray(Engine):
    """Ray, given as its module, or as ``ray.remote(num_gpus=1)`` and the like.

    Nothing here waits for Ray or looks: a call of Ray while it shuts down ends the process (2.60).
    """

    where = "ray"
    note = "Ray interrupts it when it next runs Python code; -f kills its worker"
    _answer = staticmethod(remote.answer_on_ray)

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self._ray = sys.modules["ray"]
        decorate = self._ray.remote if isinstance(target, ModuleType) else target
        # Of no module, so that Ray sends the function itself.
        self._load = decorate(FunctionType(_load.__code__, {"__name__": "__main__"}))
        # Ray would run a call again whose worker dies.
        self._options = {"max_retries": 0, **getattr(target, "keywords", {}).get("options", {})}

    def submit(self, run: Submission, work: Any) -> Any:
        name = f"bg{run.job.number}-{uuid.uuid4().hex[:12]}"
        task = self._load.options(name=name, **self._options)
        if not self._ray.is_initialized():
            self._ray.init()  # as the first task does
        output = _RayOutput.installed()
        if output is None:
            return _RayAnswer(task.remote(self._packed(work, "")), run, 0)
        answer = _RayAnswer(task.remote(self._packed(work, name)), run, 2)
        output.answers[name] = answer
        return answer

    def look(self, run: Submission) -> None:
        """See whether Ray is still there; its output says what has begun."""
        if not self._ray.is_initialized():
            raise ProcessDied("Ray was shut down")
        if run.handle.streams == 0:  # nothing says it
            run.begin()
        run.handle.see()

    def drop(self, run: Submission, force: bool) -> bool:
        """Have Ray drop the task, interrupt it, or kill its worker."""
        self._ray.cancel(run.handle.task, force=force)
        while force and not run.handle.done() and self._ray.is_initialized():
            time.sleep(0.2)  # Ray ignores what comes too soon after another
            self._ray.cancel(run.handle.task, force=True)
        return False

    def was_dropped(self, run: Submission, error: BaseException) -> bool:
        return run.job.cancel_requested


def _load(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)


def engine_for(target: Any, text: str) -> Engine:
    """Return the engine for *target*, named *text* by the user; `BadInput` if there is none."""
    if is_ray(target):
        return Ray(target)
    kinds = [f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(target).__mro__]
    for kind in kinds:
        if inner := _WRAPPERS.get(kind):
            return engine_for(inner(target), text)
        if engine := _ENGINES.get(kind):
            if getattr(target, "asynchronous", False) is True:
                raise BadInput(
                    f"--on {text} is an asynchronous Dask Client: give one made without "
                    "asynchronous="
                )
            return engine(target)
    if callable(getattr(target, "submit", None)) and not isinstance(target, type):
        return Engine(target)
    kind = "" if isinstance(target, type) else f" of type {type(target).__name__}"
    shown = short_repr(target, 40)
    raise BadInput(f"--on {text} is {shown}{kind}, not an executor: it takes {_ACCEPTED}")


def is_ray(target: Any) -> bool:
    """Return whether it is Ray's module, or its decorator with options."""
    ray = sys.modules.get("ray")
    of_module = getattr(getattr(target, "func", None), "__module__", None)
    return ray is not None and (target is ray or of_module == "ray._private.worker")


#: By the package and name of the user's type, or a base of it; the first one found counts.
_ENGINES: dict[str, type[Engine]] = {
    "concurrent.InterpreterPoolExecutor": Processes,  # threads, too, but they share no objects
    "concurrent.ThreadPoolExecutor": Threads,
    "concurrent.ProcessPoolExecutor": Processes,
    "loky.ProcessPoolExecutor": Processes,
    "pebble.ThreadPool": PebbleThreads,
    "pebble.ProcessPool": Pebble,
    "distributed.Client": Dask,
    "ipyparallel.View": Parallel,
    "submitit.Executor": Submitit,
}
_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "distributed.ClientExecutor": attrgetter("_client"),  # it reports running calls as cancelled
    "ipyparallel.ViewExecutor": attrgetter("view"),
    "ipyparallel.Client": methodcaller("load_balanced_view"),
}
_ACCEPTED = (
    "a concurrent.futures.Executor, a Pebble pool, a Dask Client, an ipyparallel Client or view, "
    "ray, or anything else with submit(fn, *args)"
)
