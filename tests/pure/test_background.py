"""The three helpers, without IPython."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ipy_bgtasks.background import call_in_background, run_in_foreground, schedule_coroutine


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own, not set for the thread."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def prompt() -> Iterator[None]:
    """The state of a fresh Python prompt: no loop runs and none is set; what is set is closed."""
    asyncio.set_event_loop(None)
    yield
    loop = run_in_foreground(_running_loop())
    asyncio.set_event_loop(None)
    loop.close()


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def _answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_the_three_share_one_loop_at_the_prompt(prompt: None) -> None:
    """Used one after the other without a loop, they find the same one, and set it."""
    task = schedule_coroutine(_answer())
    future = call_in_background(lambda: "called")
    loop = run_in_foreground(_running_loop())
    assert task.get_loop() is future.get_loop() is loop is asyncio.get_event_loop()
    assert run_in_foreground(task) == 42
    assert run_in_foreground(future) == "called"


def test_a_loop_that_was_closed_is_replaced(prompt: None) -> None:
    """`asyncio.run` and others leave closed loops behind; none of them is used."""
    closed = asyncio.new_event_loop()
    closed.close()
    asyncio.set_event_loop(closed)
    assert run_in_foreground(_answer()) == 42
    assert asyncio.get_event_loop() is not closed


def test_a_loop_that_was_set_is_used(prompt: None) -> None:
    """The loop somebody set for this thread is taken."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    assert schedule_coroutine(_answer()).get_loop() is loop
    assert run_in_foreground(_running_loop()) is loop


@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_fresh_interpreter_warns_of_nothing(thread: str) -> None:
    """In the main thread and in others, with every warning an error."""
    code = """
import asyncio, gc, sys, threading
from ipy_bgtasks import background as b
def use():
    async def f(): return 42
    assert b.run_in_foreground(b.schedule_coroutine(f())) == 42
    assert b.run_in_foreground(b.call_in_background(lambda: 7)) == 7
    asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)
    print("used")
if sys.argv[1] == "main":
    use()
else:
    t = threading.Thread(target=use); t.start(); t.join()
gc.collect()
assert not any(m.startswith("IPython") for m in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, thread],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("used\n", "", 0)


async def test_in_a_running_loop_that_is_taken() -> None:
    """Inside a coroutine no other loop comes into play."""
    task = schedule_coroutine(_answer())
    assert not task.done()
    assert await task == 42
    assert await call_in_background(lambda: "called") == "called"


@pytest.mark.parametrize("target", [_answer, 42, None, (x for x in "ab"), "text", print])
def test_what_is_no_coroutine_is_refused(target: object) -> None:
    """A function that was not called, a generator, a number: one line that shows it."""
    with pytest.raises(TypeError, match=r"^target must be a coroutine, not ") as caught:
        schedule_coroutine(target)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"^task must be a coroutine, a task or a future, not "):
        run_in_foreground(target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [42, None, "text", [1] * 1000])
def test_what_cannot_be_called_is_refused(target: object) -> None:
    """And shown in short."""
    with pytest.raises(TypeError, match=r"^target must be a callable, not ") as caught:
        call_in_background(target)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 150


def test_a_refused_value_need_not_have_a_repr() -> None:
    """The error is about the value, whatever its repr does."""

    class Bad:
        def __repr__(self) -> str:
            raise ValueError("no repr")

    with pytest.raises(TypeError, match="not <Bad instance at"):
        schedule_coroutine(Bad())  # type: ignore[arg-type]


async def test_where_the_loop_runs_the_foreground_is_refused() -> None:
    """It says what to write instead; the coroutine is not reported as never awaited."""
    coroutine = _answer()
    with pytest.raises(RuntimeError, match=r"`await`.*%fg"):
        run_in_foreground(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    task = schedule_coroutine(_answer())
    with pytest.raises(RuntimeError, match=r"`await`.*%fg"):
        run_in_foreground(task)
    assert await task == 42


async def test_a_loop_that_runs_in_another_thread_is_refused() -> None:
    """It cannot be run a second time from here."""
    here = asyncio.get_running_loop()

    def elsewhere() -> str:
        with pytest.raises(RuntimeError) as caught:
            run_in_foreground(_answer(), loop=here)
        return str(caught.value)

    assert "already running" in await call_in_background(elsewhere)


def test_a_future_of_another_loop_is_refused(loop: asyncio.AbstractEventLoop, prompt: None) -> None:
    """A given loop and the future's own must be the same."""
    future = loop.create_future()
    with pytest.raises(ValueError, match="another event loop"):
        run_in_foreground(future, loop=run_in_foreground(_running_loop()))


def test_a_future_brings_its_own_loop(loop: asyncio.AbstractEventLoop, prompt: None) -> None:
    """Which need not be the one set for the thread."""
    task = schedule_coroutine(_running_loop(), loop=loop)
    assert run_in_foreground(task) is loop


