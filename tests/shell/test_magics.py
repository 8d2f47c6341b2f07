"""The four magics in a shell whose cells run on the test's loop, as in a kernel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import sys
from functools import partial
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from ipy_bgtasks import Job, jobs
from ipy_bgtasks.ipython.options import candidates
from ipy_bgtasks.job.handle import record_of

BOUND = 10.0

SETUP = """
import asyncio, functools, threading
gate, box = asyncio.Event(), {}

async def waits(value=None):
    await gate.wait()
    return value

async def gives(value):
    return value

class Caller:
    async def __call__(self, value=7):
        return value
    async def method(self, value):
        return value

def generator():
    yield 1

async def asynchronous():
    yield 1

def late(value):
    return gives(value)

async def spills(*codes):
    results = []
    for value in codes:
        results.append(await gives(value))
    return results

finished = gives
caller = Caller()
number = 42
"""


# Bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%bg", "`%bg` alone sends away a cell that runs"),
        ("%bg -q", "no code to run"),
        ("%bg 42", "42 is nothing to run: give a call such as f(x)"),
        ("%bg 'text'", "'text' is nothing to run"),
        ("%bg number", "number is an int, nothing to run"),
        ("%bg nowhere()", "name 'nowhere' is not defined"),
        ("%bg wait()", "name 'wait' is not defined: did you mean 'waits'?"),
        ("%bg generator()", "only makes a generator and runs nothing: write list(generator())"),
        ("%bg asynchronous", "write [x async for x in asynchronous()]"),
        ("%bg (i for i in box)", "a generator expression runs nothing by itself"),
        ("%bg -x waits()", "%bg has no option -x; it has -l, -t"),
        ("%bg -1 * 2", "`--` ends them: %bg -- -1 …"),
        ("%bg -lt waits()", "a job runs in one place"),
        (
            "%bg --timeout x waits()",
            "takes a number of seconds, such as 2.5 or 1h30m, not 'x'",
        ),
        ("%bg --after 9 waits()", "no job 9: there are none yet"),
        ("%bg --after , waits()", "--after"),
        ("%bg --log /nowhere/x print()", "cannot write to the log file '/nowhere/x'"),
        ("%%bg waits()\n1", "%%bg takes options only, and the code below them, not 'waits()'"),
        ("%%bg\n\n", "no code to run"),
        ("%fg", "no current job: there are none yet"),
        ("%fg 3", "no job 3: there are none yet"),
        ("%fg ?x", "no job whose name contains 'x'"),
        ("%fg waits", "%fg waits() launches a call"),
        ("%fg nowhere", "'nowhere' is neither a job nor awaitable"),
        ("%fg 4.2", "4.2 is nothing to run"),
        ("%fg -x", "%fg has no option -x; it has -a, --timeout, --budget, --any"),
        ("%fg --timeout x 3", "takes a number of seconds, such as 2.5 or 1h30m, not 'x'"),
        ("%fg -;", "no previous job: there are none yet"),
        ("%%fg 3\n1", "%%fg takes options only"),
        ("%jobs 3", "no job 3: there are none yet"),
        ("%jobs -x", "%jobs has no option -x; it has -a"),
        ("%jobs nowhere", "'nowhere' is not a job"),
        ("%cancel", "%cancel needs a job: %cancel 3, %cancel %name, or %cancel all"),
        ("%cancel 3", "no job 3: there are none yet"),
        ("%cancel -x all", "%cancel has no option -x; it has -f"),
        ("def f():\n    %fg waits()\nf()", "%fg cannot wait here"),
        ("def f():\n    %bg x = waits()\nf()", "a job cannot bind x inside a function"),
    ],
)
async def test_bad_input_is_one_line_and_changes_nothing(
    cells: Any, shell: InteractiveShell, line: str, message: str
) -> None:
    """Nothing is launched, no number is used up, no name is bound."""
    await cells("")
    before = set(shell.user_ns)
    with pytest.raises(UsageError) as raised:
        await cells(line)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert type(raised.value) is UsageError  # its subclasses are shown with a stack
    assert len(jobs()) == 0
    assert set(shell.user_ns) - before <= {"f", "_i1", "_i2", "_"}
    job = await cells("%bg gives(1)")
    assert job.number == 1


async def test_a_whole_name_stands_for_the_job(cells: Any, shell: InteractiveShell) -> None:
    """Whoever named it types that, and no mark before it; a variable comes first."""
    await cells("%bg -n load gives(5)\nx = %fg load\n%bg -n wait waits();")
    assert shell.user_ns["x"] == 5
    await cells("%cancel wait")
    assert jobs()[2].state == "cancelled"
    await cells("load = %bg gives(6)\ny = %fg load")
    assert shell.user_ns["y"] == 6


async def test_an_ambiguous_spec_lists_the_candidates(cells: Any) -> None:
    """For every magic that takes one."""
    await cells("%bg -n load_a waits()\n%bg -n load_b waits();")
    for line in ("%fg %load", "%cancel ?load", "%jobs %load", "%bg --after %load gives(1)"):
        with pytest.raises(UsageError, match=r"more than one job: 1 \(load_a\), 2 \(load_b\)"):
            await cells(line)
    assert [job.state for job in jobs()] == ["running", "running"]
    await cells("gate.set()")


@pytest.mark.parametrize("line", ["%bg f(", "%bg 1 +", "%bg x = = 3", "%bg return 3", "%%bg\nf(\n"])
async def test_a_syntax_error_points_at_the_users_text(
    cells: Any, shell: InteractiveShell, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the stack that led to it; nothing is launched."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        await cells(line)
    assert type(raised.value).__name__ == "SyntaxError"
    shown = capsys.readouterr().out
    assert "SyntaxError" in shown
    assert "^" in shown
    assert "Traceback" not in shown
    assert "ipy_bgtasks" not in shown
    assert len(jobs()) == 0


async def test_autoawait_off_leaves_a_one_line_error(cells: Any, shell: InteractiveShell) -> None:
    """And says what the user may do; with it on again it works."""
    shell.autoawait = False
    for line in ("%fg gives(3)", "x = %fg gives(3)", "%%fg\n3"):
        with pytest.raises(UsageError, match="autoawait off"):
            await cells(line)
    assert len(jobs()) == 0
    shell.autoawait = True
    assert await cells("%fg gives(3)") == 3


# Launching


@pytest.mark.parametrize(
    ("code", "where", "value"),
    [
        ("gives(3)", "loop", 3),
        ("caller(3)", "loop", 3),
        ("caller.method(3)", "loop", 3),
        ("caller", "loop", 7),
        ("functools.partial(gives, 3)", "loop", 3),
        ("functools.partial(caller.method, 3)", "loop", 3),
        ("lambda: gives(3)", "loop", 3),
        ("asyncio.sleep(0, 3)", "loop", 3),
        ("asyncio.gather(gives(3), gives(4))", "loop", [3, 4]),
        ("asyncio.wait_for(gives(3), 5)", "loop", 3),
        ("await gives(3)", "loop", 3),
        ("[x async for x in asynchronous()]", "loop", [1]),
        ("await gives(3) + 1", "loop", None),
        ("late(3)", "loop", 3),  # a thread makes the coroutine, the loop awaits it
        ("late", "thread", None),
        ("int('3')", "thread", 3),
        ("int", "thread", 0),
        ("lambda: 3", "thread", 3),
        ("number + 1", "thread", 43),
        ("number = number + 1", "thread", 43),
        ("new = gives(6)", "loop", 6),
        ("box['k'] = gives(8)", "loop", 8),
        ("-t gives(3)", "thread", 3),
        ("-t await gives(3)", "thread", 3),
        ("-l int('3')", "loop", 3),
        ("-- -number", "thread", -42),
        ("import math; math.floor(3.5)", "thread", 3),
        ("for i in range(3): pass", "thread", None),
        ("async with asyncio.timeout(3): x = await gives(3)", "loop", None),
    ],
)
async def test_code_runs_in_its_place(cells: Any, code: str, where: str, value: Any) -> None:
    """The table of what CODE may be."""
    if code == "await gives(3) + 1":
        value = 4
    elif code == "late":
        await cells("late = lambda: 3")
        value = 3
    job = await cells(f"%bg {code}")
    assert isinstance(job, Job)
    assert await asyncio.wait_for(job, BOUND) == value
    assert job.where == where
    assert await cells(f"%fg {job.number}") == value


async def test_an_existing_task_or_future_is_adopted(cells: Any) -> None:
    """A name of one, or an attribute."""
    await cells("task = asyncio.ensure_future(waits(3)); box.update(t=task)")
    one = await cells("%bg task")
    two = await cells("%bg box['t']")
    await cells("gate.set()")
    assert [await one, await two] == [3, 3]
    await cells("future = asyncio.get_running_loop().create_future(); future.set_result(4)")
    assert await (await cells("%bg future")) == 4
    await cells("other = asyncio.ensure_future(asyncio.Event().wait())\njob = %bg other")
    await cells("%cancel job")
    assert await cells("other.cancelled(), str(job.state)") == (True, "cancelled")
    assert await cells("%fg ?task") == 3


@pytest.mark.parametrize(
    ("cell", "where", "value"),
    [
        ("x = 3\nx + 1", "thread", 4),
        ("x = await gives(3)\nx + 1", "loop", 4),
        ("def f():\n    return 5\nf()", "thread", 5),
        ("async for x in asynchronous():\n    y = x\ny", "loop", 1),
        ("x = !echo hello\nx[0]", "thread", "hello"),
        ("%config\nx = 3", "thread", None),
        ("x = await gives(3)\nx = %fg gives(4)\nx", "loop", 4),
        ("async def f():\n    x = %fg gives(4)\n    return x\nawait f()", "loop", 4),
    ],
)
async def test_a_cell_runs_in_its_place(
    cells: Any, shell: InteractiveShell, cell: str, where: str, value: Any
) -> None:
    """In the user's namespace; the value of its last expression is the result."""
    job = await cells(f"%%bg -n name\n{cell}")
    assert await asyncio.wait_for(job, BOUND) == value
    assert (job.where, job.name) == (where, "name")


