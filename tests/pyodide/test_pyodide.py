"""The loop's magics in a browser's Python; all else is one line that says what would work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Page


def test_a_coroutine_runs_and_fg_shows_it_and_gives_its_value(page: Page) -> None:
    """Its output is in the log, too."""
    page.ok("job = %bg double(3)")
    page.ok("x = %fg job")
    assert page.ok("print(x, [job.log.stdout], job.where)") == "6 ['in 3\\n'] loop\n"


def test_a_cell_that_awaits_is_a_job(page: Page) -> None:
    """So is a call on the loop."""
    page.ok("%%bg\nawait asyncio.sleep(0.01)\nprint('cell')\n5")
    page.ok("x = %fg")
    shown = "import ipy_bgtasks\nprint(x, list(ipy_bgtasks.jobs())[-1].log.stdout)"
    assert page.ok(shown) == "5 cell\n\n"
    page.ok("job = %bg -l sum([1, 2])")
    assert page.run("await job")["value"] == "3"


def test_jobs_are_listed_and_cancelled(page: Page) -> None:
    """And a limit of time strikes."""
    page.ok("job = %bg asyncio.sleep(1000)")
    assert "running  loop  asyncio.sleep(1000)" in page.ok("%jobs")
    assert "(asyncio.sleep(1000)) cancelled" in page.ok("%cancel job")
    page.ok("job = %bg --timeout 0.02 asyncio.sleep(1000)")
    assert page.run("%fg job")["error"] == "TimeoutError"


def test_a_failure_is_raised_with_the_users_lines(page: Page) -> None:
    """An exit in a job, or in a task that it started, ends that job and not the page."""
    page.ok("async def bad():\n    1 / 0\njob = %bg bad()")
    answer = page.run("%fg job")
    assert answer["error"] == "ZeroDivisionError"
    assert "----> 2     1 / 0" in answer["shown"]
    page.ok("async def leaves():\n    raise SystemExit(3)")
    page.ok("async def parent():\n    await asyncio.create_task(leaves())")
    for code in ("leaves()", "parent()"):
        page.ok(f"job = %bg -q {code}\nawait asyncio.wait([asyncio.wrap_future(job.future)])")
        assert page.run("job.exception()")["value"] == "SystemExit(3)"


def test_a_task_that_a_job_starts_is_the_jobs(page: Page) -> None:
    """What it prints is in the job's log."""
    page.ok("async def parent():\n    return await asyncio.create_task(double(4), name='child')")
    page.ok("job = %bg parent()\nx = %fg job")
    assert page.ok("print(x, job.log.stdout)") == "8 in 4\n\n"


@pytest.mark.parametrize(
    ("code", "lacks"),
    [("sum([1])", "a thread"), ("-p sum([1])", "a process"), ("!ls", "a process")],
)
def test_what_a_browser_lacks_is_said_in_one_line(page: Page, code: str, lacks: str) -> None:
    """With what would work; nothing is launched."""
    answer = page.run(f"%bg {code}")
    assert answer["error"] == "UsageError"
    (line,) = answer["shown"].splitlines()
    assert f"needs {lacks}" in line
    assert "-l" in line
    assert page.ok("%jobs") == "no jobs\n"


def test_unloading_keeps_the_jobs_for_the_next_loading(page: Page) -> None:
    """As anywhere."""
    page.ok("job = %bg double(3)\nx = %fg job")
    page.ok("%unload_ext ipy_bgtasks")
    assert "not found" in page.run("%jobs")["shown"]
    page.ok("%load_ext ipy_bgtasks")
    assert "double(3)" in page.ok("%jobs")
