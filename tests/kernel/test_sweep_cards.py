"""The one card for the jobs of a cell: its facts, its buttons, its cost in messages."""

from __future__ import annotations

from typing import Any

import pytest
from kernels import Kernel, Reply
from test_card_button import WIDGET, send

WORK = """
import asyncio
gate = asyncio.Event()
async def work(i):
    await gate.wait()
    if i == 7: raise ValueError(i)
    return i
"""


def answered(kernel: Kernel, cell: Reply) -> str:
    """Answer as a page does, and wait until the card has its buttons."""

    def find() -> str | None:
        for message in kernel.messages:
            state = message["content"].get("data", {})
            if message["msg_type"] == "comm_open" and "many" in state.get("state", {}):
                return str(message["content"]["comm_id"])
        return None

    model = kernel.until(find)
    send(kernel, model, {"kind": "hello"})
    kernel.until(lambda: WIDGET in cell.displays[-1])
    assert cell.displays[-1][WIDGET]["model_id"] == model
    return model


def shown(kernel: Kernel, model: str) -> dict[str, Any]:
    """What the widget shows now."""
    state: dict[str, Any] = {}
    for m in kernel.messages:
        if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == model:
            state |= m["content"]["data"].get("state", {})
    return state


def test_one_card_counts_a_sweep_and_names_who_failed(kernel: Kernel) -> None:
    """Two updates a second at the most, whatever the number of jobs."""
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(500):\n    %bg -q -g crawl:10 work(i)")
    kernel.until(lambda: "490 queued  10 running" in cell.displays[-1]["text/plain"])
    kernel.ok("gate.set()")
    end = "500 jobs  499 finished  1 failed  failed: [8] work(i)"
    kernel.until(lambda: cell.displays[-1]["text/plain"] == end)
    assert len(cell.displays) < 20
    assert "failed: [8] work(i)" in cell.displays[-1]["text/html"]


def test_a_page_that_answers_gets_a_button_that_cancels_all(kernel: Kernel) -> None:
    """Afterwards the card is plain again, so that a saved notebook shows the end."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(30):\n    %bg -q -g crawl:10 work(i)")
    model = answered(kernel, cell)
    send(kernel, model, {"kind": "cancel"})
    kernel.until(lambda: cell.displays[-1]["text/plain"] == "30 jobs  30 cancelled")
    assert WIDGET not in cell.displays[-1]
    kernel.until(lambda: shown(kernel, model)["many"]["ended"])


def test_its_list_opens(kernel: Kernel) -> None:
    """The running ones and those that failed come first; it goes on to be brought up to date."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("for i in range(30):\n    %bg -q -g crawl:10 work(i)")
    model = answered(kernel, cell)
    assert shown(kernel, model).get("rows", []) == []
    send(kernel, model, {"kind": "list", "client": "page", "open": True})
    kernel.until(lambda: len(shown(kernel, model).get("rows", [])) == 30)
    assert shown(kernel, model)["rows"][0][:3] == [1, "running", "work(i)"]
    assert shown(kernel, model)["rows"][10][:3] == [11, "queued", "work(i)"]
    kernel.ok("gate.set()")
    kernel.until(lambda: shown(kernel, model)["rows"][0][:2] == [8, "failed"])
    kernel.until(lambda: shown(kernel, model)["many"]["ended"])
    assert WIDGET in cell.displays[-1]  # a page reads it


def test_of_a_sweep_that_fails_the_first_tracebacks_are_shown(kernel: Kernel) -> None:
    """The card counts the others; jobs without a group each show theirs."""
    kernel.ok("async def bad(i): raise ValueError(f'no {i}')")
    cell = kernel.ok("for i in range(20):\n    %bg -g many bad(i)")
    kernel.until(lambda: cell.displays[-1]["text/plain"].startswith("20 jobs  20 failed  failed:"))
    alone = kernel.ok("for i in range(5):\n    %bg bad(i)")
    kernel.until(lambda: len([m for m in alone.messages if m["msg_type"] == "error"]) == 5)
    assert len([m for m in cell.messages if m["msg_type"] == "error"]) == 3
