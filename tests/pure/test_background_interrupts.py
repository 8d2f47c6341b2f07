"""Ctrl-C while a helper runs the loop.

The background tasks here interrupt themselves in the middle of a step: what they must never see
is a KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import types
from collections.abc import Iterator

import pytest

from ipy_bgtasks.background import run_in_foreground, schedule_coroutine


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own, not set for the thread."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def _answer() -> int:
    return 42


def _interrupt(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


@types.coroutine
def _turn() -> Iterator[None]:
    """One turn of the loop, without asyncio's help."""
    yield


def test_an_interrupt_ends_the_foreground_alone(loop: asyncio.AbstractEventLoop) -> None:
    """It comes in a background task's step, cancels the coroutine waited for, and hits no other."""
    steps: list[str] = []

    async def background() -> str:
        await _turn()
        _interrupt()
        steps.append("after the interrupt")
        await _turn()
        return "undisturbed"

    async def foreground() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    task = schedule_coroutine(background(), loop=loop)
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(foreground(), loop=loop)
    assert steps == ["after the interrupt", "cancelled"]
    assert run_in_foreground(task) == "undisturbed"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_leaves_a_task_waited_for_alone(loop: asyncio.AbstractEventLoop) -> None:
    """Who waits for a task does not own it."""
    gate = asyncio.Event()

    async def waits() -> str:
        await gate.wait()
        return "went on"

    task = schedule_coroutine(waits(), loop=loop)
    loop.call_soon(_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(task)
    assert not task.done()
    gate.set()
    assert run_in_foreground(task) == "went on"


def test_an_interrupt_wakes_a_quiet_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing else happens on the loop: the signal comes from outside while it is in select."""
    main = threading.main_thread().ident
    assert main is not None
    waiting = threading.Event()

    def interrupt() -> None:
        waiting.wait(30)
        signal.pthread_kill(main, signal.SIGINT)

    async def foreground() -> None:
        asyncio.get_running_loop().call_soon(waiting.set)
        await asyncio.Event().wait()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(foreground(), loop=loop)
    thread.join()


def test_a_second_interrupt_abandons_what_will_not_end(loop: asyncio.AbstractEventLoop) -> None:
    """Without touching the background task in whose step it comes; the loop stays usable."""

    async def stubborn() -> str:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return "ended at last"

    async def background() -> str:
        await _turn()
        _interrupt(2)
        await _turn()
        return "undisturbed"

    task = schedule_coroutine(background(), loop=loop)
    coroutine = stubborn()
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(coroutine, loop=loop)
    assert run_in_foreground(task) == "undisturbed"
    (left,) = asyncio.all_tasks(loop)
    run_in_foreground(asyncio.sleep(0), loop=loop)
    left.cancel()
    assert run_in_foreground(left) == "ended at last"


def test_a_third_interrupt_breaks_what_blocks_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    """A step that never ends can be left, at the price of its task."""

    async def blocks() -> None:
        _interrupt(3)

    task = schedule_coroutine(blocks(), loop=loop)
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(asyncio.Event().wait(), loop=loop)
    assert isinstance(task.exception(), KeyboardInterrupt)
    for left in asyncio.all_tasks(loop):
        left.cancel()
    assert run_in_foreground(_answer(), loop=loop) == 42


def test_an_interrupt_at_the_very_end_is_not_lost(loop: asyncio.AbstractEventLoop) -> None:
    """The task has just ended; the interrupt is raised all the same, and harms nothing."""

    async def ends() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: _interrupt())

    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(ends(), loop=loop)
    assert run_in_foreground(_answer(), loop=loop) == 42


def test_a_handler_of_the_users_own_stays_in_charge(loop: asyncio.AbstractEventLoop) -> None:
    """Whoever handles SIGINT himself goes on doing so."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, _: seen.append(signum))
    try:
        loop.call_soon(_interrupt)
        assert run_in_foreground(_answer(), loop=loop) == 42
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
