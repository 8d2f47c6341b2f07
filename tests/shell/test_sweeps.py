"""Sweeps as a user types them: groups, limits and retries in a shell."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from ipy_bgtasks import NoSuchJob, jobs
from ipy_bgtasks.ipython.options import candidates

BOUND = 20.0

SETUP = """
import asyncio
gate = asyncio.Event()

async def waits(value=None):
    await gate.wait()
    return value

async def fails(value):
    raise ValueError(value)
"""


async def test_a_loop_launches_a_sweep_and_its_results_come_as_a_list(cells: Any) -> None:
    """Each with the values of its turn, in order of number."""
    await cells("for i in range(6):\n    %bg -g crawl:2 waits(i)")
    await asyncio.sleep(0)
    assert [str(job.state) for job in jobs("@crawl")] == ["running"] * 2 + ["queued"] * 4
    await cells("gate.set()")
    assert await cells("%fg @crawl") == [0, 1, 2, 3, 4, 5]
    assert await cells("x = %fg @crawl\nlen(x)") == 6


async def test_several_specs_may_name_a_group_among_them(cells: Any) -> None:
    """Each job counts once."""
    await cells("gate.set()\nfor i in range(3):\n    %bg -g a waits(i)\n%bg waits(9)")
    assert await cells("%fg @a 2 4") == [0, 1, 2, 9]


async def test_failures_of_a_group_are_raised_as_those_of_all(cells: Any) -> None:
    """One as itself, several as a group; after all have ended."""
    await cells("gate.set()\n%bg -q -g one fails(1)\n%bg -q -g one waits(2)")
    with pytest.raises(ValueError, match="1"):
        await cells("%fg @one")
    await cells("for i in range(3):\n    %bg -q -g many fails(i)")
    with pytest.raises(ExceptionGroup, match="3 of 3 jobs failed"):
        await cells("%fg @many")


async def test_cancel_stops_a_group(cells: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The queued ones never start."""
    await cells("for i in range(4):\n    %bg -g crawl:1 waits(i)")
    await asyncio.sleep(0)
    await cells("%cancel @crawl")
    said = capsys.readouterr().out
    assert "job 1 (waits(0)) cancelled\n" in said
    assert said.count("it never started") == 3
    assert {str(job.state) for job in jobs("@crawl")} == {"cancelled"}


async def test_a_job_may_wait_for_a_group(cells: Any) -> None:
    """With `--after`."""
    await cells("for i in range(3):\n    %bg -g crawl:1 waits(i)\n%bg --after @crawl waits('last')")
    assert str(jobs()[4].state) == "queued"
    await cells("gate.set()")
    assert await cells("%fg 4") == "last"
    assert [str(job.state) for job in jobs("@crawl")] == ["finished"] * 3


