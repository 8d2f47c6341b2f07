"""What people run in the background replaces streams, and each of them replaces its own."""

from __future__ import annotations

import pytest
from kernels import Kernel

SETUP = """
import contextlib, io, sys, threading, time, asyncio
gate, seen = threading.Event(), threading.Event()

def redirected():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print('inside'); yield
        print('inside')
    print(text.getvalue() == 'inside\\ninside\\n')

def errors():
    with contextlib.redirect_stderr(io.StringIO()) as text:
        print('inside', file=sys.stderr); yield
    print(text.getvalue() == 'inside\\n')

def captured():
    from IPython.utils.capture import capture_output
    from IPython.display import display, HTML
    with capture_output() as text:
        print('inside'); display(HTML('<b>inside</b>')); yield
    print(text.stdout == 'inside\\n', len(text.outputs))

def plain():
    before, sys.stdout = sys.stdout, io.StringIO()
    print('inside'); yield
    text, sys.stdout = sys.stdout, before
    print(text.getvalue() == 'inside\\n')

def none():
    before, sys.stdout = sys.stdout, None
    print('inside'); yield
    print(sys.stdout is None)
    sys.stdout = before
    print('True')

def deleted():
    before = sys.stdout
    del sys.stdout
    try:
        print('inside')
    except RuntimeError as error:
        lost = str(error)
    yield
    gone = not hasattr(sys, 'stdout')
    sys.stdout = before
    print(gone and lost == 'lost sys.stdout')

def teed():
    class Tee(io.StringIO):
        def __init__(self, other):
            super().__init__()
            self.other = other
        def write(self, text):
            self.other.write(text)
            return super().write(text)
    with contextlib.redirect_stdout(Tee(sys.stdout)) as text:
        print('True'); yield
    assert text.getvalue() == 'True\\n'

def rich_capture():
    from rich.console import Console
    console = Console(force_jupyter=False)
    with console.capture() as text:
        console.print('inside'); yield
    print(text.get() == 'inside\\n')

def clicked():
    import click
    from click.testing import CliRunner
    @click.command()
    def hello():
        click.echo('inside')
    yield
    result = CliRunner().invoke(hello)
    print(result.output == 'inside\\n')

def pytested():
    import pathlib, pytest, tempfile, warnings
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'test_it.py'
        path.write_text("def test_it():\\n    print('inside')\\n")
        yield
        code = pytest.main(['-q', '-p', 'no:cacheprovider', '--capture=sys',
                            '--import-mode=importlib', str(path)])
    print(code == 0)

def in_thread(steps):
    for _ in steps():
        seen.set(); gate.wait(30)

async def on_loop(steps):
    for _ in steps():
        seen.set()
        while not gate.is_set():
            await asyncio.sleep(0.01)

def in_own_thread(steps):
    thread = threading.Thread(target=in_thread, args=(steps,))
    thread.start(); thread.join()

async def in_child_task(steps):
    await asyncio.create_task(on_loop(steps))
"""

WAYS = (
    "redirected",
    "errors",
    "captured",
    "plain",
    "none",
    "deleted",
    "teed",
    "rich_capture",
    "clicked",
    "pytested",
)

PLACES = {
    "loop": "on_loop({way})",
    "thread": "in_thread({way})",
    "coroutine in a thread": "-t on_loop({way})",
    "thread of a job": "in_own_thread({way})",
    "child task": "in_child_task({way})",
}


@pytest.fixture
def ready(shared: Kernel) -> Kernel:
    """A kernel that knows all the ways."""
    shared.ok(SETUP)
    return shared


@pytest.mark.parametrize("place", PLACES)
def test_a_job_replaces_a_stream_for_itself(ready: Kernel, place: str) -> None:
    """While it does, the foreground and another job print and display as ever."""
    ready.ok("def chat(say):\n    while not gate.is_set():\n        print(say); time.sleep(0.01)\n")
    for way in WAYS:
        ready.ok("gate.clear(); seen.clear()")
        other = ready.ok("other = %bg chat('other');")
        cell = ready.ok(f"job = %bg {PLACES[place].format(way=way)}")
        ready.ok("await asyncio.to_thread(seen.wait, 30)")
        ours = ready.ok("print('ours')\ndisplay('shown')\n1 + 1")
        assert (ours.stdout, ours.result) == ("ours\n", "2"), way
        assert len(ours.displays) == 1, way
        both = ready.ok("%%capture both\nprint('ours')\ndisplay('shown')\n")
        assert (both.stdout, both.displays) == ("", []), way
        caught = ready.ok("both.stdout, both.stderr, len(both.outputs)").result
        assert caught == r"('ours\n', '', 1)", way
        ready.ok("gate.set()\n%fg job\n%fg other")
        ready.until(lambda cell=cell: cell.stdout.endswith("\n"))
        assert "inside" not in cell.stdout, way
        assert "True" in cell.stdout, way
        assert "False" not in cell.stdout, way
        assert set(other.stdout.split()) == {"other"}, way
        assert ready.ok("print(sys.stdout is not None)").stdout == "True\n", way
        log = ready.ok("print(job.log.text)").stdout
        assert "True" in log, way
        assert [word for word in ("inside", "other", "ours") if word in log] == [], way
        assert not cell.traceback, way


