"""The story of the package told at the ordinary Python prompt, with the three helpers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

import ipy_bgtasks

#: `pexpect` forks whatever threads there are.
pytestmark = pytest.mark.filterwarnings("ignore:.*forkpty:DeprecationWarning")

EVERY = 0.1
"""Seconds between two ticks; the story says one."""

DEFINITIONS = f"""
import asyncio, itertools, time
from ipy_bgtasks.background import call_in_background, run_in_foreground, schedule_coroutine

async def ticker(name):
    for i in itertools.count():
        print(f"<{{name}}{{i}}>")
        await asyncio.sleep({EVERY})

def tick_5_sync():
    for i in range(5):
        print(f"<s{{i}}>")
        time.sleep({EVERY})
    print("<Finishing>")
"""


class Prompt:
    """`python -i` in a pseudo-terminal."""

    def __init__(self, definitions: Path) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-i", "-X", "dev", "-W", "error", str(definitions)],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
                "PYTHON_BASIC_REPL": "1",
                "PYTHON_COLORS": "0",
                "TERM": "dumb",
                # Unbuffered, words and line ends of two threads would mix.
                "PYTHONUNBUFFERED": "",
            },
            encoding="utf-8",
            echo=False,
            timeout=60,
        )
        self.child.expect_exact(">>> ")

    def run(self, line: str) -> str:
        """What *line* shows, up to the next prompt."""
        self.child.sendline(line)
        self.child.expect_exact(">>> ")
        return self.child.before.replace("\r", "")

    def ticks(self, line: str) -> dict[str, list[int]]:
        """The ticks that *line* shows, by ticker; it shows nothing else."""
        shown = self.run(line)
        assert re.fullmatch(r"(<\w\d+>\s*)*", shown), shown
        found: dict[str, list[int]] = {"a": [], "b": []}
        for name, tick in re.findall(r"<(\w)(\d+)>", shown):
            found[name].append(int(tick))
        return found


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[Prompt]:
    """A prompt with the story's functions defined."""
    definitions = tmp_path / "story.py"
    definitions.write_text(DEFINITIONS)
    prompt = Prompt(definitions)
    yield prompt
    prompt.child.close(force=True)


def test_the_story(prompt: Prompt) -> None:
    """Two tickers tick on while the loop runs, and a call ticks at once."""
    # Launched twice. Nothing runs the loop at this prompt, so they have not even started.
    assert prompt.run('a = schedule_coroutine(ticker("a"))') == ""
    assert prompt.run('b = schedule_coroutine(ticker("b"))') == ""

    # A sleep in the foreground lets them tick, both from the beginning.
    first = prompt.ticks(f"run_in_foreground(asyncio.sleep(5 * {EVERY}))")
    for ticks in first.values():
        assert len(ticks) > 1
        assert ticks == list(range(len(ticks)))

    # While blocking code runs they stand still.
    assert prompt.run(f"time.sleep(3 * {EVERY})") == ""

    # They go on where they were.
    second = prompt.ticks(f"run_in_foreground(asyncio.sleep(3 * {EVERY}))")
    for name, ticks in second.items():
        assert ticks == list(range(len(first[name]), len(first[name]) + len(ticks)))
        assert ticks

    # A zero-second sleep single-steps them once their second is over.
    at = {name: ticks[-1] for name, ticks in second.items()}
    for step in (1, 2):
        assert prompt.run(f"time.sleep(2 * {EVERY})") == ""
        stepped = prompt.ticks("run_in_foreground(asyncio.sleep(0))")
        assert stepped == {name: [last + step] for name, last in at.items()}

    # Cancelling stops one, then the other.
    assert prompt.run("a.cancel()") == "True\n"
    alone = prompt.ticks(f"run_in_foreground(asyncio.sleep(3 * {EVERY}))")
    assert not alone["a"]
    assert alone["b"]
    assert prompt.run("b.cancel()") == "True\n"
    none = prompt.ticks(f"run_in_foreground(asyncio.sleep(3 * {EVERY}))")
    assert none == {"a": [], "b": []}
    assert prompt.run("a.cancelled(), b.cancelled()") == "(True, True)\n"

    # A call starts immediately, before the next statement of its own line, and needs no loop.
    prompt.child.sendline('call = call_in_background(tick_5_sync); print("<launched>")')
    prompt.child.expect_exact("<s0>")
    assert "<launched>" not in prompt.child.before
    prompt.child.expect_exact("<launched>")
    prompt.child.expect_exact("<s4>")
    prompt.child.expect_exact("<Finishing>")
    prompt.run("run_in_foreground(call)")
    assert prompt.run("call.done()") == "True\n"

    prompt.child.sendline("asyncio.get_event_loop().close(); exit()")
    prompt.child.expect(pexpect.EOF)
    assert prompt.child.before.strip() == ""


def test_an_interrupt_leaves_the_tickers_alone(prompt: Prompt) -> None:
    """Ctrl-C ends what the foreground waits for; the next wait finds the ticker where it was."""
    prompt.run('a = schedule_coroutine(ticker("a"))')
    prompt.child.sendline("run_in_foreground(asyncio.sleep(1000))")
    prompt.child.expect_exact("<a2>")
    prompt.child.sendintr()
    prompt.child.expect_exact(">>> ")
    assert prompt.child.before.rstrip().endswith("\nKeyboardInterrupt")
    ticked = [2, *map(int, re.findall(r"<a(\d+)>", prompt.child.before))]
    ticks = prompt.ticks(f"run_in_foreground(asyncio.sleep(3 * {EVERY}))")["a"]
    assert ticks
    assert ticks[0] == ticked[-1] + 1
    prompt.run("a.cancel()")


def test_leaving_with_running_tasks_is_quiet(prompt: Prompt) -> None:
    """Neither a ticker nor a call that never ends holds up the exit."""
    prompt.run('a = schedule_coroutine(ticker("a"))')
    prompt.run("import threading; call = call_in_background(threading.Event().wait)")
    prompt.run("run_in_foreground(asyncio.sleep(0))")
    prompt.child.sendline("exit()")
    prompt.child.expect(pexpect.EOF)
    prompt.child.wait()
    assert prompt.child.exitstatus == 0
    assert prompt.child.before.strip() == ""
