"""The one card for the jobs of a cell: its facts, its buttons, its cost in messages."""

from __future__ import annotations

import pytest
from kernels import Kernel
from pages import open_card

WORK = """
import asyncio
gate = asyncio.Event()
async def work(i):
    await gate.wait()
    if i == 7: raise ValueError(i)
    return i
"""


def test_one_card_counts_a_sweep_and_names_who_failed(kernel: Kernel) -> None:
    """Two updates a second at the most, whatever the number of jobs."""
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(500):\n    %bg -q -g crawl:10 work(i)")
    kernel.until(lambda: "490 queued  10 running" in cell.displays[-1]["text/plain"])
    kernel.ok("gate.set()")
    end = "500 jobs  499 finished  1 failed  1 × ValueError: [8] work(7)"
    kernel.until(lambda: cell.displays[-1]["text/plain"] == end)
    assert len(cell.displays) < 20
    assert "[8] work(7): ValueError: 7" in cell.displays[-1]["text/html"]


def test_its_button_cancels_all(kernel: Kernel) -> None:
    """Those that wait, too."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(30):\n    %bg -q -g crawl:10 work(i)")
    kernel.until(lambda: "20 queued  10 running" in cell.displays[-1]["text/plain"])
    page = open_card(kernel, cell, "m1")
    page.until(lambda: page.many.get("m1", {}).get("counts") == {"queued": 20, "running": 10})
    page.send("cancel all", many="m1", to="m1")
    kernel.until(lambda: cell.displays[-1]["text/plain"] == "30 jobs  30 cancelled")
    page.until(lambda: page.many["m1"]["ended"])


def test_its_list_opens(kernel: Kernel) -> None:
    """The ones that failed come first, then those that run; it stays when all have ended."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(30):\n    %bg -q -g crawl:10 work(i)")
    kernel.until(lambda: 'data-bgt="m1"' in cell.displays[-1]["text/html"])
    page = open_card(kernel, cell, "m1")
    page.until(lambda: page.many)
    assert page.rows == {}
    page.see(many=["m1"], lists=["m1"])
    page.until(lambda: len(page.rows) == 30)
    assert page.many["m1"]["list"][:2] == ["1", "2"]
    assert (page.rows["1"]["state"], page.rows["1"]["name"]) == ("running", "work(0)")
    assert page.rows["11"]["state"] == "queued"
    kernel.ok("gate.set()")
    page.until(lambda: page.many["m1"]["ended"])
    assert page.many["m1"]["list"][:2] == ["8", "1"]
    assert page.many["m1"]["failed"][0]["trace"].endswith("ValueError: 7")


def test_of_a_sweep_that_fails_the_first_tracebacks_are_shown(kernel: Kernel) -> None:
    """The card has some of each error; a program, which misses its news, is sent the first."""
    kernel.ok("async def bad(i): raise (KeyError if i == 15 else ValueError)(f'no {i}')")
    cell = kernel.ok("for i in range(20):\n    %bg bad(i)")
    kernel.until(lambda: cell.displays[-1]["text/plain"].startswith("20 jobs  20 failed  19 × "))
    assert cell.displays[-1]["text/html"].count("Traceback (most recent call last)") == 4
    assert "1 × KeyError: [16] bad(15)" in cell.displays[-1]["text/plain"]
    assert len([m for m in cell.messages if m["msg_type"] == "error"]) == 3


def test_a_thousand_jobs_send_less_than_servers_bear(kernel: Kernel) -> None:
    """Cards, progress, their output in %fg: a server drops what comes beyond 1,000 a second."""
    kernel.ok(
        "import asyncio, sys\nfrom ipy_bgtasks import track\ngo = asyncio.Event()\n"
        "async def work(i):\n"
        "    await go.wait()\n"
        "    for n in track(range(4)):\n"
        "        print('line', i, n)\n"
        "        print('warning', i, file=sys.stderr)\n"
        "        await asyncio.sleep(0.1)\n"
        "    return i"
    )
    launched = kernel.ok("for i in range(1000):\n    %bg work(i)")
    follows = kernel.ok("go.set()\nx = %fg all\nlen(x)")
    assert follows.result == "1000"
    quiet = kernel.ok("y = [get_ipython().run_line_magic('bg', '-q work(1)') for i in range(1000)]")
    replays = kernel.ok("x = %fg all\nprint('over')")
    kernel.until(lambda: launched.displays[-1]["text/plain"] == "1,000 jobs  1,000 finished")
    for cell in (launched, follows, quiet, replays):
        assert len(cell.messages) < 200
    for cell, last in ((follows, "line 999 3\n"), (replays, "line 1 3\n")):
        # On a loaded machine a line is cut where a write of `print` waits for too long.
        assert cell.stdout.count("line") == 4000
        assert cell.stderr.count("warning") == 4000
        assert last in cell.stdout