@pytest.mark.parametrize("way", WAYS)
def test_the_foreground_replaces_a_stream_for_itself(ready: Kernel, way: str) -> None:
    """While it does, a job prints and displays as ever."""
    ready.ok(
        "def chat():\n"
        "    while not gate.is_set():\n"
        "        print('job'); display('shown'); time.sleep(0.01)\n"
    )
    job = ready.ok("job = %bg chat()")
    cell = ready.ok(f"for _ in {way}():\n    time.sleep(0.1)")  # while the job prints
    ready.ok("gate.set()\n%fg")
    ready.until(lambda: cell.stdout.endswith("\n"))
    assert "True" in cell.stdout
    assert [word for word in ("False", "job", "inside") if word in cell.stdout] == []
    assert set(job.stdout.split()) == {"job"}
    assert ready.ok("print('after')").stdout == "after\n"
    assert ready.ok("set(job.log.stdout.split())").result == "{'job'}"


def test_captures_that_overlap_end_in_any_order(ready: Kernel) -> None:
    """What was captured first is not put back by who captured second."""
    ready.ok("job = %bg in_thread(captured)")
    ready.ok("seen.wait(30)")
    ready.ok(
        "from IPython.utils.capture import capture_output\n"
        "with capture_output() as ours:\n"
        "    gate.set(); job.result(30)\n"
        "    print('ours'); display('shown')"
    )
    assert ready.ok("ours.stdout, len(ours.outputs)").result == r"('ours\n', 1)"
    after = ready.ok("print('after'); display('shown')\n3")
    assert (after.stdout, len(after.displays), after.result) == ("after\n", 1, "3")


def test_tasks_of_one_job_redirect_apart(ready: Kernel) -> None:
    """Redirections of sibling tasks overlap, and each has its own text."""
    ready.ok(
        "async def child(name, before, after):\n"
        "    await before.wait()\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        print(name); after.set(); await asyncio.sleep(0.05); print(name)\n"
        "    print('done', name)\n"
        "    return text.getvalue()\n"
        "async def parent():\n"
        "    first, second, third = [asyncio.Event() for _ in range(3)]\n"
        "    first.set()\n"
        "    texts = await asyncio.gather(child('a', first, second), child('b', second, third))\n"
        "    print('parent')\n"
        "    return texts"
    )
    for option in ("", "-t "):
        cell = ready.ok(f"job = %bg {option}parent()\ntexts = %fg")
        assert cell.stdout == "done a\ndone b\nparent\n"
        assert ready.ok("texts").result == r"['a\na\n', 'b\nb\n']"


def test_a_child_sees_the_redirection_of_its_job_end(ready: Kernel) -> None:
    """A thread that was started under a redirection prints as before when that has ended."""
    ready.ok(
        "def child():\n    print('caught'); seen.set(); gate.wait(30); print('told')\n"
        "def parent():\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        thread = threading.Thread(target=child); thread.start(); seen.wait(30)\n"
        "    gate.set(); thread.join()\n"
        "    return text.getvalue()"
    )
    cell = ready.ok("job = %bg parent()\ntext = %fg")
    assert cell.stdout == "told\n"
    assert ready.ok("text").result == r"'caught\n'"


BARS = """
import time, threading
from rich.progress import Progress
from IPython.display import HTML, display
all_here = threading.Barrier(4)

def bar(name):
    all_here.wait(30)
    with Progress() as progress:
        task = progress.add_task(name, total=20)
        for i in range(20):
            time.sleep(0.05)  # so that bars, pages and cells meet
            if i % 5 == 0:
                print(name, i)
            progress.advance(task)
    print(name, 'done')

def pages():
    all_here.wait(30)
    for i in range(20):
        display(HTML(f'<b>page {i}</b>')); print('pages', i); time.sleep(0.02)
"""