async def test_names_are_bound_at_launch(cells: Any, shell: InteractiveShell) -> None:
    """In a loop of the cell, of a function, and with its locals; functions see live globals."""
    await cells("G = 'old'; js = []\nasync def take(v):\n    await gate.wait(); return v, G")
    await cells("for u in range(3):\n    j = %bg take(u)\n    js.append(j)")
    await cells(
        "def many():\n"
        "    found = []\n"
        "    for v in range(3):\n"
        "        w = v * 10\n"
        "        j = %bg take(w)\n"
        "        found.append(j)\n"
        "    return found\n"
        "js += many()"
    )
    await cells("u = take = None; G = 'new'; gate.set()")
    assert [await job for job in shell.user_ns["js"]] == [(v, "new") for v in (0, 1, 2, 0, 10, 20)]


async def test_an_assignment_binds_when_it_is_done(cells: Any, shell: InteractiveShell) -> None:
    """The target's objects and indexes are those of the launch."""
    first = await cells("k = 'a'\n%bg box[k] = waits(1)")
    second = await cells("k = 'b'\n%bg fresh = waits(2)")
    box = shell.user_ns["box"]
    await cells("box = {}; gate.set()")
    await first, await second
    assert box == {"a": 1}
    assert shell.user_ns["box"] == {}
    assert shell.user_ns["fresh"] == 2


