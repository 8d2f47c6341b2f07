"""What a notebook's user sees of a job, with the libraries that notebooks use."""

from __future__ import annotations

from typing import Any

import pytest
from kernels import Kernel, Reply

WIDGET = "application/vnd.jupyter.widget-view+json"


def card_of(cell: Reply) -> str:
    """The text that its card shows now."""
    shown = [d["text/plain"] for d in cell.displays if is_card(d)]
    return shown[-1]


def is_card(bundle: dict[str, Any]) -> bool:
    """Whether a display is a card."""
    return "display: flex" in bundle.get("text/html", "")


def below(cell: Reply) -> list[dict[str, Any]]:
    """What was displayed besides the card."""
    return [d for d in cell.displays if not is_card(d)]


BARS = {
    "tqdm": "from tqdm import tqdm\nbar = lambda xs: tqdm(xs, mininterval=0)",
    "tqdm.auto": "from tqdm.auto import tqdm\nbar = lambda xs: tqdm(xs, mininterval=0)",
    "tqdm.notebook": "from tqdm.notebook import tqdm\nbar = lambda xs: tqdm(xs, mininterval=0)",
    "rich": "import rich.progress\nbar = rich.progress.track",
    "track": "from ipy_bgtasks import track as bar",
    "a slider of ipywidgets": (
        "import ipywidgets\nfrom IPython.display import display\n"
        "def bar(xs):\n"
        "    w = ipywidgets.IntProgress(0, 0, 10); display(ipywidgets.VBox([w]))\n"
        "    for w.value in range(10): yield w.value"
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", BARS)
@pytest.mark.parametrize("place", ["thread", "loop"])
def test_a_bar_is_the_jobs_progress(kernel: Kernel, library: str, place: str) -> None:
    """The same in `job.progress`, in the card and in `%jobs`, whatever draws it."""
    module = BARS[library].split()[1].partition(".")[0]
    pytest.importorskip(module)
    kernel.ok(BARS[library])
    kernel.ok(
        "import asyncio, threading\n"
        "reached, go = threading.Event(), threading.Event()\n"
        "def step(i):\n"
        "    if i == 5: reached.set(); go.wait(30)\n"
        "def in_thread():\n"
        "    for i in bar(range(10)): step(i)\n"
        "async def in_loop():\n"
        "    for i in bar(range(10)): await asyncio.to_thread(step, i)\n"
    )
    cell = kernel.ok(f"job = %bg in_{place}()")
    kernel.ok("await asyncio.to_thread(reached.wait, 30)")
    kernel.until(lambda: "50%" in card_of(cell))

    def half() -> bool:
        return kernel.ok("job.progress and job.progress.fraction").result == "0.5"

    kernel.until(lambda: half() or None)
    assert " 50% " in kernel.ok("%jobs").displays[0]["text/plain"]
    kernel.ok("go.set()\n%fg job;")
    assert kernel.ok("job.state.value").result == "'finished'"


def test_a_bar_without_an_end_says_how_many(kernel: Kernel) -> None:
    """There is nothing to draw then."""
    kernel.ok(
        "import threading\nfrom tqdm.notebook import tqdm\n"
        "reached, go = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    for i in tqdm(iter(range(10)), mininterval=0, desc='read'):\n"
        "        if i == 7: reached.set(); go.wait(30)\n"
    )
    kernel.ok("job = %bg work()\nreached.wait(30)")
    assert kernel.ok("print(job.progress.done, job.progress.total)").stdout == "7 None\n"
    assert "read: 7/? [" in kernel.ok("%jobs").displays[0]["text/plain"]
    kernel.ok("go.set()")


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto"])
def test_the_outer_one_of_two_bars_counts(kernel: Kernel, module: str) -> None:
    """The inner one begins again and again; the log holds each where it ended."""
    kernel.ok(
        f"import threading\nfrom {module} import tqdm\n"
        "reached, go = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    for i in tqdm(range(4), mininterval=0):\n"
        "        for k in tqdm(range(10), mininterval=0, leave=False):\n"
        "            if (i, k) == (1, 5): reached.set(); go.wait(30)\n"
    )
    kernel.ok("job = %bg work()\nreached.wait(30)")
    assert kernel.ok("job.progress.fraction").result == "0.25"
    kernel.ok("go.set()\n%fg job")
    lines = kernel.ok("print(job.log.text)").stdout.split("\n")
    assert [" 4/4 [" in line for line in lines if "/" in line] == [True]


def test_bars_of_two_jobs_and_a_cell_are_each_in_the_first_line(kernel: Kernel) -> None:
    """Tqdm would draw the second and third below the first, in their own places."""
    kernel.ok(
        "import threading\nfrom tqdm import tqdm\n"
        "reached, go = threading.Event(), threading.Event()\n"
        "def work(wait):\n"
        "    for i in tqdm(range(4), mininterval=0):\n"
        "        if wait: reached.set(); go.wait(30)\n"
    )
    kernel.ok("job = %bg work(True)\nreached.wait(30)")
    other = kernel.ok("other = %bg work(False)\n%fg other;")
    cell = kernel.ok("work(False)")
    kernel.ok("go.set()\n%fg job;\nassert not tqdm._instances.copy()")
    for reply in (other, cell):
        kernel.until(lambda reply=reply: reply.stderr.endswith("\n") or None)
        assert "4/4" in reply.stderr
        assert reply.stderr.count("\n") == 1
        assert "\x1b[A" not in reply.stderr


def test_what_is_no_progress_is_the_jobs_own_error(kernel: Kernel) -> None:
    """`%jobs` goes on for all; NumPy's numbers, fractions and decimals count."""
    kernel.ok(
        "import decimal, fractions, threading\nimport numpy as np\n"
        "from ipy_bgtasks import current_job\n"
        "go = threading.Event()\n"
        "def work(value):\n"
        "    current_job().progress = value\n"
        "    go.wait(30)\n"
    )
    for bad in ('"50%"', 'float("nan")', "object()", "[1]"):
        job = kernel.ok(f"%bg work({bad})")
        kernel.until(lambda job=job: job.contents("error"))
        assert job.contents("error")[0]["ename"] in ("TypeError", "ValueError")
    for good in ("np.float32(.5)", "fractions.Fraction(1, 2)", 'decimal.Decimal("0.5")'):
        job = kernel.ok(f"%bg work({good})")
        kernel.until(lambda job=job: "50%" in card_of(job))
    assert kernel.ok("%jobs").displays[0]["text/plain"].count(" 50% ") == 3
    kernel.ok("go.set()")


@pytest.mark.parametrize("where", ["-t", "-l", "-p"])
def test_a_value_is_shown_with_the_print_options_of_the_session(kernel: Kernel, where: str) -> None:
    """Those of NumPy are a context variable; the job may have others."""
    kernel.ok(
        "import numpy as np\n"
        "def work():\n"
        "    np.set_printoptions(precision=6)\n"
        "    return np.array([1.23456789])\n"
        "async def a_work(): return work()\n"
    )
    kernel.ok("np.set_printoptions(precision=2)")
    cell = kernel.ok(f"job = %bg {where} {'a_' * (where == '-l')}work()")
    shown = kernel.until(lambda: below(cell))
    assert shown[0]["text/plain"] == kernel.ok("%fg job").result == "array([1.23])"


VALUES = """
import asyncio
import pandas as pd
from matplotlib.figure import Figure
from IPython.display import HTML
import numpy as np
frame = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]})
def figure():
    fig = Figure(figsize=(6.4, 4.8), dpi=100)
    fig.subplots().plot([1, 2])
    return fig
class Point:
    def __repr__(self): return "a point"
"""


@pytest.mark.parametrize("place", ["-t", "-l"])
def test_a_value_is_shown_as_a_cell_would_show_it(kernel: Kernel, place: str) -> None:
    """Below the card, which says what it is."""
    kernel.ok(f"%matplotlib inline\n{VALUES}")
    kernel.ok("async def give(x): return x\ndef give_here(x): return x")
    give = "give" if place == "-l" else "give_here"
    cell = kernel.ok(f"%bg {place} {give}(frame)")
    kernel.until(lambda: below(cell))
    shown = kernel.ok("frame").contents("execute_result")[0]["data"]
    assert below(cell) == [shown]
    kernel.until(lambda: "DataFrame 3 × 2" in card_of(cell))
    cell = kernel.ok(f"%bg {place} {give}(figure())")
    kernel.until(lambda: below(cell))
    assert "image/png" in below(cell)[0]
    assert "Figure 640 × 480" in card_of(cell)
    cell = kernel.ok(f"%bg {place} {give}(HTML('<b>bold</b>'))")
    kernel.until(lambda: below(cell))
    assert below(cell)[0]["text/html"] == "<b>bold</b>"
    assert card_of(cell).endswith("HTML")
    table = kernel.ok("%jobs").displays[0]["text/plain"]
    for kind in ("DataFrame 3 × 2", "Figure 640 × 480", " HTML"):
        assert kind in table
    assert "IPython.core.display" not in table


def test_what_shows_nothing_in_a_cell_shows_nothing_below_a_card(kernel: Kernel) -> None:
    """None, a trailing semicolon, an assignment; short text stands in the card alone."""
    kernel.ok(VALUES)
    cells = [
        kernel.ok("%bg print('done')"),
        kernel.ok("%bg frame.copy();"),
        kernel.ok("%bg other = frame.copy()"),
        kernel.ok("%bg 'x'.upper()"),
        kernel.ok("%bg Point()"),
    ]
    kernel.ok("%fg all;")
    kernel.until(lambda: "a point" in card_of(cells[-1]))
    kernel.ok("import time; time.sleep(0.3)")  # for what must not come
    assert [below(cell) for cell in cells] == [[], [], [], [], []]
    assert "'X'" in card_of(cells[3])


HOSTILE = """
import threading
class Bad:
    def __init__(self, what): self.what = what
    def __repr__(self): return "bad " + self.what
    def _repr_html_(self):
        if self.what == "raises": raise RuntimeError("no display")
        if self.what == "blocks": stuck.wait(10)
        if self.what == "prints": print("from the repr")
        if self.what == "huge": return "x" * 100_000_000
        return "<b>shown</b>"
    def give(self): return self
    async def give_async(self): return self
stuck = threading.Event()
"""


def test_a_hostile_display_costs_its_job_the_display(kernel: Kernel) -> None:
    """The loop, the cells and the other jobs notice nothing; the value of a thread or of a task."""
    kernel.ok(HOSTILE)
    kinds = ("blocks", "raises", "huge", "prints", "nothing")
    cells = {
        (what, give): kernel.ok(f"%bg Bad({what!r}).{give}()")
        for what in kinds
        for give in ("give", "give_async")
    }
    started = kernel.ok("import asyncio, time; t = time.time(); await asyncio.sleep(0)")
    kernel.until(lambda: all(below(cells["nothing", give]) for give in ("give", "give_async")))
    took = kernel.ok("print(time.time() - t)")
    assert float(took.stdout) < 3
    assert started.stdout == started.stderr == ""
    for give in ("give", "give_async"):
        blocks, raises, huge, prints, nothing = (cells[what, give] for what in kinds)
        assert below(nothing)[0]["text/html"] == "<b>shown</b>"
        kernel.until(lambda prints=prints: below(prints))
        assert prints.stdout == "from the repr\n"
        kernel.until(lambda huge=huge: below(huge))
        assert "longer than BgTasks.log_limit" in below(huge)[0]["text/plain"]
        kernel.until(lambda raises=raises: "bad raises" in card_of(raises))
        assert all("text/html" not in d for d in below(raises))
        assert not raises.contents("error")
        kernel.until(lambda blocks=blocks: below(blocks))
        assert "takes longer than 5 s" in below(blocks)[0]["text/plain"]
    states = kernel.ok("from ipy_bgtasks import jobs\nprint({j.state.value for j in jobs()})")
    assert states.stdout == "{'finished'}\n"
    kernel.ok("stuck.set()")


def test_a_repr_that_blocks_holds_up_nobody(kernel: Kernel) -> None:
    """Neither the loop, nor the job, nor `%jobs`."""
    kernel.ok(
        "import threading, time\nstuck = threading.Event()\n"
        "class Slow:\n"
        "    def __repr__(self): stuck.wait(20); return 'at last'\n"
        "async def work(): return Slow()\n"
    )
    cell = kernel.ok("t = time.time()\njob = %bg work()\nawait job\nprint(time.time() - t)\n%jobs")
    assert float(cell.stdout) < 2
    assert any("<Slow object>" in d["text/plain"] for d in cell.displays)
    kernel.ok("stuck.set()")
    kernel.until(lambda: "at last" in kernel.ok("%jobs").displays[0]["text/plain"] or None)


def test_the_card_comes_first(kernel: Kernel) -> None:
    """Before the first line of a job that prints at once."""
    for _ in range(20):
        cell = kernel.ok("job = %bg print('first line')")
        kernel.until(lambda cell=cell: cell.stdout)
        kinds = [m["msg_type"] for m in cell.messages]
        assert kinds.index("display_data") < kinds.index("stream")


@pytest.mark.parametrize("wait", [True, False])
def test_clearing_leaves_the_card(kernel: Kernel, wait: bool) -> None:
    """What the job showed goes; the card comes again in the same turn, and is kept up to date."""
    kernel.ok(
        "import threading\nfrom IPython.display import clear_output, display, HTML\n"
        "go, shown = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    for i in range(3):\n"
        f"        clear_output(wait={wait})\n"
        "        display(HTML(f'<i>{i}</i>'))\n"
        "    shown.set(); go.wait(30)\n"
        "    return 'the end'\n"
    )
    cell = kernel.ok("job = %bg work()\nassert shown.wait(30)")
    kernel.until(lambda: len(below(cell)) == 3)
    sent = [
        (
            m["msg_type"],
            is_card(m["content"]["data"]) if "data" in m["content"] else m["content"]["wait"],
        )
        for m in cell.messages
        if m["msg_type"] in ("display_data", "clear_output")
    ]
    frame = [("clear_output", True), ("display_data", True), ("display_data", False)]
    assert sent == [("display_data", True), *frame * 3]
    ids = {
        m["content"]["transient"]["display_id"]
        for m in cell.messages
        if m["msg_type"] == "display_data" and is_card(m["content"]["data"])
    }
    assert len(ids) == 1
    kernel.ok("go.set()")
    kernel.until(lambda: "finished" in card_of(cell))


def test_clearing_an_output_widget_clears_that_alone(kernel: Kernel) -> None:
    """The log and the card stay, and the log holds the last of what was shown there."""
    kernel.ok(
        "import ipywidgets\nfrom IPython.display import clear_output, display, HTML\n"
        "def work():\n"
        "    print('before')\n"
        "    out = ipywidgets.Output(); display(out)\n"
        "    for i in range(3):\n"
        "        with out:\n"
        "            clear_output(wait=True)\n"
        "            display(HTML(f'<i>{i}</i>'))\n"
        "    print('after')\n"
    )
    cell = kernel.ok("job = %bg work()")
    kernel.ok("%fg job")
    assert len([d for d in cell.contents("display_data") if is_card(d["data"])]) == 1
    assert cell.contents("clear_output") == [{"wait": True}] * 3
    kernel.ok(
        "shown = [e.bundle['text/html'] for e in job.log if e.bundle and 'text/html' in e.bundle]"
    )
    assert kernel.ok("shown[-1]").result == "'<i>2</i>'"
    assert kernel.ok("len([s for s in shown if s.startswith('<i>')])").result == "1"
    assert kernel.ok("print(job.log.stdout)").stdout == "before\nafter\n\n"


def test_a_loop_shows_one_card(kernel: Kernel) -> None:
    """It counts, has one bar, and names those that failed."""
    kernel.ok(
        "import asyncio\ngate = asyncio.Event()\n"
        "async def work(i):\n"
        "    await gate.wait()\n"
        "    if i == 3: raise ValueError('three')\n"
    )
    cell = kernel.ok("for i in range(10):\n    %bg work(i)")
    kernel.until(lambda: "10 running" in card_of(cell))
    assert len(cell.contents("display_data")) == 1
    assert "10 jobs" in card_of(cell)
    kernel.ok("gate.set()")
    kernel.until(lambda: "9 finished" in card_of(cell))
    assert "1 failed" in card_of(cell)
    assert "1 × ValueError: [4] work(3)" in card_of(cell)
    assert len(cell.contents("display_data")) == 1


def test_an_executed_notebook_shows_the_end_of_each_card() -> None:
    """As nbclient records it: of jobs that ended in a later cell, or between two."""
    import nbformat  # which takes seconds
    from nbclient import NotebookClient

    cells = [
        "%load_ext ipy_bgtasks",
        "import asyncio\ngate = asyncio.Event()\n"
        "async def work(): await gate.wait(); return 'the value'",
        "job = %bg work()",
        "gate.set()\n%fg job;",
        "other = %bg work()",
        "1 + 1",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    for at in (2, 4):
        assert "finished" in book.cells[at].outputs[0]["data"]["text/plain"], book.cells[at].outputs
        assert "the value" in book.cells[at].outputs[0]["data"]["text/plain"]


@pytest.mark.parametrize("captured", [True, False])
def test_a_job_that_a_widget_launched_is_to_be_found(kernel: Kernel, captured: bool) -> None:
    """Its card goes where the callback's output goes; if no cell shows that, one says so."""
    kernel.ok("import ipywidgets\nfrom IPython.display import display\ndef work(): return 'value'")
    capture = "@out.capture()\n" if captured else ""
    cell = kernel.ok(
        "out = ipywidgets.Output(); button = ipywidgets.Button()\n"
        f"{capture}"
        "def launch(_):\n"
        "    get_ipython().run_line_magic('bg', 'work()')\n"
        "button.on_click(launch); display(button, out); print(button.model_id)"
    )
    kernel.until(lambda: cell.stdout.strip())
    data = {"method": "custom", "content": {"event": "click"}}
    message = kernel.session.msg("comm_msg", {"comm_id": cell.stdout.strip(), "data": data})
    kernel.send(message)
    of_click = message["header"]["msg_id"]

    def shown() -> bool:
        return any(m["msg_type"] == "display_data" for m in kernel.messages_of(of_click))

    kernel.until(shown)
    kernel.ok("%fg 1;")
    said = "job 1 (work()) was launched by a widget, whose output no cell shows: %jobs 1"
    assert (said in cell.stderr) is not captured


def test_the_size_of_a_figure_is_not_that_while_it_is_drawn(kernel: Kernel) -> None:
    """For a picture without margins matplotlib makes the figure itself smaller for a while."""
    pytest.importorskip("matplotlib")
    kernel.ok(
        "import threading\nfrom matplotlib.artist import Artist\n"
        "from matplotlib.figure import Figure\n"
        "drawing, go = threading.Event(), threading.Event()\n"
        "fig = Figure(figsize=(4, 3))\nfig.subplots().plot([1, 3, 2])\n"
        "class Slow(Artist):\n"
        "    def draw(self, renderer):\n"
        "        if fig.bbox.width != 400: drawing.set(); go.wait(20)\n"
        "fig.add_artist(Slow());"
    )
    kernel.ok("%matplotlib inline")
    kernel.ok("job = %bg (lambda: fig)\ndrawing.wait(20)")
    assert "Figure 400 × 300" in str(kernel.ok("%jobs").displays)
    assert kernel.ok("drawing.is_set(), go.set()").result == "(True, None)"
