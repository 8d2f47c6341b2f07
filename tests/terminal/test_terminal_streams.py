"""Streams that code replaces, and bars, in a real terminal."""

from __future__ import annotations

from terminals import Terminal

SETUP = """\
import contextlib, io, threading, time, sys
gate, seen = threading.Event(), threading.Event()
def bar(name):
    from rich.progress import Progress
    gate.wait(30)
    with Progress(transient=False) as progress:
        task = progress.add_task(name + ' b' 'ar', total=10)
        for i in range(10):
            time.sleep(0.02)
            if i % 3 == 0: print(name, 'li' 'ne', i)
            progress.advance(task)
def quiet():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        seen.set(); print('ins' 'ide'); gate.wait(30); print('ins' 'ide')
    return text.getvalue()
"""


def test_two_rich_bars_while_the_prompt_waits_and_cells_run(loaded: Terminal) -> None:
    """Each line is whole, each bar gets to its end, and each log has its own."""
    loaded.run("ant = %bg bar('ant')")
    loaded.run("bee = %bg bar('bee')")
    loaded.run("gate.set()")
    loaded.run("for i in range(5): print('ce' 'll', i); time.sleep(0.02)")
    loaded.run("r = %fg all")
    for name in ("ant", "bee"):
        for i in (0, 3, 6, 9):
            assert f"{name} line {i}\n" in loaded.text
        assert f"{name} bar" in loaded.text
        other = "bee" if name == "ant" else "ant"
        code = f"print('own:', '{other}' not in {name}.log.text, {name}.log.text.count('li' 'ne'))"
        assert "own: True 4" in loaded.run(code)
    for i in range(5):
        assert f"cell {i}\n" in loaded.text
    assert "Traceback" not in loaded.text
    assert "after: True" in loaded.run("print('after:', sys.stdout.isatty())")


def test_loaded_by_a_cell_nothing_of_that_cell_stays(terminal: Terminal) -> None:
    """IPython (from 9.1 on) replaces `write` for each cell, to keep what is printed in it."""
    terminal.run("%load_ext ipy_bgtasks")
    terminal.run("import atexit; ended = atexit.register(print, 'printed at the ' 'end')")
    assert "job text" in terminal.run("x = %fg print('job ' 'text')")
    terminal.run("outputs = getattr(get_ipython().history_manager, 'outputs', {})")
    terminal.run("kept = [each.bundle for found in outputs.values() for each in found]")
    assert "kept: False" in terminal.run("print('kept:', 'job ' 'text' in str(kept))")
    terminal.start("exit")
    assert terminal.leave() == 0
    assert "printed at the end" in terminal.text


def test_a_redirection_in_a_job_leaves_the_prompt_and_cells_alone(loaded: Terminal) -> None:
    """And one in a cell leaves the job alone, whose displays are not that cell's to capture."""
    loaded.run("job = %bg quiet()")
    assert "here: True" in loaded.run("seen.wait(30); print('here:', True)")
    loaded.run(
        "from IPython.utils.capture import capture_output\ngo = threading.Event()\n"
        "def shows():\n    go.wait(30); display('fr' 'om a job')\n"
        "shower = %bg shows()"
    )
    shown = loaded.run(
        "with capture_output() as mine:\n    print('mi' 'ne'); display('mi' 'ne')\n"
        "    go.set(); shower.result(30)"
    )
    assert "from a job" in shown + loaded.run("0")
    assert "mine\n" not in loaded.text
    assert "caught: True 1" in loaded.run(
        "print('caught:', 'mi' 'ne' in mine.stdout, len(mine.outputs))"
    )
    loaded.run("gate.set()\ntext = %fg job")
    assert "inside\n" not in loaded.text
    assert "text: 2" in loaded.run("print('text:', text.count('ins' 'ide'))")


def test_lines_of_several_jobs_say_whose_they_are(loaded: Terminal) -> None:
    """A job that is alone has no label."""
    loaded.run("def says(name):\n    gate.wait(30); print(name + ' says')")
    loaded.run("one = %bg says('a' 'nt')")
    loaded.run("two = %bg says('b' 'ee')")
    loaded.run("gate.set()\nr = %fg all")
    loaded.run("%fg says('c' 'at')")
    loaded.run("0")
    assert "[1] ant says\n" in loaded.text
    assert "[2] bee says\n" in loaded.text
    assert "\ncat says\n" in loaded.text
    assert "log: ant" in loaded.run("print('log:', one.log.text)")


def test_a_captured_cell_captures_its_jobs_as_long_as_it_runs(loaded: Terminal) -> None:
    """What comes later is shown."""
    loaded.run(
        "def talks():\n"
        "    print('ear' 'ly'); seen.set(); gate.wait(30); print('la' 'te'); print('en' 'd')"
    )
    shown = loaded.run("%%capture kept\njob = %bg talks()\nseen.wait(30)")
    assert "early" not in shown
    assert "kept: 'early\\n'" in loaded.run("print('kept:', repr(kept.stdout))")
    assert "late\n" in loaded.run("gate.set()\n%fg job")
