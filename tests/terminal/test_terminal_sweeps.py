"""Sweeps in a terminal: one notice for all jobs of a group."""

from __future__ import annotations

import re

import pytest
from terminals import Terminal

SETUP = """\
import asyncio
gate = asyncio.Event()
async def one(i):
    await gate.wait()
    if i in (11, 44, 300): raise ValueError('bad ' + 'luck', i)
    return i
"""


def test_a_thousand_jobs_have_one_notice(loaded: Terminal) -> None:
    """It names those that failed."""
    loaded.run("for i in range(1000):\n    %bg -q -g crawl:8 one(i)\n")
    shown = loaded.run("%jobs")
    assert re.search(r"crawl: 1,000 jobs, 992 queued, 8 running  0%", shown)
    assert len(re.findall(r"one\(\d+\)", shown)) == 18
    before = len(loaded.text)
    loaded.run("gate.set()")
    loaded.expect(r"crawl: 1,000 jobs, 997 finished, 3 failed \(12, 45, 301\)  [\d.]+s\n")
    loaded.run("'do' 'ne'")
    assert not re.search(r"\[\d+\][-+ ] (finished|failed)", loaded.text[before:])
    assert "crawl: 1,000 jobs, 997 finished" in loaded.run("%jobs @crawl")


@pytest.mark.parametrize("ends", ["at the prompt", "in a cell"])
def test_a_loop_without_a_group_is_no_flood_of_notices(loaded: Terminal, ends: str) -> None:
    """Those that finished last are named, the others counted; failures are all shown."""
    loaded.run("for i in range(1000):\n    %bg one(i)\n")
    before = len(loaded.text)
    if ends == "at the prompt":
        loaded.run("gate.set()")
        loaded.expect(r"\[1000\]. +finished")
    else:
        loaded.run("if True:\n    gate.set()\n    %fg 1000\n")
    loaded.run("'do' 'ne'")
    shown = loaded.text[before:]
    named = len(re.findall(r"\[\d+\][-+ ] +finished", shown))
    counted = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) jobs? ha\w+ fin", shown))
    assert named < 200
    assert named + counted == (997 if ends == "at the prompt" else 996)
    assert shown.count("ValueError: ('bad luck'") == 3


def test_failures_are_shown_but_not_a_flood_of_them(loaded: Terminal) -> None:
    """The first three, above the notice."""
    loaded.run("async def bad(i): raise ValueError('mi' + 'ne', i)")
    loaded.run("for i in range(20):\n    %bg -g many:4 bad(i)\n")
    loaded.expect(r"many: 20 jobs, 20 failed \(1, 2, 3, 4, 5 and 15 more\)  [\d.]+s\n")
    assert loaded.text.count("ValueError: ('mine'") == 3


def test_what_is_brought_to_the_foreground_or_cancelled_needs_no_notice(loaded: Terminal) -> None:
    """The foreground shows the results; `%cancel` says in few lines what it did."""
    loaded.run("for i in range(3):\n    %bg -g first:2 one(i)\n")
    loaded.run("gate.set()")
    assert "[0, 1, 2]" in loaded.run("%fg @first")
    loaded.run("gate.clear()")
    loaded.run("for i in range(100):\n    %bg -g second:2 one(i)\n")
    shown = loaded.run("%cancel @second")
    assert "98 jobs cancelled; they never started\n" in shown
    assert shown.count("cancelled") == 3
    assert "'done'" in loaded.run("'do' 'ne'")
    assert "second: 100 jobs" not in loaded.text
