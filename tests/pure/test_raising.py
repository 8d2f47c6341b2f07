"""A job in any place that raises, or returns, anything ends with it."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fakes import work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipy_bgtasks.errors import ProcessDied
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.executors import Executors
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.views.display import detail

BOUND = 20.0
ARGUMENTS: dict[type[BaseException], tuple[Any, ...]] = {
    UnicodeDecodeError: ("utf-8", b"x", 0, 1, "reason"),
    UnicodeEncodeError: ("utf-8", "x", 0, 1, "reason"),
    UnicodeTranslateError: ("x", 0, 1, "reason"),
    BaseExceptionGroup: ("several", [KeyboardInterrupt(), ValueError()]),
    ExceptionGroup: ("several", [ValueError()]),
}
EXCEPTIONS = [
    *sorted(
        {
            each
            for each in vars(builtins).values()
            if isinstance(each, type) and issubclass(each, BaseException)
        },
        key=lambda each: each.__name__,
    ),
    asyncio.InvalidStateError,
    asyncio.IncompleteReadError,
    concurrent.futures.CancelledError,
    concurrent.futures.BrokenExecutor,
    threading.BrokenBarrierError,
]
ARGUMENTS[asyncio.IncompleteReadError] = (b"x", 2)


def raises(kind: type[BaseException], args: tuple[Any, ...]) -> Any:
    """Raise it."""
    raise kind(*args)


async def call_later(call: Any) -> Any:
    """Call it after a turn of the loop."""
    await asyncio.sleep(0)
    return call()


class Places:
    """Every place that runs Python, and a loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        service = ServiceLoop()
        self.supervisor = Supervisor()
        threads = ThreadRunner(LoopRunner(self.loop, self.thread.ident), service=service)
        self.processes = ProcessRunner(self.supervisor)
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.executor = Executors().runner_for(self.pool, "pool")
        self.registry = Registry({"loop": threads.loop_runner, "thread": threads}, service)

    def launch(self, where: str, kind: type[BaseException]) -> Record:
        """Launch a job that raises it."""
        return self.launch_call(where, partial(raises, kind, ARGUMENTS.get(kind, ())))

    def launch_call(self, where: str, call: Any) -> Record:
        """Launch a job that calls it."""
        is_async = where.endswith("later")
        what = work(partial(call_later, call) if is_async else call, is_async=is_async)
        place: Any = where.partition(" ")[0]
        if place in ("process", "executor"):
            place = self.processes if place == "process" else self.executor
            accept = getattr(place, "accept", None)
            what = what if accept is None else accept(what)
        return self.registry.launch(what, where=place)

    def close(self) -> None:
        """End all."""
        self.processes.shutdown()
        self.supervisor.close(BOUND)
        self.pool.shutdown()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(BOUND)
        self.loop.close()


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    """For all tests."""
    made = Places()
    yield made
    made.close()


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "where",
    ["loop", "loop later", "thread", "thread later", "process", "process later", "executor"],
)
def test_whatever_a_job_raises_is_its_failure(
    places: Places, where: str, kind: type[BaseException]
) -> None:
    """Also an exit, an interrupt and the end of an iteration; and the place goes on."""
    job = places.launch(where, kind)
    ended = threading.Event()
    job.add_done_callback(lambda _: ended.set())
    future = job.job.future
    assert ended.wait(BOUND)
    outcome = job.outcome
    assert outcome is not None
    assert outcome.state is JobState.FAILED
    expected = kind
    if where.endswith("later") and kind is StopIteration:
        expected = RuntimeError  # what Python makes of it in a coroutine
    assert type(outcome.error) is expected
    if expected is not RuntimeError or kind is RuntimeError:
        assert str(outcome.error) == str(kind(*ARGUMENTS.get(kind, ())))
    assert future.exception(0) is outcome.error


@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["loop", "thread", "process"])
def test_who_waits_for_it_is_told(places: Places, where: str, kind: type[BaseException]) -> None:
    """On a thread with the exception itself."""
    job = places.launch(where, kind).job
    with pytest.raises(kind):
        job.result(BOUND)
    assert type(job.exception(BOUND)) is kind


def test_cancelled_errors_of_asyncio_are_failures_where_nobody_cancelled(places: Places) -> None:
    """A thread has no task that could have been cancelled."""
    job = places.launch("thread", asyncio.CancelledError)
    with pytest.raises(asyncio.CancelledError):
        job.result(BOUND)
    assert job.state is JobState.FAILED
    job = places.launch("loop later", asyncio.CancelledError)
    with pytest.raises(concurrent.futures.CancelledError):
        job.result(BOUND)
    assert job.state is JobState.CANCELLED


