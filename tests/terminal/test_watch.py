"""`%jobs -w` in the real terminal IPython."""

from __future__ import annotations

import os
from pathlib import Path

from terminals import Terminal


def test_the_table_stays_live_until_interrupted(terminal: Terminal, tmp_path: Path) -> None:
    """It shows what happens meanwhile, ends at Ctrl-C, and no job notices that."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import asyncio; never = asyncio.Event()")
    terminal.run(f"def work():\n    open({str(gate)!r}).read()\n    print('from the ' + 'job')\n")
    terminal.run("%bg work();")
    terminal.run("%bg never.wait();")
    terminal.start("%jobs -w")
    terminal.expect("Ctrl-C returns to the prompt")
    terminal.interrupt()
    assert "KeyboardInterrupt" not in terminal.prompt()

    terminal.start("%jobs -w")
    terminal.expect("Ctrl-C returns to the prompt")
    gate.write_text("")
    terminal.expect("from the job")
    terminal.expect(r"\[1\]. +✓ finished")
    terminal.expect(r"\[2\]. +● running")
    terminal.interrupt()
    terminal.prompt()
    assert "running" in terminal.run("%jobs 2")
