"""`%jobs --show` and `--profile`: a look into a job's code, which goes on meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from kernels import Kernel

FIT = """
import asyncio, os, time
def part(n):
    return sum(x * x for x in range(n))
def fit():
    losses = [3, 2, 1]
    epoch = 7
    while not os.path.exists('stop'):
        time.sleep(0.002)
        part(1000)
    return epoch
async def steps():
    step = 'first'
    while not os.path.exists('stop'):
        await asyncio.sleep(0.002)
"""
PLACES = {"thread": "fit()", "loop": "steps()", "own loop": "-t steps()", "process": "-p fit()"}
if sys.platform != "win32":
    PLACES["kept"] = "--keep -p fit()"


@pytest.fixture
def busy(kernel: Kernel, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel with a job in the place that the test names; it ends when a file is there."""
    start(kernel, PLACES[request.param])
    yield kernel
    kernel.ok("open('stop', 'w').close()\n%fg job")


def start(kernel: Kernel, code: str) -> None:
    """Launch a job, and wait until its code runs."""
    kernel.ok(FIT)
    kernel.ok(f"job = %bg {code}")
    here = "any(f.name in ('fit', 'steps') for f in job.stack())"
    kernel.ok(f"while not {here}: await asyncio.sleep(0.01)")


def shown(kernel: Kernel, expression: str, job: str = "job") -> str:
    """What `--show` prints of a job, without its number."""
    printed = kernel.ok(f"%jobs {job} --show {expression}").stdout
    assert printed.startswith("["), printed
    assert printed.count("\n") == 1
    return printed.partition("] ")[2].rstrip("\n")


@pytest.mark.parametrize("busy", ["thread", "process", "kept"], indirect=True)
def test_an_expression_is_evaluated_where_the_job_is(busy: Kernel) -> None:
    """Also while the function has called another: it is found by its names."""
    for _ in range(20):
        assert shown(busy, '"epoch, losses"').startswith("(7, [3, 2, 1])  (cell ")
    assert shown(busy, '"[l for l in losses if l < epoch - 5]"').startswith("[1]  (")
    assert shown(busy, "\"{'a': part(3)}['a'] + epoch\"").startswith("12  (")  # globals, too
    assert " in fit: " in shown(busy, "epoch")


@pytest.mark.parametrize("busy", ["loop", "own loop"], indirect=True)
def test_a_coroutine_shows_its_variables(busy: Kernel) -> None:
    """Where it waits."""
    while "os.path.exists" in (at := shown(busy, "step")):
        pass  # between two waits
    assert at.startswith("'first'  (cell "), at
    assert at.endswith(" in steps: await asyncio.sleep(0.002))")


@pytest.mark.parametrize("busy", ["thread", "process"], indirect=True)
def test_an_error_in_the_expression_is_one_line(busy: Kernel) -> None:
    """With the place in which it was evaluated."""
    assert shown(busy, "nope").startswith("NameError: name 'nope' is not defined  (cell ")
    assert shown(busy, '"losses[9] + epoch"').startswith("IndexError: list index out of range  (")
    assert shown(busy, "\"__import__('sys').exit(epoch)\"").startswith("SystemExit: 7  (")


@pytest.mark.parametrize("busy", ["thread"], indirect=True)
def test_nothing_is_assigned(busy: Kernel) -> None:
    """What could assign is refused; what changes a copy changes nothing."""
    why = {"(epoch := 1)": "it assigns", "epoch = 1": "invalid syntax", "(yield)": "'yield'"}
    for expression, reason in why.items():
        reply = busy.run(f'%jobs job --show "{expression}"')
        assert reply.ename == "UsageError"
        assert reply.evalue is not None
        assert reply.evalue.startswith(
            f'--show takes an expression, such as "epoch, loss", not {expression!r}: {reason}'
        )
    assert shown(busy, '"locals().update(epoch=1), globals().update(epoch=1), epoch"').startswith(
        "(None, None, 1)"
    )
    assert shown(busy, "epoch").startswith("7  (")


@pytest.mark.parametrize("busy", ["thread"], indirect=True)
def test_what_the_expression_prints_is_in_the_cell_that_looks(busy: Kernel) -> None:
    """And not under the job's."""
    printed = busy.ok("%jobs job --show \"print('seen', epoch)\"").stdout
    assert printed.startswith("seen 7\n[")
    assert "None  (cell" in printed


@pytest.mark.parametrize("busy", ["thread", "process"], indirect=True)
def test_a_repr_that_blocks_keeps_nobody(busy: Kernel) -> None:
    """After a second that is said; the job does not notice."""
    blocks = "\"type('Hostile', (), {'__repr__': lambda self: time.sleep(1000)})()\""
    assert shown(busy, blocks) == (
        "no answer within 1 s: its code, the expression or a repr blocks"
    )
    assert shown(busy, "epoch").startswith("7  (")


