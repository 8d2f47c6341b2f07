"""`%jobs -w` in a real kernel: the panel's messages, and the table where there is no anywidget."""

from __future__ import annotations

from typing import Any

import pytest
from kernels import Kernel, MakeKernel

WIDGET = "application/vnd.jupyter.widget-view+json"
DISPLAYS = ("display_data", "update_display_data")
JOB = """
import asyncio
gate = asyncio.Event()
async def work(name):
    print("begin", name)
    await gate.wait()
    return name
"""


class Page:
    """Plays the browser: opens the panel that a cell displayed."""

    def __init__(self, kernel: Kernel, model_id: str) -> None:
        self.kernel = kernel
        self.model_id = model_id
        self.rows: dict[int, dict[str, Any]] = {}
        self.said: list[str] = []
        self.log = ""
        self._taken = 0
        self.send("open")

    def send(self, kind: str, **fields: Any) -> None:
        """Send what a page would."""
        content = {"kind": kind, "client": "page", **fields}
        message = self.kernel.client.session.msg(
            "comm_msg", {"comm_id": self.model_id, "data": {"method": "custom", "content": content}}
        )
        self.kernel.client.shell_channel.send(message)

    def until(self, predicate: Any) -> None:
        """Take in what the kernel sends until something is so."""

        def look() -> bool:
            self.take()
            return bool(predicate())

        self.kernel.until(look)

    def take(self) -> list[dict[str, Any]]:
        """Take in what has arrived; returns it."""
        messages = self.kernel.messages[self._taken :]
        self._taken += len(messages)
        ours = [
            m["content"]["data"]["content"]
            for m in messages
            if m["msg_type"] == "comm_msg"
            and m["content"]["comm_id"] == self.model_id
            and m["content"]["data"]["method"] == "custom"
        ]
        for content in ours:
            self._apply(content)
        return ours

    def _apply(self, content: dict[str, Any]) -> None:
        if content["kind"] == "said":
            self.said.append(content["text"])
        elif content["kind"] == "news":
            if content["reset"]:
                self.rows.clear()
            self.rows.update({row["n"]: row for row in content["rows"]})
            for number in content["gone"]:
                self.rows.pop(number, None)
            for log in content["logs"]:
                text = "".join(part for _, part in log["segments"])
                self.log = text if log["replace"] else self.log + text


def open_panel(kernel: Kernel, line: str = "%jobs -w") -> Page:
    """Show the panel, and a page that has it open."""
    (shown,) = kernel.ok(line).displays
    assert "text/html" in shown
    return Page(kernel, shown[WIDGET]["model_id"])


def test_the_panel_follows_jobs_and_stops_them(kernel: Kernel) -> None:
    """Launch, output, cancel and forget, as a page sees and does them."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    page = open_panel(kernel)
    kernel.ok("job = %bg work('a');")
    page.until(lambda: page.rows.get(1, {}).get("state") == "running")
    page.send("log", job=1, open=True)
    page.until(lambda: page.log == "begin a\n")

    page.send("cancel", job=1, force=False)
    page.until(lambda: page.rows[1]["state"] == "cancelled")
    page.until(lambda: page.said == ["job 1 (work('a')) cancelled"])
    page.send("forget", job=1)
    page.until(lambda: not page.rows)
    page.until(lambda: page.said[-1] == "job 1 (work('a')) is forgotten")


def test_the_panel_is_told_while_a_cell_blocks(kernel: Kernel) -> None:
    """What a thread does is seen although the kernel is busy."""
    pytest.importorskip("anywidget")
    kernel.ok("import threading; go, seen = threading.Event(), threading.Event()")
    page = open_panel(kernel)
    kernel.ok("%bg go.wait();")
    page.until(lambda: page.rows.get(1, {}).get("state") == "running")
    cell = kernel.start("go.set(); seen.wait(30)")
    page.until(lambda: page.rows[1]["state"] == "finished")
    assert not cell.reply.done
    kernel.interrupt()
    assert cell.wait().status == "error"


def test_one_panel_serves_all_cells_that_show_it(kernel: Kernel) -> None:
    """News are sent once; a panel of chosen jobs is one of its own."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    kernel.ok("%bg work('a');")
    first, second = open_panel(kernel), open_panel(kernel)
    assert first.model_id == second.model_id
    kernel.ok("%bg work('b');")
    third = open_panel(kernel, "%jobs -w 1")
    assert third.model_id != first.model_id
    third.until(lambda: list(third.rows) == [1])


def test_unloading_ends_the_panel(kernel: Kernel) -> None:
    """It says so; loading again shows the same jobs in a new one."""
    pytest.importorskip("anywidget")
    kernel.ok(JOB)
    kernel.ok("%bg work('a');")
    page = open_panel(kernel)
    page.until(lambda: page.rows)
    kernel.ok("%unload_ext ipy_bgtasks")
    kernel.until(lambda: any(m["kind"] == "over" for m in page.take()))
    kernel.load()
    again = open_panel(kernel)
    again.until(lambda: again.rows.get(1, {}).get("state") == "running")


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
    kernel.ok("gate.set()")
    kernel.until(lambda: "finished" in cell.displays[-1]["text/plain"])
    assert len({c["transient"]["display_id"] for c in cell.contents(*DISPLAYS)}) == 1
    count = len(cell.displays)
    kernel.ok("await asyncio.sleep(0)")
    assert len(cell.displays) == count


def test_anywidget_is_not_imported_before_it_is_used(kernel: Kernel) -> None:
    """Nor are ipywidgets; not by short jobs and their cards either."""
    kernel.ok("job = %bg sum([1])")
    names = "{'anywidget', 'ipywidgets', 'ipy_bgtasks.live.panel', 'ipy_bgtasks.live.feed'}"
    found = kernel.ok(f"import sys; sorted({names} & set(sys.modules))")
    assert found.result == "[]"
