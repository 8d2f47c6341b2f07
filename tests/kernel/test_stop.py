"""Stopping, looking and warning in a real kernel."""

from __future__ import annotations

import re

import pytest
from kernels import Kernel, Reply

SETUP = """import asyncio, threading, time
gate = threading.Event()
async def child():
    gate.wait()
async def parent():
    await asyncio.create_task(child())
async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
lock = threading.Lock(); lock.acquire()
def stuck():
    lock.acquire()
def spin():
    while True:
        pass
def printer():
    while True:
        print("x")
"""


@pytest.fixture
def ready(kernel: Kernel) -> Kernel:
    """A kernel in which cell 2 has defined some functions."""
    kernel.ok(SETUP)
    return kernel


def text(reply: Reply) -> str:
    """What a cell displayed, as text."""
    return reply.displays[-1]["text/plain"]


def test_a_blocked_loop_is_told_under_the_jobs_own_cell(ready: Kernel) -> None:
    """Within about a second, with job, cell, line and what would avoid it; and once."""
    ready.ok("%config BgTasks.watchdog = 1")
    reply = ready.ok("threading.Timer(2.5, gate.set).start()\n%bg parent();")
    line = ready.until(lambda: reply.stderr)
    other = ready.ok("1")
    ready.ok("%fg")
    assert re.fullmatch(
        r"job 1 \(parent\(\)\) has blocked the event loop for 1\.\d s in gate\.wait "
        r"\(cell 2, line 4\): nothing else on the loop can go on\. %cancel 1 stops it\. "
        r"%bg --thread would avoid that\n",
        line,
    )
    assert reply.stderr == line
    assert other.stderr == ""


def test_the_watchdog_can_be_turned_off_and_blames_no_job_for_a_cell(ready: Kernel) -> None:
    """`%config` has effect at once."""
    ready.ok("%config BgTasks.watchdog = 1")
    waits = ready.ok("%bg asyncio.sleep(1000);")
    cell = ready.ok("time.sleep(1.6)")  # longer than the watchdog's limit
    ready.ok("%config BgTasks.watchdog = 0")
    blocks = ready.ok("threading.Timer(1.6, gate.set).start()\n%bg child();")
    ready.ok("%fg")
    assert [reply.stderr for reply in (waits, cell, blocks)] == ["", "", ""]


def test_a_thread_in_c_is_cancelling_and_the_report_says_where(ready: Kernel) -> None:
    """With the cell and line, and what would work; when it returns it is cancelled."""
    ready.ok("%config BgTasks.cancel_wait = 0.2")
    ready.ok("%bg stuck();")
    assert ready.ok("%cancel 1").stdout == (
        "job 1 is still in lock.acquire (cell 2, line 15); it stops when that returns. "
        "Started with %bg -p it could be killed.\n"
    )
    verbose = text(ready.ok("%jobs -v"))
    assert "cancelling" in verbose
    assert "at cell 2, line 15 in stuck: lock.acquire()" in verbose
    shown = text(ready.ok("%jobs 1"))
    assert re.search(r"at +cell 2, line 15 in stuck: lock\.acquire\(\)", shown)
    assert re.search(r"stack +cell \d+, line 1: stuck\(\)", shown)
    ready.ok("lock.release()")
    assert ready.run("%fg 1").ename == "CancelledError"


def test_threads_in_python_are_stopped_where_they_are(ready: Kernel) -> None:
    """Also one that is nearly always in our code, and the kernel prints on."""
    ready.ok("%bg spin();")
    reply = ready.ok("%bg printer();")
    ready.until(lambda: "x\n" in reply.stdout)
    said = ready.ok("%cancel all").stdout
    assert said == "job 1 (spin()) cancelled\njob 2 (printer()) cancelled\n"
    assert ready.ok("print('on')").stdout == "on\n"
    assert set(reply.stdout.split("\n")) == {"x", ""}


def test_a_coroutine_that_refuses_stays_cancelling(ready: Kernel) -> None:
    """`%cancel` says where it waits, and so does `%jobs -v`."""
    ready.ok("%config BgTasks.cancel_wait = 0.2")
    ready.ok("%bg stubborn();")
    assert ready.ok("%cancel 1").stdout == (
        "job 1 was told to stop and is still in asyncio.Event().wait (cell 2, line 10); "
        "-f asks again until it ends\n"
    )
    verbose = text(ready.ok("%jobs -v"))
    assert "at cell 2, line 10 in stubborn: await asyncio.Event().wait()" in verbose


def test_the_stack_of_a_coroutine_shows_all_awaits(ready: Kernel) -> None:
    """Asked from a thread while the loop is blocked, too."""
    ready.ok(
        "jobs, seen = [], []\n"
        "def look():\n"
        "    while not jobs or 'child' not in (names := [f.name for f in jobs[0].stack()]):\n"
        "        time.sleep(0.01)\n"
        "    seen.extend(names)\n"
        "    gate.set()\n"
        "threading.Thread(target=look).start()"
    )
    ready.ok("jobs.append(get_ipython().run_line_magic('bg', '-q parent()'))\nawait jobs[0]")
    assert ready.ok("[name for name in seen if name in ('parent', 'child')]").result == (
        "['parent', 'child']"
    )


def test_what_was_compiled_for_a_job_goes_with_it(ready: Kernel) -> None:
    """And what IPython remembers of it; the job holds its result alone."""
    ready.ok("%config BgTasks.max_finished = 1")  # the jobs of a cell count as one
    ready.ok("import gc, linecache\nasync def quick(i): return i")
    ready.ok(
        "ip = get_ipython()\n"
        "from ipy_bgtasks.frontends.installing import cell_numbers\n"
        "def sizes(): return len(cell_numbers(ip)), len(linecache.cache)\n"
        "async def many(count):\n"
        "    for i in range(count):\n"
        "        job = ip.run_line_magic('bg', f'-q quick({i})')\n"
        "        await job\n"
        "    return job"
    )
    ready.ok("last = await many(1)\nbefore = sizes()")
    ready.ok("last = await many(200)")
    ready.ok("last = await many(1)\nafter = sizes()")
    grown = ready.ok("max(b - a for a, b in zip(before, after))").result
    assert int(grown or 99) <= 2  # the cells themselves
    ready.ok("from ipy_bgtasks.job.handle import record_of\nlast = record_of(last)")
    assert ready.ok("(last.work, last.run, last.runner)").result == "(None, None, None)"
    counted = "gc.collect(); len([o for o in gc.get_objects() if type(o) is type(last)])"
    assert int(ready.ok(counted).result or 99) <= 3
