"""What a job that has ended, and is kept, weighs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .contest import OURS, Contests, Round, Size, own
from .shells import launch_of, loaded, plain_shell

BENCH = Contests("memory")


@BENCH.add(
    "a finished coroutine job that returned None", {"a finished task": own(1000)}, unit="byte"
)
def coroutine(size: Size) -> Iterator[Round]:
    """As traced by Python's allocators."""
    yield from _weights("noop()", size, lambda: asyncio.create_task(_coroutine()))


@BENCH.add(
    "a finished thread job that returned None", {"a finished future": own(1000)}, unit="byte"
)
def thread(size: Size) -> Iterator[Round]:
    """As traced by Python's allocators."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield from _weights("len(())", size, lambda: asyncio.wrap_future(pool.submit(len, ())))


def _weights(code: str, size: Size, peer: Callable[[], Awaitable[Any]]) -> Iterator[Round]:
    count = size.count(10_000)

    async def rounds() -> list[Round]:
        with plain_shell() as shell, loaded(shell) as session:
            session.settings.max_finished = 10 * count
            shell.user_ns["noop"] = _coroutine
            launch = launch_of(session, code)
            name = "a finished task" if code == "noop()" else "a finished future"
            await _weight(launch, 100)
            found = []
            for _ in range(size.rounds(3)):
                found.append({OURS: await _weight(launch, count), name: await _weight(peer, count)})
                session.registry.prune()
            return found

    yield from asyncio.run(rounds())


async def _weight(make: Callable[[], Awaitable[Any]], count: int) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = [make() for _ in range(count)]
        for one in made:
            await one
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return (after - before) / count


async def _coroutine() -> None:
    pass
