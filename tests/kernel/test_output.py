"""Every job's output is under its own cell, in order, and in its own log."""

from __future__ import annotations

import base64
import re
from datetime import datetime

import pytest
from kernels import Kernel, Reply

KINDS = {
    "coroutine": "for i in range(1000):\n        print(f'{n}:{i}')\n        await asyncio.sleep(0)",
    "thread": "for i in range(1000):\n        print(f'{n}:{i}')",
    "executor": (
        "with ThreadPoolExecutor(1) as pool:\n"
        "        pool.submit(lambda: [print(f'{n}:{i}') for i in range(1000)]).result()"
    ),
    "bare thread": (
        "t = Thread(target=lambda: [print(f'{n}:{i}') for i in range(1000)])\n"
        "    t.start(); t.join()"
    ),
    "child task": (
        "async def child():\n"
        "        for i in range(1000):\n"
        "            print(f'{n}:{i}')\n"
        "            await asyncio.sleep(0)\n"
        "    await asyncio.create_task(child())"
    ),
}


def define_kinds(kernel: Kernel) -> None:
    kernel.ok(
        "import asyncio, sys, threading, time\n"
        "from threading import Thread\n"
        "from concurrent.futures import ThreadPoolExecutor"
    )
    for i, body in enumerate(KINDS.values()):
        prefix = "async " if "await" in body else ""
        kernel.ok(f"{prefix}def kind{i}(n):\n    {body}")


def numbered(n: int) -> str:
    return "".join(f"{n}:{i}\n" for i in range(1000))


def test_twenty_jobs_of_mixed_kinds_keep_their_lines_apart(kernel: Kernel) -> None:
    """Each of 20 cells shows the 1,000 lines of its job, in order; so does each log."""
    define_kinds(kernel)
    cells: list[Reply] = []
    foreground: list[Reply] = []
    for n in range(20):
        cells.append(kernel.ok(f"jobs_{n} = %bg kind{n % len(KINDS)}({n})"))
        foreground.append(kernel.ok(f"print('foreground {n}')\nawait asyncio.sleep(0)"))
    kernel.ok(
        "for job in [v for k, v in list(globals().items()) if k.startswith('jobs_')]:\n"
        "    await job"
    )
    kernel.until(lambda: all(len(c.stdout) >= len(numbered(n)) for n, c in enumerate(cells)))
    for n, cell in enumerate(cells):
        assert cell.stdout == numbered(n)
    for n, cell in enumerate(foreground):
        assert cell.stdout == f"foreground {n}\n"
    logs = kernel.ok(
        "print([n for n in range(20) if globals()[f'jobs_{n}'].log.stdout"
        " != ''.join(f'{n}:{i}\\n' for i in range(1000))])"
    )
    assert logs.stdout == "[]\n"


def test_displays_and_errors_are_under_the_cell_that_launched(kernel: Kernel) -> None:
    """display, update_display, clear_output, stderr and a traceback go to the job's own cell."""
    kernel.ok("import asyncio, sys\nfrom IPython.display import display, clear_output, HTML")
    kernel.ok(
        "go = asyncio.Event()\n"
        "async def shows():\n"
        "    await go.wait()\n"
        "    handle = display(HTML('<b>first</b>'), display_id='one')\n"
        "    handle.update(HTML('<b>second</b>'))\n"
        "    clear_output(wait=True)\n"
        "    print('err', file=sys.stderr)\n"
        "    raise ValueError('mine')\n"
        "def shows_in_thread():\n"
        "    display(HTML('<i>thread</i>'))\n"
    )
    cell = kernel.ok("job = %bg shows();")
    other = kernel.ok(
        "go.set()\nother = %bg shows_in_thread();\n"
        "await asyncio.gather(job, other, return_exceptions=True);"
    )
    kernel.until(lambda: cell.contents("error"))
    html = [bundle.get("text/html") for bundle in cell.displays]
    assert html == ["<b>first</b>", "<b>second</b>"]
    assert cell.contents("clear_output") == [{"wait": True}]
    kernel.until(lambda: cell.stderr)
    assert cell.stderr == "err\n"
    assert "ValueError" in cell.traceback
    assert "raise ValueError('mine')" in _plain(cell.traceback)
    assert "ipy_bgtasks" not in cell.traceback
    assert [bundle.get("text/html") for bundle in other.displays] == ["<i>thread</i>"]
    assert not other.contents("error")


