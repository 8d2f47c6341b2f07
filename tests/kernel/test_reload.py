"""Jobs that run over a reload: their cards, notices and output go on with the new loading."""

from __future__ import annotations

import pytest
from kernels import Kernel, Reply

PLACES = {
    "loop": "%bg gate.wait()",
    "thread": "%bg ev.wait()",
    "coroutine in a thread": "%bg -t polls()",
    "process": "%bg -p reads(path)",
    "shell": "%bg !read x < {path}",
    "executor": "%bg --on pool ev.wait()",
}
SETUP = """
import asyncio, os, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
gate, ev, pool = asyncio.Event(), threading.Event(), ThreadPoolExecutor()
path = os.path.join(tempfile.mkdtemp(), "gate")
os.mkfifo(path)
async def polls():
    while not ev.is_set():
        await asyncio.sleep(0.01)
def reads(path):
    return open(path).read()
"""
OPEN = "gate.set(); ev.set()\nif kind in ('process', 'shell'): open(path, 'w').write('x\\n')"


def last_card(cell: Reply) -> str:
    """What the card of a cell says now."""
    return str(cell.displays[-1]["text/plain"])


@pytest.mark.parametrize("again", ["%reload_ext ipy_bgtasks", "unload", "late"])
@pytest.mark.parametrize("kind", PLACES)
def test_a_job_that_runs_over_a_reload_keeps_its_card(
    shared: Kernel, kind: str, again: str
) -> None:
    """Reloaded, unloaded and loaded, or ended while nothing was loaded: the card says so."""
    shared.ok(SETUP)
    shared.ok(f"kind = {kind!r}")
    cell = shared.ok(f"job = {PLACES[kind]}\njob")
    if again == "%reload_ext ipy_bgtasks":
        shared.ok(again)
        shared.ok(OPEN)
    else:
        shared.ok("%unload_ext ipy_bgtasks")
        if again == "late":
            shared.ok(OPEN)
            shared.ok("job.exception(30)" if kind != "loop" else "await job")
        shared.ok("%load_ext ipy_bgtasks")
        if again != "late":
            shared.ok(OPEN)
    shared.until(lambda: "finished" in last_card(cell))
    assert shared.ok("str(job.state)").result == "'finished'"
    assert shared.ok("job is __import__('ipy_bgtasks').jobs()[job.number]").result == "True"
