"""`%bg` alone: the cell that runs goes to the background, and others run meanwhile."""

from __future__ import annotations

import os
import signal

import ipykernel
import pytest
from forks import stopwatch
from kernels import Kernel, Pending, Reply

#: Seconds. On a quiet machine leaving takes less than one, as it is measured by `tests/stress`.
BOUND = 3.0

#: A cell that prints, waits until it may go on, prints again and has a value.
LONG = "print('begins')\ngo.wait()\nprint('goes on')\n6 * 7"


@pytest.fixture
def k(kernel: Kernel) -> Kernel:
    """A kernel with what the cells here use."""
    kernel.ok("import asyncio, threading, time\ngo = threading.Event()\ngate = asyncio.Event()")
    return kernel


def running(kernel: Kernel, code: str = LONG, until: str = "begins\n") -> Pending:
    """Start a cell and wait until its code runs."""
    cell = kernel.start(code)
    kernel.until(lambda: until in cell.reply.stdout)
    return cell


def sent_away(kernel: Kernel, cell: Pending, code: str = "job = %bg") -> Reply:
    """Send it to the background; both requests are answered."""
    asked = kernel.start("%bg", queue=True)
    cell.wait()
    asked.wait()
    kernel.ok("job = __import__('ipy_bgtasks').jobs()['%%']")
    return asked.reply


def shown_text(cell: Pending) -> str:
    """What is displayed as text under a cell."""
    return "\n".join(shown["text/plain"] for shown in cell.reply.displays)


def replies(reply: Reply) -> int:
    """How many replies a request got."""
    return len(reply.contents("execute_reply"))


def idles(reply: Reply) -> int:
    """How often the kernel said that it is done with a request."""
    return [c["execution_state"] for c in reply.contents("status")].count("idle")


def test_the_story(k: Kernel) -> None:
    """The cell gets its number at once, goes on below itself, shows its value; others run."""
    cell = running(k)
    number = cell.reply.contents("execute_input")[0]["execution_count"]
    asked = sent_away(k, cell)
    assert cell.reply.content["execution_count"] == number
    assert cell.reply.status == asked.status == "ok"
    assert "running  print('begins')" in asked.displays[-1]["text/plain"]
    other = k.ok("print('meanwhile')\n1 + 1")
    assert (other.stdout, other.result) == ("meanwhile\n", "2")
    assert k.ok("str(job.state), job.where, job.name").result == (
        "('running', 'cell', \"print('begins')\")"
    )
    listed = k.ok("%jobs")
    assert "running  cell  print('begins')" in listed.displays[-1]["text/plain"]
    k.ok("go.set()")
    k.until(lambda: cell.reply.result)
    assert cell.reply.stdout == "begins\ngoes on\n"
    assert cell.reply.result == "42"
    assert k.ok("x = %fg job\nx").result == "42"
    assert k.ok(f"Out[{number}], _{number}").result == "(42, 42)"
    assert k.ok("str(job.state), job.log.stdout").result == "('finished', 'goes on\\n')"
    assert [replies(r) for r in (cell.reply, asked)] == [1, 1]
    assert [idles(r) for r in (cell.reply, asked)] == [1, 1]
    main = k.ok("threading.current_thread() is threading.main_thread()")
    assert main.result == "True"


def test_each_cell_has_a_number_of_its_own(k: Kernel) -> None:
    """Those that run meanwhile count on; the one that was away does not count twice."""
    cell = running(k)
    asked = sent_away(k, cell)
    between = [k.ok("1") for _ in range(3)]
    k.ok("go.set()")
    k.ok("x = %fg job")
    after = k.ok("2")
    numbers = [r.content["execution_count"] for r in (cell.reply, asked, *between)]
    first = numbers[0]
    assert numbers == [first, first + 1, first + 3, first + 4, first + 5]
    assert after.content["execution_count"] == first + 8
    assert k.ok(f"In[{first}].splitlines()[0], In[{first + 1}]").result == (
        "(\"print('begins')\", \"get_ipython().run_line_magic('bg', '')\")"
    )


