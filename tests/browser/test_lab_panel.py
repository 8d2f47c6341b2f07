"""The panel of `%jobs -w`, in JupyterLab and in Notebook."""

from __future__ import annotations

import ipykernel
import pytest
from labs import TIMEOUT, Notebook, OpenNotebook
from playwright.sync_api import Locator, expect

LOAD = "%load_ext ipy_bgtasks"
WORK = """
import asyncio, threading, time
gate = asyncio.Event()
async def work(name):
    print(f"begin {name}")
    await gate.wait()
    print(f"end {name}")
async def fail():
    raise ValueError("as it should")
"""
APPS = pytest.mark.parametrize("app", ["lab/tree", "notebooks"])
PANEL = 2  # the cell under which it is


def with_panel(open_notebook: OpenNotebook, *cells: str, app: str = "lab/tree") -> Notebook:
    """A notebook with the panel open, whose further cells have run."""
    notebook = open_notebook([LOAD, WORK, "%jobs -w", *cells], app=app)
    notebook.run(*range(3 + len(cells)))
    return notebook


def shows(locator: Locator, text: str) -> None:
    """Wait until it does."""
    expect(locator).to_contain_text(text, timeout=TIMEOUT)


def press(row: Locator, name: str) -> None:
    """Press a button of a row."""
    row.get_by_role("button", name=name).click(timeout=TIMEOUT)


@APPS
def test_its_buttons_stop_and_forget_a_job(open_notebook: OpenNotebook, app: str) -> None:
    """The row follows the job from its launch to its end, and goes."""
    notebook = with_panel(open_notebook, app=app)
    shows(notebook.panel(PANEL), "No jobs yet")
    notebook.execute("job = %bg work('a');")
    row = notebook.row(PANEL, 1)
    shows(row, "running")
    shows(row, "begin a")
    press(row, "Cancel job 1")
    shows(row, "cancelled")
    shows(notebook.panel(PANEL).get_by_role("status"), "job 1 (work('a')) cancelled")
    press(row, "Forget job 1")
    expect(row).to_have_count(0, timeout=TIMEOUT)


def test_a_row_tells_what_its_processes_use(open_notebook: OpenNotebook) -> None:
    """While they run and somebody looks at the panel."""
    spin = "%bg !python -c 'while True: pass'"
    notebook = with_panel(open_notebook, spin)
    uses = notebook.row(PANEL, 1).locator(".uses")
    shows(uses, "% CPU, ")
    shows(uses, "MB")
    press(notebook.row(PANEL, 1), "Cancel job 1")
    expect(uses).to_have_text("", timeout=TIMEOUT)


def test_a_log_streams_while_it_is_open(open_notebook: OpenNotebook) -> None:
    """What there is, then what comes; Escape closes it."""
    notebook = with_panel(open_notebook, "%bg work('a');")
    panel = notebook.panel(PANEL)
    press(notebook.row(PANEL, 1), "Log of job 1")
    log = panel.get_by_role("log")
    expect(log).to_have_text("begin a\n", timeout=TIMEOUT)
    notebook.execute("gate.set()")
    expect(log).to_have_text("begin a\nend a\n", timeout=TIMEOUT)
    log.press("Escape")
    expect(log).to_be_hidden()


def test_it_shows_the_present_state_after_a_reload(open_notebook: OpenNotebook) -> None:
    """And its buttons work on."""
    notebook = with_panel(open_notebook, "%bg work('a');", "%bg fail();")
    shows(notebook.row(PANEL, 2), "failed")
    notebook.save()
    notebook.open()
    row = notebook.row(PANEL, 1)
    shows(row, "begin a")
    shows(notebook.row(PANEL, 2), "ValueError: as it should")
    press(row, "Cancel job 1")
    shows(row, "cancelled")


def test_a_notebook_saved_after_its_kernel_shows_a_table(open_notebook: OpenNotebook) -> None:
    """As it was last seen; nobody would answer a button."""
    notebook = with_panel(open_notebook, "%bg fail();", "%bg work('a');")
    shows(notebook.row(PANEL, 2), "running")
    notebook.do("kernelmenu:shutdown")
    notebook.shows(PANEL, "cancelled")
    notebook.save()
    notebook.page.goto(notebook.url)
    notebook.shows(PANEL, "ValueError: as it should")


def test_several_copies_show_the_same(open_notebook: OpenNotebook) -> None:
    """One panel under two cells, with filters of their own."""
    notebook = with_panel(open_notebook, "%bg work('a');", "%jobs -w", "%bg fail();")
    for cell in (PANEL, 4):
        shows(notebook.row(cell, 1), "running")
        shows(notebook.row(cell, 2), "failed")
    notebook.panel(4).get_by_role("button", name="Failed 1").click()
    expect(notebook.row(4, 1)).to_have_count(0)
    expect(notebook.row(PANEL, 1)).to_have_count(1)
    press(notebook.row(4, 2), "Forget job 2")
    shows(notebook.panel(4), "No job is failed.")
    expect(notebook.row(PANEL, 2)).to_have_count(0, timeout=TIMEOUT)


