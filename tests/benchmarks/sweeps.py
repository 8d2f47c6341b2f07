"""Sweeps: many jobs of one group, of which a few run at a time, and the one card for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter, process_time
from typing import Any

from .contest import OURS, Contests, Round, Size, excess, ratio
from .launch import Contender, _turns
from .shells import EXTENSION, kernel, launch_of, loaded, plain_shell

BENCH = Contests("sweeps")

_AT_A_TIME = 10


@BENCH.add("1,000 coroutine jobs of 1 ms each, 10 at a time", {"Semaphore": ratio(3)})
def limited(size: Size) -> Iterator[Round]:
    """Against bare tasks that share a semaphore; launch to result."""
    with plain_shell() as shell:
        count, rounds = size.count(1_000), size.rounds(15)
        yield from asyncio.run(limited_rounds(shell, count, rounds, 0.001, perf_counter))


@BENCH.add("1,000 coroutine jobs that do nothing, 10 at a time", {"Semaphore": ratio()})
def limited_noops(size: Size) -> Iterator[Round]:
    """What launching and counting them costs, and nothing else."""
    with plain_shell() as shell:
        count, rounds = size.count(1_000), size.rounds(25)
        yield from asyncio.run(limited_rounds(shell, count, rounds, 0, process_time))


@BENCH.add("launching 10,000 coroutine jobs that are queued", {"thread jobs": ratio(1.1)})
def queued(size: Size) -> Iterator[Round]:
    """Against as many of threads."""
    with plain_shell() as shell:
        yield from asyncio.run(queued_rounds(shell, size.count(10_000), size.rounds(11)))


@BENCH.add("launching 200 queued jobs after 10,000", {"after 10": ratio(1.1)})
def late(size: Size) -> Iterator[Round]:
    """Nothing is linear in the length of the queue."""
    with plain_shell() as shell:
        yield from asyncio.run(late_rounds(shell, size.count(10_000), size.rounds(25)))


@BENCH.add(
    "1,000 jobs, 10 at a time, with a card: per cent of a core",
    {"without": excess(5)},
    unit="integer",
)
def card(size: Size) -> Iterator[Round]:
    """In a kernel, from launch to end, each job asleep for a while."""
    with kernel() as only:
        only.ok("import asyncio, time\nasync def nap(): await asyncio.sleep(0.05)")
        only.ok(f"%load_ext {EXTENSION}")
        for number in range(size.rounds(5)):
            taken = {}
            for name in [OURS, "without"][:: 1 if number % 2 else -1]:
                end = ";" if name == "without" else ""
                launches = (
                    f"for _ in range({size.count(1_000)}):\n    %bg -g g{number}:10 nap(){end}"
                )
                only.ok("cpu, wall = time.process_time(), time.perf_counter()")
                only.ok(launches)
                only.ok(f"await asyncio.wait(list(__import__('{EXTENSION}').jobs('@g{number}')))")
                only.ok("cpu, wall = time.process_time() - cpu, time.perf_counter() - wall")
                only.ok("%jobs --prune")
                taken[name] = float(only.ok("cpu / wall * 100").result or "nan")
            yield taken


async def limited_rounds(
    shell: Any, count: int, rounds: int, seconds: float, clock: Callable[[], float]
) -> list[Round]:
    """Jobs of a limited group against tasks behind a semaphore."""
    nap = shell.user_ns["nap"] = partial(asyncio.sleep, seconds)

    async def jobs() -> float:
        with loaded(shell) as session:
            launch = launch_of(session, f"-g g:{_AT_A_TIME} nap()")
            return await _all(launch, count, clock)

    async def tasks() -> float:
        semaphore = asyncio.Semaphore(_AT_A_TIME)

        async def one() -> None:
            async with semaphore:
                await nap()

        return await _all(lambda: asyncio.create_task(one()), count, clock)

    return await _turns({OURS: jobs, "Semaphore": tasks}, rounds)


async def queued_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """Coroutine jobs in a group, and thread jobs."""
    shell.user_ns["nap"] = _nap
    gate = shell.user_ns["gate"] = asyncio.Event()
    contenders: dict[str, Contender] = {
        OURS: partial(_queued, shell, gate, "-l", count),
        "thread jobs": partial(_queued, shell, gate, "-t", count),
    }
    return await _turns(contenders, rounds)


async def late_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """The same behind a long queue and a short one."""
    shell.user_ns["nap"] = _nap
    gate = shell.user_ns["gate"] = asyncio.Event()
    contenders: dict[str, Contender] = {
        OURS: partial(_queued, shell, gate, "-l", 200, before=count),
        "after 10": partial(_queued, shell, gate, "-l", 200, before=10),
    }
    return await _turns(contenders, rounds)


async def _queued(
    shell: Any, gate: asyncio.Event, place: str, count: int, before: int = 0
) -> float:
    gate.clear()
    with loaded(shell) as session:
        first = launch_of(session, "-g g:1 gate.wait()")()
        launch = launch_of(session, f"-g g {place} nap()")
        for _ in range(before):
            launch()
        began = process_time()
        for _ in range(count):
            launch()
        taken = process_time() - began
        for job in list(session.registry.alive()):
            if job is not first:
                job.cancel()
        gate.set()
        await first.job
        return taken


async def _all(make: Callable[[], Awaitable[Any]], count: int, clock: Callable[[], float]) -> float:
    began = clock()
    made = [make() for _ in range(count)]
    for one in made:
        await one
    return clock() - began


async def _nap() -> None:
    await asyncio.sleep(0)
