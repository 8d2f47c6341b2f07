"""Notices in a real browser: shown where nobody looks, and nowhere else."""

from __future__ import annotations

import re

import pytest
from labs import TIMEOUT, Notebook, OpenNotebook
from playwright.sync_api import expect

SETUP = """
%load_ext ipy_bgtasks
import asyncio
gate = asyncio.Event()
async def work(): await gate.wait(); return 'the value'
"""

#: Ends when the notices of jobs that have ended are sent: another thread does so, later.
SENT = """
loop = get_ipython()._ipy_bgtasks_core.service.loop
asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
"""

#: Keeps the notifications that the page really shows, and lets a test hide the page: a headless
#: browser has no tabs that could cover each other.
RECORD = """
window.told = [];
const Real = window.Notification;
window.Notification = class extends Real {
  constructor(title, options) { super(title, options); window.told.push(this); }
};
window.hide = (hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""
#: The titles and texts of those notifications.
TOLD = "told.map((each) => [each.title, each.body])"


@pytest.fixture
def open_watched(open_notebook: OpenNotebook) -> OpenNotebook:
    """Open a notebook whose notifications are recorded; `allow` says what the user would."""

    def open_watched(cells: list[str], *, allow: bool = True, app: str = "lab/tree") -> Notebook:
        notebook: Notebook = open_notebook(cells, app=app)
        if allow:
            notebook.page.context.grant_permissions(["notifications"])
        notebook.page.add_init_script(RECORD)  # for when it is reloaded
        notebook.page.evaluate(RECORD)
        return notebook

    return open_watched


def _wait(notebook: Notebook, condition: str) -> None:
    notebook.page.wait_for_function(condition, timeout=TIMEOUT)


@pytest.mark.parametrize("app", ["lab/tree", "notebooks"])
def test_a_hidden_page_tells_and_marks_its_title(open_watched: OpenNotebook, app: str) -> None:
    """Until it is looked at; a click brings the card into view."""
    notebook = open_watched([SETUP, "%bg --notify work()", "#\n" * 100], app=app)
    notebook.run(0, 1)
    bell = notebook.output(1).get_by_role("button", name="Notify when job 1")
    expect(bell).to_have_attribute("aria-pressed", "true", timeout=TIMEOUT)
    notebook.page.evaluate("hide(true)")
    notebook.execute("gate.set()")
    _wait(notebook, "told.length > 0")
    ((shown, text),) = notebook.page.evaluate(TOLD)
    assert shown == "job 1 finished: work()"
    assert re.fullmatch(r"[\d.]+s  'the value'", text)
    assert notebook.page.title().startswith("● ")
    notebook.page.evaluate("document.title = 'another'")  # as the application does now and then
    _wait(notebook, "document.title === '● another'")
    notebook.page.evaluate("hide(false)")
    _wait(notebook, "!document.title.startsWith('●')")
    notebook.cell(3).scroll_into_view_if_needed()
    card = notebook.output(1).locator("[data-bgt]")
    expect(card).not_to_be_in_viewport(timeout=TIMEOUT)
    notebook.page.evaluate("told[0].onclick()")
    expect(card).to_be_in_viewport(timeout=TIMEOUT)


def test_a_page_that_is_looked_at_tells_nothing(open_watched: OpenNotebook) -> None:
    """The user sees it."""
    notebook = open_watched([SETUP, "%bg --notify work()", "%bg --notify work()", SENT])
    notebook.run(0, 1)
    notebook.execute("gate.set()")
    notebook.shows(1, "finished")
    notebook.run(3)  # what was sent before its end has been taken in
    notebook.page.evaluate("hide(true)")
    notebook.run(2)
    _wait(notebook, "told.length > 0")
    assert [title for title, _ in notebook.page.evaluate(TOLD)] == ["job 2 finished: work()"]
    notebook.page.evaluate("hide(false)")
    assert not notebook.page.title().startswith("●")


def test_the_bell_asks_and_its_job_is_told(open_watched: OpenNotebook) -> None:
    """And takes it back, pressed again."""
    notebook = open_watched([SETUP, "%bg work()", "%bg work()"])
    notebook.run(0, 1, 2)
    bells = [
        notebook.output(job).get_by_role("button", name=f"Notify when job {job}") for job in (1, 2)
    ]
    for bell in bells:
        expect(bell).to_have_attribute("aria-pressed", "false", timeout=TIMEOUT)
        bell.click()
        expect(bell).to_have_attribute("aria-pressed", "true", timeout=TIMEOUT)
    bells[0].click()
    expect(bells[0]).to_have_attribute("aria-pressed", "false", timeout=TIMEOUT)
    notebook.page.evaluate("hide(true)")
    notebook.execute("gate.set()")
    _wait(notebook, "told.length > 0")
    assert [title for title, _ in notebook.page.evaluate(TOLD)] == ["job 2 finished: work()"]


def test_where_the_browser_refuses_the_card_says_so(open_watched: OpenNotebook) -> None:
    """The mark in the title is left."""
    notebook = open_watched([SETUP, "%bg work()"], allow=False)
    notebook.run(0, 1)
    notebook.output(1).get_by_role("button", name="Notify when job 1").click(timeout=TIMEOUT)
    notebook.shows(1, "the browser shows no notifications of this page")
    notebook.page.evaluate("hide(true)")
    notebook.execute("gate.set()")
    _wait(notebook, "document.title.startsWith('● ')")
    assert notebook.page.evaluate(TOLD) == []
    notebook.page.evaluate("hide(false)")
    assert not notebook.page.title().startswith("●")


def test_a_page_that_was_reloaded_tells_all_the_same(open_watched: OpenNotebook) -> None:
    """It finds what hears notices again."""
    notebook = open_watched([SETUP, "%bg --notify work()"])
    notebook.run(0, 1)
    notebook.shows(1, "running")
    expect(notebook.output(1).get_by_role("button", name="Notify")).to_be_visible(timeout=TIMEOUT)
    notebook.save()
    notebook.open()
    expect(notebook.output(1).get_by_role("button", name="Notify")).to_be_visible(timeout=TIMEOUT)
    notebook.page.evaluate("hide(true)")
    notebook.execute("gate.set()")
    _wait(notebook, "told.length > 0")
    assert notebook.page.evaluate(TOLD)[0][0] == "job 1 finished: work()"