def test_an_await_cell_is_sent_away_too(k: Kernel) -> None:
    """And coroutine jobs go on, since it does not block their loop."""
    cell = running(k, "print('begins')\nawait gate.wait()\nprint('goes on')\n6 * 7")
    sent_away(k, cell)
    k.ok(
        "async def ticks():\n"
        "    for n in range(3):\n        await asyncio.sleep(0.001)\n    return n"
    )
    assert k.ok("t = %bg ticks();\nt.result(20)").result == "2"
    k.ok("loop = get_ipython().kernel.io_loop.asyncio_loop")
    k.ok("loop.call_soon_threadsafe(gate.set)")
    assert k.ok("x = %fg job\nx").result == "42"
    k.until(lambda: cell.reply.result == "42")
    assert cell.reply.stdout == "begins\ngoes on\n"


def test_a_failure_shows_under_the_cell_and_fails_the_job(k: Kernel) -> None:
    """Once, and the cells after it run."""
    cell = running(k, "print('begins')\ngo.wait()\n1 / 0")
    sent_away(k, cell)
    k.ok("go.set()")
    failed = k.run("%fg job")
    assert failed.ename == "ZeroDivisionError"
    assert k.ok("str(job.state)").result == "'failed'"
    assert len(cell.reply.contents("error")) == 1
    assert k.ok("1 + 1").result == "2"


@pytest.mark.parametrize(
    "code",
    [
        "print('begins')\nwhile True: pass",
        "print('begins')\ntime.sleep(1000)",
        "print('begins')\nawait gate.wait()",
        "async def sleeps():\n    print('begins')\n    time.sleep(1000)\nawait sleeps()",
        "async def sleeps():\n    print('begins')\n    time.sleep(1000)\n"
        "await asyncio.gather(sleeps(), gate.wait())",
    ],
    ids=["busy", "asleep", "await", "asleep in an await", "asleep in a task"],
)
def test_cancel_interrupts_it_where_it_is(k: Kernel, code: str) -> None:
    """As the stop button would have; the job is cancelled then."""
    cell = running(k, code)
    sent_away(k, cell)
    k.ok("%cancel job")
    k.until(lambda: k.ok("str(job.state)").result == "'cancelled'")
    # Its thread is free a moment after that.
    where = "threading.current_thread() is threading.main_thread()"
    k.until(lambda: k.ok(where).result == "True")


@pytest.mark.parametrize(
    "code",
    ["print('here')\nwhile True: pass", "print('here')\nawait asyncio.Event().wait()"],
    ids=["plain", "await"],
)
def test_the_stop_button_hits_the_foreground_cell_alone(k: Kernel, code: str) -> None:
    """Whatever it does; with no cell in the foreground it does nothing."""
    cell = running(k, "print('begins')\nwhile not go.is_set(): time.sleep(0.001)\n'whole'")
    sent_away(k, cell)
    k.interrupt()
    front = running(k, code, "here\n")
    k.interrupt()
    assert front.wait().status == "error"
    assert k.ok("1 + 1").result == "2"
    k.interrupt()
    k.ok("go.set()")
    assert k.ok("x = %fg job\nx").result == "'whole'"
    # Afterwards it is the main thread's again.
    front = running(k, code, "here\n")
    k.interrupt()
    assert front.wait().status == "error"


def test_fg_lets_go_of_it_again(k: Kernel) -> None:
    """The stop button ends the wait; the cell goes on."""
    cell = running(k)
    sent_away(k, cell)
    waits = k.start("print('waits')\nx = %fg job")
    k.until(lambda: "waits\n" in waits.reply.stdout)
    k.until(lambda: k.messages_of(waits.reply.msg_id))
    k.interrupt()
    assert waits.wait().ename == "Detached"
    assert k.ok("str(job.state)").result == "'running'"
    k.ok("go.set()")
    assert k.ok("x = %fg job\nx").result == "42"


