"""What a job displays in a worker process comes under its cell, as that of a thread does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kernels import Kernel, Reply

SETUP = """
import threading
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, clear_output, display as shows
from tqdm.notebook import tqdm as notebook_bar

go = threading.Event()

def draw(show):
    plt.plot([1, 2, 3])
    if show:
        plt.show()
        plt.plot([3, 2, 1])
    print("drawn")

def tables():
    print("before")
    display(pd.DataFrame({"a": [1, 2]}))
    print("between")
    shows(HTML("<b>bold</b>"))
    print("after")

def update():
    handle = shows("one", display_id=True)
    handle.update("two")
    handle.display("three")

def clear():
    print("gone")
    clear_output()
    print("stays")

def tasks():
    from rich.progress import Progress
    with Progress() as progress:
        tasks = [progress.add_task(name, total=20) for name in ("alpha", "beta", "gamma")]
        for _ in range(20):
            for task in tasks:
                progress.advance(task)
            progress.refresh()
    print("drawn")

def fails(asks):
    if asks:
        breakpoint()
    return 1 / 0

def where():
    import builtins, rich.console
    go.wait(30)
    return rich.console.Console().is_jupyter, hasattr(builtins, "get_ipython")

def bar():
    for _ in notebook_bar(range(3)):
        pass
"""


def _displays(reply: Reply, kind: str) -> list[Any]:
    return [each["data"][kind] for each in reply.contents("display_data") if kind in each["data"]]


@pytest.fixture
def setup(shared: Kernel) -> Kernel:
    """A kernel with the functions."""
    shared.ok(SETUP)
    return shared


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_figures_that_are_shown_and_left_open_are_pictures(setup: Kernel, where: str) -> None:
    """Each under the job's own cell."""
    launch = setup.ok(f"job = %bg {where} draw(True)")
    setup.ok("%fg job")
    setup.until(lambda: len(_displays(launch, "image/png")) == 2 or None)
    alone = setup.ok(f"job = %bg {where} draw(False)")
    setup.ok("%fg job")
    setup.until(lambda: len(_displays(alone, "image/png")) == 1 or None)


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_displays_keep_their_formats_and_their_place_in_the_text(setup: Kernel, where: str) -> None:
    """A table and HTML come as such, between the lines around them; `display` is a builtin."""
    launch = setup.ok(f"job = %bg {where} tables();")
    setup.ok("job.result(30)")
    setup.until(lambda: "after" in launch.stdout or None)
    order = [
        message["content"].get("text") or message["content"]["data"].get("text/html", "")
        for message in launch.messages
        if message["msg_type"] in ("stream", "display_data")
    ]
    shown = "".join(order)
    parts = ["before\n", "<table", "between\n", "<b>bold</b>", "after\n"]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_a_styler_of_pandas_is_its_own_table(setup: Kernel, where: str) -> None:
    """Displayed, and as the value of the job."""
    launch = setup.ok(
        f"%%bg {where}\nstyled = pd.DataFrame({{'a': [1, 2]}}).style\n"
        "styled = styled.format('<{}>').set_caption('own')\nshows(styled)\nstyled"
    )
    setup.ok("%fg")
    setup.until(lambda: str(_displays(launch, "text/html")).count("own</caption>") == 2 or None)
    for page in [page for page in _displays(launch, "text/html") if "own</caption>" in page]:
        assert '<style type="text/css">' in page
        assert re.search(r">\s*<2>\s*</td>", page)


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_a_figure_of_plotly_is_its_own_kind_of_display(setup: Kernel, where: str) -> None:
    """A MIME bundle, whether it is shown, displayed or the value of the job."""
    pytest.importorskip("plotly")
    launch = setup.ok(
        f"%%bg {where}\nimport plotly.graph_objects as go_\nimport plotly.io\n"
        "plotly.io.renderers.default = 'plotly_mimetype'\n"
        "figure = go_.Figure(go_.Bar(y=[2, 3]))\nfigure.show()\nshows(figure)\nfigure"
    )
    setup.ok("%fg")
    kind = "application/vnd.plotly.v1+json"
    setup.until(lambda: len(_displays(launch, kind)) == 3 or None)
    assert all(shown["data"][0]["type"] == "bar" for shown in _displays(launch, kind))


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_a_display_is_updated_and_output_is_cleared(setup: Kernel, where: str) -> None:
    """By the handle that `display` returned."""
    launch = setup.ok(f"job = %bg {where} update();")
    setup.ok("job.result(30)")
    setup.until(lambda: len(launch.contents("update_display_data")) == 1 or None)
    assert launch.contents("update_display_data")[0]["data"]["text/plain"] == "'two'"
    assert setup.ok("job.log.text.split()").result == "[\"'two'\", \"'three'\"]"
    setup.ok(f"job = %bg {where} clear();\n%fg job")
    assert setup.ok("job.log.text").result == r"'stays\n'"