async def test_after_others_names_they_assign_are_looked_up_at_the_start(
    cells: Any, shell: InteractiveShell
) -> None:
    """So that a job may use what the one before it makes."""
    await cells("model = 'old'")
    await cells("%bg -n train model = waits('new')")
    used = await cells("%bg --after %train [model, number]")
    assert used.state == "queued"
    await cells("number = 0; gate.set()")
    assert await used == ["new", 42]


async def test_options_are_honoured(cells: Any, tmp_path: Any) -> None:
    """Name, quiet, timeout, log."""
    path = tmp_path / "job.log"
    job = await cells(f"%bg -q -n 'my job' --log {str(path)!r} print('hello')")
    await job
    assert (job.name, record_of(job).quiet, job.log.text) == ("my job", True, "hello\n")
    assert path.read_text() == "hello\n"
    job = await cells("%bg --timeout 0.01 waits()")
    with pytest.raises(TimeoutError, match=r"took longer than 0\.01 s"):
        await asyncio.wait_for(job, BOUND)
    assert job.state == "failed"


# Waiting and stopping


async def test_fg_of_all_gives_a_list_and_each_job_once(cells: Any) -> None:
    """In order of number, whatever order they ended in."""
    await cells("%bg waits(1)\n%bg gives(2)\n%bg gives(3);")
    await cells("gate.set()")
    assert await cells("x = %fg all\nx") == [1, 2, 3]
    assert await cells("%fg all") == []
    assert await cells("%bg gives(4)\n%fg all") == [4]


