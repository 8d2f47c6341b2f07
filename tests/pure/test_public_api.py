"""The public names, their signatures, and what importing costs."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeClock, FakeRunner, work

import ipy_bgtasks
from ipy_bgtasks.ipython.programs import Jobs
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry

SIGNATURES = {
    "call_in_background": "(target: 'Callable[[], T]', *, loop: 'asyncio.AbstractEventLoop | "
    "None' = None, executor: 'Executor | None' = None) -> 'asyncio.Future[T]'",
    "current_job": "() -> 'Job | None'",
    "jobs": "(spec: 'str | None' = None) -> 'Jobs'",
    "load_ipython_extension": "(shell: 'Any') -> 'None'",
    "on_cancel": "(fn: 'Callable[[], object]') -> 'Iterator[None]'",
    "run_in_foreground": "(task: 'Coroutine[Any, Any, T] | asyncio.Future[T]', *, "
    "loop: 'asyncio.AbstractEventLoop | None' = None) -> 'T'",
    "schedule_coroutine": "(target: 'Coroutine[Any, Any, T]', *, "
    "loop: 'asyncio.AbstractEventLoop | None' = None) -> 'asyncio.Task[T]'",
    "unload_ipython_extension": "(shell: 'Any') -> 'None'",
}

JOB = {
    "add_done_callback": "(self, fn: 'Callable[[Job], object]', *, "
    "context: 'Any' = None) -> 'None'",
    "cancel": "(self, *, force: 'bool' = False) -> 'bool'",
    "done": "(self) -> 'bool'",
    "exception": "(self, timeout: 'float | None' = None) -> 'BaseException | None'",
    "result": "(self, timeout: 'float | None' = None) -> 'Any'",
    "stack": "(self) -> 'list[FrameSummary]'",
}


def test_the_public_names_are_these() -> None:
    """No more and no fewer; `dir` knows them."""
    assert ipy_bgtasks.__all__ == [
        "BadInput",
        "BgTasksError",
        "CannotAsk",
        "CannotSend",
        "Detached",
        "Job",
        "JobState",
        "Jobs",
        "NoSuchJob",
        "ProcessDied",
        "Progress",
        "WouldBlock",
        "call_in_background",
        "current_job",
        "jobs",
        "launch",
        "on_cancel",
        "run_in_foreground",
        "schedule_coroutine",
        "track",
        "load_ipython_extension",
        "unload_ipython_extension",
    ]
    assert set(ipy_bgtasks.__all__) <= set(dir(ipy_bgtasks))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ipy_bgtasks.nonsense


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_function_has_this_signature(name: str) -> None:
    """And says what it does."""
    function = getattr(ipy_bgtasks, name)
    assert str(inspect.signature(function)) == SIGNATURES[name]
    assert inspect.getdoc(function)


def test_track_takes_an_iterable_and_perhaps_a_total() -> None:
    """It has overloads, for plain and asynchronous iterables."""
    assert list(inspect.signature(ipy_bgtasks.track).parameters) == ["iterable", "total"]


def test_a_job_has_these_methods() -> None:
    """Those of a future, and a few."""
    for name, signature in JOB.items():
        assert str(inspect.signature(getattr(ipy_bgtasks.Job, name))) == signature
    fields = ["code", "elapsed", "log", "name", "number", "progress", "started", "state", "where"]
    for name in fields:
        assert hasattr(ipy_bgtasks.Job, name)
    assert inspect.isfunction(ipy_bgtasks.Job.__await__)


def test_a_job_shows_what_users_may_do_and_little_else() -> None:
    """What runners and the registry do to one is another type's."""
    shown = [name for name in dir(Job(Record(1, work(), FakeRunner()))) if name[0] != "_"]
    assert shown == [
        "add_done_callback",
        "cancel",
        "cancelled",
        "code",
        "describe",
        "done",
        "elapsed",
        "exception",
        "future",
        "group",
        "log",
        "name",
        "number",
        "pid",
        "plot",
        "progress",
        "result",
        "running",
        "stack",
        "started",
        "state",
        "where",
    ]
    for name in ("finish", "fail", "begin", "end_cancelled"):
        assert not hasattr(Job, name)
    assert repr(Job) == "<class 'ipy_bgtasks.Job'>"