def test_a_second_one_sends_away_the_cell_in_the_subshell(k: Kernel) -> None:
    """Both end in their own place."""
    first = running(k)
    sent_away(k, first)
    k.ok("one = job\nother = threading.Event()")
    second = running(k, "print('begins')\nother.wait()\n'second'")
    sent_away(k, second)
    k.ok("two = job")
    assert k.ok("one is two, one.where, two.where").result == "(False, 'cell', 'cell')"
    assert k.ok("1 + 1").result == "2"
    k.ok("other.set()")
    assert k.ok("x = %fg two\nx").result == "'second'"
    assert k.ok("str(one.state)").result == "'running'"
    k.ok("go.set()")
    assert k.ok("x = %fg one\nx").result == "42"
    k.until(lambda: first.reply.result == "42" and second.reply.result == "'second'")


def test_two_in_quick_succession_send_one_cell_away(k: Kernel) -> None:
    """The second asks when the first itself is the cell that runs, and must not take that one."""
    cell = running(k)
    first, second = k.start("%bg", queue=True), k.start("%bg", queue=True)
    assert [asked.wait().status for asked in (cell, first, second)] == ["ok", "ok", "error"]
    assert second.reply.stderr.startswith("UsageError: no cell runs that could go")
    assert k.ok("[job.where for job in __import__('ipy_bgtasks').jobs()]").result == "['cell']"
    k.ok("go.set()")
    k.until(lambda: cell.reply.result == "42")


@pytest.mark.skipif(ipykernel.version_info[0] < 7, reason="a client's subshells need ipykernel 7")
@pytest.mark.parametrize("code", ["%bg", "%bg;"])
def test_a_subshell_sends_away_the_cell_of_the_main_shell(k: Kernel, code: str) -> None:
    """There the card is shown, and `%jobs` lists it; cells that waited run meanwhile."""
    cell = running(k)
    waiting = k.start("print('meanwhile')", queue=True)
    subshell = k.subshell()
    asked = k.start(code, subshell=subshell).wait()
    assert "running  print('begins')" in asked.displays[-1]["text/plain"]
    assert waiting.wait().stdout == "meanwhile\n"
    assert cell.wait().status == "ok"
    listed = k.ok("%jobs", subshell=subshell)
    assert "running  cell  print('begins')" in listed.displays[-1]["text/plain"]
    assert k.run(code, subshell=subshell).ename == "UsageError"  # nothing is left to send away
    k.ok("go.set()", subshell=subshell)
    k.until(lambda: cell.reply.result == "42")
    assert [replies(cell.reply), replies(asked)] == [1, 1]


def test_a_cell_that_waits_with_fg_when_away_says_what_ends_the_wait(k: Kernel) -> None:
    """The stop button is the foreground's."""
    k.ok("job1 = %bg -t asyncio.Event().wait()")
    cell = running(k, "print('begins')\nawait gate.wait()\nx = %fg job1")
    sent_away(k, cell)
    k.ok("loop = get_ipython().kernel.io_loop.asyncio_loop")
    k.ok("loop.call_soon_threadsafe(gate.set)")
    k.until(lambda: "job 2 waits here: %cancel 2 ends the wait\n" in cell.reply.stdout)
    k.ok("%cancel 2")
    k.until(lambda: k.ok("str(job.state), str(job1.state)").result == "('cancelled', 'running')")


def test_cells_that_waited_run_next_and_in_order(k: Kernel) -> None:
    """Run All, and then `%bg`: the rest of the notebook goes on."""
    k.ok("order = []")
    cell = running(k)
    queued = [
        k.start(f"order = {'[]' if n == 0 else 'order'} + [{n}]", queue=True) for n in range(4)
    ]
    asked = k.start("%bg", queue=True)
    for pending in (cell, asked, *queued):
        pending.wait()
    assert k.ok("order").result == "[0, 1, 2, 3]"
    k.ok("go.set()")
    k.until(lambda: cell.reply.result == "42")