def test_tasks_go_on_only_while_the_loop_runs(loop: asyncio.AbstractEventLoop) -> None:
    """A zero-second sleep in the foreground steps them."""
    steps: list[int] = []

    async def ticker() -> None:
        while True:
            steps.append(len(steps))
            await asyncio.sleep(0)

    task = schedule_coroutine(ticker(), loop=loop)
    assert steps == []
    run_in_foreground(asyncio.sleep(0), loop=loop)
    seen = len(steps)
    assert seen > 0
    run_in_foreground(asyncio.sleep(0), loop=loop)
    assert len(steps) > seen
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        run_in_foreground(task)


def test_the_exception_of_a_coroutine_is_raised(loop: asyncio.AbstractEventLoop) -> None:
    """As it is, with the user's line last in the traceback."""

    async def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        run_in_foreground(fails(), loop=loop)
    assert caught.traceback[-1].name == "fails"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_leaves_by_way_of_the_loop_is_reported_once(
    loop: asyncio.AbstractEventLoop, error: BaseException
) -> None:
    """SystemExit of the foreground arrives, the loop stays usable and nothing is logged."""
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def leaves() -> None:
        raise error

    with pytest.raises(type(error)):
        run_in_foreground(leaves(), loop=loop)
    gc.collect()
    assert run_in_foreground(_answer(), loop=loop) == 42
    assert reported == []


def test_a_call_starts_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """Without the loop ever running."""
    started = threading.Event()
    future = call_in_background(started.set, loop=loop)
    assert started.wait(30)
    assert not future.done()
    run_in_foreground(future)


def test_a_call_runs_in_a_copy_of_the_context(loop: asyncio.AbstractEventLoop) -> None:
    """It sees the caller's values; what it sets stays with it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outer")

    def look() -> str:
        seen = variable.get()
        variable.set("inner")
        return seen

    assert run_in_foreground(call_in_background(look, loop=loop)) == "outer"
    assert variable.get() == "outer"


def test_the_exception_of_a_call_begins_in_the_users_code(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing of ours stands between the wait and the call, and nothing keeps the call alive."""

    def fails() -> None:
        raise LookupError("mine")

    future = call_in_background(fails, loop=loop)
    with pytest.raises(LookupError, match="mine") as caught:
        run_in_foreground(future)
    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "fails"
    assert "_outcome" not in names


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_call_may_raise_anything(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """It is the outcome of the call, and the thread reports nothing."""

    def leaves() -> None:
        raise error

    future = call_in_background(leaves, loop=loop)
    with pytest.raises(type(error)):
        run_in_foreground(future)
    assert future.exception() is error


def test_a_call_that_raises_stopiteration_ends(loop: asyncio.AbstractEventLoop) -> None:
    """No future can hold that exception; it comes as the cause of a RuntimeError."""
    future = call_in_background(lambda: next(iter(())), loop=loop)
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        run_in_foreground(future)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_failed_call_nobody_awaited_is_reported(loop: asyncio.AbstractEventLoop) -> None:
    """By asyncio, as any future is, when the future goes."""
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def until_done(future: asyncio.Future[float]) -> None:
        await asyncio.wait([future])

    run_in_foreground(until_done(call_in_background(lambda: 1 / 0, loop=loop)), loop=loop)
    for thread in threading.enumerate():
        if thread.name == "call_in_background":  # until it has ended it knows the future
            thread.join(30)
    gc.collect()
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_cancelling_the_future_abandons_the_call(loop: asyncio.AbstractEventLoop) -> None:
    """The call runs on, and its late result is dropped in silence."""
    gate, ended = threading.Event(), threading.Event()

    def call() -> None:
        gate.wait(30)
        ended.set()

    future = call_in_background(call, loop=loop)
    future.cancel()
    gate.set()
    assert ended.wait(30)
    with pytest.raises(asyncio.CancelledError):
        run_in_foreground(future)
    run_in_foreground(asyncio.sleep(0), loop=loop)


def test_a_call_may_end_after_its_loop_was_closed() -> None:
    """Nobody can wait for it any more; its thread ends without a word."""
    loop = asyncio.new_event_loop()
    gate = threading.Event()
    before = set(threading.enumerate())
    call_in_background(lambda: gate.wait(30), loop=loop)
    (thread,) = set(threading.enumerate()) - before
    loop.close()
    gate.set()
    thread.join(30)
    assert not thread.is_alive()


def test_an_executor_is_used_when_given(loop: asyncio.AbstractEventLoop) -> None:
    """And nothing else."""
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        future = call_in_background(
            lambda: threading.current_thread().name, loop=loop, executor=executor
        )
        assert run_in_foreground(future).startswith("mine")


def test_a_call_that_never_ends_does_not_hold_up_exit() -> None:
    """The interpreter leaves while the call is still running."""
    code = """
import threading
from ipy_bgtasks.background import call_in_background
call_in_background(threading.Event().wait)
print("leaving")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("leaving\n", "", 0)
