"""Shell commands as jobs, without IPython: real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import pids_in, still_alive, zombies_of
from shell_place import LONG, Place, on_service, said

from ipy_bgtasks.context import current
from ipy_bgtasks.errors import WouldBlock
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.runners import sessions
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work.reading import command_work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def test_output_comes_as_it_is_written(place: Place, gate: Path) -> None:
    """Both streams, each marked, while the command still runs."""
    job = place.launch(f"echo one; echo two >&2; read x < {gate}; echo $x")
    said(place, job, "one\n")
    said(place, job, "two\n", "stderr")
    assert job.state is JobState.RUNNING
    gate.write_text("three\n")
    assert job.result(LONG) == 0
    assert (job.log.stdout, job.log.stderr) == ("one\nthree\n", "two\n")


def test_python_does_not_hold_its_lines_back(place: Place, gate: Path) -> None:
    """Although it writes to a pipe, as long as nobody asked for buffering."""
    job = place.launch(f"{sys.executable} -c 'print(1); open(\"{gate}\").read(); print(2)'")
    said(place, job, "1\n")
    gate.write_text("")
    assert job.result(LONG) == 0
    assert job.log.stdout == "1\n2\n"


def test_where_names_the_process_while_it_runs(place: Place, gate: Path) -> None:
    """And is the plain word before and after."""
    job = place.launch(f"echo $$; read x < {gate}")
    said(place, job, "\n")
    assert job.pid == int(job.log.stdout)
    assert job.stack() == []
    gate.write_text("\n")
    job.result(LONG)
    assert (job.where, job.pid) == ("shell", None)


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_a_bad_end_is_the_error_of_subprocess(place: Place, command: str, code: int) -> None:
    """With the status, or the signal as a negative number, and the command."""
    job = place.launch(command)
    error = job.exception(LONG)
    assert isinstance(error, subprocess.CalledProcessError)
    assert (error.returncode, error.cmd, job.state) == (code, command, JobState.FAILED)


def test_standard_input_is_empty(place: Place) -> None:
    """A command that asks gets the end of the input, and does not hang."""
    job = place.launch("read x || echo nobody; cat")
    assert job.result(LONG) == 0
    assert job.log.stdout == "nobody\n"


def test_what_is_not_utf_8_is_replaced(place: Place, gate: Path) -> None:
    """And a character that comes in two parts is one."""
    job = place.launch(rf"printf 'a\303'; read x < {gate}; printf '\251\377b'")
    said(place, job, "a")
    gate.write_text("\n")
    job.result(LONG)
    assert job.log.stdout == "aé\ufffdb"


def test_it_starts_in_the_directory_of_the_launch_and_fails_without(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is gone fails the job, not the launch."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    work = command_work("pwd", "!pwd")
    monkeypatch.chdir(tmp_path)
    job = place.registry.launch(work, where="shell")
    assert job.result(LONG) == 0
    assert job.log.stdout == f"{gone}\n"
    gone.rmdir()
    assert isinstance(place.registry.launch(work, where="shell").exception(LONG), OSError)


def test_in_a_directory_that_is_gone_it_runs_as_in_a_shell(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be opened by its name, but commands still run."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    job = place.launch("echo here")
    assert job.result(LONG) == 0
    assert job.log.stdout == "here\n"


def test_the_user_s_shell_runs_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the system's, where there is no such shell."""
    monkeypatch.setenv("SHELL", "/bin/bash")
    job = place.launch("echo ${BASH_VERSION:+bash}")
    assert job.result(LONG) == 0
    assert job.log.stdout == "bash\n"
    monkeypatch.setenv("SHELL", "/no/such/shell")
    assert place.launch("true").result(LONG) == 0


def test_output_is_written_in_the_context_of_the_job(place: Place) -> None:
    """So that whoever routes streams knows whose it is."""
    seen: list[tuple[object, ...]] = []
    place.entering = lambda job: seen.append(("entering", job, current.get()))  # type: ignore[method-assign]
    place.write = lambda job, name, text: seen.append((name, text, job, current.get()))  # type: ignore[method-assign]
    place.registry.host.exchange(place)
    job = place.launch("echo out; sleep 0.01; echo err >&2")
    assert job.result(LONG) == 0
    assert seen == [
        ("entering", job, job),
        ("stdout", "out\n", job, job),
        ("stderr", "err\n", job, job),
    ]


