"""Launching in a real kernel: what CODE may be, and when and where it runs."""

from __future__ import annotations

import re

import pytest
from kernels import Kernel, MakeKernel

SETUP = """
import asyncio, threading, time
async def gives(value):
    return value
class Caller:
    def plain(self):
        return 'plain'
caller = Caller()
def makes(value):
    return gives(value)
def where():
    return threading.current_thread() is threading.main_thread()
async def awhere():
    return threading.current_thread() is threading.main_thread(), asyncio.get_running_loop() is L
L = asyncio.get_running_loop()
"""


@pytest.fixture
def k(shared: Kernel) -> Kernel:
    """The shared kernel with something to launch."""
    shared.ok(SETUP)
    return shared


@pytest.mark.parametrize(
    ("code", "where", "value"),
    [
        ("caller.plain", "thread", "'plain'"),
        ("caller.plain()", "thread", "'plain'"),
        ("where", "thread", "False"),
        ("where()", "thread", "False"),
        ("-l where()", "loop", "True"),
        ("awhere", "loop", "(True, True)"),
        ("awhere()", "loop", "(True, True)"),
        ("-t awhere()", "thread", "(False, False)"),
        ("asyncio.shield(gives(3))", "loop", "3"),
        ("asyncio.to_thread(where)", "loop", "False"),
        ("asyncio.create_task(gives(3))", "loop", "3"),
        ("makes(3)", "loop", "3"),
        ("[i for i in range(3)]", "thread", "[0, 1, 2]"),
        ("'{1, 2}'.format(), {1, 2}, '$L'", "thread", None),
        ("x = y = sum([1, 2])", "thread", "3"),
        ("a, b = gives((1, 2))", "loop", "(1, 2)"),
        ("time.sleep(0); x = 4", "thread", "None"),
    ],
)
def test_code_runs_in_its_place(k: Kernel, code: str, where: str, value: str | None) -> None:
    """What a kernel's threads and loop have a part in; the shell's tests have the whole table."""
    if value is None:
        code, value = "{1, 2} | {3}, '$L', '{L}'", "({1, 2, 3}, '$L', '{L}')"
    launched = k.ok(f"job = %bg {code}\njob.number")
    waited = k.ok("x = %fg job\nx, job.where, str(job.state)")
    assert waited.result == f"({value}, '{where}', 'finished')"
    assert launched.stderr == waited.stderr == ""


@pytest.mark.parametrize(
    ("cell", "where", "value"),
    [
        ("x = await gives(3)\nx + 1", "loop", "4"),
        ("x = !echo hello\nx[0]", "thread", "'hello'"),
        ("%time 3\nx = 3", "thread", "None"),
        ("x = await gives(3)\ny = %fg gives(4)\n(x, y)", "loop", "(3, 4)"),
        ("import warnings\n\n# a comment\nif True:\n    z = 1\nz", "thread", "1"),
    ],
)
def test_a_cell_runs_in_its_place(k: Kernel, cell: str, where: str, value: str) -> None:
    """In the user's namespace; the value of its last expression is the result."""
    k.ok(f"%%bg -n mine\n{cell}")
    waited = k.ok("x = %fg %mine\njob = __import__('ipy_bgtasks').jobs()['%mine']\nx, job.where")
    assert waited.result == f"({value}, '{where}')"


def test_a_thread_starts_before_the_launching_line_is_over(k: Kernel) -> None:
    """Its first line comes before the next statement's, thirty times over, on a warm thread."""
    k.ok("%config BgTasks.labels = False")
    k.ok("%fg -- where()")
    k.ok("def first(i):\n    print('first', i)")
    reply = k.ok("for i in range(30):\n    %bg first(i)\n    print('then', i)")
    k.ok("%fg all;")
    lines = k.until(lambda: (s := reply.stdout.splitlines()) and len(s) == 60 and s)
    assert lines == [f"{word} {i}" for i in range(30) for word in ("first", "then")]