REFUSED = [
    *("__class__", "__getattr__", "__getattribute__", "__setattr__", "__dict__", "__doc__"),
    *("__repr__", "__str__", "__len__", "__eq__", "__hash__", "__bool__", "__iter__", "__dir__"),
    *("__reduce_ex__", "__sizeof__", "__await__", "__module__", "_repr_html_", "shape", "name"),
    *("__traceback__", "__cause__", "__context__", "__notes__", "__suppress_context__", "args"),
    *("add_note", "with_traceback", "_render_traceback_", "_ipython_display_"),
]
PROPERTIES = {"__class__", "__dict__", "__doc__", "__module__", "shape", "name", "args"}
PROPERTIES |= {"__traceback__", "__cause__", "__context__", "__notes__", "__suppress_context__"}


class Nameless(type):
    """A metaclass whose classes do not tell their names."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        """Refuse."""
        raise ValueError("no name")


def hostile(base: type, refused: list[str], kind: type[BaseException], nameless: bool) -> Any:
    """Make an object that raises whenever one of these is asked for."""

    def refuse(*_: object) -> Any:
        raise kind("refused")

    body = {name: property(refuse) if name in PROPERTIES else refuse for name in refused}
    return (Nameless if nameless else type)("Hostile", (base,), body)()


def returns_hostile(*how: Any) -> Any:
    """Return such a value."""
    return hostile(object, *how)


def raises_hostile(*how: Any) -> Any:
    """Raise such an exception, while another is handled."""
    try:
        raise LookupError
    except LookupError:
        raise hostile(ValueError, *how) from hostile(OSError, *how)


HOW = st.tuples(
    st.lists(st.sampled_from(REFUSED), unique=True, min_size=1, max_size=4),
    st.sampled_from([KeyError, ReferenceError, RecursionError, SystemExit, KeyboardInterrupt]),
    st.booleans(),
)
EVERYWHERE = ["loop", "loop later", "thread", "thread later", "process", "process later"]
EVERYWHERE += ["executor", "executor later"]


def check_end(job: Record, caplog: pytest.LogCaptureFixture) -> None:
    """It ends, can be looked at, and hands out what it has."""
    ended = threading.Event()
    job.add_done_callback(lambda _: ended.set())
    assert ended.wait(BOUND)
    handle = job.job
    assert handle in concurrent.futures.wait([handle], 0).done
    with contextlib.suppress(BaseException):  # its own
        handle.result(0)
    assert job.outcome is not None
    assert type(job.outcome.error) is not ProcessDied
    assert repr(handle)
    assert detail(job)["text/plain"]
    assert detail(job)["text/html"]
    assert [record.getMessage() for record in caplog.records] == []


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("where", EVERYWHERE)
@pytest.mark.parametrize("call", [returns_hostile, raises_hostile])
def test_a_job_ends_whatever_its_value_or_exception_does_when_looked_at(
    places: Places, where: str, call: Any, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    """Neither its class nor its fields need to be readable, nor its text."""
    job = places.launch_call(where, partial(call, *data.draw(HOW)))
    check_end(job, caplog)
    if where.startswith(("loop", "thread")) and call is raises_hostile:
        assert job.state == "failed"


def dead_proxy() -> Any:
    """Return a proxy of what is gone."""
    return weakref.proxy(Nameless("Gone", (), {})())


def nested_group() -> Any:
    """Raise a group in a group, 900 deep."""
    error: Exception = ValueError("innermost")
    for _ in range(900):
        error = ExceptionGroup("nested", [error])
    raise error


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception that refuses to be given a traceback."""

    why: str


def frozen() -> Any:
    """Raise it."""
    raise Frozen("so")


@pytest.mark.parametrize("where", EVERYWHERE)
@pytest.mark.parametrize("call", [dead_proxy, nested_group, frozen])
def test_what_libraries_return_and_raise_ends_a_job_as_well(
    places: Places, where: str, call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy outside its context, a group of groups, an exception that is a frozen data class."""
    job = places.launch_call(where, call)
    check_end(job, caplog)
    if where.startswith(("loop", "thread")):
        assert job.state == ("finished" if call is dead_proxy else "failed")