def test_rich_bars_pages_and_cells_all_at_once(kernel: Kernel) -> None:
    """Every line, bar and display is under its own cell, and nothing recurses."""
    kernel.ok(BARS)  # no name may come in a key of a card, which is hexadecimal
    ant = kernel.ok("ant = %bg bar('ant')")
    owl = kernel.ok("owl = %bg bar('owl')")
    web = kernel.ok("web = %bg pages()")
    cells = [kernel.ok("all_here.wait(30); print('cell')\n")]
    cells += [kernel.ok(f"print('cell'); time.sleep(0.05); {n}") for n in range(8)]
    kernel.ok("%fg all")
    for name, cell in (("ant", ant), ("owl", owl)):
        lines = [f"{name} {i}" for i in (0, 5, 10, 15, "done")]
        shown = cell.stdout + "".join(str(bundle) for bundle in cell.displays)
        assert [line for line in lines if line not in shown] == []
        other = "owl" if name == "ant" else "ant"
        shown = shown.replace("what came after its cell had ended", "")  # in the card
        assert [word for word in (other, "page", "cell") if word in shown] == []
        assert "━" in shown
        assert not cell.traceback
        log = kernel.ok(f"print({name}.log.text)").stdout
        assert [line for line in lines if line not in log] == [], log
        assert [word for word in (other, "page", "cell") if word in log] == [], log
    assert web.stdout.split("\n")[:-1] == [f"pages {i}" for i in range(20)]
    shown = [b["text/html"] for b in web.displays if "<b>page" in b.get("text/html", "")]
    assert shown == [f"<b>page {i}</b>" for i in range(20)]
    assert [cell.stdout for cell in cells] == ["cell\n"] * 9


def test_lines_of_several_jobs_under_one_cell_say_whose_they_are(kernel: Kernel) -> None:
    """Bars among them, too; a job that is alone has no labels, and logs have none."""
    kernel.ok(
        "import sys, threading\n"
        "together = threading.Barrier(2)\n"
        "def says(name):\n"
        "    together.wait(30)\n"
        "    for i in range(3): print(name, i); together.wait(30)\n"
        "def draws(name):\n"
        "    together.wait(30)\n"
        "    for i in range(3): print(f'\\r{name} {i}0%', end='', flush=True); together.wait(30)\n"
        "    print()"
    )
    cell = kernel.ok(
        "jobs = [get_ipython().run_line_magic('bg', c) for c in\n"
        "    ('-n a says(\"ant\")', '-n b draws(\"owl\")')]"
    )
    for_all = kernel.ok("r = %fg all")
    n, m = kernel.ok("tuple(j.number for j in jobs)").result.strip("()").split(", ")
    for shown in (cell.stdout, for_all.stdout):
        assert [line for line in shown.replace("\r", "\n").split("\n") if "ant" in line] == [
            f"[{n}] ant {i}" for i in range(3)
        ]
        drawn = [line for line in shown.replace("\r", "\n").split("\n") if "owl" in line]
        assert drawn[-1] == f"[{m}] owl 20%"
        assert all(line.startswith(f"[{m}] owl") for line in drawn)
    logs = kernel.ok("[j.log.text for j in jobs]").result
    assert logs == r"['ant 0\nant 1\nant 2\n', 'owl 20%\n']"
    assert kernel.ok("%fg print('alone')").stdout == "alone\n"
    kernel.ok("%config BgTasks.labels = False")
    cell = kernel.ok("for name in ('cat', 'dog'):\n    %bg says(name);")
    kernel.ok("r = %fg all")
    kernel.until(lambda: cell.stdout.count("\n") == 6)
    assert sorted(cell.stdout.split("\n")[:-1]) == sorted(
        f"{name} {i}" for name in ("cat", "dog") for i in range(3)
    )


def test_what_a_job_shows_in_a_pager_is_printed_in_its_place(kernel: Kernel) -> None:
    """Else it came with the reply of whichever cell ran next."""
    kernel.ok("import ipy_bgtasks")
    cell = kernel.ok("%%bg\n%prun sum([1, 2])\nlen?\nhelp(abs)")
    kernel.until(lambda: "absolute value" in cell.stdout or None)
    for text in ("function calls", "number of items in a container"):
        assert text in cell.stdout
        assert text in kernel.ok("print(ipy_bgtasks.jobs()[1].log.text)").stdout
    assert not kernel.ok("1").content["payload"]
    assert kernel.ok("len?").content["payload"]