def test_a_figure_left_open_is_shown_when_its_job_ends(kernel: Kernel) -> None:
    """A cell that ends meanwhile shows its own figure and not the job's."""
    pytest.importorskip("matplotlib")
    kernel.ok("import threading\ndrawn, go = threading.Event(), threading.Event()")
    cell = kernel.ok(
        "%%bg\n"
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2])\ndrawn.set()\ngo.wait(30)\nplt.title('late');"
    )
    kernel.ok("drawn.wait(30)")
    between = kernel.ok("2 + 2")
    assert not between.displays
    own = kernel.ok("plt.plot([2, 1]);")
    assert [sorted(bundle) for bundle in own.displays] == [["image/png", "text/plain"]]
    kernel.ok("go.set()\n%fg")
    kernel.until(lambda: any("image/png" in bundle for bundle in cell.displays))
    pictures = [bundle["image/png"] for bundle in cell.displays if "image/png" in bundle]
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")


def test_output_of_jobs_stays_out_of_the_output_history(kernel: Kernel) -> None:
    """IPython keeps for good what plain cells print; a job's lines are kept in its log only."""
    kernel.ok(
        "import threading, time\ngo, done = threading.Event(), threading.Event()\n"
        "def noisy():\n"
        "    go.wait(30)\n"
        "    for _ in range(100): print('x' * 1000)\n"
        "    done.set()"
    )
    kernel.ok("job = %bg -q noisy()")
    kernel.ok("go.set(); print(done.wait(30))")  # a plain cell, open while the job prints
    kept = kernel.ok(
        "kept = str(getattr(get_ipython().history_manager, 'outputs', ''))\n"
        "print('xxxx' in kept, len(job.log.text))"
    )
    assert kept.stdout == "False 100100\n"


def test_a_quiet_job_shows_nothing_but_its_card(kernel: Kernel) -> None:
    """-q records; %jobs 3 shows the tail; a failure is one line."""
    kernel.ok("def noisy():\n    print('whisper')\n    raise ValueError('quiet')")
    cell = kernel.ok("job = %bg -q noisy()")
    detail = kernel.ok("import asyncio\nawait asyncio.gather(job, return_exceptions=True)\n%jobs 1")
    kernel.until(lambda: cell.stderr)
    assert cell.stdout == ""
    assert cell.stderr == "job 1 failed: ValueError: quiet\n"
    assert not cell.contents("error")
    assert "whisper" in detail.displays[-1]["text/plain"]


def test_fg_replays_the_end_of_the_log_and_follows(kernel: Kernel) -> None:
    """Under the cell of %fg stand at most the last 64 kB, with -a everything, then what comes."""
    kernel.ok(
        "import threading\ngo = threading.Event()\n"
        "def talks():\n"
        "    for i in range(20_000): print(f'line {i}')\n"
        "    go.wait(30)\n"
        "    print('last')\n"
        "    return 'value'"
    )
    kernel.ok("job = %bg talks()")
    kernel.ok("while 'line 19999' not in job.log.stdout: pass")
    kernel.ok("timer = threading.Timer(0.2, go.set); timer.start()")
    fg = kernel.ok("x = %fg job\nx")
    assert fg.result == "'value'"
    assert fg.stdout.endswith("line 19998\nline 19999\nlast\n")
    assert 60_000 < len(fg.stdout) <= 64_100
    everything = kernel.ok("y = %fg -a job")
    assert everything.stdout.startswith("line 0\nline 1\n")
    assert everything.stdout.endswith("line 19999\nlast\n")


def test_a_job_tears_no_line_of_the_cell_that_launched_it(kernel: Kernel) -> None:
    """The first line of a thread comes before what the launching cell prints next, whole."""
    kernel.ok(
        "import threading\ngo = threading.Event()\ndef tick():\n    print(0)\n    go.wait(30)"
    )
    kernel.ok("warm = %bg int()\nwarm.result()")
    for _ in range(5):
        cell = kernel.ok("go.clear()\njob = %bg tick()\nprint('next')\ngo.set()\njob.result()")
        kernel.until(lambda cell=cell: len(cell.stdout) == 7)
        assert cell.stdout == "0\nnext\n"


def test_a_begun_line_is_shown_before_it_is_whole(kernel: Kernel) -> None:
    """Dots without a line feed appear while the job still runs."""
    kernel.ok(
        "import threading\ngo = threading.Event()\n"
        "def dots():\n    print('..', end='')\n    go.wait(30)\n    print('.')"
    )
    cell = kernel.ok("job = %bg dots()")
    kernel.until(lambda: cell.stdout == "..")
    kernel.ok("go.set()\n%fg")
    kernel.until(lambda: cell.stdout == "...\n")