@pytest.mark.parametrize("code", ["%bg", " %bg ", "%bg;", "%bg  # this one", "%bg --notify"])
def test_with_nothing_to_send_it_is_one_line(k: Kernel, code: str) -> None:
    """Which says what would work."""
    reply = k.run(code)
    assert reply.ename == "UsageError"
    assert reply.stderr.startswith("UsageError: no cell runs that could go to the background")
    assert reply.stderr.count("\n") == 1


def test_within_a_longer_cell_it_is_one_line(k: Kernel) -> None:
    """It is for a cell of its own."""
    reply = k.run("x = 1\n%bg")
    assert "alone in a cell of its own" in reply.stderr


def test_other_requests_are_answered_meanwhile(k: Kernel) -> None:
    """Completion, inspection and the history of inputs."""
    cell = running(k)
    sent_away(k, cell)
    k.ok("a_long_name = 1")
    assert "a_long_name" in k.complete("a_long_na")
    found = k.ask("inspect_request", {"code": "a_long_name", "cursor_pos": 3, "detail_level": 0})
    assert found["found"]
    k.ok("go.set()")
    k.ok("x = %fg job")


def test_it_waits_for_what_comes_after_it(k: Kernel) -> None:
    """`--after` takes it as any job."""
    cell = running(k)
    sent_away(k, cell)
    k.ok("n = job.number")
    k.ok("after = %bg --after %% print('after')")
    assert k.ok("str(after.state)").result == "'queued'"
    k.ok("go.set()")
    k.ok("x = %fg after")
    assert k.ok("after.log.stdout").result == "'after\\n'"


def test_unloading_gives_the_kernel_back_its_messages(k: Kernel) -> None:
    """Also while a cell is away: it ends in its own place."""
    go = k.event("go")
    cell = running(k)
    sent_away(k, cell)
    k.ok("%unload_ext ipy_bgtasks")
    go()
    k.until(lambda: cell.reply.result == "42")
    assert k.ok("1 + 1, str(job.state)").result == "(2, 'finished')"
    assert k.run("%bg").status == "error"


def test_a_cell_takes_its_capture_along(k: Kernel) -> None:
    """What the foreground prints and displays meanwhile is its own; afterwards all is as before."""
    k.ok("import contextlib, io, sys\nfrom IPython.utils.capture import capture_output")
    cell = running(
        k,
        "print('begins')\n"
        "with capture_output() as kept:\n    print('one'); go.wait(); print('two'); display(3)\n"
        "print('ends')",
    )
    k.until(lambda: cell.reply.stdout)
    sent_away(k, cell)
    meanwhile = k.ok("print('meanwhile'); display(4)\n5")
    assert (meanwhile.stdout, meanwhile.result) == ("meanwhile\n", "5")
    assert len(meanwhile.displays) == 1
    with_own = k.ok("with contextlib.redirect_stdout(io.StringIO()) as own:\n    print('own')")
    assert with_own.stdout == ""
    k.ok("go.set()\n%fg job")
    assert k.ok("kept.stdout, len(kept.outputs), own.getvalue()").result == (
        r"('one\ntwo\n', 1, 'own\n')"
    )
    k.until(lambda: "ends" in cell.reply.stdout)
    after = k.ok("print('after'); display(6)\n7")
    assert (after.stdout, len(after.displays), after.result) == ("after\n", 1, "7")


def test_figures_it_had_open_are_shown_under_it(k: Kernel) -> None:
    """At its end, and not under the cells that end meanwhile."""
    pytest.importorskip("matplotlib")
    k.ok("%matplotlib inline\nimport matplotlib.pyplot as plt")
    cell = running(k, "line = plt.plot([3, 4])\nprint('begins')\ngo.wait()")
    asked = sent_away(k, cell)
    assert not any("image/png" in shown for shown in asked.displays)
    front = k.ok("line = plt.plot([1, 2])")
    assert ["image/png" in shown for shown in front.displays] == [True]
    k.ok("go.set()")
    k.until(lambda: any("image/png" in shown for shown in cell.reply.displays))
    assert len(cell.reply.displays) == 1


