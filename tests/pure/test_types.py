"""What a type checker says of a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest

RIGHT = """
import concurrent.futures
from ipy_bgtasks import Job, Jobs, JobState, Progress, current_job, jobs, track

def last(all_jobs: Jobs) -> Job:
    return all_jobs[len(all_jobs)]

job = last(jobs())
number, state, seconds = job.number, job.state, job.elapsed
ended: bool = state is JobState.FINISHED and seconds > 1.0
done, rest = concurrent.futures.wait([job])
future: concurrent.futures.Future[object] = job
for item in track([1, 2, 3]):
    if (mine := current_job()) is not None:
        mine.progress = Progress(item, 3, mine.name.upper())

async def wait() -> object:
    return await job
"""
WRONG = {
    "from ipy_bgtasks import Jbos": 'no attribute "Jbos"',
    "import ipy_bgtasks\nipy_bgtasks.job()": "no attribute|not callable|Module",
    "from ipy_bgtasks import Job\ndef f(job: Job) -> None:\n    job.nmae": 'no attribute "nmae"',
    "from ipy_bgtasks import Job\ndef f(job: Job) -> int:\n    return job.name": "expected .int",
}


def check(code: str, tmp_path: Path) -> tuple[str, int]:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(code)
    told, _, status = api.run(["--strict", "--cache-dir", str(tmp_path), str(tmp_path / "user.py")])
    return told, status


def test_a_right_file_is_accepted(tmp_path: Path) -> None:
    """With the names that are exported."""
    assert check(RIGHT, tmp_path) == ("Success: no issues found in 1 source file\n", 0)


@pytest.mark.parametrize("code", WRONG)
def test_a_wrong_file_is_refused(code: str, tmp_path: Path) -> None:
    """A misspelt name, above all."""
    import re

    told, status = check(code, tmp_path)
    assert status == 1
    assert re.search(WRONG[code], told)
