"""SIGINT while a plain loop runs in the foreground."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from ipy_bgtasks.context import current
from ipy_bgtasks.sigint import complete, run_interruptible

Child = Callable[[], Coroutine[Any, Any, None]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends itself SIGINT")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that nothing else wakes."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def from_a_thread() -> Iterator[Callable[[threading.Event], None]]:
    """Send SIGINT once an event is set, from outside of the main thread."""
    threads: list[threading.Thread] = []

    def send_when(ready: threading.Event) -> None:
        def send() -> None:
            ready.wait()
            os.kill(os.getpid(), signal.SIGINT)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield send_when
    for thread in threads:
        thread.join()


def interrupt_soon(loop: asyncio.AbstractEventLoop, times: int = 1) -> None:
    """Send SIGINT from a callback of the loop, that is, while the foreground waits."""
    for _ in range(times):
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGINT)


def test_the_result_is_returned_and_the_handlers_come_back(loop: asyncio.AbstractEventLoop) -> None:
    """Neither a handler nor a wake-up descriptor stays."""
    assert run_interruptible(loop, asyncio.sleep(0, 5)) == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def test_the_code_sees_keyboardinterrupt_at_its_await(loop: asyncio.AbstractEventLoop) -> None:
    """It may handle it and go on, is not left cancelled, and can be interrupted again."""
    seen: list[str] = []

    async def stubborn() -> int:
        for _ in range(3):
            interrupt_soon(loop)
            try:
                await asyncio.Event().wait()
            except KeyboardInterrupt as error:
                seen.append(type(error).__name__)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run_interruptible(loop, stubborn()) == 0
    assert seen == ["KeyboardInterrupt"] * 3


def test_a_signal_wakes_a_quiet_loop(
    loop: asyncio.AbstractEventLoop, from_a_thread: Callable[[threading.Event], None]
) -> None:
    """Also when nothing would end the wait, ever."""
    asleep = threading.Event()
    from_a_thread(asleep)

    async def wait() -> None:
        loop.call_soon(asleep.set)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, wait())


def test_busy_code_is_interrupted_where_it_stands(
    loop: asyncio.AbstractEventLoop, from_a_thread: Callable[[threading.Event], None]
) -> None:
    """A coroutine that never awaits again need not."""
    spinning = threading.Event()
    from_a_thread(spinning)

    async def spin() -> str:
        try:
            while True:
                spinning.set()
        except KeyboardInterrupt:
            return "caught"

    assert run_interruptible(loop, spin()) == "caught"


async def gathered(child: Child) -> None:
    await asyncio.gather(asyncio.Event().wait(), child())


async def grouped(child: Child) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child())
        tasks.create_task(asyncio.Event().wait())


async def left_alone(child: Child) -> None:
    task = asyncio.create_task(child())
    await asyncio.Event().wait()
    await task


@pytest.mark.parametrize("main", [gathered, grouped, left_alone])
def test_a_task_of_its_own_that_never_awaits_is_interrupted(
    loop: asyncio.AbstractEventLoop,
    from_a_thread: Callable[[threading.Event], None],
    main: Callable[[Child], Coroutine[Any, Any, None]],
) -> None:
    """It would keep the interrupt from its await for ever; both end."""
    blocks = threading.Event()
    from_a_thread(blocks)
    ended: list[str] = []

    async def child() -> None:
        try:
            while True:
                blocks.set()
        finally:
            ended.append("child")

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, main(child))
    assert ended == ["child"]
    assert not asyncio.all_tasks(loop)


def test_a_job_that_the_code_has_launched_is_not_hit(loop: asyncio.AbstractEventLoop) -> None:
    """It belongs to nobody but itself."""

    async def step() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        return "unharmed"

    async def launch() -> None:
        context = contextvars.copy_context()
        context.run(current.set, "a job")
        jobs.append(asyncio.create_task(step(), context=context))
        await asyncio.Event().wait()

    jobs: list[asyncio.Task[str]] = []
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, launch())
    assert run_interruptible(loop, asyncio.wait_for(jobs[0], 10)) == "unharmed"


def test_another_task_is_never_hit(loop: asyncio.AbstractEventLoop) -> None:
    """A signal in the middle of its step, three times over, goes to the foreground, once."""

    async def step() -> str:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        return "unharmed"

    other = loop.create_task(step())
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, asyncio.Event().wait())
    assert run_interruptible(loop, asyncio.wait_for(other, 10)) == "unharmed"


def test_what_tidies_up_for_a_cancellation_does_so_for_an_interrupt(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """A task group takes its tasks with it."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("child")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            interrupt_soon(loop)

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, group())
    assert ended == ["child"]


def test_an_ordinary_cancellation_stays_one(loop: asyncio.AbstractEventLoop) -> None:
    """Only SIGINT becomes KeyboardInterrupt."""

    async def cancel_oneself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError) as caught:
        run_interruptible(loop, cancel_oneself())
    assert not isinstance(caught.value, KeyboardInterrupt)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, EOFError])
def test_what_the_foreground_raises_passes_out(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    """And the loop can be used afterwards."""

    async def fail() -> None:
        raise error

    with pytest.raises(error):
        run_interruptible(loop, fail())
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


def test_an_exit_elsewhere_first_ends_the_foreground_in_good_order(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """A signal handler or another task may raise SystemExit; nothing stays half done."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("foreground")

    loop.call_later(0.01, sys.exit, 3)
    with pytest.raises(SystemExit):
        complete(loop, loop.create_task(wait()))
    assert ended == ["foreground"]
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


def test_stopping_the_loop_does_not_end_the_wait(loop: asyncio.AbstractEventLoop) -> None:
    """`run_until_complete` would raise a RuntimeError."""
    loop.call_soon(loop.stop)
    assert run_interruptible(loop, asyncio.sleep(0.01, "went on")) == "went on"


def test_a_loop_that_runs_or_is_closed_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    """With asyncio's own words, and without a coroutine that was never awaited."""

    async def nested(inner: asyncio.AbstractEventLoop) -> None:
        run_interruptible(inner, asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="already running"):
        run_interruptible(loop, nested(loop))
    closed = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="another loop is running"):
        run_interruptible(loop, nested(closed))
    closed.close()
    with pytest.raises(RuntimeError, match="is closed"):
        run_interruptible(closed, asyncio.sleep(0))


def test_the_handler_of_somebody_else_stays(loop: asyncio.AbstractEventLoop) -> None:
    """As `asyncio.Runner` does it."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        interrupt_soon(loop)
        assert run_interruptible(loop, asyncio.sleep(0.02, "undisturbed")) == "undisturbed"
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_the_users_own_signal_handlers_on_the_loop_work(loop: asyncio.AbstractEventLoop) -> None:
    """One that was added before and one that is added meanwhile; both stay."""
    got = asyncio.Queue[str]()

    async def both() -> set[str]:
        loop.add_signal_handler(signal.SIGUSR2, got.put_nowait, "meanwhile")
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        return {await got.get(), await got.get()}

    loop.add_signal_handler(signal.SIGUSR1, got.put_nowait, "before")
    try:
        for _ in range(2):
            assert run_interruptible(loop, both()) == {"before", "meanwhile"}
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR2)


def test_any_thread_may_run_its_own_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Without a signal handler, which Python allows in the main thread only."""
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(run_interruptible(loop, asyncio.sleep(0, 5)))
    )
    thread.start()
    thread.join()
    assert results == [5]
