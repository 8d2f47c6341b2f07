"""A job in any place that raises anything ends failed with it."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fakes import work

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.executors import Executors
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop

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


async def raises_later(kind: type[BaseException], args: tuple[Any, ...]) -> Any:
    """Raise it after a turn of the loop."""
    await asyncio.sleep(0)
    raise kind(*args)


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
        is_async = where.endswith("later")
        call = partial(raises_later if is_async else raises, kind, ARGUMENTS.get(kind, ()))
        what = work(call, is_async=is_async)
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
