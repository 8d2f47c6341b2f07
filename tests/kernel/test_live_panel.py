"""`%jobs -w` in a real kernel: the panel's messages, and the table where there is no anywidget."""

from __future__ import annotations

import ast
import sys

import pytest
from kernels import Kernel, MakeKernel
from pages import WIDGET, open_panel, scripts

DISPLAYS = ("display_data", "update_display_data")
JOB = """
import asyncio
gate = asyncio.Event()
async def work(name):
    print("begin", name)
    await gate.wait()
    return name
"""


def test_the_panel_follows_jobs_and_stops_them(kernel: Kernel) -> None:
    """Launch, output, cancel and forget, as a page sees and does them."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    page = open_panel(kernel)
    kernel.ok("job = %bg work('a');")
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")
    page.send("log", job="1", open=True)
    page.until(lambda: page.log == "begin a\n")

    page.send("cancel", job="1", force=False, to="panel")
    page.until(lambda: page.rows["1"]["state"] == "cancelled")
    page.until(lambda: page.said == ["job 1 (work('a')) cancelled"])
    page.send("forget", job="1", to="panel")
    page.until(lambda: not page.rows)
    page.until(lambda: page.said[-1] == "job 1 (work('a')) is forgotten")


def test_the_panel_is_told_while_a_cell_blocks(kernel: Kernel) -> None:
    """What a thread does is seen although the kernel is busy."""
    pytest.importorskip("anywidget")
    kernel.ok("import threading; go, seen = threading.Event(), threading.Event()")
    page = open_panel(kernel)
    kernel.ok("%bg go.wait();")
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")
    cell = kernel.start("go.set(); seen.wait(30)")
    page.until(lambda: page.rows["1"]["state"] == "finished")
    assert not cell.reply.done
    kernel.interrupt()
    assert cell.wait().status == "error"


def test_a_page_that_answers_before_anybody_listens_is_asked_again(kernel: Kernel) -> None:
    """Its model is made, and so announced, in a thread; what a page says then comes in another."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    kernel.ok(
        "import threading\nfrom ipy_bgtasks.live import pages\n"
        "make, answered = pages.page_widget, threading.Event()\n"
        "def late(key):\n"
        "    widget = make(key); answered.wait(30)\n"
        "    return widget\n"
        "pages.page_widget = late"
    )
    page = open_panel(kernel)
    kernel.ok("answered.set()\n%bg work('a');")
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")


def test_one_widget_serves_all_cards_and_panels(kernel: Kernel) -> None:
    """However many there are; a thousand cards make no other."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    page = open_panel(kernel)
    for _ in range(10):
        kernel.ok("%bg work('a')")
        kernel.ok("for i in range(100):\n    job = %bg -q work(i)\n    display(job)")
    open_panel(kernel, "%jobs -w 1")
    page.until(lambda: len(page.rows) == 1010)
    kernel.ok("from ipy_bgtasks.frontends.installing import open_widgets")
    names = kernel.ok("[each._model_name for each in open_widgets()]").result
    assert sorted(ast.literal_eval(names or "")) == ["AnyModel", "LayoutModel"]
    assert scripts(kernel) == [page.model_id]


def test_a_panel_that_is_looked_at_tells_what_processes_use(kernel: Kernel) -> None:
    """CPU and memory of a command, with all that it starts, while it runs."""
    pytest.importorskip("anywidget")
    page = open_panel(kernel)
    spin = f"{sys.executable} -c 'while True: pass'"
    kernel.ok(f"%bg !{spin} & {spin}; wait")
    page.see(panel=True, watched=True, look=["1"])
    page.until(
        lambda: "% CPU, " in (uses := page.rows.get("1", {}).get("uses", "")) and "in " in uses
    )
    assert page.rows["1"]["uses"].endswith(("in 2 processes", "in 3 processes"))
    kernel.ok("%cancel 1")
    page.until(lambda: page.rows["1"]["state"] == "cancelled")
    assert page.rows["1"]["uses"] == ""


def test_unloading_ends_the_panel(kernel: Kernel) -> None:
    """It says so; loading again shows the same jobs."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    kernel.ok("%bg work('a');")
    page = open_panel(kernel)
    page.until(lambda: page.rows)
    kernel.ok("%unload_ext ipy_bgtasks")
    kernel.until(lambda: any(m["kind"] == "over" for m in page.take()))
    kernel.load()
    again = open_panel(kernel)
    again.until(lambda: again.rows.get("1", {}).get("state") == "running")