def test_a_flood_leaves_the_kernel_small_and_answering(kernel: Kernel) -> None:
    """A job that prints 50 MB is kept within the log's limit, and cells run meanwhile."""
    kernel.ok(
        "import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "def flood():\n"
        "    for i in range(50_000): print('x' * 1000)"
    )
    kernel.ok("job = %bg -q flood()")
    assert kernel.ok("1 + 1").result == "2"
    grown = kernel.ok(
        "job.result()\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(grown < 30_000, len(job.log.text) <= 1_000_100, job.log.dropped > 0)"
    )
    assert grown.stdout == "True True True\n", grown.stdout


@pytest.mark.parametrize("where", ["-t", "-p"])
def test_no_job_displays_more_often_than_servers_pass_on(kernel: Kernel, where: str) -> None:
    """Beyond 1,000 messages a second they drop what all jobs and cells show. Nothing is lost."""
    if where == "-p":
        pytest.importorskip("cloudpickle")
    kernel.ok(
        "from IPython.display import clear_output, display\n"
        "def shows():\n"
        "    for n in range(700):\n"
        "        if n % 2: clear_output(wait=True)\n"
        "        display(n)"
    )
    cell = kernel.ok(f"%bg {where} shows()")
    kernel.ok("%fg", timeout=90)
    kinds = ("display_data", "clear_output")
    shown = [m for m in cell.messages if m["msg_type"] in kinds]
    numbers = [m["content"]["data"]["text/plain"] for m in shown if "data" in m["content"]]
    assert [n for n in numbers if n.isdigit()] == [str(n) for n in range(700)]
    first, last = (datetime.fromisoformat(str(shown[at]["header"]["date"])) for at in (0, -1))
    assert (last - first).total_seconds() > 1  # 2, of which a burst of late ones saves some


def test_a_card_lives_and_ends(kernel: Kernel) -> None:
    """A displayed job has one card; its last update tells the result; none comes after it."""
    kernel.ok(
        "import threading\nfrom ipy_bgtasks import track\ngo = threading.Event()\n"
        "def work():\n"
        "    for i in track(range(10)):\n"
        "        if i == 5: go.wait(30)\n"
        "    return '<script>'"
    )
    cell = kernel.ok("%bg work()")
    kernel.until(lambda: any("50%" in d["text/plain"] for d in cell.displays))
    kernel.ok("go.set()\n%fg 1;")
    kernel.until(lambda: "finished" in cell.displays[-1]["text/plain"])
    last = cell.displays[-1]
    assert "<script>" not in last["text/html"]
    assert "&lt;script&gt;" in last["text/html"]
    assert len(cell.contents("display_data")) == 1
    assert kernel.ok("for i in range(3):\n    %bg int(i);").displays == []
    assert kernel.ok("y = %bg int();").displays == []
    assert kernel.ok("%bg int();").displays == []


ENDING = {
    "coroutine": "%bg atalks()",
    "thread": "%bg talks()",
    "process": "%bg -p talks()",
    "kept": "%bg --keep talks()",
    "command": "%bg !seq 0 199",
    "several": "for n in range(3):\n    %bg talks()\n    %bg atalks()",
    "several processes": "for n in range(3):\n    %bg -p talks()\n    %bg !seq 0 199",
}


