"""What a user of a notebook waits for: from the request to the kernel's `idle`."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psutil

from .contest import (
    OURS,
    Contests,
    Round,
    Size,
    Unavailable,
    excess,
    in_turn,
    own,
    p95_ratio,
    ratio,
)
from .shells import EXTENSION, ask, kernel

if TYPE_CHECKING:
    from tests.kernel.kernels import Kernel
    from tests.kernel.pages import Page

BENCH = Contests("kernel")

_LOAD, _UNLOAD = f"%load_ext {EXTENSION}", f"%unload_ext {EXTENSION}"
_SPIN = """
import threading
def spin():
    while not stopped.is_set():
        sum(range(100))
stopped = threading.Event()
"""
_REPORTER = """
import asyncio
from ipy_bgtasks import current_job
async def job():
    for n in range(10000):
        current_job().progress = n / 10000
        await asyncio.sleep(0.1)
"""


@BENCH.add("a cell `%bg f()`, request to idle", {"Thread": ratio(1.25), "ipython-bg": ratio()})
def cell(size: Size) -> Iterator[Round]:
    """Card included."""
    with kernel() as k:
        k.ok("import threading\ndef f(): pass")
        contenders = {
            OURS: partial(_cells, k, "%bg f()", 20, _LOAD, _UNLOAD),
            "Thread": partial(_cells, k, "threading.Thread(target=f).start()", 20),
        }
        # It never goes away again, and so comes first: ours takes %bg and gives it back.
        if k.run("%load_ext ipython_bg").status == "ok":
            contenders["ipython-bg"] = partial(_cells, k, "%bg f()", 20)
        yield from _turns(contenders, size.rounds(20))


@BENCH.add("a cell `%bg f()` for `async def f`, request to idle", {"create_task": ratio()})
def async_cell(size: Size) -> Iterator[Round]:
    """Card included."""
    with kernel() as k:
        k.ok("import asyncio\nasync def f(): pass")
        contenders = {
            OURS: partial(_cells, k, "%bg f()", 20, _LOAD, _UNLOAD),
            "create_task": partial(_cells, k, "t = asyncio.create_task(f())", 20),
        }
        yield from _turns(contenders, size.rounds(20))


@BENCH.add("a cell `1+1`, loaded", {"not loaded": ratio(1.03)})
def loaded_cell(size: Size) -> Iterator[Round]:
    """What loading costs a cell: standing between the channel and the kernel, above all."""
    with kernel() as k:
        contenders = {
            OURS: partial(_cells, k, "1+1", 50, _LOAD, _UNLOAD),
            "not loaded": partial(_cells, k, "1+1", 50),
        }
        yield from _turns(contenders, size.rounds(30))


@BENCH.add("a cell `1+1` with 1,000 idle jobs", {"not loaded": ratio(1.03)})
def plain_cell(size: Size) -> Iterator[Round]:
    """What loading costs whoever uses nothing of it."""
    idle = "gate = asyncio.Event()\nfor _ in range(1000):\n    %bg gate.wait()"
    with kernel() as k:
        k.ok("import asyncio")
        contenders = {
            OURS: partial(_cells, k, "1+1", 50, f"{_LOAD}\n{idle}", f"gate.set()\n{_UNLOAD}"),
            "not loaded": partial(_cells, k, "1+1", 50),
        }
        yield from _turns(contenders, size.rounds(30))


@BENCH.add("`1+1` beside 4 thread jobs that compute", {"4 bare threads": ratio(1.05)})
def beside_threads(size: Size) -> Iterator[Round]:
    """The interpreter's lock is shared with bare threads just so."""
    jobs = "stopped.clear()\nfor _ in range(4):\n    %bg spin()"
    bare = "stopped.clear()\nfor _ in range(4): threading.Thread(target=spin, daemon=True).start()"
    with kernel() as k:
        k.ok(_SPIN)
        contenders = {
            OURS: partial(_cells, k, "1+1", 10, f"{_LOAD}\n{jobs}", f"stopped.set()\n{_UNLOAD}"),
            "4 bare threads": partial(_cells, k, "1+1", 10, bare, "stopped.set()"),
        }
        yield from _turns(contenders, size.rounds(16))


@BENCH.add("`1+1` beside process jobs that compute, one core left", {"idle": ratio(1.1)})
def beside_processes(size: Size) -> Iterator[Round]:
    """As many as leave the kernel a core: more would measure the system's scheduler."""
    with kernel() as k:
        k.ok("def spin():\n    while True: sum(range(100))")
        count = min(4, max(1, (os.cpu_count() or 2) - 1))
        if k.run(f"{_LOAD}\nfor _ in range({count}):\n    %bg -p spin()").status != "ok":
            raise Unavailable("no process jobs here")
        k.ok(f"%cancel -f all\n{_UNLOAD}")
        start = f"{_LOAD}\nfor _ in range({count}):\n    %bg -p spin()"
        contenders = {
            OURS: partial(_cells, k, "1+1", 20, start, f"%cancel -f all\n{_UNLOAD}"),
            "idle": partial(_cells, k, "1+1", 20),
        }
        yield from _turns(contenders, size.rounds(12))


@BENCH.add("`%jobs` with 10,000 finished jobs kept", {"`%jobs` of 10 kept": own(0.020)})
def table(size: Size) -> Iterator[Round]:
    """The magic itself, in the kernel."""
    shown = f"kernel.table_times(get_ipython(), {size.rounds(20)})"
    with kernel() as k:
        k.ok(f"{_LOAD}\n%config BgTasks.max_finished = 20000\nasync def f(): pass")
        k.ok("for _ in range(10):\n    %bg f()")
        few = ask(k, shown)
        k.ok(f"for _ in range({size.count(10_000)}):\n    %bg f()", 120)
        for many, before in zip(ask(k, shown), few, strict=True):
            yield {OURS: many, "`%jobs` of 10 kept": before}


