"""How long it will still take, and what is said of many jobs at once."""

from __future__ import annotations

import time

import pytest
from fakes import FakeRunner, launch_job, work

from ipy_bgtasks.job.progress import Progress
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.text import elapsed_text
from ipy_bgtasks.views.describe import left_text, row
from ipy_bgtasks.views.display import card
from ipy_bgtasks.views.tables import Tally, failure_of, group_html, group_line, many_card


@pytest.mark.parametrize(
    ("fraction", "elapsed", "left"),
    [
        (0.5, 60.0, "1m left"),
        (0.25, 30.0, "2m left"),
        (0.99, 2.0, "1s left"),
        (0.5, 41.2, "41s left"),
        (0.5, 59.6, "1m left"),
        (0.5, 125, "2m left"),
        (0.5, 3580, "1h00m left"),
        (0.5, 3900, "1h05m left"),
        (None, 60.0, ""),
        (0.0, 60.0, ""),
        (0.005, 60.0, ""),
        (0.5, 1.0, ""),
        (1.0, 60.0, ""),
    ],
)
def test_the_pace_so_far_tells_what_is_left(
    fraction: float | None, elapsed: float, left: str
) -> None:
    """Rounded, in a few words: as soon as there is enough of it, and while something is left."""
    assert left_text(fraction, elapsed) == left


def runs_since(job: Record, seconds: float) -> None:
    """Make a job one that began so long ago."""
    job._began = time.monotonic() - seconds


def test_a_job_with_progress_shows_the_time_left_everywhere(registry: Registry) -> None:
    """In the table, the panel and the card."""
    job = registry.launch(work())
    job.progress = Progress(25, 100, "epochs")
    assert "left" not in row(job).last
    runs_since(job, 60)
    assert row(job).label == "epochs · 3m left"
    assert row(job).last.endswith("epochs · 3m left")
    assert "3m left" in card(job)["text/plain"]
    assert "3m left" in card(job)["text/html"]


def test_a_group_tells_what_is_left_from_those_that_have_ended(registry: Registry) -> None:
    """Running ones count by their progress, cancelled ones not at all."""
    jobs = [launch_job(registry, work(), group=GroupName("g", 2)) for _ in range(10)]
    place: FakeRunner = registry.runners["thread"]  # type: ignore[assignment]
    jobs[9].cancel()
    jobs[0].progress = 0.5
    assert Tally.of(jobs, {}, 60).left == ""
    place.finish(jobs[1])
    place.fail(jobs[2], ValueError())
    tally = Tally.of(jobs, {}, 50)
    assert (tally.done, tally.total) == (2.5, 10)
    assert tally.left == "2m left"  # 6.5 of 9 are left, at 20 s each
    assert group_line(registry.group("@g")).startswith(
        "g: 10 jobs, 5 queued, 2 running, 1 finished, 1 failed (3), 1 cancelled  35%"
    )


def test_the_line_of_a_group_that_has_ended_says_how_long_it_took(registry: Registry) -> None:
    """And names the first that failed."""
    jobs = [launch_job(registry, work(), group=GroupName("crawl")) for _ in range(1008)]
    place: FakeRunner = registry.runners["thread"]  # type: ignore[assignment]
    for job in jobs[:1000]:
        place.finish(job)
    for job in jobs[1000:]:
        place.fail(job, ValueError())
    failed = "(1001, 1002, 1003, 1004, 1005 and 3 more)"
    assert group_line(registry.group("@crawl")) == (
        f"crawl: 1,008 jobs, 1,000 finished, 8 failed {failed}  "
        f"{elapsed_text(registry.group('@crawl').elapsed)}"
    )


def test_what_is_said_of_many_is_escaped(registry: Registry) -> None:
    """Names come from users."""
    job = launch_job(registry, work(label="<b>"), group=GroupName("<g>"))
    place: FakeRunner = registry.runners["thread"]  # type: ignore[assignment]
    place.fail(job, ValueError())
    assert "<g>" not in group_html(registry.group("@<g>"))
    assert "<b>" not in group_html(registry.group("@<g>"))
    assert (
        "&lt;b&gt;"
        in many_card(Tally.of([], {"failed": 1}), [failure_of(job, traced=True)], "m1", "key")[
            "text/html"
        ]
    )
