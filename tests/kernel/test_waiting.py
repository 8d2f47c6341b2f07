"""Waiting in a real kernel: `%fg`, `%cancel`, and that nobody else stands still meanwhile."""

from __future__ import annotations

import re

import pytest
from kernels import Kernel

SETUP = """
import asyncio, threading, time
import ipy_bgtasks
jobs = ipy_bgtasks.jobs()
gate = asyncio.Event()
async def waits(value=None):
    await gate.wait()
    return value
async def gives(value):
    return value
async def fails(text):
    raise ValueError(text)
ticks = 0
async def ticker():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.001)
"""


@pytest.fixture
def k(shared: Kernel) -> Kernel:
    """The shared kernel with something to wait for."""
    shared.ok(SETUP)
    return shared


def test_fg_lets_all_others_go_on(k: Kernel) -> None:
    """A ticker ticks while `%fg` waits; a blocking cell stops it."""
    k.ok("%bg -q ticker()\n%bg -n slow waits(7)")
    k.ok(
        "async def opens(at):\n"
        "    while ticks < at: await asyncio.sleep(0)\n"
        "    gate.set()\n"
        "opener = %bg -q opens(ticks + 20)"
    )
    assert k.ok("x = %fg %slow\nx, ticks >= 20").result == "(7, True)"
    # Time for fifty ticks.
    assert k.ok("a = ticks; time.sleep(0.05); ticks == a").result == "True"


@pytest.mark.parametrize(
    ("cell", "result"),
    [
        ("%fg gives(3)", "3"),
        ("x = %fg gives(3)\nx", "3"),
        ("%fg gives(3);", None),
        ("for i in range(3):\n    x = %fg gives(i)\nx", "2"),
        ("try:\n    %fg fails('no')\nexcept ValueError as e:\n    x = str(e)\nx", "'no'"),
        ("with open('/dev/null'):\n    x = %fg gives(3)\nx", "3"),
        ("async def f():\n    x = %fg gives(3)\n    return x\nawait f()", "3"),
        ("async with asyncio.timeout(9):\n    x = %fg gives(3)\nx", "3"),
        ("%%fg\nx = await gives(3)\nx + 1", "4"),
        ("%%fg -t\nx = 3\nx + 1", "4"),
        ("%fg -- -int('3')", "-3"),
        ("c = gives(3)\n%fg c", "3"),
        ("fg gives(3)", "3"),
        ("%fg\nfg = 1\ndel fg", None),
    ],
)
def test_fg_works_wherever_a_cell_may_await(k: Kernel, cell: str, result: str | None) -> None:
    """And gives the job's value."""
    k.ok("%bg gives(0);")
    assert k.ok(cell).result == result


@pytest.mark.parametrize(
    "cell",
    [
        "def f():\n    %fg waits()\nf()",
        "%time %fg waits()",
        "%time x = %fg waits()",
        "%%time\n%fg waits()",
        "%timeit -n1 -r1 %fg waits()",
        "%prun %fg waits()",
        "%%capture out\n%fg waits()",
        "get_ipython().run_cell('%fg waits()').raise_error()",
        "[0 for _ in [0] if (lambda: get_ipython().run_line_magic('fg', 'waits()'))()]",
    ],
)
def test_where_it_cannot_await_one_line_says_so(k: Kernel, cell: str) -> None:
    """Nothing is launched; the kernel does not hang."""
    refused = k.run(cell)
    shown = refused.traceback + refused.stderr
    if cell.startswith("%%capture"):
        shown += k.ok("print(out.stderr, out.stdout)").stdout
    assert "cannot wait here" in shown
    assert k.ok("len(jobs)").result == "0"


