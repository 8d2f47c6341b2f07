"""Bells and notifications in a real terminal: sent at once, and tearing nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from terminals import ENTER, Terminal

SETUP = """\
import os, time
def until(path):
    while not os.path.exists(path): time.sleep(0.01)
    return path
"""


def _asked(job: int) -> str:
    """What asks for a notification of a job's end, by OSC 9 and OSC 777, and then rings."""
    nine = rf"\x1b\]9;job {job} finished: [^\x07\x1b]*\x07"
    seven = rf"\x1b\]777;notify;job {job} finished: [^\x07\x1b;]*;[^\x07\x1b]*\x07"
    return rf"{nine}{seven}\x07"


def _sent(terminal: Terminal, pattern: str, start: int = 0) -> re.Match[str]:
    """Wait until the terminal was sent something."""
    found: list[re.Match[str]] = []

    def look() -> bool:
        match = re.compile(pattern).search(terminal.sent, start)
        found.extend([match] if match else [])
        return match is not None

    terminal.wait(look)
    return found[0]


def test_a_prompt_with_half_an_input_stays_whole(loaded: Terminal, tmp_path: Path) -> None:
    """What was typed is there, before and after, and is what runs."""
    path = tmp_path / "go"
    loaded.run(f"%bg --notify until('{path}')")
    loaded.send("'ty' + ")
    loaded.expect(r"'ty' \+")
    path.touch()
    loaded.expect(r"\[1\]\+ finished  until")
    match = _sent(loaded, _asked(1))
    assert "'ty' +" not in match.group()
    loaded.expect(r"In \[\d+\]: 'ty' \+")  # painted again, below
    loaded.send("'ped'" + ENTER)
    assert "Out" in (shown := loaded.prompt())
    assert "'typed'" in shown
    assert loaded.sent.count("\x1b]9;") == 1


def test_it_comes_while_a_cell_runs_and_tears_no_line(loaded: Terminal, tmp_path: Path) -> None:
    """The notice line waits for the prompt, as ever; the bell does not."""
    job, cell = tmp_path / "job", tmp_path / "cell"
    loaded.run(f"%bg --notify until('{job}')")
    loaded.start(f"print('be' 'gun', end=' ', flush=True); until('{cell}'); print('en' 'ded')")
    loaded.expect("begun")
    job.touch()
    _sent(loaded, _asked(1))
    assert "finished  until" not in loaded.text[loaded.seen :]
    cell.touch()
    loaded.prompt()
    assert "begun ended\n" in loaded.text.replace("\a", "")
    loaded.run("1")
    assert re.search(r"\[1\]\+ finished  until", loaded.text)


def test_a_job_in_the_foreground_rings_too(loaded: Terminal) -> None:
    """As it was asked to."""
    start = len(loaded.sent)
    assert "Out" in loaded.run("%fg --notify time.sleep(0.01) or 7")
    _sent(loaded, _asked(1), start)


@pytest.mark.parametrize("arguments", [(), ("--simple-prompt",)])
def test_a_dumb_terminal_is_sent_nothing(
    spawn_terminal: Callable[..., Terminal], arguments: tuple[str, ...]
) -> None:
    """It would show what it does not know."""
    terminal = spawn_terminal("--ext", "ipy_bgtasks", *arguments, term="dumb")
    terminal.run("import time")
    terminal.run("%fg --notify time.sleep(0.01)")
    terminal.run("%bg --notify time.sleep(0.01)")
    terminal.run("%fg 2")
    terminal.run("time.sleep(0.5)")  # for what must not come
    assert "\x07" not in terminal.sent
    assert "\x1b]9" not in terminal.sent
    assert "\x1b]777" not in terminal.sent