def test_trouble_with_showing_is_not_the_command_s(place: Place) -> None:
    """It runs on to its own end."""

    def broken(job: Record, name: str, text: str) -> None:
        raise OSError(text)

    place.write = broken  # type: ignore[method-assign]
    assert place.launch("echo out").result(LONG) == 0


# What goes on


def test_a_child_in_the_background_does_not_keep_the_job(place: Place, gate: Path) -> None:
    """As in a shell; and what it writes later is not lost, nor does it get a broken pipe."""
    job = place.launch(f"(read x < {gate}; echo $x; echo still >&2) & echo first")
    assert job.result(LONG) == 0
    assert job.log.stdout == "first\n"
    gate.write_text("second\n")
    said(place, job, "second")
    said(place, job, "still", "stderr")


def test_what_a_command_wrote_last_is_there_at_its_end(place: Place) -> None:
    """A pipe full of it, also where somebody keeps the pipe open."""
    job = place.launch("sleep 1000 & head -c 60000 /dev/zero | tr '\\0' x")
    assert job.result(LONG) == 0
    assert len(job.log.stdout) == 60_000


def test_a_flood_is_bounded_and_leaves_room_for_others(place: Place, service: ServiceLoop) -> None:
    """50 MB: the log keeps its limit, and timers and other commands have their turn."""
    job = place.launch("yes | head -c 50000000", limit=100_000)
    assert job.log.size <= 100_000  # the log is made now, with its limit
    other = place.launch("echo other")
    slowest = 0.0
    while not job.done():
        began = time.monotonic()
        on_service(service, lambda: None)
        slowest = max(slowest, time.monotonic() - began)
    assert job.result() == other.result(LONG) == 0
    assert slowest < 1
    assert job.log.size <= 100_000
    assert job.log.dropped + job.log.size == 50_000_000


def test_no_child_is_left_unreaped(place: Place) -> None:
    """When the jobs are done."""
    jobs = [place.launch("exit $(( $$ % 2 ))") for _ in range(30)]
    for job in jobs:
        job.exception(LONG)
    assert zombies_of(os.getpid()) == []


def test_waiting_on_the_thread_that_ends_it_is_refused(
    place: Place, service: ServiceLoop, gate: Path
) -> None:
    """A callback that waits for another command would wait for ever."""
    job = place.launch(f"read x < {gate}")
    with pytest.raises(WouldBlock):
        on_service(service, job.result)
    gate.write_text("\n")
    assert job.result(LONG) == 0


# Where the system offers less


def test_without_process_descriptors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread waits for the end."""

    def refused(pid: int) -> int:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", refused)
        job = place.launch("echo out; exit 3")
        assert isinstance(job.exception(LONG), subprocess.CalledProcessError)
    assert job.log.stdout == "out\n"


def test_what_a_command_forks_while_it_is_asked_to_stop_is_asked_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on until the grace period is over."""
    monkeypatch.setattr(place.runner, "grace", 1000.0)
    job = place.launch("sleep 1000 & echo $$ $! up; wait")
    said(place, job, "up")
    new = pids_in(job.log.stdout)[1]
    every, looks = sessions.pids, []

    def pids() -> list[int]:
        looks.append(0)
        return [pid for pid in every() if len(looks) > 1 or pid != new]

    monkeypatch.setattr(sessions, "pids", pids)
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)
    assert still_alive([new], 0) == []


def test_without_a_list_of_processes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process group is what is stopped."""
    monkeypatch.setattr(sessions, "_PROC", "/no/such/place")
    job = place.launch("sleep 1000 & echo $$ $! up; wait")
    said(place, job, "up")
    job.cancel()
    with pytest.raises(Exception, match="was cancelled"):
        job.result(LONG)
    assert still_alive(pids_in(job.log.stdout), 0) == []


def test_where_a_loop_cannot_watch_pipes(
    place: Place, service: ServiceLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads read them, a block at a time."""

    def refused(*_: object) -> None:
        raise NotImplementedError

    def no_pidfd(pid: int) -> int:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(service.loop, "add_reader", refused)
        patched.setattr(os, "pidfd_open", no_pidfd)
        job = place.launch("echo é; head -c 300000 /dev/zero | tr '\\0' x >&2")
        assert job.result(LONG) == 0
    assert (job.log.stdout, len(job.log.stderr)) == ("é\n", 300_000)