def test_everything_shown_is_text(open_notebook: OpenNotebook) -> None:
    """Names, output and errors that look like markup do nothing."""
    evil = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
    code = f"evil = {evil!r}\nasync def show():\n    print(evil)\n    await gate.wait()\n"
    notebook = with_panel(open_notebook, code, f'%bg -n "{evil}" show();')
    row = notebook.row(PANEL, 1)
    shows(row.locator(".name"), "<img src=x")
    shows(row.locator(".last"), "<img src=x")
    press(row, "Log of job 1")
    shows(notebook.panel(PANEL).get_by_role("log"), "<script>")
    assert notebook.panel(PANEL).locator("img, script").count() == 0
    assert notebook.page.evaluate("window.hacked === undefined")


def test_the_keyboard_is_enough(open_notebook: OpenNotebook) -> None:
    """Focus goes from the filters through the rows, and stays in the row when a job ends."""
    notebook = with_panel(open_notebook, "%bg work('a');")
    shows(notebook.row(PANEL, 1), "running")
    panel = notebook.panel(PANEL)
    panel.get_by_role("button", name="All 1").focus()
    keyboard = notebook.page.keyboard
    for _ in range(2):
        keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Finished 0")).to_be_focused()
    log, cancel = (notebook.row(PANEL, 1).get_by_role("button").nth(i) for i in (0, 1))
    keyboard.press("Tab")
    if not log.evaluate("el => el === document.activeElement"):
        keyboard.press("Tab")  # some browsers stop at what scrolls
    expect(log).to_be_focused()
    keyboard.press("Tab")
    expect(cancel).to_be_focused()
    keyboard.press("Enter")
    shows(notebook.row(PANEL, 1), "cancelled")
    expect(log).to_be_focused()


def test_five_hundred_jobs(open_notebook: OpenNotebook) -> None:
    """All can be scrolled to, in a page that draws those in sight only."""
    launch = "for i in range(500):\n    job = %bg work(i)\n"
    notebook = with_panel(open_notebook, "%config BgTasks.max_finished = 1000", launch)
    panel = notebook.panel(PANEL)
    expect(panel.locator("[role=rowgroup] .row")).to_have_count(500, timeout=TIMEOUT)
    first = notebook.row(PANEL, 1)
    first.scroll_into_view_if_needed()
    shows(first.locator(".last"), "begin 0")
    press(first, "Cancel job 1")
    shows(first, "cancelled")


def test_a_button_works_while_a_cell_blocks_the_kernel(open_notebook: OpenNotebook) -> None:
    """Where kernel and page speak over subshells: the cell waits for what the button does."""
    notebook = open_notebook(
        [
            LOAD,
            WORK,
            "%jobs -w",
            "def spin():\n    while True:\n        time.sleep(0.01)\n",
            "job = %bg spin()\nprint(get_ipython().kernel.kernel_info['supported_features'])",
            "while not job.done():\n    time.sleep(0.01)\nprint('over')",
        ]
    )
    notebook.run(0, 1, 2, 3, 4)
    notebook.shows(4, "[")
    if "subshell" not in notebook.text(4):
        pytest.skip("this kernel has no subshells")
    shows(notebook.row(PANEL, 1), "running")
    notebook.start(5)
    notebook.page.wait_for_function(
        "jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'busy'"
    )
    press(notebook.row(PANEL, 1), "Cancel job 1")
    notebook.shows(5, "over")
    shows(notebook.row(PANEL, 1), "cancelled")


def test_light_and_dark(open_notebook: OpenNotebook) -> None:
    """Text can be read in both themes: it stands out from what is behind it."""
    notebook = with_panel(open_notebook, "%bg work('a');")
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        notebook.do("apputils:change-theme", theme=theme)
        notebook.page.wait_for_function(
            "theme => document.body.dataset.jpThemeName === theme", arg=theme
        )
        for part in (".row .name", ".row .last", ".row .where", ".filters button", ".heads span"):
            expect(notebook.panel(PANEL).locator(part).first).to_be_visible()
            contrast = notebook.panel(PANEL).locator(part).first.evaluate(CONTRAST)
            assert contrast > 4, (theme, part, contrast)


#: How much an element's text stands out from its background, as WCAG measures it.
CONTRAST = """el => {
    const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const blend = (top, under) =>
        top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
    const behind = [];
    for (let node = el; node; node = node.parentElement) {
        const colour = parse(getComputedStyle(node).backgroundColor);
        if (colour.length === 3) colour.push(1);
        behind.unshift(colour);
    }
    const background = behind.reduce((under, top) => blend(top, under), [255, 255, 255]);
    const text = parse(getComputedStyle(el).color);
    if (text.length === 3) text.push(1);
    const [a, b] = [light(blend(text, background)), light(background)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@APPS
def test_its_button_sends_the_running_cell_to_the_background(
    open_notebook: OpenNotebook, app: str
) -> None:
    """The cell that runs is a row above the jobs, then one of them, and other cells run."""
    if ipykernel.version_info[0] < 7:
        pytest.skip("this kernel has no subshells")
    long = "go = threading.Event()\nfor epoch in range(9_999):\n    if go.wait(0.1): break\n'done'"
    notebook = open_notebook([LOAD, WORK, "%jobs -w", long], app=app)
    notebook.run(0, 1, PANEL)
    shows(notebook.panel(PANEL), "No jobs yet")
    notebook.start(3)
    front = notebook.panel(PANEL).locator(".row.front")
    shows(front, "go = threading.Event()")
    shows(front, "in the foreground")
    press(front, "Send cell")
    shows(notebook.row(PANEL, 1), "running")
    expect(front).to_have_count(0, timeout=TIMEOUT)
    notebook.execute("go.set()")
    notebook.shows(3, "done")
    shows(notebook.row(PANEL, 1), "finished")