@pytest.mark.parametrize(
    "code", ["await task", "await gate.wait()", "await asyncio.wait_for(task, 5)"]
)
def test_awaiting_what_is_the_main_loops_is_one_line(k: Kernel, code: str) -> None:
    """At once, and it says what would work; so does waiting for a job that stands still."""
    k.ok(
        "stands = %bg gate.wait()\nawait asyncio.sleep(0)\nawait asyncio.sleep(0)\n"
        "task = asyncio.get_running_loop().create_task(gate.wait())\nawait asyncio.sleep(0)"
    )
    cell = running(k)
    asked = sent_away(k, cell)
    assert asked.stdout == "coroutine jobs stand still while that cell computes\n"
    refused = k.run(code)
    assert refused.status == "error"
    assert refused.stderr.startswith("UsageError: what is awaited here belongs to the event loop")
    assert refused.stderr.count("\n") == 1
    assert not refused.traceback
    waits = k.start("x = %fg stands")
    k.until(lambda: "job 1 stands still until job 2 (print('begins')) ends" in waits.reply.stdout)
    k.interrupt()
    assert waits.wait().ename == "Detached"
    k.ok("go.set()\nx = %fg job")
    k.ok("gate.set()")


@pytest.mark.parametrize(
    "code",
    [
        "print('here')\nawait asyncio.Event().wait()",
        "async def sleeps():\n    print('here')\n    time.sleep(1000)\n"
        "async with asyncio.TaskGroup() as g:\n"
        "    for f in sleeps, asyncio.Event().wait: g.create_task(f())",
    ],
    ids=["quiet", "asleep in a task"],
)
def test_an_interrupted_await_cell_of_the_subshell_says_keyboardinterrupt(
    k: Kernel, code: str
) -> None:
    """As it does in the main thread."""
    cell = running(k)
    sent_away(k, cell)
    front = running(k, code, "here\n")
    k.interrupt()
    reply = front.wait()
    assert reply.ename == "KeyboardInterrupt"
    assert "CancelledError" not in reply.traceback
    k.ok("go.set()\nx = %fg job")


def test_a_stop_that_cannot_reach_the_cell_says_so(k: Kernel) -> None:
    """It waits for a lock that it does not own; `%bg` alone leaves it there."""
    k.ok("lock = threading.Lock()\nready = lock.acquire()")
    cell = running(k)
    sent_away(k, cell)
    front = running(k, "print('here')\nready = lock.acquire()", "here\n")
    k.interrupt()
    k.until(lambda: "still in lock.acquire" in front.reply.stderr)
    assert "`%bg` alone" in front.reply.stderr
    k.start("%bg", queue=True).wait()
    assert front.wait().status == "ok"
    k.ok("lock.release()\ngo.set()")
    k.until(lambda: cell.reply.result == "42")


def test_the_cell_of_the_subshell_asks_for_input(k: Kernel) -> None:
    """The one that was sent away cannot."""
    cell = running(k, "print('begins')\ngo.wait()\ninput('away? ')")
    sent_away(k, cell)
    front = k.start("'got ' + input('who? ')", allow_stdin=True)
    asked = k.until(lambda: front.reply.contents("input_request"))
    assert asked[0]["prompt"] == "who? "
    k.send(k.session.msg("input_reply", {"value": "me"}), "stdin")
    assert front.wait().result == "'got me'"
    k.ok("go.set()")
    k.until(lambda: cell.reply.contents("error"))
    assert cell.reply.contents("error")[0]["ename"] == "CannotAsk"


