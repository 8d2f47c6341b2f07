"""Stops, options, commands and tracebacks as a real notebook has them."""

from __future__ import annotations

import os
import re

import pytest
from kernels import Kernel, Reply

_OURS = re.compile(r"ipy_bgtasks|_drive|_live\b|\bawait_end\b")


def text(reply: Reply) -> str:
    """The traceback without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", reply.traceback)


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.sleep(1000)",
        "await asyncio.Event().wait()",
        "await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))",
        "await f()",
    ],
)
def test_an_interrupted_await_cell_says_keyboardinterrupt(shared: Kernel, code: str) -> None:
    """In the reply as in the traceback, which ends in the user's own code."""
    shared.ok("import asyncio\nasync def f():\n    await asyncio.sleep(1000)")
    pending = shared.start(f"print('on ' 'it')\n{code}")
    shared.until(lambda: "on it" in pending.reply.stdout)
    shared.interrupt()
    reply = pending.wait()
    assert reply.ename == "KeyboardInterrupt"
    shown = text(reply)
    assert "KeyboardInterrupt" in shown
    assert code in shown
    assert "CancelledError" not in shown
    assert "asyncio/" not in shown
    assert not _OURS.search(shown)


def test_what_the_cell_itself_raises_stays_as_it_is(shared: Kernel) -> None:
    """Its own CancelledError, and what it makes of an interrupt."""
    reply = shared.run(
        "import asyncio\nawait asyncio.sleep(0)\nraise asyncio.CancelledError('mine')"
    )
    assert (reply.ename, reply.evalue) == ("CancelledError", "mine")
    pending = shared.start(
        "print('on ' 'it')\n"
        "try:\n    await asyncio.sleep(1000)\n"
        "except asyncio.CancelledError:\n    raise ValueError('saved') from None"
    )
    shared.until(lambda: "on it" in pending.reply.stdout)
    shared.interrupt()
    reply = pending.wait()
    assert (reply.ename, reply.evalue) == ("ValueError", "saved")
    assert shared.run("1/0").ename == "ZeroDivisionError"


def test_values_of_options_are_expanded_in_a_loop(shared: Kernel) -> None:
    """Names, times, jobs; and what cannot be is one line and launches nothing."""
    shared.ok(
        "made = []\n"
        "for i in range(3):\n"
        "    limit = 100 + i\n"
        "    j = %bg -q --name fold-{i} --timeout {limit} --log run-{i}.txt print(i)\n"
        "    made.append(j)\n"
        "    k = %bg -q --after {j.number} --name after-{j.number} str()\n"
        "    made.append(k)\n"
        "%fg all"
    )
    reply = shared.ok(
        "from pathlib import Path\n"
        "[j.name for j in made[::2]], [k.name == f'after-{j.number}' for j, k in "
        "zip(made[::2], made[1::2])], [Path(f'run-{i}.txt').read_text() for i in range(3)]"
    )
    assert reply.result == (
        "(['fold-0', 'fold-1', 'fold-2'], [True, True, True], ['0\\n', '1\\n', '2\\n'])"
    )
    reply = shared.ok("import ipy_bgtasks\nlen(ipy_bgtasks.jobs())")
    refused = shared.run("%bg --name fold-{nowhere} print(1)")
    assert refused.ename == "UsageError"
    assert refused.stderr == (
        "UsageError: %bg --name fold-{nowhere}: NameError: name 'nowhere' is not defined; "
        "braces that are meant as such are doubled\n"
    )
    assert shared.ok("len(ipy_bgtasks.jobs())").result == reply.result


def test_locals_of_a_function_count_in_options(shared: Kernel) -> None:
    """As they do after an exclamation mark."""
    shared.ok(
        "def launch(n):\n    return get_ipython().run_line_magic('bg', '-n load-{n} str(n)')\n"
        "j = launch(7)"
    )
    assert shared.ok("j.name").result == "'load-7'"


def test_commands_of_a_job_write_into_its_place_and_log(shared: Kernel) -> None:
    """All the ways there are; with the job's variables, and without input."""
    reply = shared.ok(
        "%%bg -n commands\n"
        "word = 'hello'\n"
        "!echo {word} $word; echo wrong >&2\n"
        "x = !echo caught; cat\n"
        "y = get_ipython().getoutput('echo $word')\n"
        "def f(near):\n"
        "    !echo {near}\n"
        "f('local')\n"
        "!exit 3\n"
        "z = %sx echo percent\n"
        "(list(x), list(y), _exit_code, list(z))"
    )
    done = shared.ok("%fg %commands")
    assert done.result == "(['caught'], ['hello'], 3, ['percent'])"
    assert reply.stdout == "hello hello\nlocal\n"
    assert reply.stderr == "wrong\n"
    assert shared.ok("ipy_bgtasks.jobs()['%commands'].log.stdout").result == repr(reply.stdout)


def test_scripts_of_a_job_write_into_its_place(shared: Kernel) -> None:
    """%%bash, %%script with options; a failing one fails the job."""
    reply = shared.ok(
        "%%bg -n script\n%%bash --out found\necho one; echo two >&2; ps -o sid= -p $$"
    )
    shared.ok("%fg %script")
    assert reply.stderr == "two\n"
    assert shared.ok("found.splitlines()[0]").result == "'one'"
    own = shared.ok("import os\nint(found.splitlines()[1]) == os.getsid(0)")
    assert own.result == "False"
    shared.ok("%%bg -q -n fails\n%%script sh\nexit 4")
    failed = shared.run("%fg %fails")
    assert failed.ename == "CalledProcessError"
    assert not _OURS.search(text(failed))
    reply = shared.ok("%%bg -n none\n%%script no-such-program\nexit 4")
    shared.ok("%fg %none")
    assert reply.stdout == "Couldn't find program: 'no-such-program'\n"


