"""Launching jobs that do nothing, up to their results: in a plain loop and in a kernel.

Coroutines are timed by the processor time of their process: nothing of them ever waits, and it
is the same on a busy machine. What other threads do counts, too.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter, process_time
from typing import Any, TypeAlias

from ipy_bgtasks.job.record import Record
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.sigint import Shielded
from ipy_bgtasks.work import Work

from .contest import OURS, Contests, Round, Size, in_turn, ratio
from .shells import ask, kernel, launch_of, loaded, plain_shell

BENCH = Contests("launch")

Contender: TypeAlias = Callable[[], Awaitable[float]]

_COROUTINES = {"create_task": ratio(3.0), "aiojobs": ratio(1.0), "bare records": ratio()}
_THREADS = {
    "bare hand-over": ratio(1.3),
    "bare records": ratio(),
    "run_in_executor": ratio(0.8),
    "BackgroundJobManager": ratio(1 / 3),
    "ThreadPoolExecutor": ratio(),
    "to_thread": ratio(),
    "threading.Thread": ratio(),
    "Pebble": ratio(),
}


@BENCH.add("10,000 coroutine jobs, launch to result, plain loop", _COROUTINES)
def coroutines(size: Size) -> Iterator[Round]:
    """A loop of this process."""
    with plain_shell() as shell:
        yield from asyncio.run(coroutine_rounds(shell, size.count(10_000), size.rounds(15)))


@BENCH.add("10,000 coroutine jobs, launch to result, kernel", _COROUTINES)
def coroutines_in_kernel(size: Size) -> Iterator[Round]:
    """The loop of a kernel."""
    yield from _in_kernel("coroutine_rounds", size.count(10_000), size.rounds(15))


@BENCH.add("10,000 thread jobs, each started at once, to result, plain loop", _THREADS)
def threads(size: Size) -> Iterator[Round]:
    """Threads of this process."""
    with plain_shell() as shell:
        yield from asyncio.run(thread_rounds(shell, size.count(10_000), size.rounds(7)))


@BENCH.add("10,000 thread jobs, each started at once, to result, kernel", _THREADS)
def threads_in_kernel(size: Size) -> Iterator[Round]:
    """Threads of a kernel."""
    yield from _in_kernel("thread_rounds", size.count(10_000), size.rounds(7))


@BENCH.add(
    "2,000 coroutine jobs through %bg, kernel",
    {"create_task": ratio(15), "launch": ratio(2.5), "empty magic": ratio()},
)
def coroutines_by_magic(size: Size) -> Iterator[Round]:
    """As above, with reading CODE."""
    yield from _in_kernel("magic_rounds", size.count(2_000), size.rounds(7))


@BENCH.add(
    "2,000 thread jobs through %bg, kernel", {"run_in_executor": ratio(), "launch": ratio(2)}
)
def threads_by_magic(size: Size) -> Iterator[Round]:
    """As above, with reading CODE."""
    yield from _in_kernel("thread_magic_rounds", size.count(2_000), size.rounds(7))


@BENCH.add("launching 1,000 beside 10,000 live jobs", {"beside 10": ratio(1.1)})
def beside_many(size: Size) -> Iterator[Round]:
    """Nothing is linear in the number of jobs."""
    with plain_shell() as shell:
        yield from asyncio.run(crowd_rounds(shell, size.count(10_000), size.rounds(15)))


# Inside: these run in this process or in a kernel


def _in_kernel(name: str, count: int, rounds: int) -> list[Round]:
    with kernel() as only:
        found: list[Round] = ask(only, f"await launch.{name}(get_ipython(), {count}, {rounds})")
        return found


async def coroutine_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """Jobs against tasks and aiojobs."""
    shell.user_ns["noop"] = _coroutine
    contenders: dict[str, Contender] = {
        OURS: partial(_jobs, shell, "noop()", count, clock=process_time),
        "create_task": partial(_tasks, count),
        "aiojobs": partial(_aiojobs, count),
        "bare records": partial(_bare_records, count),
    }
    return await _turns(contenders, rounds)


async def thread_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """Thread jobs against everything that runs a call in a thread."""
    shell.user_ns["noop"] = _call
    with concurrent.futures.ThreadPoolExecutor() as pool:
        contenders: dict[str, Contender] = {
            OURS: partial(_jobs, shell, "noop()", count),
            "bare hand-over": partial(_handed_over, count),
            "bare records": partial(_handed_over, count, _recorded(asyncio.get_running_loop())),
            "run_in_executor": partial(_executor, count),
            "to_thread": partial(
                _awaitables, lambda: asyncio.ensure_future(asyncio.to_thread(_call)), count
            ),
            "ThreadPoolExecutor": partial(_waited, lambda: pool.submit(_call).result, count),
            "threading.Thread": partial(_waited, _started_thread, count),
            "BackgroundJobManager": partial(_waited, _background_job(), count),
            "Pebble": partial(_pebble, count),
        }
        return await _turns(contenders, rounds)


async def magic_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """Coroutine jobs launched by the magic."""
    shell.user_ns["noop"] = _coroutine
    ours = partial(_jobs, shell, "noop()", count, clock=process_time)
    contenders = {
        OURS: partial(ours, by_magic=True),
        "launch": ours,
        "create_task": partial(_tasks, count),
        "empty magic": partial(_empty_magic, shell, count),
    }
    return await _turns(contenders, rounds)


async def thread_magic_rounds(shell: Any, count: int, rounds: int) -> list[Round]:
    """Thread jobs launched by the magic."""
    shell.user_ns["noop"] = _call
    ours = partial(_jobs, shell, "noop()", count)
    contenders = {OURS: partial(ours, by_magic=True), "launch": ours}
    return await _turns(contenders | {"run_in_executor": partial(_executor, count)}, rounds)


async def crowd_rounds(shell: Any, live: int, rounds: int) -> list[Round]:
    """Launches beside many jobs that wait, and beside few."""
    gate = shell.user_ns["gate"] = asyncio.Event()
    shell.user_ns["noop"] = _coroutine

    async def beside(count: int) -> float:
        gate.clear()
        with loaded(shell) as session:
            waiting = [launch_of(session, "gate.wait()")() for _ in range(count)]
            await asyncio.sleep(0)
            taken = await _awaitables(launch_of(session, "noop()"), 1_000, process_time)
            gate.set()
            for job in waiting:
                await job
        return taken

    return await _turns({OURS: partial(beside, live), "beside 10": partial(beside, 10)}, rounds)


async def _turns(contenders: dict[str, Contender], rounds: int) -> list[Round]:
    """As `contest.turns`, for contenders to be awaited."""
    taken: list[Round] = []
    for number in range(rounds + 1):
        one = {}
        for name in in_turn(list(contenders), number):
            gc.collect()
            one[name] = await contenders[name]()
        taken.append(one)
    return taken[1:]


async def _jobs(
    shell: Any,
    code: str,
    count: int,
    *,
    by_magic: bool = False,
    clock: Callable[[], float] = perf_counter,
) -> float:
    # Loaded for this alone, so that the others pay for nothing of ours.
    with loaded(shell) as session:
        launch = partial(shell.run_line_magic, "bg", code) if by_magic else launch_of(session, code)
        return await _awaitables(launch, count, clock)


async def _tasks(count: int) -> float:
    return await _awaitables(lambda: asyncio.create_task(_coroutine()), count, process_time)


def _recorded(loop: asyncio.AbstractEventLoop) -> Callable[[], Callable[[], None]]:
    """The same as `_bare_records`, for calls."""
    runner = LoopRunner(loop)
    work = Work(_call, "noop()", "noop()", False)

    def prepared() -> Callable[[], None]:
        with Shielded():
            job = Record(1, work, runner)

        def call() -> None:
            job.begin()
            _call()
            job.finish()

        return call

    return prepared


async def _bare_records(count: int) -> float:
    """The least that a job takes that knows how it is, and that an interrupt cannot tear."""
    runner = LoopRunner(asyncio.get_running_loop())
    work = Work(_coroutine, "noop()", "noop()", True)

    async def live(job: Record) -> None:
        job.begin()
        await _coroutine()
        job.finish()

    def make() -> Awaitable[None]:
        with Shielded():
            return asyncio.create_task(live(Record(1, work, runner)))

    return await _awaitables(make, count, process_time)


async def _empty_magic(shell: Any, count: int) -> float:
    """A magic that does nothing, and a task: the least that a line of %bg takes."""
    shell.register_magic_function(lambda line: None, "line", "nothing")

    def make() -> Awaitable[None]:
        shell.run_line_magic("nothing", "noop()")
        return asyncio.create_task(_coroutine())

    return await _awaitables(make, count, process_time)


async def _awaitables(
    make: Callable[[], Awaitable[Any]], count: int, clock: Callable[[], float] = perf_counter
) -> float:
    began = clock()
    made = [make() for _ in range(count)]
    for one in made:
        await one
    return clock() - began


async def _executor(count: int) -> float:
    loop = asyncio.get_running_loop()
    return await _awaitables(lambda: loop.run_in_executor(None, _call), count)


async def _handed_over(
    count: int, prepared: Callable[[], Callable[[], None]] = lambda: _call
) -> float:
    """The least that a start at once in another thread takes: it is woken, and answers."""
    calls: list[Callable[[], None]] = []
    wake, answer = threading.Lock(), threading.Lock()
    wake.acquire()
    answer.acquire()

    def work() -> None:
        for _ in range(count):
            wake.acquire()
            calls[-1]()
            answer.release()

    threading.Thread(target=work, daemon=True).start()
    began = perf_counter()
    for _ in range(count):
        calls.append(prepared())
        wake.release()
        answer.acquire()
    return perf_counter() - began


async def _waited(make: Callable[[], Callable[[], Any]], count: int) -> float:
    """For what is waited for without a loop."""
    began = perf_counter()
    waits = [make() for _ in range(count)]
    for wait in waits:
        wait()
    return perf_counter() - began


async def _aiojobs(count: int) -> float:
    import aiojobs

    async with aiojobs.Scheduler(limit=None) as scheduler:
        began = process_time()
        jobs = [await scheduler.spawn(_coroutine()) for _ in range(count)]
        for job in jobs:
            await job.wait()
        return process_time() - began


async def _pebble(count: int) -> float:
    import pebble

    with pebble.ThreadPool(max_workers=8) as pool:
        return await _waited(lambda: pool.schedule(_call).result, count)


def _started_thread() -> Callable[[], Any]:
    thread = threading.Thread(target=_call)
    thread.start()
    return thread.join


def _background_job() -> Callable[[], Callable[[], Any]]:
    from IPython.lib.backgroundjobs import BackgroundJobManager

    manager = BackgroundJobManager()

    def make() -> Callable[[], Any]:
        wait: Callable[[], Any] = manager.new(_call).join
        return wait

    return make


async def _coroutine() -> None:
    pass


def _call() -> None:
    pass
