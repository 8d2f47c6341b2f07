"""What cards and panels say stays true: whatever becomes of the kernel, the page or the cell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labs import TIMEOUT, Lab, Notebook, OpenNotebook
from playwright.sync_api import expect

SETUP = """
%load_ext ipy_bgtasks
import asyncio, os
gate, late = asyncio.Event(), asyncio.Event()
async def work(name='a'):
    print(f'begin {name}')
    await late.wait()
    for i in range(20): print('line', i)
    await gate.wait()
    return f'the end of {name}'
async def fail():
    await gate.wait()
    raise ValueError('as it should')
"""
CARD = ".bgt.card"


def kill(notebook: Notebook, how: str) -> None:
    """End the kernel: from outside, or from the menu."""
    if how == "killed":
        notebook.execute("print('pid', os.getpid())")
        last = notebook.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length - 1")
        notebook.shows(last, "pid")
        found = re.search(r"pid (\d+)", notebook.text(last))
        assert found
        os.kill(int(found[1]), signal.SIGKILL)
    elif how == "restarted":
        kernel = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        notebook.page.evaluate(f"{kernel}.restart()")
    else:
        notebook.do("kernelmenu:shutdown")


@pytest.mark.parametrize("how", ["killed", "restarted", "shut down"])
def test_a_card_whose_kernel_is_gone_says_so(open_notebook: OpenNotebook, how: str) -> None:
    """So do a sweep's card and the panel; their clocks stand, and after a reload nothing lies."""
    sweep = "for i in range(5):\n    %bg work(i)"
    notebook = open_notebook([SETUP, "%bg work()", sweep, "%jobs -w"])
    notebook.run(0, 1, 2, 3)
    for at in (1, 2):
        expect(notebook.output(at).get_by_role("button", name="Cancel").first).to_be_visible(
            timeout=TIMEOUT
        )
    expect(notebook.row(3, 1)).to_contain_text("running", timeout=TIMEOUT)
    kill(notebook, how)
    if how == "shut down":  # the jobs are told, and end
        notebook.shows(1, "cancelled")
    else:
        notebook.shows(1, re.compile("lost.*kernel is gone since .* last seen running", re.S))
        notebook.shows(3, "This kernel is gone")
    for at in (1, 2, 3):
        expect(notebook.output(at).get_by_role("button", name="Cancel")).to_have_count(
            0, timeout=TIMEOUT
        )
    notebook.save()
    notebook.page.goto(notebook.url)
    saved = "cancelled.*" if how == "shut down" else ""
    notebook.shows(1, re.compile(rf"\[1\].*{saved}work\(\).*\d\d:\d\d", re.S))
    notebook.shows(3, "work(4)")
    for at in (1, 2, 3):
        expect(notebook.output(at)).not_to_contain_text("Error displaying widget")


def test_a_page_reloaded_in_the_first_second_finds_its_job(open_notebook: OpenNotebook) -> None:
    """It is not queued for ever."""
    notebook = open_notebook([SETUP, "%bg work()"])
    notebook.run(0, 1)
    notebook.save()
    notebook.open()
    expect(notebook.output(1).get_by_role("button", name="Cancel job 1")).to_be_visible(
        timeout=TIMEOUT
    )
    notebook.shows(1, "running")


def test_what_came_while_the_page_was_away_is_offered(open_notebook: OpenNotebook) -> None:
    """Its log opens by itself, and goes on; it ends with the traceback."""
    more = "async def both():\n    await work()\n    raise ValueError('in the end')"
    notebook = open_notebook([SETUP, more, "%bg both()"])
    notebook.run(0, 1, 2)
    expect(notebook.output(2).get_by_role("button", name="Log of job 1")).to_be_visible(
        timeout=TIMEOUT
    )
    notebook.execute("asyncio.get_running_loop().call_later(3, late.set);")
    notebook.save()
    notebook.page.goto("about:blank")
    notebook.page.wait_for_timeout(4000)  # it prints meanwhile
    notebook.open()
    pane = notebook.output(2).get_by_role("log")
    expect(pane).to_contain_text("line 19", timeout=TIMEOUT)
    notebook.shows(2, "20 lines came while this page was away")
    notebook.execute("gate.set()")
    expect(pane).to_contain_text("ValueError: in the end", timeout=TIMEOUT)