def test_an_interrupt_finds_the_subshell_after_the_main_thread_is_free(k: Kernel) -> None:
    """Though that takes other requests again, which set handlers of signals."""
    cell = running(k)
    sent_away(k, cell)
    front = running(k, "print('here')\ngo.set()\nwhile True: pass", "here\n")
    k.until(lambda: cell.reply.result == "42")
    asked = k.session.msg("kernel_info_request", {})
    k.send(asked)
    k.interrupt()
    assert front.wait().ename == "KeyboardInterrupt"
    k.until(lambda: any(m["channel"] == "shell" for m in k.messages_of(asked["header"]["msg_id"])))
    assert k.ok("threading.current_thread() is threading.main_thread()").result == "True"


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
@pytest.mark.parametrize(
    "code", ["while True: pass", "while True: print()", "time.sleep(1000)", "await gate.wait()"]
)
def test_leaving_is_quick(k: Kernel, how: str, code: str) -> None:
    """Whatever the cell does that is away."""
    cell = running(k, f"print('begins')\n{code}")
    sent_away(k, cell)
    seconds = stopwatch(k.pid)
    if how == "shutdown":
        k.shutdown()
    else:
        os.kill(k.pid, signal.SIGTERM)
        k.status()
    assert seconds() < BOUND


@pytest.mark.parametrize("code", ["go.wait()", "await gate.wait()"], ids=["plain", "await"])
def test_the_stop_button_may_send_a_cell_away_first(k: Kernel, code: str) -> None:
    """Where the setting says so; a second press stops the cell, later cells are their own."""
    k.ok("%config BgTasks.interrupt = 'background'")
    cell = running(k, f"print('begins')\n{code}\n6 * 7")
    k.interrupt()
    assert cell.wait().status == "ok"
    k.until(lambda: "job 1 goes on: %fg 1 returns to it" in shown_text(cell))
    second = running(k, "print('begins')\nwhile True: pass")
    k.interrupt()
    assert second.wait().status == "ok"
    k.until(lambda: "job 2 goes on" in shown_text(second))
    k.interrupt()
    k.until(lambda: second.reply.contents("error"))
    assert k.ok("import ipy_bgtasks\nstr(ipy_bgtasks.jobs()[1].state)").result == "'running'"
    assert k.run("%bg").stderr.startswith("UsageError: no cell runs")
    k.ok("go.set(); get_ipython().kernel.io_loop.asyncio_loop.call_soon_threadsafe(gate.set)")
    k.until(lambda: cell.reply.result == "42")


@pytest.mark.parametrize("code", ["go.wait()", "await gate.wait()"], ids=["plain", "await"])
def test_a_cell_that_takes_longer_goes_by_itself(k: Kernel, code: str) -> None:
    """With status ok; the cells behind it run, and those that are quicker stay as they are."""
    k.ok("%config BgTasks.background_after = 0.2")
    cell = running(k, f"print('begins')\n{code}\n6 * 7")
    behind = k.start("'behind'", queue=True)
    assert cell.wait().status == "ok"
    assert behind.wait().result == "'behind'"
    k.until(lambda: "job 1 goes on: %fg 1 returns to it" in shown_text(cell))
    k.ok("go.set(); get_ipython().kernel.io_loop.asyncio_loop.call_soon_threadsafe(gate.set)")
    k.until(lambda: cell.reply.result == "42")
    k.ok("%config BgTasks.background_after = 0")  # on a busy machine `%jobs` would go, too
    assert "[1]" in k.ok("%jobs").displays[-1]["text/plain"]


def test_a_cell_that_asks_does_not_go_by_itself(k: Kernel) -> None:
    """Before it has the answer; and where the time is not given, none goes."""
    k.ok("%config BgTasks.background_after = 0.1")
    cell = k.start("answer = input('who? ')\ngo.wait()\nanswer", allow_stdin=True)
    asked = k.until(lambda: cell.reply.contents("input_request"))
    assert asked[0]["prompt"] == "who? "
    k.wait_a_moment(0.5)
    assert not cell.reply.done
    k.send(k.session.msg("input_reply", {"value": "me"}), "stdin")
    assert cell.wait().status == "ok"
    k.ok("go.set()\n%config BgTasks.background_after = 0")
    k.until(lambda: cell.reply.result == "'me'")
    # Three times the time after which it would have gone.
    assert k.ok("time.sleep(0.3)\n'stayed'").result == "'stayed'"
    refused = k.run("%config BgTasks.background_after = -1").stderr
    assert "should not be less than 0" in refused


