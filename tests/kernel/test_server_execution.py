"""A server that executes the cells of an open notebook: what it takes for the outputs of each.

The rules are those of jupyter-server-documents 0.3.3 (`rooms/ynotebook_room.py`, `outputs/`): it
allows no stdin, names no cell, and hears a request until its idle message. An update of a display
is an output of the cell that runs: one more, or, where outputs are kept by the server, the one of
the index that the display got anywhere in the notebook.
"""

from __future__ import annotations

from typing import Any

import pytest
from kernels import Kernel, Reply
from pages import Page

SETUP = """
import threading
from IPython.display import HTML, display
gate = threading.Event()

def work():
    gate.wait(30)
    print("late")
    return "value"
"""
#: The name by which a server's kernel is told.
SERVED = "get_ipython().kernel.parent.connection_file = '/run/kernel-5f3a.json'"


class Document:
    """The outputs that the server has written below each cell that was run."""

    def __init__(self, kernel: Kernel, indexed: bool) -> None:
        self._indexed = indexed
        self._index: dict[str, int] = {}
        self._below: dict[str, list[str]] = {}
        heard: str | None = None
        for message in kernel.messages:
            parent, content = message["parent_header"].get("msg_id"), message["content"]
            if message["msg_type"] == "execute_input":
                heard = parent
            if parent is None or parent != heard:
                continue
            if content.get("execution_state") == "idle":
                heard = None
            else:
                self._take(self._below.setdefault(parent, []), content)

    def _take(self, outputs: list[str], content: dict[str, Any]) -> None:
        if not content.keys() & {"data", "text", "traceback"}:
            return
        text = content.get("text") or content.get("ename") or content["data"]["text/plain"]
        name = content.get("transient", {}).get("display_id")
        if name is None or not self._indexed:
            outputs.append(text)
            return
        index = self._index.setdefault(name, len(outputs))
        outputs[index : index + 1] = [text]

    def below(self, cell: Reply) -> list[str]:
        """All of one cell."""
        return self._below[cell.msg_id]


@pytest.mark.parametrize("indexed", [False, True], ids=["appended", "indexed"])
def test_no_card_takes_the_place_of_another_cells_output(
    bare_kernel: Kernel, indexed: bool
) -> None:
    """Whether its job ends in the middle of that cell, or between two."""
    kernel = bare_kernel
    kernel.ok(SERVED)
    kernel.load()
    kernel.ok(SETUP)
    launched = kernel.ok("first = %bg work()")
    kernel.ok("second = %bg work()")
    during = kernel.ok("display(HTML('own'))\ngate.set()\nfirst.result(30), second.result(30);")
    short = kernel.ok("third = %bg len('abc')")
    for cell in (launched, short):
        kernel.until(lambda cell=cell: "finished" in cell.displays[-1]["text/plain"])
    after = kernel.ok("display(HTML('own'))")
    shown = kernel.ok("%fg first")
    document = Document(kernel, indexed)
    assert document.below(during) == document.below(after) == ["<IPython.core.display.HTML object>"]
    assert document.below(launched)[0].startswith("[1]")
    assert document.below(short)[0].startswith("[3]")
    assert document.below(shown)[:1] == ["late\n"]


def test_its_page_shows_what_the_server_did_not_hear(bare_kernel: Kernel) -> None:
    """The script runs there as ever: it knows the state of the job, and opens its log."""
    pytest.importorskip("anywidget")
    kernel = bare_kernel
    kernel.ok(SERVED)
    kernel.load()
    kernel.ok(SETUP + "\njob = %bg work()")
    page = Page(kernel)
    page.see(jobs=["1"], look=["1"])
    page.until(lambda: page.rows.get("1", {}).get("state") == "running")
    kernel.ok("gate.set()")
    page.until(lambda: page.rows["1"]["state"] == "finished")
    page.send("log", job="1", open=True)
    page.until(lambda: page.log == "late\n")