def test_a_cell_that_runs_again_shows_its_first_job(open_notebook: OpenNotebook) -> None:
    """With its button, its output and its failure."""
    notebook = open_notebook([SETUP, "%bg fail()"])
    notebook.run(0, 1)
    notebook.shows(1, "running")
    notebook.set_source(1, "%bg work('b')")
    notebook.run(1)
    notebook.shows(1, "from an earlier run of this cell")
    for job in (1, 2):
        expect(notebook.output(1).get_by_role("button", name=f"Cancel job {job}")).to_be_visible(
            timeout=TIMEOUT
        )
    notebook.execute("gate.set()")
    notebook.shows(1, "ValueError: as it should")


def test_a_cell_that_is_cut_and_pasted_keeps_its_card(open_notebook: OpenNotebook) -> None:
    """It is alive where it stands now."""
    notebook = open_notebook([SETUP, "%bg work()", "'x'"])
    notebook.run(0, 1)
    notebook.shows(1, "running")
    notebook.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    notebook.do("notebook:cut-cell")
    notebook.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    notebook.do("notebook:paste-cell-below")
    button = notebook.output(2).get_by_role("button", name="Cancel job 1")
    expect(button).to_be_visible(timeout=TIMEOUT)
    button.click()
    notebook.shows(2, "cancelled")


def test_what_came_after_its_cell_was_deleted_is_seen(open_notebook: OpenNotebook) -> None:
    """`%jobs N` has it while the cell is gone, and its card once the deletion is undone."""
    more = "async def both():\n    await work()\n    raise ValueError('in the end')"
    look = "late.set(); gate.set()\nawait asyncio.gather(job, return_exceptions=True)\n%jobs 1"
    notebook = open_notebook([SETUP, more, "job = %bg both()", look])
    notebook.run(0, 1, 2)
    notebook.shows(2, "running")
    notebook.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 2")
    notebook.do("notebook:delete-cell")
    notebook.run(2)
    notebook.shows(2, "line 19")
    notebook.shows(2, "ValueError: in the end")
    notebook.do("notebook:undo-cell-action")
    expect(notebook.output(2).locator(CARD)).to_contain_text("failed", timeout=TIMEOUT)
    notebook.shows(2, "line 19")
    notebook.shows(2, "Traceback")


WITHIN = {
    "with": "out = ipywidgets.Output()\nwith out:\n    %bg fail()\nout",
    "capture": (
        "out = ipywidgets.Output()\n@out.capture()\ndef launch():\n    %bg fail()\nlaunch()\nout"
    ),
    "interact": "@ipywidgets.interact(x=(0, 3))\ndef launch(x=1):\n    %bg fail()\n",
    "callback": (
        "out, go = ipywidgets.Output(), ipywidgets.Button(description='Go')\n"
        "def launch(_):\n    with out:\n        %bg fail()\n"
        "go.on_click(launch)\ndisplay(go, out)"
    ),
}


@pytest.mark.parametrize("how", WITHIN)
def test_a_card_within_a_widget_is_alive(open_notebook: OpenNotebook, how: str) -> None:
    """Its end is seen, and its log holds the traceback."""
    notebook = open_notebook([SETUP, f"import ipywidgets\n{WITHIN[how]}"])
    notebook.run(0, 1)
    if how == "callback":
        notebook.output(1).get_by_role("button", name="Go").click(timeout=TIMEOUT)
    notebook.shows(1, "running")
    notebook.execute("gate.set()")
    notebook.shows(1, re.compile("failed.*ValueError: as it should", re.S))
    notebook.output(1).get_by_role("button", name="Log of job 1").click(timeout=TIMEOUT)
    log = notebook.output(1).get_by_role("log")
    expect(log).to_contain_text("Traceback", timeout=TIMEOUT)


