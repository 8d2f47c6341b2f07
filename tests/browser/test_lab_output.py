"""Output, cards and interrupts as they look in a real browser."""

from __future__ import annotations

import re

import pytest
from labs import TIMEOUT, OpenNotebook
from playwright.sync_api import expect

LOAD = "%load_ext ipy_bgtasks"
WORK = """
import asyncio
gates = {name: asyncio.Event() for name in "abc"}
async def work(name):
    print(f"begin {name}")
    await gates[name].wait()
    print(f"end {name}")
    return f"result of {name}"
"""
APPS = pytest.mark.parametrize("app", ["lab/tree", "notebooks"])


@APPS
def test_output_stays_under_its_own_cell(open_notebook: OpenNotebook, app: str) -> None:
    """Whichever cell runs when it comes."""
    notebook = open_notebook(
        [LOAD, WORK, "%bg work('a');", "%bg work('b');", "print('c')"], app=app
    )
    notebook.run(0, 1, 2, 3)
    notebook.shows(2, "begin a")
    notebook.shows(3, "begin b")
    notebook.set_source(
        # The cell goes on while both end, and its own line comes after theirs.
        4,
        "gates['b'].set(); gates['a'].set()\nawait asyncio.sleep(0.2)\nprint('c')",
    )
    notebook.run(4)
    notebook.shows(2, "begin a\nend a")
    notebook.shows(3, "begin b\nend b")
    assert notebook.text(4).strip() == "c"


def test_the_life_of_a_card(open_notebook: OpenNotebook) -> None:
    """It runs, gets buttons, and shows the end, with its log; a saved notebook still does."""
    notebook = open_notebook([LOAD, WORK, "%bg work('a')", "%bg work('b')"])
    notebook.run(0, 1, 2, 3)
    for cell in (2, 3):
        notebook.shows(cell, "running")
    cancel = notebook.output(2).get_by_role("button", name="Cancel job 1")
    expect(cancel).to_be_visible(timeout=TIMEOUT)
    cancel.click()
    notebook.shows(2, "cancelled")
    expect(cancel).to_have_count(0, timeout=TIMEOUT)
    expect(notebook.output(3).get_by_role("button", name="Cancel job 2")).to_be_visible(
        timeout=TIMEOUT
    )
    notebook.execute("gates['b'].set()")
    notebook.shows(3, "result of b")
    buttons = notebook.output(3).get_by_role("button")
    expect(buttons).to_have_count(1, timeout=TIMEOUT)
    expect(buttons).to_have_accessible_name(re.compile("Log of job 2"))
    notebook.save()

    notebook.open()
    notebook.shows(2, "cancelled")
    notebook.shows(3, re.compile("finished.*result of b", re.S))


def test_a_card_with_a_button_survives_a_reload(open_notebook: OpenNotebook) -> None:
    """It shows the job's end also in a page that was loaded meanwhile."""
    notebook = open_notebook([LOAD, WORK, "%bg work('a')"])
    notebook.run(0, 1, 2)
    button = notebook.output(2).get_by_role("button", name="Cancel job 1")
    expect(button).to_be_visible(timeout=TIMEOUT)
    notebook.save()
    notebook.open()
    expect(button).to_be_visible(timeout=TIMEOUT)
    notebook.execute("gates['a'].set()")
    notebook.shows(2, "result of a")
    expect(button).to_have_count(0)


@APPS
def test_the_stop_button_detaches(open_notebook: OpenNotebook, app: str) -> None:
    """`%fg` ends with one line, the rest of the cell does not run, and the job goes on."""
    notebook = open_notebook([LOAD, WORK, "job = %bg work('a')", "%fg\nprint('not this')"], app=app)
    notebook.run(0, 1, 2)
    notebook.start(3)
    notebook.shows(3, "begin a")
    notebook.page.get_by_role("button", name=re.compile("Interrupt the kernel", re.I)).first.click()
    notebook.shows(3, "job 1 goes on")
    notebook.execute("print('state:', job.state)")
    notebook.shows(4, "state: running")
    assert "not this" not in notebook.text(3)
    assert "Traceback" not in notebook.text(3)


def test_a_saved_notebook_shows_the_last_state(open_notebook: OpenNotebook) -> None:
    """Late output and pictures included; without a kernel too."""
    notebook = open_notebook(
        [
            LOAD,
            WORK,
            "%bg work('a')",
            "gates['a'].set()",
            "from ipy_bgtasks import jobs; jobs().plot()",
        ]
    )
    notebook.run(0, 1, 2, 3)
    notebook.shows(2, "result of a")
    notebook.run(4)
    expect(notebook.output(4).locator("img")).to_be_visible(timeout=TIMEOUT)
    notebook.save()
    notebook.do("kernelmenu:shutdown")
    notebook.page.goto(notebook.url)
    notebook.shows(2, "end a")
    notebook.shows(2, re.compile("finished.*result of a", re.S))
    expect(notebook.output(4).locator("img")).to_be_visible(timeout=TIMEOUT)
