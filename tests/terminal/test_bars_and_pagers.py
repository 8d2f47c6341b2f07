"""Progress bars of jobs in a terminal: a bar that is redrawn is one line above the prompt."""

from __future__ import annotations

import re

import pytest
from terminals import Terminal

SETUP = """
import threading
from tqdm import tqdm
from rich.progress import Progress

go = threading.Event()

def nested():
    print("be" "gins")
    for i in tqdm(range(2), mininterval=0, desc="outer"):
        for k in tqdm(range(20), mininterval=0, desc="inner", leave=False):
            pass
    print("tqdm is d" "one")

def several():
    with Progress() as progress:
        tasks = [progress.add_task(name, total=20) for name in ("alpha", "beta", "gamma")]
        for _ in range(20):
            for task in tasks:
                progress.advance(task)
                progress.refresh()
    print("rich is d" "one")

def written():
    for i in tqdm(range(300), mininterval=0):
        tqdm.write(f"line {i}")
        if i == 200:
            go.wait(30)
"""


@pytest.fixture
def t(terminal: Terminal) -> Terminal:
    """A terminal with the functions."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run(SETUP)
    terminal.text = ""
    terminal.seen = 0
    return terminal


def test_nested_bars_of_tqdm_do_not_flood_the_prompt(t: Terminal) -> None:
    """Only the outer bar stays, at its end; `job.log` has the same."""
    t.run("job = %bg nested()")
    t.expect("tqdm is done")
    assert t.text.count("inner:") == 0
    assert t.text.count("outer:") == 1
    assert t.text.index("begins") < t.text.index("outer: 100%") < t.text.index("tqdm is done")
    shown = t.run("print(job.log.text.count('outer'), job.log.text.count('inner'))")
    assert "1 0" in shown


def test_the_tasks_of_rich_are_redrawn(t: Terminal) -> None:
    """Each is shown with its last state; not one line for each step of each."""
    t.run("job = %bg several()")
    t.expect("rich is done")
    for name in ("alpha", "beta", "gamma"):
        assert t.text.count(f"{name} ") <= 4
        assert "100%" in t.text.rpartition(f"{name} ")[2].partition("\n")[0]


def test_lines_beside_a_bar_are_shown_while_it_goes_on(t: Terminal) -> None:
    """`tqdm.write` writes them above its bar."""
    t.run("job = %bg written()")
    t.expect("line 150 *\n")  # blanks, if the bar was there
    t.run("go.set()\n%fg job")
    t.wait(lambda: re.search("line 299 *\n", t.text) is not None)
    assert len(re.findall("line 150 *\n", t.text)) == 1


def test_help_in_a_job_opens_no_pager(t: Terminal) -> None:
    """It would take the keys from the prompt."""
    t.run("import pydoc; pydoc.pager = lambda *_: print('a pa' 'ger')")
    t.run("%bg help(abs)")
    t.wait(lambda: "absolute value" in t.text)
    t.run("help(abs)")
    assert t.text.count("a pager") == 1


@pytest.mark.parametrize("start", ["subprocess.run(['cat'])", "os.system('cat')"])
def test_children_of_a_job_take_no_keys(t: Terminal, start: str) -> None:
    """They find the end of their input at once."""
    t.run("import os, subprocess")
    t.run(f"job = %bg {start}")
    assert "over: True" in t.run("job.result(20); print('ov' 'er:', job.done())")
