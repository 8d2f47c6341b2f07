"""A job that blocks the terminal's loop, and with it the prompt."""

from __future__ import annotations

from terminals import ENTER, Terminal


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