@pytest.mark.parametrize(
    "body",
    [
        "!echo started; (sleep SECONDS & sleep SECONDS)",
        "%%bash\necho started; (sleep SECONDS & sleep SECONDS)",
        "print('started')\nx = !(sleep SECONDS & sleep SECONDS)",
    ],
)
def test_commands_are_stopped_with_their_job(shared: Kernel, body: str) -> None:
    """The whole tree, and before the job is called cancelled."""
    seconds = f"1000.{os.getpid()}"  # nobody else sleeps for just as long
    reply = shared.ok("%%bg -n stopped\n" + body.replace("SECONDS", seconds))
    shared.until(lambda: "started" in reply.stdout)
    done = shared.ok("%cancel %stopped")
    assert re.search(r"job \d+ \(stopped\) cancelled\n", done.stdout)
    left = shared.ok(
        "import subprocess\n"
        f"command = ['pgrep', '-fc', 'sleep {seconds[:4]}' '{seconds[4:]}']\n"
        "subprocess.run(command, capture_output=True, text=True).stdout"
    )
    assert left.result == "'0\\n'"


def test_the_foregrounds_commands_are_ipythons_own(shared: Kernel) -> None:
    """With the variables of the caller."""
    shared.ok("def g(near):\n    !echo {near}\n    x = !echo $near\n    return x")
    reply = shared.ok("g('here')")
    assert reply.stdout.split() == ["here"]
    assert reply.result == "['here']"
    assert shared.ok("%%bash\necho $0").stdout == "bash\n"


_FAILING = {
    "gather": "%bg -q asyncio.gather(child())",
    "group": "%bg -q group()",
    "wait_for": "%bg -q waited()",
    "exec": "%bg -q exec('1/0')",
    "thread": "%bg -q -t child()",
    "helper": "%bg -q helper()",
    "track": "%bg -q tracked()",
    "process": "%bg -q -p div(0)",
}
_SETUP = """
import asyncio
from ipy_bgtasks import track
from concurrent.futures import ThreadPoolExecutor
def div(x):
    return 1 / x
async def child():
    await asyncio.sleep(0)
    return div(0)
async def group():
    async with asyncio.TaskGroup() as group:
        group.create_task(child())
async def waited():
    await asyncio.wait_for(child(), 10)
def helper():
    with ThreadPoolExecutor() as pool:
        pool.submit(div, 0).result()
def items():
    yield div(0)
def tracked():
    for _ in track(items()):
        pass
def in_function(job):
    return job.result()
"""


@pytest.mark.parametrize("where", _FAILING)
@pytest.mark.parametrize("mode", ["Plain", "Context", "Minimal"])
def test_no_frame_of_ours_is_shown(shared: Kernel, where: str, mode: str) -> None:
    """Wherever the job's exception is shown, under its cell or raised again."""
    shared.ok(_SETUP + f"%xmode {mode}")
    shared.ok("job = " + _FAILING[where])
    again = [
        "%fg job",
        "await job",
        "job.exception() and job.result()",
        "in_function(job)",
        "%time %fg job",
    ]
    for code in again:
        shown = text(shared.run(code))
        assert not _OURS.search(shown), (code, shown)
    reply = shared.ok(_FAILING[where].replace(" -q", "") + ";")
    shared.until(lambda: reply.traceback)
    assert not _OURS.search(text(reply)), text(reply)
    shared.ok("%xmode Context")


def test_an_interrupted_cancel_says_where_the_job_is_and_no_more(shared: Kernel) -> None:
    """It waits for a plain lock, which cannot be woken; what was asked stays asked."""
    shared.ok("%config BgTasks.cancel_wait = 1000")
    shared.ok("import threading\nlock = threading.Lock()\nready = lock.acquire()")
    shared.ok("def watch():\n    while str(job.state) != 'cancelling': pass\n    print('asked')")
    shared.ok("job = %bg lock.acquire()")
    pending = shared.start("threading.Thread(target=watch).start()\n%cancel job")
    shared.until(lambda: "asked" in pending.reply.stdout)
    shared.interrupt()
    reply = pending.wait()
    assert reply.ename == "Detached"
    assert "the request to stop stands" in reply.traceback
    shared.until(lambda: "lock.acquire" in reply.stdout)
    assert not _OURS.search(text(reply))
    assert "run_line_magic" not in reply.traceback
    assert "asyncio/" not in text(reply)
    assert shared.ok("str(job.state)").result == "'cancelling'"
    shared.ok("lock.release()\n%config BgTasks.cancel_wait = 0.5")


def test_tasks_are_named_for_their_jobs_and_show_their_own_coroutine(shared: Kernel) -> None:
    """In `asyncio.all_tasks`, as asyncio's debug mode shows them."""
    shared.ok(
        "import asyncio\ngate = asyncio.Event()\n"
        "async def inner():\n    await gate.wait()\n"
        "async def outer():\n    await asyncio.gather(inner())\n"
        "j = %bg -n named outer()\nawait asyncio.sleep(0)\nawait asyncio.sleep(0)"
    )
    named = shared.ok(
        "[t.get_name() == f'job {j.number}: named' for t in asyncio.all_tasks() "
        "if 'named' in t.get_name()]"
    )
    assert named.result == "[True]"
    shown = shared.ok("print(*[t for t in asyncio.all_tasks() if 'inner' in repr(t)])").stdout
    assert re.search(r"coro=<inner\(\) running at .*:\d+>", shown)
    assert not _OURS.search(shown)
    shared.ok("gate.set()")
