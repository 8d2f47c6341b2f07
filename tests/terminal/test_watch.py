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


def test_a_profile_takes_its_time_or_until_ctrl_c(terminal: Terminal, tmp_path: Path) -> None:
    """Coroutine jobs go on meanwhile: the loop runs."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import asyncio, threading")
    terminal.run(
        "async def tell():\n"
        "    while not any(t.name == 'bg-profile' for t in threading.enumerate()):\n"
        "        await asyncio.sleep(0.01)\n"
        "    print('it is ' + 'sampled')\n"
        "    await asyncio.Event().wait()\n"
    )
    terminal.run("%bg tell();")
    terminal.start("%jobs 1 --profile 10m")
    terminal.expect("it is sampled")
    terminal.interrupt()
    shown = terminal.prompt()
    assert "KeyboardInterrupt" not in shown
    assert "job 1 (tell()): " in shown
    assert "await asyncio.Event().wait()" in terminal.run("%jobs 1 --profile 0.2")
    assert "] 'tell'  (" in terminal.run("%jobs 1 --show \"'te' + 'll' * bool(asyncio)\"")