def table_times(shell: Any, rounds: int) -> list[float]:
    """Inside the kernel: the times of `%jobs`."""
    times = []
    for _ in range(rounds):
        began = perf_counter()
        shell.run_line_magic("jobs", "")
        times.append(perf_counter() - began)
    return times


@BENCH.add(
    "1,000 jobs that print a line a second: CPU of the kernel",
    {"1,000 bare tasks": ratio(1.5)},
    note="from one cell, with the panel open",
)
def crowd_cpu(size: Size) -> Iterator[Round]:
    """Seconds of CPU in a second."""
    for one in _crowd(size):
        yield {name: values[0] for name, values in one.items()}


@BENCH.add(
    "`1+1` beside 1,000 jobs that print a line a second", {"1,000 bare tasks": p95_ratio(1.5)}
)
def crowd_cells(size: Size) -> Iterator[Round]:
    """Request to idle of every cell."""
    for one in _crowd(size):
        yield from (
            dict(zip(one, cells, strict=True))
            for cells in zip(*(v[1:] for v in one.values()), strict=True)
        )


def _crowd(size: Size) -> Iterator[dict[str, list[float]]]:
    """For each contender: CPU for a second, then the times of a hundred cells."""
    printer = (
        "import asyncio\nasync def printer(n):\n    await asyncio.sleep(n / 1000)\n"
        "    while True:\n        print('line of', n)\n        await asyncio.sleep(1)\n"
    )
    start = {
        OURS: f"{_LOAD}\nfor n in range(1000):\n    %bg printer(n)",
        "1,000 bare tasks": "tasks = [asyncio.create_task(printer(n)) for n in range(1000)]",
    }
    stop = {
        OURS: f"%cancel all\n{_UNLOAD}",
        "1,000 bare tasks": "for t in tasks: t.cancel()\ndel tasks",
    }
    with kernel() as k:
        open_panel = _panel_of(k)
        k.ok(printer)
        for number in range(size.rounds(4)):
            one: dict[str, list[float]] = {name: [] for name in start}
            for name in in_turn(list(start), number):
                k.ok(start[name])
                if name == OURS:
                    open_panel()
                k.ok("await asyncio.sleep(1.5)")
                one[name].append(_cpu_of_a_second(k))
                for _ in range(100):
                    began = perf_counter()
                    k.ok("1+1")
                    one[name].append(perf_counter() - began)
                k.ok(stop[name], 60)
            yield one


def _panel_of(k: Kernel) -> Callable[[], Page]:
    """What opens the panel and waits until it shows a job."""
    k.ok("import importlib.util")
    if k.ok("importlib.util.find_spec('anywidget') is None").result == "True":
        raise Unavailable("the panel needs anywidget")
    from tests.kernel.pages import open_panel

    def open_and_wait() -> Page:
        page = open_panel(k)
        page.until(lambda: page.rows)
        return page

    return open_and_wait


@BENCH.add("200 jobs that report progress: CPU of a second", {"no cards": excess(0.05)})
def progress(size: Size) -> Iterator[Round]:
    """Each has a card; ten reports a second."""
    with kernel() as k:
        k.ok(f"{_LOAD}\n{_REPORTER}")
        for number in range(size.rounds(5)):
            one = {}
            for name in in_turn([OURS, "no cards"], number):
                for _ in range(200):
                    k.ok("%bg job()" + ";" * (name != OURS))
                one[name] = _cpu_of_a_second(k)
                k.ok("%cancel all", 60)
            yield one


@BENCH.add(
    "1,000 jobs that report progress, with the panel open: CPU of a second",
    {"no panel": excess(0.05)},
)
def panel_of_many(size: Size) -> Iterator[Round]:
    """Ten reports a second of each; a page has forty rows in sight."""
    with kernel() as k:
        open_panel = _panel_of(k)
        k.ok(f"{_LOAD}\n{_REPORTER}\nfor n in range(1000):\n    %bg -q job();")
        page = open_panel()
        for number in range(size.rounds(5)):
            one = {}
            for name in in_turn([OURS, "no panel"], number):
                if name == OURS:
                    page.see(panel=True, look=[str(n) for n in range(1, 41)])
                else:
                    page.send("bye")
                k.ok("await asyncio.sleep(1)")
                one[name] = _cpu_of_a_second(k)
            yield one


def _cpu_of_a_second(k: Kernel) -> float:
    """The seconds of CPU that a kernel uses in a second."""
    used, began = psutil.Process(k.pid).cpu_times(), perf_counter()
    k.ok("await asyncio.sleep(5)")
    now = psutil.Process(k.pid).cpu_times()
    return (now.user + now.system - used.user - used.system) / (perf_counter() - began)


def _cells(k: Kernel, code: str, count: int, before: str = "", after: str = "") -> float:
    """The middle time of a cell, in seconds, between a cell that prepares and one that ends."""
    if before:
        k.ok(before)
    k.ok(code)
    taken = []
    for _ in range(count):
        began = perf_counter()
        k.ok(code)
        taken.append(perf_counter() - began)
    if after:
        k.ok(after)
    return statistics.median(taken)


def _turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[Round]:
    for number in range(rounds):
        yield {name: contenders[name]() for name in in_turn(list(contenders), number)}