def test_a_coroutine_starts_when_the_loop_next_runs(k: Kernel) -> None:
    """Not in the launching line, but at the next await."""
    reply = k.ok(
        "async def says():\n    print('started')\n"
        "%bg says();\nprint('launched')\nawait asyncio.sleep(0)\nprint('awaited')"
    )
    assert k.until(lambda: reply.stdout if reply.stdout.count("\n") == 3 else None) == (
        "launched\nstarted\nawaited\n"
    )


def test_a_coroutine_in_a_thread_goes_on_while_a_cell_blocks(k: Kernel) -> None:
    """The loop's own stands still meanwhile."""
    k.ok(
        "ticks = {'t': 0, 'l': 0}; enough = threading.Event()\n"
        "async def tick(which):\n"
        "    while True:\n"
        "        ticks[which] += 1\n"
        "        if which == 't' and ticks['t'] >= 20: enough.set()\n"
        "        await asyncio.sleep(0.001)"
    )
    k.ok("%bg -l -q tick('l')\n%bg -t -q tick('t');")
    reply = k.ok("before = ticks['l']\nblocked = enough.wait(20)\nblocked, ticks['l'] - before")
    assert reply.result == "(True, 0)"


def test_what_exceeds_max_threads_is_queued_and_starts_in_order(k: Kernel) -> None:
    """It is visible as such, and a higher limit lets more start."""
    k.ok("%config BgTasks.max_threads = 2")
    k.ok(
        "order = []; gates = [threading.Event() for _ in range(5)]\n"
        "def take(i):\n    order.append(i); gates[i].wait(20); return i"
    )
    k.ok("js = []\nfor i in range(5):\n    j = %bg -n q{i} take(i)\n    js.append(j)")
    states = "[str(j.state) for j in js], order"
    assert k.ok(states).result == str((["running"] * 2 + ["queued"] * 3, [0, 1]))
    assert k.ok("%jobs").displays[-1]["text/plain"].count("queued") == 3
    k.ok("second = js[1]; gates[1].set()\n%fg second")
    k.ok("for g in gates: g.set()\nr = [j.result(20) for j in js]")
    assert k.ok("r, order").result == str((list(range(5)), list(range(5))))
    k.ok("%config BgTasks.max_threads = 64")


def test_the_failure_of_a_thread_without_a_loop_says_what_would_do(k: Kernel) -> None:
    """The note stands under the traceback."""
    k.ok("def starts():\n    asyncio.create_task(gives(3))")
    launched = k.ok("%bg starts();")
    k.until(lambda: "no running event loop" in launched.traceback)
    assert "%bg -l …" in launched.traceback


def test_a_failed_job_shows_the_users_lines_under_its_cell(k: Kernel) -> None:
    """Cell, line and source; none of ours."""
    launched = k.ok("def broken(x):\n    y = x\n    return 1 / y\n\njob = %bg broken(0)")
    k.until(lambda: launched.traceback)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", launched.traceback)
    assert "ZeroDivisionError" in plain
    assert "return 1 / y" in plain
    assert "ipy_bgtasks" not in plain
    # IPython 7 names the file of a cell, not its number.
    assert re.search(r"Cell In\[\d+\], line 3|ipykernel_\d+/\d+\.py in broken", plain)


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_an_exit_in_a_job_disturbs_nobody(k: Kernel, error: str) -> None:
    """In a coroutine, a task, a thread, a thread of a thread; waited for or not."""
    k.ok(
        f"def fails():\n    raise {error}\n"
        "async def afails(): fails()\n"
        "async def child(): await asyncio.create_task(afails())\n"
        "async def lost():\n"
        "    tasks = [asyncio.create_task(afails()) for _ in range(3)]\n"
        "    await asyncio.wait(tasks)\n    return 'lost'\n"
        "async def group():\n"
        "    async with asyncio.TaskGroup() as g: g.create_task(afails())\n"
        "def thread():\n"
        "    t = threading.Thread(target=fails); t.start(); t.join(); return 'joined'\n"
        "gate = asyncio.Event()"
    )
    k.ok("other = %bg gate.wait()")
    codes = ["fails()", "afails()", "child()", "lost()", "group()", "thread()"]
    codes += ["-t afails()", "-t child()", "-t lost()", "-t group()"]
    k.ok("js = []")
    for code in codes:
        k.ok(f"j = %bg -q {code}\njs.append(j)")
    k.ok("while not all(j.done() for j in js): await asyncio.sleep(0.001)")
    states = k.ok("print(*[j.state for j in js])").stdout.split()
    assert states[:6] == ["failed", "failed", "failed", "finished", "failed", "finished"]
    # A coroutine in a thread has a loop to itself, which an exit may end.
    assert {*states[6:]} <= {"failed", "finished"}
    names = k.ok("print(*[type(j.exception()).__name__ for j in js])").stdout.split()
    name = error.partition("(")[0]
    assert names[:3] == [name] * 3
    waited = k.run("failed = js[1]\n%fg failed")
    assert waited.ename == name
    k.ok("gate.set()")
    assert k.ok("%fg other").result == "True"


