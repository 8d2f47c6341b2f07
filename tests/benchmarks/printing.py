"""What printing costs: in the foreground with the extension loaded, and inside a job.

In the foreground it is timed by the processor time of the printing thread.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .contest import OURS, Contests, Round, Size, in_turn, ratio, throughput
from .shells import EXTENSION, ask, kernel

if TYPE_CHECKING:
    from tests.kernel.kernels import Kernel

BENCH = Contests("printing")

_LOAD, _UNLOAD = f"%load_ext {EXTENSION}", f"%unload_ext {EXTENSION}"
_PRINTS = """from time import thread_time
began = thread_time()
for n in range({count}): print("line", n)
thread_time() - began
"""


@BENCH.add("print in a plain cell", {"not loaded": ratio(1.03)})
def plain(size: Size) -> Iterator[Round]:
    """The loop of prints alone."""
    yield from _foreground(_PRINTS.format(count=3_000), size)


@BENCH.add("print in an `await` cell", {"not loaded": ratio(1.10)})
def awaiting(size: Size) -> Iterator[Round]:
    """The loop of prints alone."""
    first = "import asyncio\nawait asyncio.sleep(0)\n"
    yield from _foreground(first + _PRINTS.format(count=3_000), size)


@BENCH.add("200,000 lines printed by a thread job", {"bare thread": throughput(0.8)})
def thread(size: Size) -> Iterator[Round]:
    """From the first line to the last, as the thread sees it."""
    count = size.count(200_000)
    with kernel() as k:
        for number in range(size.rounds(9)):
            one = {}
            for name in in_turn([OURS, "bare thread"], number):
                one[name] = _in_thread(k, name, count)
                k.messages.clear()  # a million lines need not be kept
            yield one


@BENCH.add("messages for 1,000 prints of a thread", {"bare thread": ratio(1.0)}, unit="integer")
def messages(size: Size) -> Iterator[Round]:
    """Stream messages on the wire, wherever they go."""
    with kernel() as k:
        for number in range(size.rounds(9)):
            one = {}
            for name in in_turn([OURS, "bare thread"], number):
                k.messages.clear()
                _in_thread(k, name, 1_000)
                k.until(lambda: any("line 999\n" in text for text in _texts(k)))
                one[name] = float(len(_texts(k)))
            yield one


@BENCH.add("20 MB of wide text with CR LF from a command", {"ASCII, LF": ratio(5)})
def wide(size: Size) -> Iterator[Round]:
    """From the command's start to the job's end."""
    yield from _commands("日本語 café\r\n".encode(), size)


@BENCH.add("20 MB of binary output of a command", {"ASCII, LF": ratio(5)})
def binary(size: Size) -> Iterator[Round]:
    """From the command's start to the job's end."""
    yield from _commands(random.Random(1).randbytes(100_000), size)


def _commands(piece: bytes, size: Size) -> Iterator[Round]:
    with kernel() as k, tempfile.TemporaryDirectory() as home:
        k.ok(_LOAD)
        k.ok("from time import perf_counter")
        files = {}
        for name, text in {OURS: piece, "ASCII, LF": b"x" * 79 + b"\n"}.items():
            files[name] = Path(home, name.partition(",")[0])
            files[name].write_bytes(text * (size.count(20_000_000) // len(text)))
        for number in range(size.rounds(9)):
            one = {}
            for name in in_turn(list(files), number):
                job = f"job = %bg -q !cat {files[name]}\njob.result(100)"
                code = f"began = perf_counter()\n{job}\nperf_counter() - began"
                one[name] = float(k.ok(code).result or 0)
                k.messages.clear()
            yield one


def _texts(k: Kernel) -> list[str]:
    return [m["content"]["text"] for m in k.messages if m["msg_type"] == "stream"]


def _in_thread(k: Kernel, name: str, count: int) -> float:
    if name == OURS:
        k.ok(_LOAD)
    how = "job" if name == OURS else "bare"
    taken: float = ask(k, f"await printing.{how}_prints(get_ipython(), {count})")
    if name == OURS:
        k.ok(_UNLOAD)
    return taken


async def job_prints(shell: Any, count: int) -> float:
    """Inside the kernel: a job that prints."""
    shell.user_ns["prints"] = partial(_prints, count)
    taken: float = await shell.run_line_magic("bg", "prints()")
    return taken


async def bare_prints(shell: Any, count: int) -> float:
    """Inside the kernel: a bare thread that prints."""
    import asyncio

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[float] = loop.create_future()

    def run() -> None:
        loop.call_soon_threadsafe(ended.set_result, _prints(count))

    threading.Thread(target=run).start()
    return await ended


def _prints(count: int) -> float:
    began = perf_counter()
    for n in range(count):
        print("line", n)
    return perf_counter() - began


def _foreground(code: str, size: Size) -> Iterator[Round]:
    with kernel() as k:

        def ours() -> float:
            k.ok(_LOAD)
            taken = bare()
            k.ok(_UNLOAD)
            return taken

        def bare() -> float:
            taken = [float(k.ok(code).result or 0) for _ in range(6)]
            return statistics.median(taken[1:])

        contenders: dict[str, Callable[[], float]] = {OURS: ours, "not loaded": bare}
        for number in range(size.rounds(40)):
            yield {name: contenders[name]() for name in in_turn(list(contenders), number)}