def test_a_job_is_copied_as_itself_and_not_pickled() -> None:
    """The error says why, in one line."""
    job = Job(Record(3, work(), FakeRunner()))
    assert copy.copy(job) is copy.deepcopy(job) is job
    with pytest.raises(TypeError, match=r"job 3 cannot be pickled: .* result\(\)"):
        pickle.dumps(job)


def test_jobs_are_found_by_number_in_the_collection() -> None:
    """As by indexing; what is not there is a LookupError."""
    runner = FakeRunner()
    registry = Registry({"thread": runner}, FakeClock())  # type: ignore[arg-type]
    job = registry.launch(work()).job
    assert 1 in Jobs(registry)
    assert job in Jobs(registry)
    assert 2 not in Jobs(registry)
    assert "x" not in Jobs(registry)
    assert Jobs(registry)[1] is job
    with pytest.raises(LookupError, match="no job 99: there is only 1"):
        Jobs(registry)[99]


def test_the_states_are_words() -> None:
    """They compare and print as such."""
    words = ["queued", "running", "paused", "cancelling", "finished", "failed", "cancelled"]
    assert [str(state) for state in ipy_bgtasks.JobState] == words
    assert ipy_bgtasks.JobState("queued") == "queued"


def test_the_errors_can_be_caught_as_what_they_are() -> None:
    """Each is what a caller would expect."""
    assert issubclass(ipy_bgtasks.BadInput, ipy_bgtasks.BgTasksError)
    assert issubclass(ipy_bgtasks.BadInput, ValueError)
    assert issubclass(ipy_bgtasks.WouldBlock, RuntimeError)
    assert issubclass(ipy_bgtasks.Detached, KeyboardInterrupt)
    one = ipy_bgtasks.Detached(3)
    assert str(one) == "job 3 goes on: %fg 3 returns to it, %cancel 3 stops it"
    assert one._render_traceback_() == [f"Detached: {one}"]
    several = str(ipy_bgtasks.Detached(3, 4))
    assert several == "jobs 3, 4 go on: %fg all returns to them, %cancel all stops them"


def modules_after(code: str, tmp_path: Path) -> set[str]:
    """The modules that a fresh Python has loaded after *code*."""
    script = f"{code}\nimport json, sys; print('modules:' + json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(ran.stdout.rpartition("modules:")[2]))


def test_importing_the_package_imports_next_to_nothing(tmp_path: Path) -> None:
    """Neither asyncio nor IPython, nor any module of its own."""
    loaded = modules_after("import ipy_bgtasks", tmp_path)
    assert {"asyncio", "IPython", "concurrent.futures", "threading"} & loaded <= {"threading"}
    assert [name for name in loaded if name.startswith("ipy_bgtasks.")] == []


def test_the_helpers_need_no_ipython(tmp_path: Path) -> None:
    """They work at the ordinary prompt."""
    loaded = modules_after("from ipy_bgtasks import schedule_coroutine", tmp_path)
    assert "IPython" not in loaded
    assert {name for name in loaded if name.startswith("ipy_bgtasks.")} == {
        "ipy_bgtasks.background",
        "ipy_bgtasks.context",
        "ipy_bgtasks.patching",
        "ipy_bgtasks.platforms",
        "ipy_bgtasks.sigint",
    }


SESSION = """
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
import sys
before = set(sys.modules)
"""


def test_loading_imports_nothing_that_a_session_may_never_use(tmp_path: Path) -> None:
    """Process pools, Dask, widgets and HTML come when they are first used."""
    load = SESSION + "shell.run_line_magic('load_ext', 'ipy_bgtasks')\n"
    launch = load + "shell.user_ns['f'] = lambda: None; shell.run_cell('%bg f();')\n"
    foreign = (
        "anywidget",
        "cloudpickle",
        "concurrent.futures.process",
        "distributed",
        "html",
        "ipykernel",
        "ipyparallel",
        "matplotlib",
        "multiprocessing",
        "pebble",
        "prompt_toolkit",
        "tornado",
        "tqdm",
    )
    stock = modules_after(SESSION, tmp_path)
    for code in (load, launch):
        added = modules_after(code, tmp_path) - stock
        assert [name for name in added if name in foreign] == []
        assert "ipy_bgtasks.views.display" not in added
        assert "ipy_bgtasks.frontends.terminal.loop" not in added