async def test_group_names_and_limits_are_expanded(cells: Any) -> None:
    """As the values of all options are."""
    await cells("n = 2\nfor i in range(2):\n    %bg -g 'fold-{i}:{n}' waits(i)")
    assert [job.group for job in jobs()] == ["fold-0", "fold-1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%bg -g crawl:0 waits()", "-g crawl:N takes how many may run at a time, 1 or more"),
        ("%bg -g crawl:many waits()", "not 'many'"),
        ("%bg -g a,b waits()", "-g takes the name of a group, a word such as crawl"),
        ("%bg --retries x waits()", "--retries takes a number of times, such as 3, not 'x'"),
        ("%bg --retries 2 task", "--retries cannot run task again, which ends once"),
        ("%bg --retries 2 await task", "--retries cannot run task again"),
        ("%bg --retries 2 asyncio.shield(task)", "--retries cannot run task again"),
        ("%bg @crawl", "@crawl names a group: %fg @crawl waits for its jobs"),
        ("%fg @crawl", "no group 'crawl': there are none"),
        ("%cancel @crawl", "no group 'crawl': there are none"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line(cells: Any, line: str, message: str) -> None:
    """And nothing is launched."""
    await cells("task = asyncio.get_running_loop().create_task(waits())")
    with pytest.raises(UsageError, match=re.escape(message)):
        await cells(line)
    assert len(jobs()) == 0
    await cells("task.cancel()")


async def test_jobs_takes_a_group(cells: Any) -> None:
    """From Python."""
    await cells("%bg -g crawl waits()\n%bg waits()")
    assert [job.number for job in jobs("@crawl")] == [1]
    assert "waits()" in repr(jobs("@crawl"))
    with pytest.raises(NoSuchJob, match="no group 'x': there is @crawl"):
        jobs("@x")
    await cells("gate.set()")
    await cells("%fg all")


async def test_groups_are_completed(cells: Any, shell: InteractiveShell) -> None:
    """As specs, and as the value of -g."""
    await cells("%bg -g crawl:1 waits()\n%bg -g cross waits()")
    registry = shell._ipy_bgtasks_core.registry  # type: ignore[attr-defined]

    def texts(line: str, token: str) -> list[str]:
        return [text for text, _ in candidates(registry, line, token)]

    assert texts("%fg @c", "@c") == ["@crawl", "@cross"]
    assert texts("%cancel @cr", "cr") == ["crawl", "cross"]
    assert "@crawl" in texts("%jobs ", "")
    assert texts("%bg --after @cra", "@cra") == ["@crawl"]
    assert texts("%bg -g cro", "cro") == ["cross"]
    # In one line of a popup, whatever the width of that.
    await cells(f"%bg -n {'long' * 50} -g crawl waits()")
    told = dict(candidates(registry, "%fg ", ""))
    assert told["1"] == "● running: waits()".replace(" ", "\xa0")
    assert told["3"].startswith("○\xa0queued:\xa0long")
    assert len(told["3"]) < 70
    await cells("gate.set()")
    await cells("%fg all")


FLAKY = """
from pathlib import Path
def flaky(path):
    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("the first time")
    return 7
"""


async def test_what_fails_is_run_again_in_every_place(
    cells: Any, shell: InteractiveShell, tmp_path: Path
) -> None:
    """What was bound at launch stays bound."""
    pytest.importorskip("cloudpickle")
    with ThreadPoolExecutor(1) as pool:
        shell.user_ns.update(pool=pool, here=str(tmp_path))
        await cells(FLAKY)
        await cells("p = here + '/a'\n%bg -q --retries 1 flaky(p)\np = None")
        await cells("p = here + '/b'\n%bg -q -p --retries 1 flaky(p)\np = None")
        await cells("p = here + '/c'\n%bg -q --on pool --retries 1 flaky(p)\np = None")
        await cells("p = here + '/d'\n%bg -q -l --retries 1 flaky(p)\np = None")
        await cells(
            "p = here + '/e'\n%bg -q --retries 1 !test -f {p} || (touch {p}; exit 3)\np = None"
        )
        await cells("%%bg -q --retries 1\nflaky(here + '/f')")
        assert await cells("%fg all") == [7, 7, 7, 7, 0, 7]
    assert all("attempt 1 of 2 failed: " in job.log.text for job in jobs())


async def test_a_loop_of_hundreds_loses_no_result(cells: Any) -> None:
    """Launches of one cell are kept as one, also beside those of others."""
    await cells("async def f(i): return i\nfor i in range(300):\n    %bg f(i);")
    await cells("for i in range(300, 310):\n    %bg f(i);")
    assert await cells("%fg all") == list(range(310))


async def test_a_shorter_list_says_so(cells: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`%fg all` and `%fg @group` name what they cannot return any more."""
    await cells("%config BgTasks.max_finished = 2\nasync def f(i): return i")
    for i in range(5):
        await cells("get_ipython().execution_count += 1")
        await cells(f"job = %bg f({i});\nfrom asyncio import wait\nawait wait([job])")
    capsys.readouterr()
    assert await cells("%fg all") == [3, 4]
    assert "3 older results are missing: only so many" in capsys.readouterr().out
    assert await cells("%fg all") == []
    assert "missing" not in capsys.readouterr().out


async def test_settled_returns_exceptions_in_the_place_of_results(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is raised otherwise comes with a line on how to get the rest."""
    await cells("gate.set()")
    await cells("for i in range(3):\n    %bg -q -g mix fails(i) if i else waits(7)")
    await cells("job = %bg -g mix asyncio.sleep(100)\n%cancel job")
    capsys.readouterr()
    with pytest.raises(ExceptionGroup, match="2 of 4 jobs failed") as caught:
        await cells("%fg @mix")
    assert [str(error) for error in caught.value.exceptions] == ["1", "2"]
    assert capsys.readouterr().out.startswith(
        "3 of 4 jobs did not finish: %fg --settled @mix returns all, with exceptions in the place"
    )
    values = await cells("%fg --settled @mix")
    assert [type(value).__name__ for value in values] == [
        *("int", "ValueError", "ValueError", "CancelledError")
    ]
    assert (values[0], values[1].args) == (7, (1,))
    assert repr(await cells("%fg --settled 2")) == "ValueError(1)"


async def test_the_rest_of_all_comes_with_all(
    cells: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure that has been raised is not raised again."""
    await cells("gate.set()\n%bg -q fails(1)\n%bg waits(2)")
    with pytest.raises(ValueError, match="1"):
        await cells("%fg all")
    assert "%fg all returns the results of the others\n" in capsys.readouterr().out
    assert await cells("%fg all") == [2]


async def test_halt_stops_a_group(cells: Any) -> None:
    """From the magic and from Python; it needs one."""
    await cells("for i in range(4):\n    %bg -q -g fits:2 --halt fails(i)")
    with pytest.raises(ValueError, match="0"):
        await cells("%fg @fits")
    assert [str(job.state) for job in jobs("@fits")][-2:] == ["cancelled"] * 2
    await cells("from ipy_bgtasks import launch")
    await cells("for i in range(2):\n    launch(fails, i, group='two', limit=1, halt=True)")
    with pytest.raises(ValueError, match="0"):
        await cells("%fg @two")
    for code in ("%bg --halt waits()", "launch(waits, halt=True)"):
        with pytest.raises(ValueError if "launch" in code else UsageError, match="-g NAME"):
            await cells(code)
