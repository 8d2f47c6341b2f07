"""How long from a cancel to the job's end, beside the floor: what bare asyncio and CPython take.

python tests/stress/cancel_latency.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "pure"))

from fakes import work

from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop


def spin(ready: threading.Event) -> None:
    """A loop in Python."""
    ready.set()
    while True:
        pass


async def task_bare() -> float:
    """Cancel a bare task that waits."""
    task = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    began = time.perf_counter()
    task.cancel()
    await asyncio.wait([task])
    return time.perf_counter() - began


async def thread_bare() -> float:
    """Raise in a bare thread that spins."""
    ended, ready = threading.Event(), threading.Event()

    def run() -> None:
        try:
            spin(ready)
        except KeyboardInterrupt:
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    began = time.perf_counter()
    identifier = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identifier, ctypes.py_object(KeyboardInterrupt))
    ended.wait()
    took = time.perf_counter() - began
    thread.join()
    return took


def task_job(registry: Registry) -> Callable[[], Awaitable[float]]:
    """Cancel a coroutine job that waits."""

    async def measure() -> float:
        job = registry.launch(work(lambda: asyncio.Event().wait(), is_async=True))
        await asyncio.sleep(0)
        return await stopped(job)

    return measure


def thread_job(registry: Registry) -> Callable[[], Awaitable[float]]:
    """Cancel a thread job that spins."""

    async def measure() -> float:
        ready = threading.Event()
        job = registry.launch(work(lambda: spin(ready)))
        ready.wait()
        ended = threading.Event()
        job.add_done_callback(lambda _: ended.set())
        began = time.perf_counter()
        job.cancel()
        ended.wait()
        return time.perf_counter() - began

    return measure


async def stopped(job: Record) -> float:
    """Seconds until it has ended."""
    ended = asyncio.get_running_loop().create_future()
    job.add_done_callback(lambda _: ended.set_result(None))
    began = time.perf_counter()
    job.cancel()
    await ended
    return time.perf_counter() - began


async def main(rounds: int) -> None:
    """Measure them in turn, so that all see the same machine."""
    service = ServiceLoop()
    loop = LoopRunner(asyncio.get_running_loop())
    threads = ThreadRunner(loop, service=service)
    registry = Registry({"loop": loop, "thread": threads}, service, max_finished=10)
    kinds: dict[str, Callable[[], Awaitable[float]]] = {
        "bare task.cancel()": task_bare,
        "coroutine job": task_job(registry),
        "bare SetAsyncExc": thread_bare,
        "thread job in a Python loop": thread_job(registry),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, measure in kinds.items():
            times[name].append(await measure())
    for name, taken in times.items():
        print(f"{name:28} {_figures(taken)}")


def _figures(taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=100)
    values: Any = {"median": cuts[49], "p99": cuts[98], "max": max(taken)}
    return "  ".join(f"{name} {1e3 * value:8.3f} ms" for name, value in values.items())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
