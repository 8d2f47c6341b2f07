"""Cards, bars, values and logs of jobs as they look in a real browser."""

from __future__ import annotations

import re

import pytest
from labs import TIMEOUT, OpenNotebook
from playwright.sync_api import expect

SETUP = """
%load_ext ipy_bgtasks
import asyncio, threading
from IPython.display import clear_output, display, HTML
go, reached = threading.Event(), threading.Event()
def stop_at(i, at=5):
    if i == at: reached.set(); go.wait(60)
"""


@pytest.mark.parametrize("library", ["tqdm.auto", "rich"])
def test_a_bar_moves_and_the_card_says_the_same(open_notebook: OpenNotebook, library: str) -> None:
    """Half done above, half done below."""
    bar = (
        "from tqdm.auto import tqdm\nbar = lambda xs: tqdm(xs, mininterval=0)"
        if library == "tqdm.auto"
        else ("from rich.progress import track as bar")
    )
    work = f"{bar}\ndef work():\n    print('a line')\n    for i in bar(range(10)): stop_at(i)"
    notebook = open_notebook([SETUP, work, "%bg work()"])
    notebook.run(0, 1, 2)
    notebook.execute("reached.wait(30);")
    notebook.shows(2, re.compile(r"running.*work\(\).*50%.*a line", re.S))
    expect(notebook.output(2).get_by_text("50%")).to_have_count(2, timeout=TIMEOUT)
    notebook.execute("go.set()")
    notebook.shows(2, "finished")
    notebook.shows(2, "a line")


def test_a_data_frame_is_a_table_and_a_figure_a_picture(open_notebook: OpenNotebook) -> None:
    """Below the card; a saved notebook still shows them."""
    frame = "import pandas as pd\n%bg pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6]})"
    figure = (
        "from matplotlib.figure import Figure\nfig = Figure(figsize=(4, 3))\n"
        "fig.subplots().plot([1, 3, 2])\n%bg (lambda: fig)"
    )
    notebook = open_notebook([SETUP, "%matplotlib inline", frame, figure])
    notebook.run(0, 1, 2, 3)
    for _ in range(2):
        notebook.shows(2, "DataFrame 3 × 2")
        expect(notebook.output(2).locator("table.dataframe")).to_be_visible(timeout=TIMEOUT)
        notebook.shows(3, "Figure 400 × 300")
        expect(notebook.output(3).locator("img")).to_be_visible(timeout=TIMEOUT)
        notebook.save()
        notebook.open()


def test_a_job_that_clears_keeps_its_card(open_notebook: OpenNotebook) -> None:
    """The button works afterwards."""
    work = (
        "async def work():\n"
        "    for i in range(1000):\n"
        "        clear_output(wait=True); display(HTML(f'<i>frame {i}</i>'))\n"
        "        await asyncio.sleep(0.1)\n"
    )
    notebook = open_notebook([SETUP, work, "%bg work()"])
    notebook.run(0, 1, 2)
    button = notebook.output(2).get_by_role("button", name="Cancel job 1")
    expect(button).to_be_visible(timeout=TIMEOUT)
    notebook.shows(2, re.compile("running.*frame [2-9]", re.S))
    assert notebook.output(2).locator("i").count() <= 1
    button.click()
    notebook.shows(2, "cancelled")


def test_the_log_button_shows_the_whole_log(open_notebook: OpenNotebook) -> None:
    """What there is, however long, and what comes next comes live."""
    work = (
        "gates = [asyncio.Event() for _ in range(3)]\n"
        "async def work():\n"
        "    for i, gate in enumerate(gates):\n"
        "        print(f'line {i} ' + 'x' * 30_000)\n"
        "        await gate.wait()\n"
        "    print('the last line')\n"
    )
    notebook = open_notebook([SETUP, work, "%bg work()", "gates[0].set()"])
    notebook.run(0, 1, 2)
    log = notebook.output(2).get_by_role("button", name="Log of job 1")
    log.click(timeout=TIMEOUT)
    notebook.execute("gates[0].set()")
    pane = notebook.output(2).get_by_role("log")
    expect(pane).to_contain_text("line 0", timeout=TIMEOUT)
    expect(pane).to_contain_text("line 1", timeout=TIMEOUT)
    notebook.execute("for gate in gates: gate.set()")
    expect(pane).to_contain_text("the last line", timeout=TIMEOUT)
    notebook.shows(2, "finished")
    log.click()
    expect(pane).to_be_hidden()


def test_a_loop_shows_one_card_for_its_jobs(open_notebook: OpenNotebook) -> None:
    """One line that counts."""
    work = "async def work(i):\n    await asyncio.sleep(0)\n    if i == 3: raise ValueError(i)"
    notebook = open_notebook([SETUP, work, "for i in range(10):\n    %bg work(i)"])
    notebook.run(0, 1, 2)
    notebook.shows(2, "9 finished")
    notebook.shows(2, re.compile(r"1 × ValueError.*\[4\] work\(3\)", re.S))
    notebook.save()
    notebook.open()
    notebook.shows(2, re.compile("10 jobs.*9 finished.*1 failed", re.S))