def test_where_ipython_is_built_otherwise_nothing_is_lost(k: Kernel) -> None:
    """The cell goes on in the foreground, `%bg` says one line after it, and others run."""
    k.ok("from IPython.core.displayhook import DisplayHook\ndel DisplayHook.exec_result")
    tried = "get_ipython()._ipy_bgtasks_core.front_end.cells.unable"
    cell = running(k, f"print('begins')\nwhile not {tried}: time.sleep(0.001)\n6 * 7")
    asked = k.start("%bg", queue=True)
    assert cell.wait().status == "ok"
    assert cell.reply.result == "42"
    assert asked.wait().stderr.startswith("UsageError: `%bg` alone does not work with this version")
    assert k.ok("1 + 1").result == "2"


def test_what_threads_of_a_cell_sent_away_print_goes_under_it(k: Kernel) -> None:
    """Those that it starts from then on, as a server or a pool does; and into its log."""
    cell = running(
        k,
        "from concurrent.futures import ThreadPoolExecutor\nprint('begins')\ngo.wait()\n"
        "def say(text):\n    gone.wait(30)\n    print(text + '\\n', end='')\n"
        "gone = threading.Event()\n"
        "threading.Thread(target=say, args=['from a thread']).start()\n"
        "pool = ThreadPoolExecutor(1)\nfuture = pool.submit(say, 'from a pool')\nfuture.result()",
    )
    sent_away(k, cell)
    k.ok("go.set()")
    other = k.ok("while 'gone' not in globals(): time.sleep(0.01)\ngone.set()\n%fg job")
    for text in ("from a thread\n", "from a pool\n"):
        k.until(lambda text=text: text in cell.reply.stdout or None)
        k.until(lambda text=text: text in k.ok("print(job.log.text)").stdout or None)
    assert other.status == "ok"


@pytest.mark.skipif(ipykernel.version_info[0] < 7, reason="it finds the cell of a thread otherwise")
def test_so_does_what_its_threads_print_that_it_had_started_before(k: Kernel) -> None:
    """And what those start; not the threads of the session, nor those of other cells."""
    k.ok(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "gone, over = threading.Event(), threading.Event()\n"
        "def say(text):\n    gone.wait(30)\n    print(text + '\\n', end='')\n"
        "def start(text):\n    gone.wait(30)\n    t = threading.Thread(target=say, args=[text])\n"
        "    t.start()\n    t.join()\n    over.set()\n"
        "threading.Thread(target=say, args=['of another cell']).start()"
    )
    cell = running(
        k,
        "pool = ThreadPoolExecutor(1)\nfuture = pool.submit(say, 'from a pool')\n"
        "threading.Thread(target=say, args=['from a thread']).start()\n"
        "threading.Thread(target=start, args=['from its thread']).start()\n"
        "print('begins')\ngo.wait()\nfuture.result()",
    )
    sent_away(k, cell)
    other = k.ok("print('of the front')\ngone.set()\nover.wait()")
    for text in ("from a pool\n", "from a thread\n", "from its thread\n"):
        k.until(lambda text=text: text in cell.reply.stdout or None)
        k.until(lambda text=text: text in k.ok("print(job.log.text)").stdout or None)
    assert "from" not in other.stdout
    assert "another" not in cell.reply.stdout + k.ok("print(job.log.text)").stdout
    k.ok("go.set()\n%fg job")
    late = k.ok("pool.submit(print, 'for the front').result()")
    assert "front" not in k.ok("print(job.log.text)").stdout
    if ipykernel.version_info[:2] > (7, 0):  # that shows it under the cell in which it started
        assert late.stdout == "for the front\n"
        assert "front" not in cell.reply.stdout