@pytest.mark.parametrize("code", ENDING.values(), ids=ENDING)
def test_the_end_of_a_job_comes_after_its_last_text(kernel: Kernel, code: str) -> None:
    """A program that stops reading at "finished" has all of it."""
    if "-p" in code or "--keep" in code:
        pytest.importorskip("cloudpickle")
    kernel.ok(
        "def talks():\n    for i in range(200): print(i)\n"
        "async def atalks():\n    for i in range(200): print(i)"
    )
    cell = kernel.ok(code)
    count = 6 if "range(3)" in code else 1
    said = "6 finished" if count == 6 else "finished"
    kernel.until(lambda: said in cell.displays[-1]["text/plain"] or None)
    ends = [
        at
        for at, message in enumerate(cell.messages)
        if said in message["content"].get("data", {}).get("text/plain", "")
    ]
    texts = [at for at, message in enumerate(cell.messages) if message["msg_type"] == "stream"]
    assert ends[0] > texts[-1]
    assert len(re.findall(r"^(?:\[\d+\] )?199$", cell.stdout, re.MULTILINE)) == count


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_capturing_takes_nothing_from_others(kernel: Kernel) -> None:
    """%%capture and redirect_stdout hold for who made them, cell or job."""
    kernel.ok(
        "import io, threading\n"
        "from contextlib import redirect_stdout\n"
        "from IPython.display import display, HTML\n"
        "go, done = threading.Event(), threading.Event()\n"
        "def prints():\n"
        "    go.wait(30); go.clear()\n"
        "    print('from the job'); display(HTML('<b>job</b>'))\n"
        "    done.set()\n"
        "def redirects():\n"
        "    with redirect_stdout(io.StringIO()) as caught:\n"
        "        done.set(); go.wait(30)\n"
        "        print('inside')\n"
        "    return caught.getvalue()\n"
    )
    cell = kernel.ok("job = %bg prints();")
    capturing = kernel.ok("%%capture captured\nprint('mine')\ngo.set(); assert done.wait(30)")
    kernel.until(lambda: cell.stdout and cell.displays)
    assert cell.stdout == "from the job\n"
    assert cell.displays[0]["text/html"] == "<b>job</b>"
    assert capturing.stdout == ""
    assert kernel.ok("print(repr(captured.stdout), captured.outputs)").stdout == "'mine\\n' []\n"
    quiet = kernel.ok("done.clear()\njob = %bg redirects()\ndone.wait(30);")
    aside = kernel.ok("print('aside')\ngo.set()\nprint(repr(job.result()))")
    assert aside.stdout == "aside\n'inside\\n'\n"
    assert quiet.stdout == ""


def test_a_captured_cell_captures_its_jobs_as_long_as_it_runs(kernel: Kernel) -> None:
    """Their card, text and displays; what comes later is shown under the cell."""
    kernel.ok(
        "import asyncio, sys, threading\nshown, go = threading.Event(), threading.Event()\n"
        "from IPython.display import HTML\n"
        "def talks():\n"
        "    print('early'); print('warning', file=sys.stderr); display(HTML('<b>early</b>'))\n"
        "    shown.set(); go.wait(30)\n"
        "    print('late'); display(HTML('<b>late</b>'))\n"
    )
    cell = kernel.ok("%%capture kept\n%bg talks()\nshown.wait(30)")
    assert (cell.stdout, cell.displays) == ("", [])
    seen = "kept.stdout, kept.stderr, [o.data['text/plain'][:12] for o in kept.outputs[:1]]"
    assert kernel.ok(seen).result == r"('early\n', 'warning\n', ['[1]  talks()'])"
    assert kernel.ok("kept.outputs[1].data['text/html']").result == "'<b>early</b>'"
    kernel.ok("go.set()\n%fg 1")
    kernel.until(lambda: any(d.get("text/html") == "<b>late</b>" for d in cell.displays))
    assert cell.stdout == "late\n"
    assert kernel.ok("kept.stdout").result == r"'early\n'"
    again = kernel.ok("kept()")
    assert "talks()" in again.displays[0]["text/plain"]


def test_fg_shows_what_comes_while_it_waits(kernel: Kernel) -> None:
    """Under its own cell, at once, and not only when the job has ended."""
    kernel.ok(
        "import threading\nsteps = [threading.Event() for _ in range(2)]\n"
        "def talks():\n"
        "    print('one')\n    steps[0].wait(30)\n    print('two')\n    steps[1].wait(30)"
    )
    kernel.ok("%bg -q talks()")
    waiting = kernel.start("threading.Timer(0.2, steps[0].set).start()\n%fg 1")
    kernel.until(lambda: waiting.reply.stdout == "one\ntwo\n")
    assert not waiting.reply.done
    kernel.interrupt()
    assert waiting.wait().ename == "Detached"
    kernel.ok("steps[1].set()")


def test_a_traceback_shows_the_line_of_the_launching_cell(kernel: Kernel) -> None:
    """With its number in the cell, wherever in the cell the job was launched."""
    kernel.ok("import asyncio\ndef fails():\n    raise ValueError('mine')")
    cell = kernel.ok(
        "1\n2\n3\njob = %bg fails()\nawait asyncio.gather(job, return_exceptions=True);"
    )
    kernel.until(lambda: cell.contents("error"))
    shown = _plain(cell.traceback)
    assert "----> 4 fails()" in shown
    assert "----> 3     raise ValueError('mine')" in shown