def test_no_key_leaks_out_of_a_card(open_notebook: OpenNotebook) -> None:
    """`d d` there would delete the cell; Escape closes the log, and the focus stays in the card."""
    notebook = open_notebook([SETUP, "%bg work()"])
    notebook.run(0, 1)
    output = notebook.output(1)
    output.get_by_role("button", name="Log of job 1").click(timeout=TIMEOUT)
    log = output.get_by_role("log")
    expect(log).to_contain_text("begin a", timeout=TIMEOUT)
    before = notebook.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")
    for part in (log, output.get_by_role("button", name="Cancel job 1")):
        part.focus()
        for key in "ddxab":
            notebook.page.keyboard.press(key)
    after = notebook.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")
    assert after == before
    output.get_by_role("button", name="Cancel job 1").focus()
    notebook.page.keyboard.press("Escape")
    expect(log).to_be_hidden()
    output.get_by_role("button", name="Cancel job 1").focus()
    notebook.page.keyboard.press("Enter")
    notebook.shows(1, "cancelled")
    expect(output.get_by_role("button", name="Log of job 1")).to_be_focused(timeout=TIMEOUT)


HOSTILE = "<img src=x onerror='window.hacked=1'><b>bold</b>\x1b[31mred\u202edrawkcab\x07 &amp;"


def test_what_comes_from_a_job_is_text_in_its_card(open_notebook: OpenNotebook) -> None:
    """Name, progress, result, error, log and traceback; alive, and as it was saved."""
    code = (
        f"evil = {HOSTILE!r}\nimport ipy_bgtasks\n"
        "class Evil:\n    def __repr__(self): return evil\n"
        "Bad = type(evil[:14], (Exception,), {})\n"
        "async def say(end):\n    print(evil)\n"
        "    for i in ipy_bgtasks.track(range(2)): await asyncio.sleep(0)\n"
        "    await gate.wait()\n    if end: raise Bad(evil)\n    return Evil()\n"
        "def launch(end): return ipy_bgtasks.launch(say, end, name=evil)\n"
    )
    cells = ["launch(0)", "launch(1)", "for i in range(3): launch(i)", "%jobs -w", "%jobs 2"]
    notebook = open_notebook([SETUP, code, *cells])
    notebook.run(0, 1, 2, 3, 4, 5)

    def is_text(*at: int) -> None:
        for cell in at:
            notebook.shows(cell, "<img src=x")
            assert notebook.output(cell).locator("img, b:has-text('bold'), script").count() == 0
            ours = "".join(notebook.output(cell).locator("[data-bgt], .ipybg").all_inner_texts())
            assert "<img src=x" in ours
            assert not set("\x1b\x07\u202e") & set(ours)
        assert notebook.page.evaluate("window.hacked === undefined")

    button = notebook.output(2).get_by_role("button", name="Log of job 1")
    button.click(timeout=TIMEOUT)
    is_text(2, 3, 5)
    notebook.execute("gate.set()")
    notebook.shows(2, "finished")
    notebook.shows(3, "failed")
    notebook.shows(4, re.compile("2 × .*<img"))
    notebook.output(3).get_by_role("button", name="Log of job 2").click(timeout=TIMEOUT)
    notebook.run(6)
    is_text(2, 3, 4, 5, 6)
    notebook.page.wait_for_timeout(6000)  # a sweep is brought up to date rarely in what is saved
    notebook.save()
    notebook.do("kernelmenu:shutdown")
    notebook.page.goto(notebook.url)
    is_text(2, 3, 4, 5, 6)


def test_a_saved_notebook_exports_what_it_showed(open_notebook: OpenNotebook, lab: Lab) -> None:
    """Cards, a sweep with its failures, and a panel that is not empty."""
    sweep = "async def fit(i):\n    if i == 3: raise ValueError('bad')\nfor i in range(6):\n"
    notebook = open_notebook([SETUP, "%bg work()", f"{sweep}    %bg fit(i)", "%jobs -w"])
    notebook.run(0, 1, 2, 3)
    notebook.shows(2, "5 finished")
    notebook.execute("late.set(); gate.set()")
    notebook.shows(1, "the end of a")
    expect(notebook.row(3, 1)).to_contain_text("finished", timeout=TIMEOUT)
    name = notebook.url.partition("?")[0].rpartition("/")[2]
    notebook.page.wait_for_timeout(6000)  # a sweep is brought up to date rarely in what is saved
    notebook.save()
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--stdout", name]
    page = subprocess.run(command, cwd=lab.root, capture_output=True, text=True, check=True).stdout
    for part in ("the end of a", "5 finished", "[5] fit(3): ValueError: bad", "fit(5)"):
        assert part in page
    assert "no jobs" not in page


