"""`%bg` alone in a real browser: the cell that runs becomes a job, and others run."""

from __future__ import annotations

import re

import pytest
from labs import TIMEOUT, OpenNotebook
from playwright.sync_api import expect

LOAD = "%load_ext ipy_bgtasks\nimport threading, time\ngo = threading.Event()"
LONG = """
for epoch in range(10_000):
    print(f"epoch {epoch}")
    if go.wait(0.2):
        break
"the model"
"""


@pytest.mark.parametrize("app", ["lab/tree", "notebooks"])
def test_the_cell_that_runs_goes_to_the_background(open_notebook: OpenNotebook, app: str) -> None:
    """Its prompt gets a number, it prints on below itself, and shows its value in the end."""
    notebook = open_notebook([LOAD, LONG, "%bg", "40 + 2", "%jobs", "%fg"], app=app)
    notebook.run(0)
    notebook.start(1)
    notebook.shows(1, "epoch 1")
    notebook.start(2)
    expect(notebook.cell(1).locator(".jp-InputPrompt")).to_have_text(
        re.compile(r"\[\d+\]:"), timeout=TIMEOUT
    )
    notebook.shows(2, "running")
    notebook.start(3)
    notebook.shows(3, "42")
    before = notebook.text(1).count("epoch")
    notebook.start(4)
    notebook.shows(4, "cell")
    notebook.shows(1, f"epoch {before + 2}")
    notebook.start(5)
    notebook.shows(5, "epoch")
    seen = notebook.text(5).count("epoch")
    # One more line has come live: `%fg` is waiting, no longer beginning to.
    notebook.shows(5, re.compile(rf"(epoch \d+\s*){{{seen + 1}}}"))
    notebook.interrupt()
    notebook.shows(5, "Detached")
    notebook.execute("go.set()")
    notebook.shows(1, "the model")
    notebook.shows(2, "finished")


def test_the_queue_is_seen_and_a_cell_is_taken_out(open_notebook: OpenNotebook) -> None:
    """While a cell runs, `%jobs` answers at once, and one that waits never runs."""
    code = ["print('plot')", "print('upload')", "%jobs", "%cancel q2", "done = 1"]
    notebook = open_notebook([LOAD, LONG, *code, "%jobs -w"])
    notebook.run(0, 7)
    panel = notebook.panel(7)
    notebook.start(1)
    notebook.shows(1, "epoch 1")
    for index in (2, 3):
        notebook.start(index)
    expect(panel.get_by_text("q2")).to_be_visible(timeout=TIMEOUT)
    notebook.page.wait_for_timeout(300)  # as somebody who types; together they would keep order
    notebook.start(4)
    notebook.shows(4, "for epoch in range")
    notebook.shows(4, "q2")
    notebook.page.wait_for_timeout(300)
    notebook.start(5)
    notebook.shows(5, "q2 (print('upload')) will not run")
    prompt = notebook.cell(3).locator(".jp-InputPrompt")
    expect(prompt).to_have_text(re.compile(r"\[ \]:"), timeout=TIMEOUT)
    notebook.start(6)
    panel.get_by_role("button", name="Take q3").click()
    expect(notebook.cell(6).locator(".jp-InputPrompt")).to_have_text(
        re.compile(r"\[ \]:"), timeout=TIMEOUT
    )
    notebook.interrupt()
    notebook.shows(1, "KeyboardInterrupt")
