"""The button on the card of a job that goes on for a while."""

from __future__ import annotations

from typing import Any

import pytest
from kernels import Kernel, Reply

WIDGET = "application/vnd.jupyter.widget-view+json"
WORK = """
import asyncio
gate = asyncio.Event()
async def work():
    await gate.wait()
    return "done"
"""


def send(kernel: Kernel, model_id: str, content: object) -> None:
    """Send what a page would."""
    data = {"method": "custom", "content": content}
    message = kernel.session.msg("comm_msg", {"comm_id": model_id, "data": data})
    kernel.send(message)


def model_of_card(kernel: Kernel) -> str:
    """The first widget that is a card, once there is one."""

    def find() -> str | None:
        for message in kernel.messages:
            state = message["content"].get("data", {})
            if message["msg_type"] == "comm_open" and "card" in state.get("state", {}):
                return str(message["content"]["comm_id"])
        return None

    return kernel.until(find)


def answered(kernel: Kernel, cell: Reply) -> str:
    """Answer as a page does, and wait until the card has its button."""
    model = model_of_card(kernel)
    send(kernel, model, {"kind": "hello"})
    kernel.until(lambda: WIDGET in cell.displays[-1])
    assert cell.displays[-1][WIDGET]["model_id"] == model
    return model


def state_of(kernel: Kernel, model: str) -> dict[str, Any]:
    """What the card shows now."""
    shown: dict[str, Any] = {}
    for m in kernel.messages:
        if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == model:
            shown |= m["content"]["data"].get("state", {}).get("card", {})
    return shown


def test_a_page_that_answers_gets_a_button_that_stops_the_job(kernel: Kernel) -> None:
    """Afterwards the card is plain again, so that a saved notebook shows the end."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("job = %bg work()\njob")
    assert WIDGET not in cell.displays[-1]
    model = answered(kernel, cell)
    send(kernel, model, {"kind": "cancel", "force": False})
    kernel.until(lambda: "cancelled" in cell.displays[-1]["text/plain"])
    assert WIDGET not in cell.displays[-1]
    # For a page that was reloaded meanwhile, and still shows the widget.
    kernel.until(lambda: state_of(kernel, model).get("state") == "cancelled")


def test_a_page_that_does_not_answer_keeps_the_plain_card(kernel: Kernel) -> None:
    """Nothing it cannot show is ever put there."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("job = %bg work()\njob")
    model_of_card(kernel)
    kernel.ok("gate.set()")
    kernel.until(lambda: "finished" in cell.displays[-1]["text/plain"])
    assert not [shown for shown in cell.displays if WIDGET in shown]


def test_strange_messages_do_nothing(kernel: Kernel) -> None:
    """They are logged; the job goes on."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    kernel.ok("import logging; logging.getLogger('ipy_bgtasks').setLevel('ERROR')")
    cell = kernel.ok("job = %bg work()\njob")
    model = answered(kernel, cell)
    for content in (None, 3, {"kind": "cancel"}, {"kind": "cancel", "force": 1}, {"kind": []}):
        send(kernel, model, content)
    assert kernel.ok("job.state.value").result == "'running'"


def test_unloading_takes_the_button_away(kernel: Kernel) -> None:
    """There is nobody left to press it for."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    cell = kernel.ok("job = %bg work()\njob")
    answered(kernel, cell)
    kernel.ok("%unload_ext ipy_bgtasks")
    kernel.until(lambda: WIDGET not in cell.displays[-1])


def test_the_log_button_sends_the_whole_log_live(kernel: Kernel) -> None:
    """To the pages that have it open, and nothing to nobody."""
    pytest.importorskip("anywidget")
    kernel.ok(WORK)
    kernel.ok(
        "async def talk():\n    print('x' * 30_000)\n    await gate.wait()\n    print('the end')\n"
    )
    cell = kernel.ok("job = %bg talk()")
    model = answered(kernel, cell)

    def logged() -> str:
        text = ""
        for m in kernel.messages:
            if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == model:
                news = m["content"]["data"].get("content", {})
                if news.get("kind") == "log":
                    added = "".join(part for _, part in news["segments"])
                    text = added if news["replace"] else text + added
        return text

    send(kernel, model, {"kind": "log", "client": "page", "open": True})
    kernel.until(lambda: logged() == "x" * 30_000 + "\n")
    kernel.ok("gate.set()\n%fg job;")
    kernel.until(lambda: logged() == "x" * 30_000 + "\nthe end\n")
    assert WIDGET in cell.displays[-1]  # somebody reads it