@pytest.mark.parametrize("asks", ["input('?')", "getpass.getpass()", "breakpoint()"])
def test_a_job_cannot_ask(k: Kernel, asks: str) -> None:
    """It raises at once; in the foreground all is as before."""
    k.ok(f"import getpass\ndef ask():\n    return {asks}\nasync def aask():\n    return {asks}")
    for code in ("ask()", "aask()", "-t aask()"):
        k.ok(f"job = %bg -q {code}")
        name = asks.partition("(")[0].rpartition(".")[2]
        failed = k.run("%fg job")
        assert failed.ename == "CannotAsk"
        assert f"{name}() in job" in str(failed.evalue)
    if asks.startswith("input"):
        assert k.run("input('?')").ename == "StdinNotImplementedError"


def test_gathering_failed_jobs_in_the_foreground_is_no_end_of_the_kernel(k: Kernel) -> None:
    """Asyncio makes tasks of the jobs there; a task that exits would take the loop along."""
    k.ok("async def leaves(): raise SystemExit(3)\none = %bg -q leaves()\ntwo = %bg -q leaves()")
    for code in ("asyncio.gather(one, two)", "asyncio.wait_for(one, 5)"):
        assert k.run(f"await {code}").ename in ("SystemExit", "ExitInTask")
    assert k.ok("1 + 1").result == "2"


def test_a_timeout_strikes_while_a_cell_blocks(k: Kernel) -> None:
    """The job ends failed, and says so."""
    k.ok("stop = threading.Event()\ndef spins():\n    while not stop.wait(0.001): pass")
    k.ok("job = %bg -q --timeout 0.05 spins()")
    blocked = "e = job.exception(20)\ntype(e).__name__, str(job.state)"
    assert k.ok(blocked).result == "('TimeoutError', 'failed')"
    k.ok("async def naps():\n    await asyncio.Event().wait()\njob = %bg -q --timeout 0.05 naps()")
    failed = k.run("%fg job")
    assert failed.ename == "TimeoutError"
    assert re.search(r"job \d+ took longer than 0\.05 s", str(failed.evalue))


def test_with_autoawait_off_only_waiting_is_refused(make_kernel: MakeKernel) -> None:
    """One line each, nothing launched; `%bg` and thread jobs go on working."""
    kernel = make_kernel()
    kernel.load()
    kernel.ok("%autoawait off")
    for line in ("%fg print()", "x = %fg print()", "%%fg\nprint()"):
        refused = kernel.run(line)
        assert refused.ename == "UsageError"
        assert "autoawait off" in str(refused.evalue)
    assert kernel.ok("len(__import__('ipy_bgtasks').jobs())").result == "0"
    assert kernel.ok("job = %bg max(1, 2)\njob.result(20)").result == "2"
    cancelled = kernel.ok("%cancel 1")
    assert "finished before" in cancelled.stdout
