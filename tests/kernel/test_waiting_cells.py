"""The stop button and `%cancel` reach a cell that waits, wherever it runs."""

from __future__ import annotations

import os
import random
import sys
from importlib.util import find_spec

import pytest
from kernels import Kernel
from test_running_cell import running, sent_away

#: Waits, and whether the system call must tell what is waited for. Not `os.system`, during which
#: the C library has the whole process ignore SIGINT: in a script Ctrl-C does not end it either.
KINDS = {
    "time.sleep(1000)": False,
    "threading.Event().wait()": False,
    "queue.Queue().get()": False,
    "concurrent.futures.Future().result()": False,
    "subprocess.run(['sleep', '1000'])": True,
    "subprocess.run('sleep 1000; true', shell=True)": True,
    "subprocess.check_output('sleep 1000 | cat', shell=True)": True,
    "pair[0].recv(1)": True,
    "select.select([pair[0]], [], [])": True,
    "server.accept()": True,
    "urllib.request.urlopen(url)": True,
    "requests.get(url)": True,
    "httpx.Client(timeout=1000, verify=False).get(url)": True,
}
every_kind = pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=pytest.mark.skipif(system and sys.platform != "linux", reason=""))
        for code, system in KINDS.items()
        if code.partition(".")[0] not in ("requests", "httpx") or find_spec(code.partition(".")[0])
    ],
)
#: How often each wait is stopped in a random moment.
ROUNDS = int(os.environ.get("BG_STRESS", "5"))


@pytest.fixture
def k(kernel: Kernel) -> Kernel:
    """A kernel with what the cells here use, on a machine that may be busy."""
    kernel.ok("%config BgTasks.cancel_wait = 20")
    kernel.ok(
        "import concurrent.futures, os, queue, select, socket, subprocess, threading, time\n"
        "import urllib.request\n"
        "go, pair, did = threading.Event(), socket.socketpair(), []\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "url = f'http://127.0.0.1:{server.getsockname()[1]}/'\n"
        "def left():\n"
        "    found = subprocess.run(['ps', '-o', 'args', '--ppid', str(os.getpid())],\n"
        "                           stdout=subprocess.PIPE, text=True).stdout\n"
        "    return 'sleep 1000' in found"
    )
    return kernel


def waits(code: str) -> str:
    """A cell that waits, and notes that it cleaned up."""
    library = code.partition(".")[0] if code.startswith(("requests", "httpx")) else "os"
    return f"import {library}\nprint('begins')\ntry: {code}\nfinally: did.append(1)"


@every_kind
def test_the_stop_button_ends_a_wait_in_the_subshell(k: Kernel, code: str) -> None:
    """With KeyboardInterrupt at the user's line, and no frame of ours; the other cell goes on."""
    away = running(k)
    sent_away(k, away)
    cell = running(k, waits(code))
    k.interrupt()
    reply = cell.wait()
    assert reply.ename == "KeyboardInterrupt"
    assert "ipy_bgtasks" not in reply.traceback
    assert reply.stderr == ""
    assert k.ok("did").result == "[1]"
    k.ok("go.set()")
    k.until(lambda: away.reply.result == "42")


@every_kind
def test_the_stop_button_hits_one_cell_in_any_moment_of_its_wait(k: Kernel, code: str) -> None:
    """Also when the cell's child has died of the same signal; the next cell is whole."""
    chance = random.Random(7)
    away = running(k)
    sent_away(k, away)
    for n in range(ROUNDS):
        k.ok("pair = socket.socketpair(); server = socket.create_server(('127.0.0.1', 0))")
        k.ok("url = f'http://127.0.0.1:{server.getsockname()[1]}/'")
        cell = running(k, waits(code))
        k.wait_a_moment(chance.random() * 0.03)
        k.interrupt()
        assert cell.wait().ename == "KeyboardInterrupt", f"round {n}"
        # What was left of the stop would end this wait, or be raised after it.
        assert k.ok("time.sleep(0.001); 'whole'").result == "'whole'", f"round {n}"
    k.ok("go.set()")
    k.until(lambda: away.reply.result == "42")


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_child_may_die_of_the_interrupt_before_the_kernel_has_it(
    k: Kernel, interrupted: bool
) -> None:
    """The cell was interrupted then, else its child has failed."""
    away = running(k)
    sent_away(k, away)
    late = "threading.Timer(0.1, os.kill, [os.getpid(), 2]).start()" if interrupted else "pass"
    reply = k.run(f"{late}\nsubprocess.check_output('kill -INT $$', shell=True)")
    assert reply.ename == ("KeyboardInterrupt" if interrupted else "CalledProcessError")
    assert k.ok("time.sleep(0.001); 'whole'").result == "'whole'"
    k.ok("go.set()")
    k.until(lambda: away.reply.result == "42")


@every_kind
def test_cancel_ends_a_wait_of_a_cell_that_was_sent_away(k: Kernel, code: str) -> None:
    """In the main thread the signal itself does it."""
    cell = running(k, waits(code))
    sent_away(k, cell)
    assert "cancelled" in k.ok("%cancel job").stdout
    assert k.ok("did, str(job.state)").result == "([1], 'cancelled')"
    k.ok("while left(): time.sleep(0.01)")


def test_the_stop_button_ends_a_question_in_the_subshell(k: Kernel) -> None:
    """And the next question gets its answer."""
    away = running(k)
    sent_away(k, away)
    cell = k.start("input('who? ')", allow_stdin=True)
    k.until(lambda: cell.reply.contents("input_request"))
    k.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    cell = k.start("input('then who? ')", allow_stdin=True)
    k.until(lambda: cell.reply.contents("input_request"))
    k.send(k.session.msg("input_reply", {"value": "me"}), "stdin")
    assert cell.wait().result == "'me'"
    k.ok("go.set()")
    k.until(lambda: away.reply.result == "42")


def test_two_cells_that_ask_get_each_its_own_answer(k: Kernel) -> None:
    """The second question waits until the first has been answered, and can be stopped meanwhile."""
    away = k.start("input('first? ')", allow_stdin=True)
    k.until(lambda: away.reply.contents("input_request"))
    sent_away(k, away)
    stopped = k.start("print('begins'); input('never? ')", allow_stdin=True)
    k.until(lambda: "begins" in stopped.reply.stdout)
    k.interrupt()
    assert stopped.wait().ename == "KeyboardInterrupt"
    front = k.start("print('begins'); input('second? ')", allow_stdin=True)
    k.until(lambda: "begins" in front.reply.stdout)
    k.send(k.session.msg("input_reply", {"value": "one"}), "stdin")
    k.until(lambda: away.reply.result)
    k.until(lambda: front.reply.contents("input_request"))
    k.send(k.session.msg("input_reply", {"value": "two"}), "stdin")
    assert front.wait().result == "'two'"
    assert away.reply.result == "'one'"
    assert not stopped.reply.contents("input_request")
