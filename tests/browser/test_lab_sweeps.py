"""Sweeps in JupyterLab: the one card with its buttons, and the group that the panel folds."""

from __future__ import annotations

import re

from labs import TIMEOUT, OpenNotebook
from playwright.sync_api import expect

LOAD = "%load_ext ipy_bgtasks"
WORK = """
import asyncio
gate = asyncio.Event()
async def work(i):
    await gate.wait()
    return i
"""
SWEEP = "for i in range(40):\n    %bg -q -g crawl:4 work(i)"


def test_the_card_of_a_sweep_opens_its_list_and_cancels_all(open_notebook: OpenNotebook) -> None:
    """And says how all ended."""
    notebook = open_notebook([LOAD, WORK, SWEEP])
    notebook.run(0, 1, 2)
    output = notebook.output(2)
    expect(output).to_contain_text("36 queued", timeout=TIMEOUT)
    output.get_by_role("button", name="List of 40 jobs").click(timeout=TIMEOUT)
    expect(output.get_by_role("listitem")).to_have_count(40, timeout=TIMEOUT)
    expect(output.get_by_role("listitem").first).to_contain_text(re.compile(r"\[1\]● running"))
    output.get_by_role("button", name="List of 40 jobs").click(timeout=TIMEOUT)
    output.get_by_role("button", name="Cancel all of 40 jobs").click(timeout=TIMEOUT)
    expect(output).to_contain_text("40 cancelled", timeout=TIMEOUT)


def test_the_panel_folds_a_group(open_notebook: OpenNotebook) -> None:
    """Its row counts, opens, and cancels all."""
    notebook = open_notebook([LOAD, WORK, "%jobs -w", SWEEP + ";", "%bg work(99);"])
    notebook.run(0, 1, 2, 3, 4)
    panel = notebook.panel(2)
    group = notebook.row(2, "@crawl")
    expect(group).to_contain_text("40 jobs, 36 queued, 4 running", timeout=TIMEOUT)
    expect(panel.locator('[role="row"][data-n]')).to_have_count(2)
    group.get_by_role("button", name="Open group crawl").click(timeout=TIMEOUT)
    expect(panel.locator('[role="row"][data-n]')).to_have_count(42, timeout=TIMEOUT)
    group.get_by_role("button", name="Fold group crawl").click(timeout=TIMEOUT)
    expect(panel.locator('[role="row"][data-n]')).to_have_count(2, timeout=TIMEOUT)
    group.get_by_role("button", name="Cancel all of group crawl").click(timeout=TIMEOUT)
    expect(group).to_contain_text(re.compile("40 jobs, 40 cancelled"), timeout=TIMEOUT)
