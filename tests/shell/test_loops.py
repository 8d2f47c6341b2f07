"""A loop that launches the same text again and again, in a cell."""

from __future__ import annotations

from typing import Any

import pytest

from ipy_bgtasks import jobs


async def test_what_a_name_stands_for_is_asked_at_each_launch(cells: Any) -> None:
    """Its value, whether it is a coroutine function, and whether it is there at all."""
    await cells(
        "launched = []\n"
        "for n in range(6):\n"
        "    if n % 2: \n"
        "        async def f(x): return 'later', x\n"
        "    else:\n"
        "        def f(x): return 'plain', x\n"
        "    job = %bg f(n)\n"
        "    launched.append(job)\n"
    )
    kinds = ["plain", "later"] * 3
    assert await cells("%fg all") == [(kinds[n], n) for n in range(6)]
    assert [job.where for job in jobs()] == ["thread", "loop"] * 3
    assert await cells("%fg launched[2]") == ("plain", 2)
    assert await cells("x = %fg launched[n], launched[0]\nx") == [("later", 5), ("plain", 0)]
    assert len(jobs()) == 6
    with pytest.raises(Exception, match="name 'n' is not defined"):
        await cells("for _ in range(2):\n    %bg f(n)\n    del n")


async def test_after_looks_the_names_up_at_the_start(cells: Any) -> None:
    """The same text, with and without it."""
    await cells("import asyncio\nx = 0\ngate = asyncio.Event()\nasync def f(): await gate.wait()")
    await cells("async def g(value): return value")
    await cells(
        "first = %bg x = f() or 9\n"
        "waits = []\n"
        "for _ in range(2):\n"
        "    waits.append(get_ipython().run_line_magic('bg', 'g(x)'))\n"
        "    waits.append(get_ipython().run_line_magic('bg', '--after first g(x)'))\n"
        "gate.set()"
    )
    assert await cells("%fg all")
    assert [job.result() for job in (await cells("waits"))] == [0, None, 0, None]


async def test_a_failure_shows_its_line_though_jobs_of_that_text_were_forgotten(
    cells: Any,
) -> None:
    """The source goes with the last job compiled from it, and comes back with the next."""
    await cells(
        "%config BgTasks.max_finished = 1\nfrom asyncio import wait\nasync def g(x): return x"
    )
    sources, lines = await cells(
        "from linecache import cache\n"
        "from traceback import extract_tb\n"
        "sources, lines = [], []\n"
        "for n in range(4):\n"
        "    get_ipython().execution_count += 1  # as if they were in cells of their own\n"
        "    job = %bg await g(n) / 0\n"
        "    await wait([job])\n"
        "    lines += [f.line for f in extract_tb(job.exception().__traceback__)]\n"
        "    get_ipython().execution_count += 1\n"
        "    other = %bg g(1)\n"
        "    await wait([other])\n"
        "    kept = [''.join(entry[2]).strip() for entry in cache.values()]\n"
        "    sources.append('await g(n) / 0' in kept)\n"
        "sources, lines"
    )
    assert lines == ["await g(n) / 0"] * 4
    assert sources == [False] * 4


async def test_a_stream_read_again_and_again_stays_the_jobs_own(cells: Any) -> None:
    """As the interpreter, once it has seen enough of them, takes short cuts to attributes."""
    await cells(
        "import io, sys, threading\n"
        "both = threading.Barrier(2, timeout=10)\n"
        "def captures():\n"
        "    own = []\n"
        "    for _ in range(100):\n"
        "        before, mine = sys.stdout, io.StringIO()\n"
        "        both.wait()\n"
        "        sys.stdout = mine\n"
        "        both.wait()\n"
        "        own.append(sys.stdout is mine)\n"
        "        both.wait()\n"
        "        sys.stdout = before\n"
        "    return all(own)\n"
        "one = %bg captures()\n"
        "other = %bg captures()"
    )
    assert await cells("await one, await other") == (True, True)
    with pytest.raises(AttributeError, match="module 'sys' has no attribute 'nothing'"):
        await cells("sys.nothing")
