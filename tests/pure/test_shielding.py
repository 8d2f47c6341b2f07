"""Interrupts that have to wait for the end of a moment."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from fakes import FakeClock, launch_job, work

from ipy_bgtasks.job.record import Record
from ipy_bgtasks.log.output import Log
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.sigint import Shielded, ShieldedThroughout


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    """Python's own handler, before and after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_comes_at_the_end() -> None:
    """Once, whatever is nested."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Shielded():  # noqa: PT012
        with Shielded():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1, 2]


def test_a_second_one_does_not_wait() -> None:
    """The user insists."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Shielded():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == []


def test_a_block_that_ends_by_itself_is_not_ended() -> None:
    """However often the user presses."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), ShieldedThroughout():  # noqa: PT012
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]


def test_an_exception_in_it_passes() -> None:
    """And the handler comes back."""
    with pytest.raises(ValueError, match="mine"), Shielded():
        raise ValueError("mine")


def test_another_thread_is_not_concerned() -> None:
    """Setting a handler there would be an error."""
    entered: list[int] = []

    def enter() -> None:
        with Shielded():
            entered.append(1)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [1]


def test_a_handler_that_is_no_function_is_kept() -> None:
    """An ignored interrupt stays ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Shielded():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Interrupts at every single line of our own code


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Call it, with a SIGINT at the *step*-th line of this package; whether it got that far."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if not str(frame.f_globals.get("__name__")).startswith("ipy_bgtasks"):
            return None
        if event == "line":
            steps += 1
            if steps == step:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return steps >= step


def test_a_log_loses_nothing_wherever_its_reader_is_interrupted() -> None:
    """Nor is anything recorded twice."""
    for step in itertools.count(1):
        log = Log()
        for text in ("one\n", "two", " three\n", "bar 1\rbar 2\n"):
            log.write("stdout", text)
        log.write("stderr", "four\n")
        more = interrupted_at(step, lambda log=log: log.text)  # type: ignore[misc]
        assert log.text == "one\ntwo three\nbar 2\nfour\n", step
        if not more:
            assert step > 30
            return


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_what_was_launched_ends_wherever_the_launch_is_interrupted(where: str, after: bool) -> None:
    """Either nothing was launched, or a job that runs."""
    loop = asyncio.new_event_loop()
    loop_runner = LoopRunner(loop)
    threads = ThreadRunner(loop_runner)
    registry = Registry(
        {"loop": loop_runner, "thread": threads},
        FakeClock(),  # type: ignore[arg-type]
        max_finished=10_000,
    )

    async def coroutine() -> int:
        return 3

    one = work(coroutine, is_async=True) if where == "loop" else work(lambda: 3)
    first = registry.launch(work(coroutine, is_async=True))

    def launch() -> None:
        launch_job(registry, one, timeout=1000, after=[first] if after else ())

    for step in itertools.count(1):
        more = interrupted_at(step, launch)
        if not more:
            break
    assert step > 20
    try:
        loop.run_until_complete(asyncio.wait([loop.create_task(_await(job)) for job in registry]))
        assert {job.result() for job in registry} == {3}
        assert len(registry) > step / 2
    finally:
        loop.close()


async def _await(job: Record) -> Any:
    return await job