async def test_fg_of_all_raises_after_all_have_ended(cells: Any) -> None:
    """One failure as it is, several as a group."""
    await cells("async def fails(n):\n    raise ValueError(n)")
    await cells("%bg -q fails(1)\n%bg gives(2)")
    with pytest.raises(ValueError, match="1"):
        await cells("%fg all")
    await cells("%bg -q fails(3)\n%bg -q fails(4)\n%bg gives(5)")
    with pytest.raises(ExceptionGroup, match="2 of 4 jobs failed") as raised:
        await cells("%fg all")
    assert [str(error) for error in raised.value.exceptions] == ["3", "4"]
    assert all(job.done() for job in jobs())
    assert await cells("%fg all") == [2, 5]  # good results are not lost with the bad ones
    assert await cells("%fg all") == []


async def test_fg_of_all_leaves_out_what_was_cancelled_on_purpose(cells: Any) -> None:
    """`%cancel` has reported it."""
    await cells("%bg gives(1)\n%bg waits()\n%cancel 2")
    assert await cells("%fg all") == [1]


@pytest.mark.parametrize("code", ["ls -l", "ls", "git status", "env | sort"])
async def test_what_looks_like_a_command_is_told_how_to_run_one(cells: Any, code: str) -> None:
    """In the one line that refuses it."""
    with pytest.raises(UsageError, match=re.escape(f"; %bg !{code} runs a shell command")):
        await cells(f"%bg {code}")
    assert len(jobs()) == 0


async def test_what_names_a_job_is_not_launched(cells: Any) -> None:
    """`%fg` is what is meant."""
    await cells("%bg gives(1)")
    with pytest.raises(UsageError, match="%1 is a job: %fg 1 brings it to the foreground"):
        await cells("%bg %1")


async def test_fg_takes_several_jobs(cells: Any) -> None:
    """Their results come as a list, in the order given; `--any` returns the first that ends."""
    await cells("%bg -n down gives(1)\n%bg gives(2)\n%bg waits(3)")
    assert await cells("%fg 2 %down") == [2, 1]
    first = await cells("%fg --any 3 2")
    assert first.number == 2
    await cells("gate.set()")
    assert await cells("%fg 1 2 3") == [1, 2, 3]
    with pytest.raises(UsageError, match="no job 9"):
        await cells("%fg 1 9")