def test_nothing_is_cut_off_in_a_narrow_page(open_notebook: OpenNotebook) -> None:
    """No button of a card or of the panel sticks out."""
    notebook = open_notebook([SETUP, "%bg work('a rather long name of a job')", "%jobs -w"])
    notebook.run(0, 1, 2)
    expect(notebook.row(2, 1)).to_contain_text("work", timeout=TIMEOUT)
    notebook.page.evaluate("jupyterapp.shell.collapseLeft()")
    notebook.page.set_viewport_size({"width": 560, "height": 900})
    stick_out = """el => [...el.querySelectorAll('button')].filter((each) =>
        each.offsetParent && each.getBoundingClientRect().right >
            each.closest('.bgt').getBoundingClientRect().right + 1).length"""
    for at in (1, 2):
        assert notebook.output(at).evaluate(stick_out) == 0


#: The least contrast of the words that a card or a panel shows, as WCAG computes it.
CONTRAST = """el => {
  const rgba = (text) => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a ?? 1];
  };
  const over = ([r, g, b, a], under) =>
    [...[r, g, b].map((c, i) => c * a + under[i] * (1 - a)), 1];
  const behind = (node) => {
    if (!node) return [255, 255, 255, 1];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const hasWords = (node) => node.nodeType === 3 && /\\w/.test(node.textContent);
  const words = [...el.querySelectorAll("*")].filter((each) =>
    each.offsetParent && !each.matches(":disabled") && [...each.childNodes].some(hasWords));
  return Math.min(...words.map((each) => {
    const back = behind(each);
    const words = light(over(rgba(getComputedStyle(each).color), back));
    const [most, least] = [words, light(back)].sort((a, b) => b - a);
    return (most + 0.05) / (least + 0.05);
  }));
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_every_word_can_be_read_in_both_themes(open_notebook: OpenNotebook, theme: str) -> None:
    """Of a card that runs, one that failed, a sweep with failures and the panel."""
    fit = "async def fit(i):\n    if i % 2: raise ValueError('bad')\n"
    sweep = f"{fit}for i in range(6):\n    %bg fit(i)"
    notebook = open_notebook([SETUP, "%bg work()", "%bg fit(1)", sweep, "%jobs -w"])
    notebook.run(0, 1, 3, 2, 4)
    notebook.shows(2, "failed")
    notebook.shows(3, "3 × ValueError")
    expect(notebook.row(4, 1)).to_contain_text("running", timeout=TIMEOUT)
    notebook.do("apputils:change-theme", theme=theme)
    notebook.page.wait_for_function("t => document.body.dataset.jpThemeName === t", arg=theme)
    for at in (1, 2, 3, 4):
        assert notebook.output(at).locator(".bgt").first.evaluate(CONTRAST) >= 3


def test_a_server_leaves_a_kernel_alone_whose_job_is_quiet(tmp_path: Path) -> None:
    """It ends those that are idle, as this one is when its job has ended."""
    culling = ("cull_idle_timeout=20", "cull_interval=1", "cull_connected=True")
    lab = Lab(tmp_path, *(f"--MappingKernelManager.{option}" for option in culling))
    try:
        often = "import ipy_bgtasks.frontends.kernel.front_end as f; f._SIGN_OF_LIFE = 1\n"
        quiet = f"{often}%load_ext ipy_bgtasks\nimport threading, time\n"
        kept = lab.start_kernel(f"{quiet}job = %bg time.sleep(1000)")
        off = lab.start_kernel(
            f"{quiet}%config BgTasks.counts_as_active = False\njob = %bg time.sleep(1000)"
        )
        plain = lab.start_kernel("import threading; threading.Timer(1000, print).start()")
        ended = lab.start_kernel(f"{quiet}job = %bg time.sleep(25)")
        assert lab.kernels() >= {kept, ended}
        deadline = time.monotonic() + 150
        while lab.kernels() & {off, plain, ended}:
            assert time.monotonic() < deadline
            time.sleep(0.5)  # a server does not tell
        assert lab.kernels() == {kept}
    finally:
        lab.close()