def test_a_bar_of_tqdms_notebook_is_text_and_progress(setup: Kernel) -> None:
    """Its widget would stand in no page."""
    setup.ok("job = %bg -p bar();\n%fg job")
    assert setup.ok("'3/3' in job.log.text, job.progress.done").result == "(True, 3)"


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_the_tasks_of_rich_are_redrawn_in_place(setup: Kernel, where: str) -> None:
    """In the width of a page; the last state stands, and is all that the log holds."""
    launch = setup.ok(f"job = %bg {where} tasks();")
    setup.ok("job.result(30)")
    setup.until(lambda: "drawn" in launch.stdout or None)
    assert "\x1b[1A" not in launch.stdout
    text = setup.ok("print(job.log.text)").stdout
    for name in ("alpha", "beta", "gamma"):
        assert text.count(name) == 1
    assert text.count("100%") == 3
    assert setup.ok("job.progress.fraction").result == "1.0"


def test_code_between_cells_knows_that_it_runs_in_a_notebook(setup: Kernel) -> None:
    """IPython has `get_ipython` among the builtins while a cell runs."""
    launch = setup.ok("job = %bg where()")
    setup.ok("threading.Timer(0.2, go.set).start()")
    setup.until(lambda: "finished" in str(launch.contents("update_display_data")) or None)
    assert setup.ok("job.result()").result == "(True, True)"


@pytest.mark.parametrize("where", ["-t", "-l", "-p"])
def test_the_end_of_a_job_comes_after_its_last_text(setup: Kernel, where: str) -> None:
    """A program may stop reading there."""
    setup.ok("def say(n):\n    for i in range(n): print('line', i)\nasync def a_say(n): say(n)")
    for _ in range(5):
        launch = setup.ok(f"%bg {where} {'a_' * (where == '-l')}say(50)")
        setup.until(lambda: _ended(launch) or None)  # noqa: B023
        before = launch.messages[: _ended(launch)]
        text = [m["content"]["text"] for m in before if m["msg_type"] == "stream"]
        assert "".join(text).splitlines() == [f"line {i}" for i in range(50)]


def _ended(reply: Reply) -> int:
    """The place of the card's update that says so among its messages; 0 if it has not come."""
    card = reply.contents("display_data")[0]["transient"]
    for place, message in enumerate(reply.messages):
        is_end = message["msg_type"] == "update_display_data" and "finished" in str(message)
        if is_end and message["content"]["transient"] == card:
            return place
    return 0


@pytest.mark.parametrize("asks", [True, False])
def test_a_traceback_shows_the_users_lines_in_one_stage(setup: Kernel, asks: bool) -> None:
    """The same as that of a thread; nothing of ours, wherever the error comes from."""
    shown = []
    for where in ("-t", "-p"):
        launch = setup.ok(f"%bg {where} fails({asks})")
        setup.until(lambda: launch.contents("error") or None)  # noqa: B023
        shown.append(re.sub(r"\x1b\[[0-9;]*m|In\[\d+\]|job \d+", "", launch.traceback))
    line = "    breakpoint()" if asks else "return 1 / 0"
    assert line in shown[1]
    assert "ipy_bgtasks" not in shown[1]
    assert "Remote" not in shown[1]
    assert shown[0].replace("fails(asks)\n", "fails()\n") == shown[1].replace(
        "fails(asks)\n", "fails()\n"
    )


def test_breakpoint_in_the_foreground_stops_in_the_users_line(setup: Kernel) -> None:
    """Once a job was launched, `breakpoint` is ours; no frame of ours is above the user's."""
    setup.ok("%bg max(1, 2);")
    setup.ok("import sys\nhook = sys.breakpointhook\ncallers = []")
    setup.ok("hook._original = lambda: callers.append(sys._getframe(1).f_code.co_name)")
    setup.ok("def stops(): breakpoint()\nstops()")
    assert setup.ok("callers").result == "['stops']"