async def test_tab_knows_texts_of_names_and_variables(shell: Any, cells: Any) -> None:
    """That hold jobs; and nothing else that is the user's."""
    await cells("mine = %bg -n crawler gives(1)\nminor = 3")
    words = partial(candidates, _registry(shell), variables=shell.user_ns)
    assert [text for text, _ in words("%fg ?raw", "?raw")] == ["?crawler"]
    assert [text for text, _ in words("%fg mi", "mi")] == ["mine"]


def _registry(shell: Any) -> Any:
    return shell._ipy_bgtasks_core.registry


async def test_what_is_rewritten_already_is_left_alone(shell: Any, cells: Any) -> None:
    """A macro, or a cell that was saved, holds the rewritten text."""
    await cells("%bg gives(1)")
    once = shell.transform_cell("%fg 1")
    assert shell.transform_cell(once) == once
    assert await cells(once) == 1


async def test_nobody_sees_how_a_magic_is_told_that_it_is_awaited(
    shell: Any, cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the traceback of a cell, in its history, and in a `%macro` of it, which still waits."""
    await cells("def bad(): raise ValueError('bad thing')")
    with pytest.raises(ValueError, match="bad thing"):
        await cells("%fg bad()")
    with pytest.raises(ValueError, match="bad thing"):
        await cells("%%fg\nasync def g():\n    x = %fg bad()\nawait g()")
    shown = capsys.readouterr().out
    assert "run_line_magic('fg', 'bad()')" in re.sub(r"\x1b\[[\d;]*m", "", shown)
    kept = shell.transform_cell("x = %fg gives(3)")
    assert kept == "x = (await get_ipython().run_line_magic('fg', 'gives(3)'))\n"
    await cells(kept)
    assert shell.user_ns["x"] == 3


async def test_fg_of_a_failure_leaves_nothing_to_be_told_later(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was raised here, also where it came before the wait; who catches it has it."""
    await cells("def bad(): raise ValueError('bad thing')")
    for _ in range(20):
        with pytest.raises(ValueError, match="bad thing"):
            await cells("%fg bad()")
    assert capsys.readouterr().out.count("Traceback (most recent call last)") == 20  # the cells'


async def test_fg_with_a_time_out_leaves_the_job_running(cells: Any) -> None:
    """On `%fg CODE`, too."""
    with pytest.raises(TimeoutError, match=r"not ended after 0\.01 s; job 1 goes on"):
        await cells("%fg --timeout 0.01 waits(3)")
    with pytest.raises(TimeoutError):
        await cells("%fg --timeout 0.01 1")
    with pytest.raises(TimeoutError):
        await cells("%%fg --timeout 0.01\nawait waits(4)")
    assert [job.state for job in jobs()] == ["running"] * 2
    await cells("gate.set()")
    assert await cells("%fg 1") == 3


async def test_fg_of_a_cancelled_job_raises_what_futures_raise(cells: Any) -> None:
    """The cell fails; it is not cancelled."""
    await cells("%bg waits()\n%cancel 1")
    with pytest.raises(concurrent.futures.CancelledError, match="job 1 was cancelled"):
        await cells("%fg 1")


async def test_fg_shows_a_job_that_holds_a_variable(cells: Any) -> None:
    """And an awaitable in one; never a function."""
    await cells("gate.set(); job = %bg waits(3)")
    assert await cells("%fg job") == 3
    await cells("c = waits(4); t = asyncio.ensure_future(waits(5))")
    assert await cells("%fg c") == 4
    assert await cells("%fg t") == 5


async def test_fg_inside_async_def_is_awaited(cells: Any) -> None:
    """Also in one that runs as a job."""
    await cells("gate.set()")
    await cells("async def f():\n    x = %fg waits(3)\n    return x + 1")
    assert await cells("await f()") == 4
    assert await cells("%fg f()") == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%cancel 1", ["job 1 (waits()) cancelled"]),
        ("%cancel all", ["job 1 (waits()) cancelled", "job 2 (never) cancelled; it never started"]),
        ("%cancel 2 1", ["job 2 (never) cancelled; it never started", "job 1 (waits()) cancelled"]),
        ("%cancel %never", ["job 2 (never) cancelled; it never started"]),
    ],
)
async def test_cancel_reports_what_became_of_each(
    cells: Any, capsys: pytest.CaptureFixture[str], line: str, said: list[str]
) -> None:
    """The end, not the wish."""
    await cells("%bg waits()\n%bg -n never --after 1 gives(1);")
    capsys.readouterr()
    await cells(line)
    shown = [s for s in capsys.readouterr().out.splitlines() if s.startswith("job ")]
    assert shown == said
    await cells("gate.set()")


