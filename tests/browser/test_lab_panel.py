"""The panel of `%jobs -w` in JupyterLab."""

from __future__ import annotations

from labs import TIMEOUT, OpenNotebook
from playwright.sync_api import expect

LOAD = "%load_ext ipy_bgtasks"
WORK = """
import asyncio, threading
async def wait_for_me(name):
    print(f"begin {name}")
    await asyncio.Event().wait()
"""


def test_the_panel_cancels_and_forgets(open_notebook: OpenNotebook) -> None:
    """The row of a job follows it; its buttons stop it and then forget it."""
    notebook = open_notebook([LOAD, WORK, "%jobs -w", "job = %bg wait_for_me('a');"])
    notebook.run(0, 1, 2)
    expect(notebook.panel(2)).to_contain_text("No jobs yet", timeout=TIMEOUT)
    notebook.run(3)
    row = notebook.row(2, 1)
    expect(row).to_contain_text("running", timeout=TIMEOUT)
    row.get_by_role("button", name="Cancel job 1").click()
    expect(row).to_contain_text("cancelled", timeout=TIMEOUT)
    expect(notebook.panel(2).get_by_role("status")).to_contain_text("cancelled", timeout=TIMEOUT)