def test_without_anywidget_a_table_is_kept_up_to_date(make_kernel: MakeKernel) -> None:
    """It says what to install for the buttons, and sends nothing while nothing changes."""
    kernel = make_kernel()
    kernel.ok("import sys; sys.modules['anywidget'] = None")
    kernel.load()
    kernel.ok(JOB)
    cell = kernel.ok("%jobs -w")
    (shown,) = cell.displays
    assert WIDGET not in shown
    assert "ipy_bgtasks[panel]" in shown["text/html"]
    kernel.ok("job = %bg work('a');")
    kernel.until(lambda: "begin a" in cell.displays[-1]["text/plain"])
    assert "data-bgt" not in cell.displays[-1]["text/html"]
    kernel.ok("gate.set()")
    kernel.until(lambda: "finished" in cell.displays[-1]["text/plain"])
    assert len({c["transient"]["display_id"] for c in cell.contents(*DISPLAYS)}) == 1
    count = len(cell.displays)
    kernel.ok("await asyncio.sleep(0)")
    assert len(cell.displays) == count


def test_anywidget_is_not_imported_before_it_is_used(kernel: Kernel) -> None:
    """Nor are ipywidgets; a session without a job has nothing to bring to life."""
    kernel.ok("%jobs")
    names = "{'anywidget', 'ipywidgets', 'ipy_bgtasks.live.pages', 'ipy_bgtasks.live.watching'}"
    found = kernel.ok(f"import sys; sorted({names} & set(sys.modules))")
    assert found.result == "[]"


def test_a_quiet_job_counts_as_activity(make_kernel: MakeKernel) -> None:
    """The kernel sends something now and then while it runs, and nothing afterwards."""
    kernel = make_kernel()
    kernel.ok("from ipy_bgtasks.frontends.kernel import front_end as f; f._SIGN_OF_LIFE = 0.2")
    kernel.load()
    kernel.ok(JOB)

    def signs() -> int:
        return sum(
            m["content"].get("transient") == {"display_id": "ipy_bgtasks"} for m in kernel.messages
        )

    kernel.ok("job = %bg -q asyncio.sleep(1000);")
    kernel.until(lambda: signs() > 2)
    kernel.ok("%cancel job")
    kernel.ok("await asyncio.sleep(0.5)")  # one that is on its way may come
    before = signs()
    kernel.ok("%config BgTasks.counts_as_active = False\njob = %bg asyncio.sleep(1000);")
    kernel.ok("await asyncio.sleep(0.6)")  # three times its interval: none may come
    assert signs() == before


def test_its_button_sends_the_cell_that_runs_away(kernel: Kernel) -> None:
    """Pressed on a page that knows nothing of subshells, as VS Code; no cell asks for it."""
    pytest.importorskip("anywidget")
    kernel.ok("import threading; go = threading.Event()")
    page = open_panel(kernel)
    cell = kernel.start("# the long one\nprint('begins')\ngo.wait()\n6 * 7")
    page.until(lambda: page.cell)
    assert page.cell["name"] == "# the long one"
    assert page.cell["number"] == cell.reply.contents("execute_input")[0]["execution_count"]
    page.send("background", cell="another", to="panel")
    page.until(lambda: page.said == ["that cell does not run in the foreground any more"])
    page.send("background", cell=page.cell["id"], to="panel")
    assert cell.wait().status == "ok"
    page.until(lambda: page.cell is None and page.rows["1"]["state"] == "running")
    assert page.rows["1"]["where"] == "cell"
    assert kernel.ok("1 + 1").result == "2"
    kernel.ok("go.set()")
    kernel.until(lambda: cell.reply.result == "42")
    page.until(lambda: page.rows["1"]["state"] == "finished")


def test_buttons_work_while_a_cell_runs_on_any_page(kernel: Kernel) -> None:
    """Cancel is heard though the page sends it to the main shell, which is busy."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    kernel.ok("import time\ndef spin():\n    while True: time.sleep(0.001)")
    page = open_panel(kernel)
    kernel.ok("job = %bg spin();")
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")
    cell = kernel.start("print('waits')\nwhile not job.done(): time.sleep(0.001)")
    kernel.until(lambda: "waits" in cell.reply.stdout)
    page.send("cancel", job="1", force=False, to="panel")
    assert cell.wait().status == "ok"
    page.until(lambda: page.rows["1"]["state"] == "cancelled")