async def test_cancel_of_what_has_ended_says_so(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was not this cancel that did it."""
    await cells("%bg gives(1)\n%fg 1")
    await cells("%cancel 1\n%cancel all")
    shown = capsys.readouterr().out
    assert "job 1 (gives(1)) had finished before" in shown
    assert "no job to stop: none is running or queued" in shown


async def test_cancel_in_a_plain_function_reports_the_wish(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """There it cannot wait."""
    await cells("%bg waits()")
    await cells("def f():\n    %cancel 1\nf()")
    assert "is cancelling" in capsys.readouterr().out
    with pytest.raises(concurrent.futures.CancelledError):
        await jobs()[1]


async def test_a_job_cannot_ask(cells: Any) -> None:
    """On the loop and in a thread, `input`, `getpass` and `breakpoint` raise at once."""
    await cells("import getpass\nasync def ask(f):\n    return f()")
    for asks in ("input", "getpass.getpass", "breakpoint"):
        for code in (f"{asks}()", f"ask({asks})", f"-t ask({asks})"):
            job = await cells(f"%bg -q {code}")
            name = asks.rpartition(".")[2]
            with pytest.raises(RuntimeError, match=rf"{name}\(\) in job {job.number}: a back"):
                await asyncio.wait_for(job, BOUND)


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit"])
@pytest.mark.parametrize("where", ["-l", "-t"])
async def test_an_exit_in_a_job_disturbs_nobody(cells: Any, where: str, error: str) -> None:
    """In a coroutine, a task it starts, a thread, and a thread that one starts."""
    await cells(
        f"def fails(): raise {error}\n"
        "async def awaits(): fails()\n"
        "async def child(): await asyncio.create_task(awaits())\n"
        "async def lost(): asyncio.create_task(awaits()); return await waits(1)\n"
    )
    other = await cells("%bg waits('other')")
    for code in ("awaits()", "child()", "fails()"):
        job = await cells(f"%bg -q {where} {code}")
        ended = asyncio.Event()
        job.add_done_callback(partial(_set, ended, asyncio.get_running_loop()))
        await asyncio.wait_for(ended.wait(), BOUND)
        assert job.state == "failed"
        assert type(job.exception()).__name__ == error.partition("(")[0]
    lost = await cells("%bg -l lost()")
    await cells("await asyncio.sleep(0); gate.set()")
    assert await asyncio.wait_for(lost, BOUND) == 1
    assert await asyncio.wait_for(other, BOUND) == "other"


# Help and completion


async def test_the_help_shows_usage_and_examples(
    cells: Any, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """`%bg?` and the others."""
    for name, needed in [
        ("%bg", ["Examples:", "--timeout S", "%bg model = train(data)", "-n, --name"]),
        ("%%bg", ["Examples:", "the whole cell"]),
        ("%fg", ["Examples:", "x = %fg 3"]),
        ("%jobs", ["--prune"]),
        ("%cancel", ["-f, --force"]),
    ]:
        await cells(f"{name}?")
        shown = capsys.readouterr().out
        assert all(text in shown for text in needed), shown


def completed(shell: InteractiveShell, line: str) -> list[str]:
    """What Tab makes of the end of *line*: the whole words."""
    found = []
    with provisionalcompleter():
        for completion in shell.Completer.completions(line, len(line)):
            found.append(line[: completion.start] + completion.text + line[completion.end :])
    return found


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("%fg ", {"%fg 1", "%fg 2", "%fg all"}),
        ("%fg 1", {"%fg 1"}),
        ("x = %fg 2", {"x = %fg 2"}),
        ("%fg %", {"%fg %1", "%fg %2", "%fg %load", "%fg %train"}),
        ("%bg --after 1,%t", {"%bg --after 1,%train"}),
        ("%fg %lo", {"%fg %load"}),
        ("%cancel ", {"%cancel 1", "%cancel all"}),
        ("%cancel 1,", {"%cancel 1,1", "%cancel 1,all"}),
        ("%jobs ", {"%jobs 1", "%jobs 2"}),
        ("%bg --after ", {"%bg --after 1", "%bg --after 2"}),
        ("%bg --ti", {"%bg --timeout"}),
        ("%bg -q --lo", {"%bg -q --loop", "%bg -q --log"}),
        (
            "%fg --",
            {
                "%fg --all",
                "%fg --notify",
                "%fg --any",
                "%fg --settled",
                "%fg --budget",
                "%fg --timeout",
            },
        ),
        ("%cancel --f", {"%cancel --force"}),
        ("%jobs --pr", {"%jobs --prune", "%jobs --profile"}),
        ("%%fg --na", {"%%fg --name"}),
    ],
)
async def test_tab_completes_options_and_specs(
    cells: Any, shell: InteractiveShell, line: str, wanted: set[str]
) -> None:
    """For `%cancel`, what can be cancelled."""
    await cells("%bg -n load waits()\n%bg -n train gives(1)\n%fg 2;")
    assert set(completed(shell, line)) == wanted
    await cells("gate.set()")


async def test_tab_completes_code_as_ever(cells: Any, shell: InteractiveShell) -> None:
    """After `%bg`, the names of the user."""
    await cells("")
    shell.Completer.use_jedi = False  # which knows no names on the line of a magic
    assert "%bg waits" in completed(shell, "%bg wai")
    assert "%fg waits" in completed(shell, "%fg wai")


async def test_jobs_shows_a_table_and_returns_nothing(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in the middle of a cell."""
    await cells("%bg -n load waits()\n%bg gives(1)\n%fg 2;")
    capsys.readouterr()
    assert await cells("x = %jobs\ny = 1") is None
    shown = capsys.readouterr().out
    assert re.search(r"^\[1\]- +● running.*loop.*load", shown, re.MULTILINE)
    assert re.search(r"^\[2\]\+ +✓ finished.*loop.*gives\(1\)", shown, re.MULTILINE)
    assert await cells("%jobs 1") is None
    assert "load" in capsys.readouterr().out
    await cells("gate.set()")
    await cells("%fg 1\n%jobs --prune")
    assert "forgot 2 jobs" in capsys.readouterr().out
    assert len(jobs()) == 0


def _set(event: asyncio.Event, loop: asyncio.AbstractEventLoop, _: Job) -> None:
    loop.call_soon_threadsafe(event.set)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%bg gives(1) --timeout 3", "options stand before CODE: %bg --timeout 3 gives(1)"),
        ("%bg gives(1) -p", "options stand before CODE: %bg -p gives(1)"),
        ("%bg --after 1, 2 gives(1)", "the jobs of --after stand without spaces: --after 1,2"),
        ("%bg --timeout 0 gives(1)", "--timeout takes a number of seconds, such as 2.5 or 1h30m"),
        ("%fg --budget x 1", "--budget takes a number of seconds, such as 2.5 or 1h30m"),
    ],
)
async def test_a_hint_says_where_an_option_belongs(cells: Any, line: str, message: str) -> None:
    """And nothing is launched."""
    await cells("first = %bg gives(0)\n%fg first")
    with pytest.raises(UsageError, match=re.escape(message)):
        await cells(line)
    assert len(jobs()) == 1


