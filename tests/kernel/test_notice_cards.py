"""Notices from a real kernel: to its pages, to addresses, and never in the way of its end."""

from __future__ import annotations

import pytest
from kernels import Kernel, MakeKernel
from pages import Page, scripts
from receivers import receiver, silence

SETUP = """
import asyncio
gate = asyncio.Event()
async def work():
    await gate.wait()
    return "the value"
"""


def test_the_pages_are_told_which_job_and_where_it_stands(kernel: Kernel) -> None:
    """What hears it is there before the job has ended."""
    pytest.importorskip("anywidget")
    kernel.ok(SETUP)
    cell = kernel.ok("%bg --notify work()")
    page = Page(kernel)
    kernel.ok("gate.set()\n%fg 1;")
    page.until(lambda: page.notices)
    (told,) = page.notices
    assert told["title"] == "job 1 finished: work()"
    assert told["body"].endswith("s  'the value'")
    assert told["job"] == "1"
    assert 'data-bgt="1"' in cell.displays[-1]["text/html"]


def test_a_cell_that_is_sent_away_can_be_asked_for_too(kernel: Kernel) -> None:
    """`%bg` alone, with that option."""
    pytest.importorskip("anywidget")
    kernel.ok("import threading\ngo = threading.Event()")
    cell = kernel.start("print('begins')\ngo.wait()\n6 * 7")
    kernel.until(lambda: cell.reply.stdout)
    asked = kernel.start("%bg --notify", queue=True)
    cell.wait()
    assert asked.wait().status == "ok"
    page = Page(kernel)
    kernel.ok("go.set()")
    page.until(lambda: page.notices)
    (told,) = page.notices
    assert told["title"] == "job 1 finished: print('begins')"
    assert told["body"].endswith("s  42")
    assert told["job"] == "1"


def test_without_widgets_there_is_nothing(kernel: Kernel) -> None:
    """Neither a notice nor a word about it."""
    kernel.ok("import sys; sys.modules['anywidget'] = None")
    kernel.ok(SETUP)
    cell = kernel.ok("%bg --notify work()")
    end = kernel.ok("gate.set()\n%fg 1;\nawait asyncio.sleep(0.2)")  # for what must not come
    assert scripts(kernel) == []
    assert cell.stderr + end.stderr == ""


def test_an_address_that_refuses_is_one_line_under_the_jobs_cell(make_kernel: MakeKernel) -> None:
    """Which holds nothing of it; the jobs of other cells are not concerned."""
    pytest.importorskip("apprise")
    with receiver(status=403) as server:
        kernel = make_kernel(config=f"c.BgTasks.notify = [{server.url!r}]")
        kernel.load()
        kernel.ok(SETUP)
        other = kernel.ok("%bg work()")
        cell = kernel.ok("%bg --notify work()")
        kernel.ok("gate.set()\n%fg all")
        kernel.until(lambda: cell.stderr)
        assert server.next()["title"] == "job 2 finished: work()"
        assert cell.stderr == (
            "job 2: notice not delivered: json://… could not be reached, or refused it\n"
        )
        assert other.stderr == ""
        assert "secret" not in kernel.dump()


def test_a_wrong_address_in_a_config_file_is_one_line(make_kernel: MakeKernel) -> None:
    """Loading does not wait for it."""
    pytest.importorskip("apprise")
    kernel = make_kernel(config="c.BgTasks.notify = ['json://127.0.0.1', 'slak://secret']")
    loaded = kernel.ok("%load_ext ipy_bgtasks")
    line = "ipy_bgtasks: BgTasks.notify: entry 2, slak://…, is not a URL that Apprise knows\n"
    kernel.until(lambda: loaded.stdout == line)
    assert "secret" not in kernel.dump()


@pytest.mark.parametrize("exit_by", ["shutdown", "exit"])
def test_a_server_that_never_answers_does_not_hold_up_the_end(
    make_kernel: MakeKernel, exit_by: str
) -> None:
    """Nor anything before it: not the job, not the loop."""
    pytest.importorskip("apprise")
    with silence() as (url, came):
        kernel = make_kernel(config=f"c.BgTasks.notify = [{url!r}]")
        kernel.load()
        kernel.ok(SETUP)
        kernel.ok("%bg --notify work()")
        kernel.ok("gate.set()\n%fg 1;")
        assert came.wait(30)
        assert kernel.ok("%fg --notify asyncio.sleep(0, 'on')", timeout=5).result == "'on'"
        if exit_by == "shutdown":
            assert kernel.shutdown() < 3
        else:
            kernel.ok("%bg asyncio.sleep(100)")
            kernel.start("exit")
            assert kernel.status(timeout=5) == 0
