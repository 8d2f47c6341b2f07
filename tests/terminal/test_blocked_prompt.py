"""A job that blocks the terminal's loop, and with it the prompt."""

from __future__ import annotations

import pytest
from terminals import CTRL_C, ENTER, Terminal


def test_a_blocked_prompt_says_why_and_keeps_what_is_typed(terminal: Terminal) -> None:
    """At once, though the prompt itself cannot be drawn; it is drawn again afterwards."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import threading\ngate = threading.Event()\nasync def blocks(): gate.wait()")
    terminal.run("threading.Timer(2.5, gate.set).start()")
    terminal.start("%bg blocks();")
    terminal.expect(r"job 1 \(blocks\(\)\) has blocked the event loop for \d\.\d s in gate\.wait")
    terminal.send("123")
    terminal.expect(r"\[1\]\+ finished")
    terminal.send("+1")
    terminal.send(ENTER)
    terminal.expect(r"Out\[\d+\]: 124")


def test_control_c_stops_what_blocks_the_prompt(terminal: Terminal) -> None:
    """What is typed meanwhile stays, and the next Ctrl-C is the prompt's again."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import time\nasync def blocks(): time.sleep(1000)")
    terminal.start("job = %bg blocks()")
    terminal.expect(r"nothing else on the loop can go on\. Ctrl-C stops it\.")
    terminal.send("123")
    terminal.send(CTRL_C)
    terminal.expect(r"\[1\]\+? +cancelled")
    terminal.send("+1")
    terminal.send(ENTER)
    terminal.expect(r"Out\[\d+\]: 124")
    terminal.prompt()
    terminal.send("7/0")
    terminal.send(CTRL_C)
    assert "42" in terminal.run("6 * 7")
    assert "ZeroDivisionError" not in terminal.text


def test_control_c_in_a_cell_that_waits_reaches_it_though_a_job_blocks(terminal: Terminal) -> None:
    """Both end: the one is in the other's way."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import asyncio, time; gate = asyncio.Event()")
    terminal.run("async def late():\n    await gate.wait()\n    time.sleep(1000)")
    terminal.run("job = %bg late()")
    terminal.start("gate.set(); await asyncio.Event().wait()")
    terminal.expect(r"Ctrl-C stops it\.")
    terminal.send(CTRL_C)
    terminal.expect("KeyboardInterrupt")
    terminal.prompt()
    assert "cancelled" in terminal.run("str(job.state)")


@pytest.mark.started
def test_exit_leaves_though_a_job_blocks_when_it_cleans_up(terminal: Terminal) -> None:
    """It has two seconds."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import asyncio, time")
    terminal.run(
        "async def late():\n    try: await asyncio.sleep(1000)\n    finally: time.sleep(1000)"
    )
    terminal.run("job = %bg late()")
    terminal.run("exit")
    terminal.start("exit")
    assert terminal.leave() == 0