def test_the_result_is_the_jobs_own_exception_with_its_own_traceback(k: Kernel) -> None:
    """Shown once under `%fg`, each time the same."""
    k.ok("job = %bg -q fails('mine')")
    shown = []
    for _ in range(3):
        failed = k.run("%fg job")
        assert (failed.ename, failed.evalue) == ("ValueError", "mine")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", failed.traceback)
        assert "raise ValueError(text)" in plain
        shown.append(len(plain.splitlines()))
    assert len(set(shown)) == 1


def test_fg_follows_output_under_its_own_cell(k: Kernel) -> None:
    """What came before it, and what comes while it waits; the first cell has it, too."""
    k.ok(
        "more = asyncio.Event()\n"
        "async def talks():\n"
        "    print('before'); await gate.wait(); print('during'); more.set()"
    )
    first = k.ok("%bg talks();")
    k.until(lambda: first.stdout == "before\n")
    pending = k.start("%fg")
    k.until(lambda: pending.reply.stdout == "before\n")
    k.interrupt()
    assert pending.wait().ename == "Detached"
    k.ok("%bg -q gate.set()")
    second = k.ok("%fg ?talks")
    assert k.until(lambda: second.stdout == "before\nduring\n")
    assert k.until(lambda: first.stdout == "before\nduring\n")


def test_result_where_it_would_block_forever_raises_at_once(k: Kernel) -> None:
    """In a plain cell, for a job of the loop."""
    k.ok("job = %bg waits(3)")
    refused = k.run("job.result()")
    assert refused.ename == "WouldBlock"
    assert "`await` it, or use %fg" in str(refused.evalue)
    k.ok("gate.set()")
    assert k.ok("await job").result == "3"
    assert k.ok("job.result()").result == "3"


def test_who_stops_waiting_never_cancels_the_job(k: Kernel) -> None:
    """A time-out, a cancelled task, a task group that fails."""
    k.ok("job = %bg waits(3)")
    assert k.run("await asyncio.wait_for(job, 0.01)").ename == "TimeoutError"
    k.ok("async def w(): return await job\nt = asyncio.create_task(w())")
    k.ok("t.cancel(); await asyncio.sleep(0)")
    k.run("async with asyncio.TaskGroup() as g:\n    g.create_task(w())\n    raise ValueError")
    assert k.ok("str(job.state)").result == "'running'"
    assert k.ok("gate.set()\nawait asyncio.gather(job, job)").result == "[3, 3]"


def test_a_coroutine_that_refuses_stays_cancelling(k: Kernel) -> None:
    """And may still finish; what is reported is the outcome."""
    k.ok("%config BgTasks.cancel_wait = 0.05")
    k.ok(
        "async def stubborn():\n"
        "    try:\n        await asyncio.Event().wait()\n"
        "    except asyncio.CancelledError:\n        await gate.wait()\n        return 'done'"
    )
    k.ok("job = %bg stubborn()")
    said = k.ok("%cancel job").stdout
    assert "cancelling" in said or "still" in said
    assert k.ok("str(job.state)").result == "'cancelling'"
    k.ok("%config BgTasks.cancel_wait = 1.0")
    assert k.ok("gate.set()\nx = %fg job\nx, str(job.state)").result == "('done', 'finished')"


def test_a_chain_of_a_thousand(k: Kernel) -> None:
    """Each after the one before, through the magic; one that fails ends the rest."""
    k.ok("%config BgTasks.max_finished = 2000")
    k.ok("job = %bg -q gives(0)\nfor i in range(999):\n    job = %bg -q --after job gives(i)")
    assert k.ok("x = %fg job\nx").result == "998"
    k.ok(
        "job = first = get_ipython().run_line_magic('bg', '-q waits(0)')\n"
        "for i in range(999):\n"
        "    job = %bg -q --after job gives(i)"
    )
    k.ok("%cancel first\n%cancel all")
    ended = k.run("%fg job")
    assert ended.ename == "CancelledError"
    assert re.search(r"never started: job \d+ .* cancelled", str(ended.evalue))
    k.ok("%config BgTasks.max_finished = 200")
