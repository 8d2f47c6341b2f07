"""What one job prints, raises, sets or ends stays with that job."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import Kernel

HALF = r"import json; half = json.loads('\"\\ud83d\"')"


def test_half_a_character_takes_no_other_output_along(kernel: Kernel) -> None:
    """No message can carry it: in texts, displays, results and tracebacks a `?` stands for it."""
    kernel.ok(HALF)
    printing = kernel.ok("job = %bg print('a' + half + 'b')")
    kernel.ok("%fg job")
    kernel.until(lambda: "a?b\n" in printing.stdout)
    shows = kernel.ok("job = %bg display({'text/plain': half + '!', 'x/y': [half]}, raw=True)")
    kernel.ok("%fg job")
    kernel.until(lambda: any(each.get("x/y") == ["?"] for each in shows.displays))
    fails = kernel.ok("def fail():\n    raise ValueError('because ' + half)\njob = %bg fail()")
    kernel.until(lambda: "because ?" in fails.traceback)
    assert kernel.ok("print('still here')").stdout == "still here\n"


def test_a_replay_joins_what_is_of_one_stream(kernel: Kernel) -> None:
    """Not a message a line: servers bound their number."""
    kernel.ok("from time import sleep")
    kernel.ok("def lines():\n    for i in range(40):\n        print(i)\n        sleep(0.02)")
    kernel.ok("job = %bg -q lines()\nawait job")
    replay = kernel.ok("%fg -a job")
    assert replay.stdout == "".join(f"{i}\n" for i in range(40))
    assert len(replay.contents("stream")) == 1


def test_an_escape_sequence_in_a_name_reaches_no_terminal(kernel: Kernel) -> None:
    """The repr shows it escaped."""
    kernel.ok("E = '\\x1b]52;c;aGk=\\x07'")
    shown = kernel.ok("job = %bg --name '{E}\x07lbl' sum([1])\nrepr(job), job.name")
    assert "\\x1b]52" not in (shown.result or "").replace("\\\\", "\\")
    assert "lbl" in (shown.result or "")


@pytest.mark.parametrize("call", ["exit", "quit"])
def test_exit_in_a_job_ends_that_job(kernel: Kernel, call: str) -> None:
    """In a thread, a coroutine and a cell; the reason is shown, but by no name that ends a page."""
    kernel.ok(f"def leave():\n    {call}()\nasync def leave_later():\n    {call}()")
    for code in ("%bg leave()", "%bg leave_later()", f"%%bg\nx = 1\n{call}()"):
        launched = kernel.run(code)
        kernel.until(lambda cell=launched: "exit() in a job ends that job" in cell.stderr)
        assert launched.contents("error") == []
        ended = kernel.ok("from ipy_bgtasks import jobs\njob = list(jobs())[-1]\nstr(job.state)")
        assert ended.result == "'failed'"
    assert kernel.ok("1 + 1").result == "2"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_under_the_cell_and_in_the_details(kernel: Kernel) -> None:
    """Once, at once; the job goes on."""
    launched = kernel.ok("job = %bg --log /dev/full [print(i) for i in range(3)] and 'good'")
    assert kernel.ok("x = %fg job\nx").result == "'good'"
    said = "nothing more is written to the log file '/dev/full': No space left on device"
    kernel.until(lambda: said in launched.stderr)
    assert launched.stderr.count(said) == 1
    assert said in str(kernel.ok("%jobs job").displays)


def test_each_job_has_a_decimal_context_of_its_own(kernel: Kernel) -> None:
    """As at its launch; what it sets is its own, and in force as long as it runs."""
    kernel.ok(
        "import threading\nfrom decimal import Decimal, getcontext\ngate = threading.Barrier(2)"
    )
    kernel.ok(
        "getcontext().prec = 7\n"
        "def third(digits):\n"
        "    before = getcontext().prec\n"
        "    getcontext().prec = digits\n"
        "    gate.wait(20)\n"
        "    return before, str(Decimal(1) / 3)\n"
        "async def digits():\n"
        "    return getcontext().prec"
    )
    kernel.ok("a = %bg third(5)\nb = %bg third(9)\nc = %bg digits()\ngetcontext().prec = 20")
    got = kernel.ok("await a, await b, await c, getcontext().prec")
    assert got.result == "((7, '0.33333'), (7, '0.333333333'), 7, 20)"


def test_coroutines_in_a_list_are_refused(kernel: Kernel) -> None:
    """Nobody would await them."""
    kernel.ok("async def f(x=1): pass")
    for code in ("[f(), f()]", "(f(1), 2)", "[f(x) for x in range(3)]"):
        refused = kernel.run(f"%bg {code}")
        assert f"write asyncio.gather(*{code})" in refused.stderr + str(refused.evalue)


def test_numpys_settings_in_a_job_are_those_of_its_launch_and_its_own(kernel: Kernel) -> None:
    """From NumPy 2 on they are context variables, of which each job has a copy."""
    pytest.importorskip("numpy", "2")
    got = kernel.ok(
        "import numpy as np\n"
        "def settings():\n"
        "    return np.geterr()['divide'], np.get_printoptions()['precision']\n"
        "def change():\n"
        "    seen = settings()\n"
        "    np.seterr(divide='raise')\n"
        "    np.set_printoptions(precision=1)\n"
        "    return seen\n"
        "async def change_later():\n"
        "    return change()\n"
        "np.seterr(divide='ignore')\n"
        "np.set_printoptions(precision=3)\n"
        "a = %bg change()\n"
        "b = %bg change_later()\n"
        "await a, await b, settings()"
    )
    assert got.result == "(('ignore', 3), ('ignore', 3), ('ignore', 3))"


#: What an exception may do to who looks at it.
HOSTILE = [
    "__cause__ = property(lambda self: 1 / 0)",
    "__notes__ = property(lambda self: 1 / 0)",
    "__getattr__ = lambda self, name: {}[name]",
    "__str__ = lambda self: 1 / 0",
    "__bool__ = lambda self: 1 / 0",
]


@pytest.mark.parametrize(
    "code", ["%fg job", "%fg all", "await job", "await fails()", "fails_now()"]
)
def test_no_exception_ends_the_kernel(kernel: Kernel, code: str) -> None:
    """It is shown as far as it lets itself be looked at."""
    for body in HOSTILE:
        kernel.ok(f"class Hostile(Exception):\n    {body}")
        kernel.ok("def fails_now():\n    raise Hostile('so')\nasync def fails(): fails_now()")
        launch = kernel.ok("job = %bg fails()")
        kernel.until(lambda launch=launch: "fails_now" in launch.traceback)
        shown = kernel.run(code)
        assert (shown.status, shown.ename) == ("error", "Hostile"), body
        assert "fails_now" in shown.traceback + shown.stderr, body
        assert kernel.ok("1 + 1").result == "2"


def test_an_exit_of_a_job_is_sent_as_text(kernel: Kernel) -> None:
    """A console closes its tab on an `error` of that name, whichever cell it is of."""
    launched = kernel.ok("import sys\n%bg sys.exit(3)")
    kernel.until(lambda: "SystemExit" in launched.stderr)
    assert launched.contents("error") == []
    assert kernel.ok("1 + 1").result == "2"