async def test_only_what_is_named_is_pruned(cells: Any) -> None:
    """Nothing at all if a name is wrong, or a job has not ended."""
    await cells("for i in range(3):\n    %bg gives(i)\n%fg all\nlast = %bg waits()")
    for wrong, message in (("9", "no job 9"), ("@typo", "no group 'typo'"), ("1 4", "job 4 is")):
        with pytest.raises(UsageError, match=message):
            await cells(f"%jobs --prune {wrong}")
        assert len(jobs()) == 4
    await cells("%jobs --prune 1 3")
    assert [job.number for job in jobs()] == [2, 4]
    await cells("%jobs --prune")
    assert [job.number for job in jobs()] == [4]
    await cells("gate.set()\n%fg last")


async def test_jobs_of_a_state_are_listed(cells: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By the state's name, and all of them by `all`."""
    await cells("for i in range(2):\n    %bg -n ended gives(i)\n%fg all\n%bg -n going waits()")
    capsys.readouterr()
    await cells("%jobs running")
    assert "ended" not in (shown := capsys.readouterr().out)
    assert "going" in shown
    await cells("%jobs finished")
    assert "going" not in (shown := capsys.readouterr().out)
    assert shown.count("ended") == 2
    await cells("%jobs all")
    assert "going" in capsys.readouterr().out
    await cells("gate.set()\n%fg %going")


async def test_a_time_is_understood_with_its_unit(cells: Any) -> None:
    """In every option that takes one."""
    job = await cells("%bg --timeout 1h30m gives(3)")
    assert await cells(f"%fg --timeout 10m {job.number}") == 3
    assert await cells("%fg --budget 90s gives(4)") == 4


async def test_a_state_lists_its_jobs(cells: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As a list, though it is one; and if there is none it says so."""
    await cells("%bg waits()\n%bg gives(1)\n%fg")
    capsys.readouterr()
    await cells("%jobs running")
    assert re.fullmatch(r"\[1\]-? +● running +loop +waits\(\).*\n", capsys.readouterr().out)
    await cells("%jobs failed cancelled")
    assert capsys.readouterr().out == "no job is failed or cancelled\n"


async def test_a_cell_shows_its_last_value_though_it_assigns(cells: Any) -> None:
    """Only a value that is bound to a name needs no display."""
    from ipy_bgtasks.job.handle import record_of

    cell = record_of(await cells("%%bg\nx = 2\nx * 21"))
    name = record_of(await cells("%bg y = gives(3)"))
    assert (await cell.job, cell.stores, name.stores) == (42, False, True)


async def test_a_log_shows_as_what_was_printed(cells: Any) -> None:
    """Its text when it is printed, a line in a repr."""
    job = await cells("%bg print('one\\ntwo')")
    await job
    assert str(job.log) == "one\ntwo\n"
    assert repr(job.log) == "<Log of 8 characters that ends with 'two'>"


@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
async def test_a_magic_knows_whether_it_is_awaited(cells: Any, shell: Any, traced: bool) -> None:
    """From the instruction behind its call, also while a debugger or coverage traces the code."""
    trace = sys.gettrace()
    if traced:
        sys.settrace(lambda *_: sys.gettrace())
    try:
        await cells(
            "def plain():\n    return get_ipython().run_line_magic('fg', 'gives(2)')\n"
            "async def waits():\n    x = await get_ipython().run_line_magic('fg', 'gives(3)')\n"
            "    return x\n"
            "[await waits(), (await get_ipython().run_cell_magic('fg', '', 'gives(4)'))]"
        )
        assert shell.user_ns["_"] == [3, 4]
        with pytest.raises(UsageError, match="cannot be awaited"):
            await cells("plain()")
    finally:
        sys.settrace(trace)
