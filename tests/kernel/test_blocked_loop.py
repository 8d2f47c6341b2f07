"""A coroutine job that blocks the kernel's loop: cells go on, and it can be stopped."""

from __future__ import annotations

import pytest
from kernels import Kernel, Reply

#: Its jobs sleep because that is what blocks the loop.
SETUP = """
import asyncio, threading, time
from ipy_bgtasks import jobs
ended = []
async def sleeps():
    print('begins')
    try:
        time.sleep(1000)
    finally:
        await asyncio.sleep(0)
        ended.append('tidily')
async def computes():
    print('begins')
    while True: pass
async def in_a_task():
    await asyncio.gather(sleeps(), asyncio.sleep(1000))
async def stubborn():
    print('begins')
    for _ in range(3):
        try:
            time.sleep(1000)
        except asyncio.CancelledError:
            print('caught')
"""
FORMS = ["sleeps()", "computes()", "in_a_task()"]


@pytest.fixture
def k(kernel: Kernel) -> Kernel:
    """A kernel whose watchdog is quick."""
    kernel.ok(SETUP)
    kernel.ok("%config BgTasks.watchdog = 0.2")
    return kernel


def blocked(k: Kernel, form: str = "sleeps()") -> Reply:
    """Launch it, and wait for the notice that it blocks the loop."""
    reply = k.start(f"job = %bg {form}").reply
    k.until(lambda: "has blocked the event loop" in reply.stderr)
    return reply


def is_free(k: Kernel) -> None:
    """Cells run on the main thread again."""
    where = "threading.current_thread() is threading.main_thread()"
    k.until(lambda: k.ok(where).result == "True")


@pytest.mark.parametrize("form", FORMS)
def test_cancel_ends_it(k: Kernel, form: str) -> None:
    """In the step in which it is; its clean-up may await."""
    blocked(k, form)
    assert k.ok("%cancel job").stdout.endswith(" cancelled\n")
    is_free(k)
    assert k.ok("print(*ended)").stdout == ("\n" if form == "computes()" else "tidily\n")


@pytest.mark.parametrize("form", FORMS)
def test_the_stop_button_ends_it_where_no_cell_runs(k: Kernel, form: str) -> None:
    """It is what the user waits for."""
    blocked(k, form)
    k.interrupt()
    is_free(k)
    assert k.ok("str(job.state)").result == "'cancelled'"
    # From now on it is for cells again.
    front = k.start("print('here')\nwhile True: pass")
    k.until(lambda: front.reply.stdout)
    k.interrupt()
    assert front.wait().ename == "KeyboardInterrupt"


def test_cells_go_on_beside_it(k: Kernel) -> None:
    """In another thread; the stop button is theirs, and numbers go on as ever."""
    blocked(k)
    before = k.ok("1 + 1")
    assert before.result == "2"
    number = before.contents("execute_input")[0]["execution_count"]
    assert k.ok("await asyncio.sleep(0, 3)").result == "3"
    front = k.start("print('here')\nwhile True: pass")
    k.until(lambda: front.reply.stdout)
    k.interrupt()
    assert front.wait().ename == "KeyboardInterrupt"
    after = k.ok("str(job.state)")
    assert after.result == "'running'"
    waits = k.start("other = %bg asyncio.sleep(0, 5)\nx = %fg other")
    k.until(lambda: "job 2 stands still until job 1 (sleeps()) ends\n" in waits.reply.stdout)
    k.interrupt()
    assert waits.wait().ename == "Detached"
    assert after.contents("execute_input")[0]["execution_count"] == number + 3
    k.ok("%cancel job")
    is_free(k)


def test_a_cell_that_came_before_the_notice_waits_and_cancel_does_not(k: Kernel) -> None:
    """It was on its way to the main thread already."""
    k.ok("%config BgTasks.watchdog = 1")
    reply = k.start("job = %bg sleeps()").reply
    k.until(lambda: "begins" in reply.stdout)
    stuck = k.start("'stu' 'ck'")
    k.until(lambda: "has blocked the event loop" in reply.stderr)
    assert k.ok("%cancel 1", queue=True).stdout == "job 1 (sleeps()) cancelled\n"
    assert stuck.wait().result == "'stuck'"


def test_by_force_it_is_asked_again(k: Kernel) -> None:
    """It catches what it is sent, and goes on."""
    reply = blocked(k, "stubborn()")
    still = k.ok("%cancel job").stdout
    assert "which blocks its event loop; -f raises an exception there" in still
    k.ok("%cancel -f job")
    is_free(k)
    assert reply.stdout.count("caught") == 3


def test_a_job_is_not_said_to_block_while_a_cell_does(k: Kernel) -> None:
    """It cannot be cancelled at its await before that cell has ended."""
    k.ok("%config BgTasks.cancel_grace = 0.1")
    k.ok("job = %bg asyncio.sleep(1000)")
    k.ok("go = threading.Event()")
    computes = k.start("print('computes')\nwhile not go.is_set(): pass")
    k.until(lambda: computes.reply.stdout)
    k.start("%bg", queue=True).wait()
    still = k.ok("%cancel job").stdout
    assert "job 1" in still
    assert "blocks its event loop" not in still
    k.ok("go.set()")
    k.until(lambda: k.ok("str(job.state)").result == "'cancelled'")


def test_an_await_cell_is_interrupted_though_a_job_blocks(k: Kernel) -> None:
    """Both end: the one is in the other's way."""
    waits = k.start(
        "import threading\nasync def late():\n    await gate.wait()\n    await sleeps()\n"
        "gate = asyncio.Event()\njob = %bg late()\ngate.set()\nawait asyncio.Event().wait()"
    )
    k.until(lambda: "has blocked the event loop" in waits.reply.stderr)
    k.interrupt()
    assert waits.wait().ename == "KeyboardInterrupt"
    assert k.ok("str(job.state)").result == "'cancelled'"


def test_a_wait_for_the_job_that_blocks_is_interrupted(k: Kernel) -> None:
    """It cannot detach from it: the job ends."""
    waits = k.start("%fg sleeps()")
    k.until(lambda: "has blocked the event loop" in waits.reply.stderr)
    k.interrupt()
    assert waits.wait().status == "error"
    assert k.ok("str(jobs()[1].state), ended").result == "('cancelled', ['tidily'])"


def test_the_kernel_shuts_down_though_a_job_blocks_it(k: Kernel) -> None:
    """Also one that does so when it cleans up."""
    k.ok(
        "async def late():\n    try:\n        await asyncio.sleep(1000)\n"
        "    finally:\n        time.sleep(1000)\njob = %bg late()"
    )
    k.shutdown()
    assert k.status() == 0