@pytest.mark.parametrize("busy", ["thread"], indirect=True)
def test_a_repr_is_bounded(busy: Kernel) -> None:
    """In length, and in what it looks at."""
    assert len(shown(busy, "\"'x' * 10**6\"")) < 700
    assert "in all" in shown(busy, '"list(range(10**6))"')
    assert "its repr failed: ZeroDivisionError" in shown(
        busy, "\"type('Bad', (), {'__repr__': lambda self: 1/0})()\""
    )


def test_what_cannot_be_looked_into_says_so(kernel: Kernel) -> None:
    """Each in one line."""
    kernel.ok("import threading, time; go = threading.Event(); release = go.set")
    kernel.ok("done = %bg int('3')\ndone.result()")
    kernel.ok("held = %bg -g one:1 go.wait()\nnext_ = %bg -g one:1 go.wait()")
    assert shown(kernel, "1", "done") == "has ended: finished"
    assert shown(kernel, "1", "next_") == "has not started"
    refused = {"done": "job 1 has ended: finished", "next_": "job 3 has not started"}
    if sys.platform != "win32":
        kernel.ok("command = %bg !sleep 1000")
        why = "is a command: only Python code can be looked into"
        assert shown(kernel, "1", "command") == why
        refused["command"] = f"job 4 {why}"
    for name, line in refused.items():
        reply = kernel.run(f"%jobs {name} --profile 1")
        assert (reply.ename, reply.evalue) == ("UsageError", line)
    two = kernel.run("%jobs held next_ --profile 1")
    assert two.evalue == "--profile takes one job, not 2: %jobs 3 --profile 5"
    kernel.ok("release()")


@pytest.mark.parametrize("busy", [*PLACES], indirect=True)
def test_a_profile_shows_where_the_time_goes(busy: Kernel) -> None:
    """As a table by line, and as a picture in a notebook; the cell waits for it."""
    bundle = busy.ok("%jobs job --profile 0.5s\nprint('after')").displays[0]
    title, first, *_ = bundle["text/plain"].split("\n")
    assert title.startswith("job ")
    assert "): 0." in title
    assert "sleep(0.002)" in first
    assert "  cell " in first
    assert int(first.partition("%")[0]) > 30
    assert "<svg" in bundle["text/html"]
    assert "sleep(0.002)" in bundle["text/html"]


#: Tells when a profile is taken; it can, as the loop is not blocked.
TELL = """
import threading
async def tell():
    while not any(t.name == 'bg-profile' for t in threading.enumerate()):
        await asyncio.sleep(0.01)
    print('it is sampled')
teller = %bg tell()
"""


@pytest.mark.parametrize("busy", ["thread", "process"], indirect=True)
def test_an_interrupt_ends_a_profile_early(busy: Kernel) -> None:
    """What there is by then is shown; the loop has gone on meanwhile."""
    teller = busy.ok(TELL)
    waits = busy.start("%jobs job --profile 10m")
    busy.until(lambda: "it is sampled" in teller.stdout)
    busy.interrupt()
    reply = waits.wait()
    assert reply.status == "ok", reply.traceback
    assert reply.displays[0]["text/plain"].startswith("job ")
    assert busy.ok("async with asyncio.timeout(9): await asyncio.sleep(0)\nprint('x')").stdout


def test_a_profile_ends_with_its_job(kernel: Kernel) -> None:
    """And says so."""
    start(kernel, "fit()")
    kernel.ok(TELL.replace("print('it is sampled')", "open('stop', 'w').close()"))
    bundle = kernel.ok("%jobs job --profile 10m").displays[0]
    assert bundle["text/plain"].partition("\n")[0].endswith("s, until it ended")


def test_a_cell_sent_away_is_looked_into(kernel: Kernel) -> None:
    """As any job."""
    cell = kernel.start(
        "import os\ndef held(token):\n    while not os.path.exists('stop'): pass\n"
        "print('begun')\nheld(42)"
    )
    kernel.until(lambda: "begun" in cell.reply.stdout)
    asked = kernel.start("%bg", queue=True)
    cell.wait()
    asked.wait()
    kernel.ok("job = __import__('ipy_bgtasks').jobs()['%%']")
    assert shown(kernel, "token").startswith("42  (cell ")
    bundle = kernel.ok("%jobs job --profile 0.3").displays[0]
    assert "held" in bundle["text/plain"]
    kernel.ok("open('stop', 'w').close()\n%fg job")


def test_where_nobody_can_await_it_says_so(kernel: Kernel) -> None:
    """In a plain function: the loop would stop."""
    start(kernel, "fit()")
    reply = kernel.run("def f():\n    %jobs job --profile 1\nf()")
    assert reply.evalue == "--profile cannot wait here: use it at the top level of a cell"
    kernel.ok("open('stop', 'w').close()\n%fg job")
