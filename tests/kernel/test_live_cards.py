"""The card of a job: what its buttons do, and what a page is told of it."""

from __future__ import annotations

import pytest
from kernels import Kernel
from pages import WIDGET, open_card

WORK = """
import asyncio
gate = asyncio.Event()
async def work():
    print("begun")
    await gate.wait()
    return "done"
"""


def test_its_button_stops_the_job(kernel: Kernel) -> None:
    """The saved card shows the end, too, and never needs a widget."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("job = %bg work()\njob")
    page = open_card(kernel, cell)
    page.send("cancel", job="1", force=False, to="1")
    page.until(lambda: page.rows.get("1", {}).get("state") == "cancelled")
    kernel.until(lambda: "cancelled" in cell.displays[-1]["text/html"])
    assert not [shown for shown in cell.displays if WIDGET in shown]


def test_strange_messages_do_nothing(kernel: Kernel) -> None:
    """They are logged; the job goes on."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    kernel.ok("import logging; logging.getLogger('ipy_bgtasks').setLevel('ERROR')")
    page = open_card(kernel, kernel.ok("job = %bg work()\njob"))
    for fields in ({}, {"job": 1, "force": True}, {"job": "1", "force": 1, "to": "1"}):
        page.send("cancel", **fields)
    page.send("log", job="1", open=True)  # what came before has been taken in when this one has
    page.until(lambda: page.log)
    assert kernel.ok("job.state.value").result == "'running'"


def test_what_is_saved_of_a_running_job_stays_true(kernel: Kernel) -> None:
    """Where a page shows the rest: when it started, and not what it does now."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    page = open_card(kernel, kernel.ok("first = %bg work()\nfirst"))
    page.until(lambda: page.rows)
    cell = kernel.ok("%bg work()")
    kernel.until(lambda: "started " in cell.displays[-1]["text/html"])
    assert "running" not in cell.displays[-1]["text/html"]
    kernel.ok("gate.set()")
    kernel.until(lambda: "finished" in cell.displays[-1]["text/html"])
    assert "&#x27;done&#x27;" in cell.displays[-1]["text/html"]


def test_a_page_that_comes_back_is_told_what_it_missed(kernel: Kernel) -> None:
    """As after a reload: the model is there, and answers anew."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("job = %bg work()\njob")
    page = open_card(kernel, cell)
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")
    since = page.take() or kernel.ok("import time; print(time.time())").stdout
    kernel.ok("async def more():\n    print('a\\nb'); await gate.wait()")
    other = kernel.ok("%bg more()")
    kernel.until(lambda: other.stdout)
    page.send("missed", jobs=["1", "2"], since=float(str(since)))
    kernel.until(lambda: {"kind": "missed", "jobs": {"2": 2}} in page.take())


def test_a_cell_that_runs_again_goes_on_to_show_its_first_job(kernel: Kernel) -> None:
    """Its card, its output with its number, and its failure, under the cell as it is now."""
    kernel.ok(
        "import threading\ngo = threading.Event()\n"
        "def work():\n    go.wait(30); print('late'); raise ValueError('later')"
    )
    first = kernel.start("%bg work()", cell="a")
    first.wait()
    again = kernel.start("1 + 1", cell="a")
    again.wait()
    kernel.until(lambda: again.reply.displays)
    assert "from an earlier run of this cell" in again.reply.displays[0]["text/plain"]
    kernel.ok("go.set()")
    kernel.until(lambda: again.reply.contents("error"))
    assert again.reply.contents("error")[0]["evalue"] == "later"
    assert again.reply.stdout == "[1] late\n"
    assert first.reply.stdout == ""
    assert not first.reply.contents("error")
