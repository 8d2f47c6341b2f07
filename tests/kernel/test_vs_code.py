"""A session as VS Code shows it: one cell at a time, and late output by its rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernels import Kernel
from pages import Page, open_panel
from vs_code import Screen

import ipy_bgtasks

PAGE = Path(ipy_bgtasks.__file__).parent / "live" / "page"
SETUP = """
import asyncio, sys, threading
from IPython.display import HTML, clear_output, display
from ipy_bgtasks import track
gate, go = asyncio.Event(), threading.Event()

async def coroutine():
    print("coroutine begins")
    await gate.wait()
    await asyncio.create_task(child())
    display(HTML("<b>coroutine</b>"))
    return "coroutine value"

async def child():
    print("coroutine child", file=sys.stderr)

def thread():
    print("thread begins")
    go.wait()
    clear_output()
    other = threading.Thread(target=print, args=("thread of thread",))
    other.start()
    other.join()
    return [None for _ in track(range(3))] and "thread value"

def fails():
    go.wait()
    raise ValueError("failing message")

def in_process(text):
    print("process says", text)
    return "process value"

async def waits(name):
    await gate.wait()
    print("several", name)
"""
#: The cells by the word that all their outputs have, and those of no other cell.
CELLS = {
    "coroutine": "%bg coroutine()",
    "thread": "%bg thread()",
    "failing": "%bg -n failing fails()",
    "process": "%bg -p -n process in_process('here')",
    "shelled": "%bg !echo shelled; sleep 0.1; echo shelled again",
    "several": "for i in 'ab':\n    %bg -n several{i} waits(i)",
}


#: What is shown under each of them in the end, the last state of its card included.
SHOWN = {
    "coroutine": ["coroutine begins", "coroutine child", "HTML", "coroutine value", "finished"],
    "thread": ["thread of thread", "thread value", "finished"],
    "failing": ["ValueError: failing message", "failed"],
    "process": ["process says here", "process value", "finished"],
    "shelled": ["shelled\n", "shelled again", "finished"],
    "several": ["several a", "several b", "2 finished"],
}


def test_a_session_is_shown_as_it_is_meant(kernel: Kernel) -> None:
    """All under the cell that launched it, cards that end with their jobs, and nothing dropped."""
    pytest.importorskip("cloudpickle")
    kernel.ok(SETUP)
    cells = {word: kernel.ok(code) for word, code in CELLS.items()}
    kernel.ok("gate.set(); go.set()")
    kernel.run("%fg --timeout 60 all", timeout=90)

    def missing() -> list[str]:
        screen = Screen(kernel)
        return [
            t for word, cell in cells.items() for t in SHOWN[word] if t not in screen.text(cell)
        ]

    kernel.until(lambda: not missing())
    screen = Screen(kernel)
    assert screen.dropped == []
    for word, cell in cells.items():
        assert not [w for w in cells if w != word and w in screen.text(cell)], screen.text(cell)
    assert "thread begins" not in screen.text(cells["thread"])  # `clear_output` was obeyed
    assert [m for m in kernel.messages if m["msg_type"] == "update_display_data"]


def test_a_cell_does_not_flash_while_its_job_goes_on(kernel: Kernel) -> None:
    """Once its page answers: progress is told there, and only what is printed is an output."""
    pytest.importorskip("anywidget")
    kernel.ok(
        SETUP + "async def climb():\n    await gate.wait()\n    for _ in track(range(40)):\n"
        "        await asyncio.sleep(0.05)\n    print('top')"
    )
    cell = kernel.ok("job = %bg climb()", cell="a")
    page = Page(kernel)
    page.see(jobs=["1"], look=["1"])
    page.until(lambda: page.rows)
    kernel.ok("gate.set()")
    page.until(lambda: page.rows["1"]["fraction"])
    before = Screen(kernel).flashes[cell.msg_id]
    page.until(lambda: page.rows["1"]["state"] == "finished")
    kernel.until(lambda: "finished" in Screen(kernel).text(cell))
    assert "top" in Screen(kernel).text(cell)
    assert Screen(kernel).flashes[cell.msg_id] - before == 2  # what it printed, and its end
    assert Screen(kernel).dropped == []


def test_no_second_cell_is_needed_while_one_runs(kernel: Kernel) -> None:
    """VS Code would not send it: widgets' messages stop a job, and send the cell away."""
    pytest.importorskip("anywidget")
    kernel.ok(SETUP + "\nimport time\ndef spin():\n    while True: time.sleep(0.001)")
    page = open_panel(kernel)
    cell = kernel.ok("job = %bg spin()")
    blocked = kernel.start("print('long one')\ngo.wait()\n6 * 7")
    page.until(lambda: page.cell)
    page.send("cancel", job="1", force=False, to="1")
    kernel.until(lambda: "cancelled" in Screen(kernel).text(cell))
    page.send("background", cell=page.cell["id"] if page.cell else "", to="panel")
    assert blocked.wait().status == "ok"
    kernel.ok("go.set()")
    kernel.until(lambda: "42" in Screen(kernel).text(blocked.reply))
    assert Screen(kernel).dropped == []


@pytest.mark.parametrize("name", sorted(path.name for path in PAGE.glob("*.*s")))
def test_the_widgets_use_nothing_of_jupyterlabs_page(name: str) -> None:
    """Its colours are wishes with something to fall back on; nothing is fetched or looked up."""
    text = (PAGE / name).read_text()
    assert re.findall(r"var\(--jp-[\w-]+\)", text) == []
    names = r"jupyterapp|\brequire\(|\bimport\b|https?://|\.jp-|\.lm-|querySelector\(['\"]body"
    assert re.findall(names, re.sub(r"^\s*//.*|/\*.*?\*/", "", text, flags=re.M | re.S)) == []
