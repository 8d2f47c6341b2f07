"""Stopping shell commands, without IPython: real child processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import TREE, pids_in, still_alive, zombies_of
from shell_place import LONG, Place, said, tree_of

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.work.reading import command_work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def test_cancel_stops_everything_the_command_started(place: Place) -> None:
    """Groups of its own and what is deaf to SIGTERM included; not cancelled before that."""
    place.runner.grace = 0.1
    job = place.launch(TREE)
    pids = tree_of(place, job)
    alive_at_end: list[int] = []
    job.add_done_callback(lambda _: alive_at_end.extend(still_alive(pids, 0)))
    assert job.cancel()
    with pytest.raises(TimeoutError):
        job.result(0.01)
    assert job.state is JobState.CANCELLING
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)
    assert (job.state, alive_at_end) == (JobState.CANCELLED, [])


def test_a_command_has_time_to_clean_up(place: Place) -> None:
    """What it says meanwhile is recorded; its own status does not matter any more."""
    job = place.launch("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    said(place, job, "up")
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)
    assert job.log.stdout == "up\nbye\n"
    assert job.elapsed < LONG


def test_a_suspended_command_hears_it_too(place: Place) -> None:
    """It need not be killed."""
    job = place.launch("echo $$; kill -STOP $$; sleep 1000")
    said(place, job, "\n")
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)


@pytest.mark.parametrize("asked_before", [False, True])
def test_force_does_not_wait(place: Place, asked_before: bool) -> None:
    """Also when somebody asked politely before."""
    job = place.launch("trap '' TERM; echo up; sleep 1000; sleep 1000")
    said(place, job, "up")
    if asked_before:
        job.cancel()
    job.cancel(force=True)
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)


def test_what_has_finished_is_not_cancelled(place: Place, gate: Path) -> None:
    """Asked between the end of the command and of its output."""
    job = place.launch(f"(read x < {gate}) & echo up")
    said(place, job, "up")
    still_alive([] if job.pid is None else [job.pid], LONG)
    job.cancel()
    assert job.result(LONG) == 0
    gate.write_text("\n")


def test_a_time_limit_stops_it_all(place: Place) -> None:
    """And the job fails with `TimeoutError`."""
    job = place.launch("echo $$; sleep 1000 & echo $!; wait", timeout=0.3)
    assert isinstance(job.exception(LONG), TimeoutError)
    assert still_alive(pids_in(job.log.stdout), 0) == []


def test_cancelled_before_its_time_it_never_starts(place: Place, gate: Path) -> None:
    """A command that waits for another job."""
    first = place.launch(f"read x < {gate}")
    work = command_work("echo second", "!echo second")
    second = place.registry.launch(work, where="shell", after=[first])
    second.cancel()
    assert (second.state, second.started) == (JobState.CANCELLED, None)
    gate.write_text("\n")
    assert first.result(LONG) == 0
    assert not second.has_output


def test_cancels_at_any_moment_leave_nothing(place: Place) -> None:
    """At launch, while it runs, at the end: an end that is true, and no process."""
    jobs = []
    for i in range(60):
        job = place.launch("echo $$; (sleep 0.02; echo $$) | cat")
        timer = threading.Timer(i / 1000, job.cancel, args=[i % 3 == 0])
        timer.start()
        jobs.append((job, timer))
    for job, timer in jobs:
        timer.join(LONG)
        job.exception(LONG) if job.state not in ("cancelled", "cancelling") else None
        while not job.done():
            try:
                job.exception(LONG)
            except Exception:
                assert job.state is JobState.CANCELLED
        assert job.state in (JobState.FINISHED, JobState.CANCELLED)
        assert still_alive(pids_in(job.log.stdout), 0) == []
    assert place.runner.runs == set()
    assert zombies_of(os.getpid()) == []


def test_leaving_ends_all_commands_at_once(place: Place) -> None:
    """Whoever leaves does not wait for that."""
    jobs = [place.launch(TREE) for _ in range(3)]
    pids = [pid for job in jobs for pid in tree_of(place, job)]
    began = time.monotonic()
    place.runner.shutdown()
    assert time.monotonic() - began < 0.1
    assert still_alive(pids, 3) == []
    for job in jobs:
        with pytest.raises(Exception, match="was cancelled"):
            job.result(LONG)
