"""What threads print while prompts come and go: all of it, once, and in order."""

from __future__ import annotations

import re

from terminals import Terminal

SETUP = """\
import ipy_bgtasks, threading, time
stop = threading.Event()
def lines(name):
    i = 0
    while not stop.wait(0.0005):
        print(f'<{name}:{i}>'); i += 1
    return i
"""


def _shown(terminal: Terminal, name: str) -> list[int]:
    return [int(i) for i in re.findall(rf"<{name}:(\d+)>\n", terminal.text)]


def test_lines_of_jobs_are_in_order_and_in_their_logs(loaded: Terminal) -> None:
    """Also those printed while a prompt begins or ends; no result of a cell is torn."""
    for name in "abc":
        loaded.run(f"{name} = %bg lines('{name}')")
    for _ in range(40):
        assert re.search(r"Out\[\d+\]: 1\n", loaded.run("1"))
    loaded.run("stop.set()")
    loaded.run("r = %fg all")
    same = "j.log.text == ''.join(f'<{n}:{i}>\\n' for i in range(j.result()))"
    assert "logged: [True, True, True]" in loaded.run(
        f"print('logged:', [{same} for j, n in ((a, 'a'), (b, 'b'), (c, 'c'))])"
    )
    counts = re.findall(r"\d+", loaded.run("print('counts', *r)").partition("counts ")[2])
    assert [_shown(loaded, name) for name in "abc"] == [list(range(int(n))) for n in counts]


def test_lines_of_a_thread_of_the_users_own_are_too(loaded: Terminal) -> None:
    """It is no job; the prompt must not swallow its lines either, though others may tear them."""
    loaded.run("counts = []\nthread = threading.Thread(target=lambda: counts.append(lines('own')))")
    loaded.run("thread.start()")
    for _ in range(40):
        loaded.run("1")
    loaded.run("stop.set(); thread.join()")
    (count,) = re.findall(r"counts (\d+)", loaded.run("print('counts', *counts)"))
    shown = re.findall(r"<own:(\d+)>", loaded.text)
    assert [int(i) for i in shown] == list(range(int(count)))


def test_a_line_that_is_only_begun_appears_when_it_is_flushed(loaded: Terminal) -> None:
    """Until then the prompt would be painted over it."""
    loaded.run(
        "def begins():\n"
        "    print('be' 'gun', end='', flush=True)\n"
        "    stop.wait()\n"
        "    print(', en' 'ded')"
    )
    loaded.start("thread = threading.Thread(target=begins); thread.start()")
    loaded.expect("begun")
    loaded.prompt()
    loaded.run("stop.set(); thread.join()")
    assert ", ended\n" in loaded.text


def test_a_line_that_the_cell_has_begun_is_not_torn(loaded: Terminal) -> None:
    """Jobs wait for its end, but not for ever."""
    loaded.run("%bg lines('a')")
    assert "one two\n" in loaded.run("print('one', end=' '); time.sleep(0.01); print('two')")
    # Longer than jobs wait for the end of a line.
    shown = loaded.run("print('be' 'gun', end=' '); time.sleep(0.5); print('en' 'ded')")
    assert re.search(r"begun \n(<a:\d+>\n)+.*ended\n", shown, re.DOTALL)
    loaded.run("stop.set()")
