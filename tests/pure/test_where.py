"""Where code is right now: the whole chain of awaits, the stack of a thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from traceback import FrameSummary
from typing import Any

import pytest

from ipy_bgtasks.stacks import (
    await_frames,
    doing,
    innermost,
    is_library,
    place,
    running_stack,
    summaries,
    thread_frames,
)

Start = Callable[[asyncio.Event], Coroutine[Any, Any, Any]]


async def leaf(gate: asyncio.Event) -> None:
    """The innermost line of the user's own."""
    await gate.wait()


async def generate(gate: asyncio.Event) -> AsyncIterator[int]:
    """An asynchronous generator."""
    yield 1
    await leaf(gate)


async def by_generator(gate: asyncio.Event) -> None:
    """Wait in an asynchronous generator."""
    async for _ in generate(gate):
        pass


async def by_comprehension(gate: asyncio.Event) -> None:
    """Wait in a comprehension over one."""
    _ = [x async for x in generate(gate)]


async def by_task(gate: asyncio.Event) -> None:
    """Wait for a task."""
    await asyncio.create_task(leaf(gate))


async def by_gather(gate: asyncio.Event) -> None:
    """Wait for several, of which one has ended."""
    await asyncio.gather(asyncio.sleep(0), leaf(gate))


async def by_group(gate: asyncio.Event) -> None:
    """Wait at the end of a task group."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(0))
        tasks.create_task(leaf(gate))


async def by_wait(gate: asyncio.Event) -> None:
    """Wait for the first of several."""
    await asyncio.wait([asyncio.create_task(leaf(gate))], return_when="FIRST_COMPLETED")


async def by_wait_for(gate: asyncio.Event) -> None:
    """Wait with a time limit."""
    await asyncio.wait_for(leaf(gate), 1000)


async def by_timeout(gate: asyncio.Event) -> None:
    """Wait with the other kind of time limit."""
    async with asyncio.timeout(1000):
        await leaf(gate)


async def by_shield(gate: asyncio.Event) -> None:
    """Wait behind a shield."""
    await asyncio.shield(leaf(gate))


async def by_manager(gate: asyncio.Event) -> None:
    """Wait in the clean-up of an `async with`."""

    class Manager:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None:
            await leaf(gate)

    async with Manager():
        pass


async def by_everything(gate: asyncio.Event) -> None:
    """Wait through several of them."""

    async def inner() -> None:
        await by_gather(gate)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.wait_for(asyncio.shield(inner()), 1000))


WAYS = [
    leaf,
    by_generator,
    by_comprehension,
    by_task,
    by_gather,
    by_group,
    by_wait,
    by_wait_for,
    by_timeout,
    by_shield,
    by_manager,
    by_everything,
]


async def settled() -> None:
    """Let every task come to its await."""
    for _ in range(20):
        await asyncio.sleep(0)


def names(stack: list[FrameSummary]) -> list[str]:
    """Functions, the outermost first."""
    return [frame.name for frame in stack]


@pytest.mark.parametrize("start", WAYS, ids=lambda start: start.__name__)
async def test_the_chain_leads_to_the_innermost_line(start: Start) -> None:
    """Whatever stands between; asking changes nothing for the task."""
    gate = asyncio.Event()
    task = asyncio.create_task(start(gate))
    await settled()
    stack = summaries(await_frames(task, threading.get_ident(), asyncio.get_running_loop()))
    assert stack[0].name == start.__name__
    frame = innermost(stack)
    assert frame is not None
    assert (frame.name, frame.line) == ("leaf", "await gate.wait()")
    assert doing(frame) == "gate.wait"
    gate.set()
    await task


async def test_a_running_task_shows_the_line_it_is_in() -> None:
    """Also where a task of its own runs, and asked from another thread."""
    loop, me = asyncio.get_running_loop(), threading.get_ident()
    answers: list[list[FrameSummary]] = []

    def ask() -> None:
        asking = threading.Thread(
            target=lambda: answers.append(summaries(await_frames(parent, me, loop)))
        )
        asking.start()
        asking.join()

    async def child() -> None:
        ask()

    async def waits() -> None:
        await asyncio.create_task(child())

    parent = asyncio.create_task(waits())
    await parent
    assert names(answers[0])[:3] == ["waits", "child", "ask"]
    assert running_stack(parent, me, loop) == []


async def test_a_task_that_has_ended_is_nowhere() -> None:
    """And so is what is no task."""
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    loop = asyncio.get_running_loop()
    assert summaries(await_frames(task, threading.get_ident(), loop)) == []
    assert summaries(await_frames(None, threading.get_ident(), loop)) == []


def test_a_thread_shows_its_stack_while_it_is_blocked_in_c() -> None:
    """From the user's first frame on, source lines and all."""
    lock = threading.Lock()
    lock.acquire()
    inside = threading.Event()

    def waits() -> None:
        inside.set()
        lock.acquire()

    thread = threading.Thread(target=waits)
    thread.start()
    inside.wait(10)
    assert thread.ident is not None
    frame: FrameSummary | None = None
    while frame is None or frame.line != "lock.acquire()":
        stack = summaries(thread_frames(thread.ident))
        frame = stack[-1] if stack else None
    assert names(stack) == ["waits"]
    assert doing(frame) == "lock.acquire"
    lock.release()
    thread.join()
    assert summaries(thread_frames(thread.ident)) == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("time.sleep(3)", "time.sleep"),
        ("await asyncio.sleep(3)", "asyncio.sleep"),
        ("x = f(a)[0] + g(b)(c)", "g(b)"),
        ("return a @ b", "a @ b"),
        ("while True: pass", "while True: pass"),
        ("é = ü.wait('ä')", "ü.wait"),
    ],
)
def test_what_a_frame_is_doing_has_a_name(
    line: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call it is in, if it is in one; else the operation, else the line."""
    import linecache

    monkeypatch.setitem(linecache.cache, "<x>", (0, None, [f"    {line}\n"], "<x>"))
    wanted = {"x = f(a)[0] + g(b)(c)": "g(b)(c)", "return a @ b": "a @ b"}.get(line)
    text = wanted or line.removeprefix("é = ")
    if line.startswith("while"):
        text = "True"
    start = len(f"    {line[: line.index(text)]}".encode())
    end = start + len(text.encode())
    frame = FrameSummary("<x>", 1, "f", lookup_line=False, end_lineno=1, colno=start, end_colno=end)
    assert doing(frame) == named


def test_places_are_named_by_cell_file_or_line() -> None:
    """A cell by its number; the name under which it was compiled says nothing."""
    cell = FrameSummary("/tmp/ipykernel_1/2.py", 3, "f", line="")
    assert place(cell, {"/tmp/ipykernel_1/2.py": 7}.get) == "cell 7, line 3"
    assert place(cell) == "line 3"
    assert place(FrameSummary("/home/me/train.py", 12, "fit", line="")) == "train.py:12"
    assert is_library(asyncio.__file__)
    assert not is_library(__file__)


#: A callback of the collector stands for whatever it may run: here others go on in the midst of it.
_ASKING = """
import gc, threading, time
from ipy_bgtasks import async_exceptions, platforms
gc.freeze()
gc.callbacks.append(lambda *_: time.sleep(0))
gc.set_threshold(1)
mine = threading.get_ident()
def ask():
    for _ in range(100):
        assert platforms.frame_of(mine) is not None
        assert not async_exceptions.is_handling_stop(mine)
        platforms.processor_times([mine])
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(gc.isenabled())
gc.disable()
ask()
print(gc.isenabled())
"""


def test_threads_may_be_asked_for_while_garbage_is_collected() -> None:
    """Python 3.11 waits for ever then; and whether it collects is the user's choice as before."""
    done = subprocess.run([sys.executable, "-c", _ASKING], stdout=subprocess.PIPE, timeout=60)
    assert done.stdout == b"True\nFalse\n"
