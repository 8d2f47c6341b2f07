"""Kept jobs on the disk: their output in parts, their files, and what they say at each moment."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ipy_bgtasks.errors import BadInput, CannotSend, ProcessDied
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.platforms import host_name
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.runners.kept import files
from ipy_bgtasks.runners.kept.directory import (
    FORMAT,
    JobDirectory,
    directories,
    new_directory,
    startup_summary,
    sweep,
)
from ipy_bgtasks.runners.kept.files import OutputReader, OutputWriter, parts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kept jobs need POSIX")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kept jobs are."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "ipy_bgtasks" / "kept"


@pytest.fixture
def reserved() -> tuple[JobDirectory, int]:
    """A job's directory and the lock of the session that launches it."""
    return new_directory()


def describe(place: JobDirectory, **more: Any) -> None:
    """Write down what the job is."""
    told = {
        "format": FORMAT,
        "host": host_name(),
        "boot": files.boot_id(),
        "token": "kept-no-process",
    }
    files.replace_json(place.path, files.JOB, {**told, "name": "f()", "launched": 1.0, **more})


def read_all(reader: OutputReader) -> str:
    """All there is to read now, as one text."""
    texts = []
    while pieces := reader.read():
        texts += [text for _, _, text in pieces]
    return "".join(texts)


# Numbers


def test_a_kept_number_reads_with_its_letter_and_is_no_other_jobs() -> None:
    """In every way that messages are made; it is sent as what users see, and sorted and hashed."""
    number = JobId.kept(3)
    assert (str(number), repr(number), f"{number}", number.serial) == ("k3", "k3", "k3", 3)
    assert JobId.read("%k3") == JobId.read("k3") == number
    assert number != 3
    assert JobId.kept(2) < number < 1
    assert sorted([2, JobId.kept(10), 1, number]) == [number, JobId.kept(10), 1, 2]
    assert not isinstance(number, int)
    assert json.dumps({"n": number}) == '{"n": "k3"}'
    for text in ("3", "k", "k0", "kk3", "k3x", "k-3"):
        assert JobId.read(text) is None


# Output


def test_output_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With times and streams, whatever the characters, and as it comes."""
    writer, reader = OutputWriter(str(tmp_path), 100_000), OutputReader(str(tmp_path))
    assert reader.read() == []
    written = [(1.5, "stdout", "é\r\u2028\n"), (2.0, "stderr", "\x00\x1b[1m\U0001f600")]
    for piece in written:
        writer.write(*piece)
    assert reader.read() == written
    assert reader.read() == []
    writer.write(3.0, "stdout", "more")
    assert reader.read() == [(3.0, "stdout", "more")]


def test_the_oldest_output_goes_first_and_a_reader_knows(tmp_path: Path) -> None:
    """What is on the disk stays near the limit."""
    limit = 100_000
    writer = OutputWriter(str(tmp_path), limit)
    slow, fast, seen = OutputReader(str(tmp_path)), OutputReader(str(tmp_path)), ""
    for i in range(20_000):
        writer.write(1.0, "stdout", f"{i}\n")
        if i % 100 == 0:
            seen += read_all(fast)
        size = sum(os.stat(path).st_size for _, path in parts(str(tmp_path)))
        assert size <= limit * 1.1
    assert seen + read_all(fast) == "".join(f"{i}\n" for i in range(20_000))
    assert fast.missed == 0
    left = read_all(slow).splitlines()
    assert left == [str(i) for i in range(int(left[0]), 20_000)]
    assert int(left[0]) > 10_000
    assert slow.missed > 100_000


def test_a_late_reader_begins_near_the_end_with_a_whole_line(tmp_path: Path) -> None:
    """And knows how much it left out."""
    writer = OutputWriter(str(tmp_path), 1_000_000)
    for i in range(10_000):
        writer.write(1.0, "stdout", f"{i}\n")
    reader = OutputReader(str(tmp_path), 20_000)
    lines = read_all(reader).splitlines()
    assert lines == [str(i) for i in range(int(lines[0]), 10_000)]
    assert 500 < len(lines) < 1000
    assert reader.missed > 100_000


def test_half_a_line_is_none_until_it_is_whole(tmp_path: Path) -> None:
    """As a crash in the middle of a write leaves it."""
    OutputWriter(str(tmp_path), 10_000).write(1.0, "stdout", "whole")
    ((_, path),) = parts(str(tmp_path))
    with open(path, "a") as file:
        file.write('[2.0, "stdout", "ha')
    reader = OutputReader(str(tmp_path))
    assert read_all(reader) == "whole"
    with open(path, "a") as file:
        file.write('lf"]\n')
    assert read_all(reader) == "half"


def test_a_full_disk_loses_output_and_says_so_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line; the job goes on."""
    writer = OutputWriter(str(tmp_path), 10_000)
    writer.write(1.0, "stdout", "before\n")
    room = [3]

    def full(fd: int, data: memoryview) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(fd, data[: room.pop()])  # half a piece

    write = os.write
    monkeypatch.setattr(os, "write", full)
    writer.write(2.0, "stdout", "lost\n")
    writer.write(2.0, "stdout", "lost too\n")
    monkeypatch.setattr(os, "write", write)
    writer.write(3.0, "stdout", "after\n")
    assert OutputReader(str(tmp_path)).read() == [
        (1.0, "stdout", "before\n"),
        (3.0, "stderr", "[14 characters were not recorded: No space left on device]\n"),
        (3.0, "stdout", "after\n"),
    ]


# What the files say


def test_each_crash_point_leaves_a_true_state(reserved: tuple[JobDirectory, int]) -> None:
    """From the directory alone to the end."""
    place, launching = reserved
    assert (place.job(), startup_summary(())) == (None, "")  # only the directory
    describe(place)
    assert place.settle() == {"state": "queued"}
    assert startup_summary(()) == "1 kept job: 1 queued (%jobs)"
    assert startup_summary({place.number}) == ""
    watched = files.lock(place.path, files.WATCHED)
    assert watched is not None
    files.replace_json(
        place.path, files.STATE, {"state": "running", "host": host_name(), "started": 2.0}
    )
    os.close(launching)
    assert place.settle()["state"] == "running"
    os.close(watched)
    assert startup_summary(()) == "1 kept job: 1 failed (%jobs)"  # before anybody has written it
    state = place.settle()
    assert (state["state"], state["started"]) == ("failed", 2.0)
    outcome = place.outcome(state)
    assert outcome.state is JobState.FAILED
    assert "its watcher was killed" in str(outcome.error)
    assert isinstance(outcome.error, ProcessDied)


def test_a_job_whose_session_died_never_starts(reserved: tuple[JobDirectory, int]) -> None:
    """It is cancelled, and says why."""
    place, launching = reserved
    describe(place)
    os.close(launching)
    outcome = place.outcome(place.settle())
    assert outcome.state is JobState.CANCELLED
    assert "never started: the session ended" in str(outcome.error)


def test_the_jobs_of_another_machine_are_not_shown(reserved: tuple[JobDirectory, int]) -> None:
    """A home may be shared; nor those of a later version."""
    place, _ = reserved
    describe(place, host="elsewhere")
    assert place.job() is None
    describe(place, format=FORMAT + 1)
    assert place.job() is None


def test_a_directory_of_somebody_else_is_not_used(home: Path) -> None:
    """One in which others can write, or that is a link to another."""
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert directories() == []
    with pytest.raises(BadInput, match="others can write there"):
        new_directory()
    home.chmod(0o700)
    place, lock = new_directory()
    os.close(lock)
    Path(place.path).chmod(0o770)
    assert directories() == []
    (home / "k2").symlink_to("k1")
    assert directories() == []


def test_two_sessions_never_get_the_same_number() -> None:
    """Each has a directory of its own."""
    made = [new_directory() for _ in range(3)]
    for _, lock in made:
        os.close(lock)
    assert [str(place.number) for place, _ in made] == ["k1", "k2", "k3"]


def test_sweeping_leaves_what_is_needed(home: Path) -> None:
    """What ended long ago goes, and what a crash has left behind."""
    now = time.time()
    for ended in (now - 10 * 86400, now - 86400, None):
        place, lock = new_directory()
        os.close(lock)
        if ended is not None:
            describe(place)
            state = {"state": "finished", "kind": "none", "ended": ended}
            files.replace_json(place.path, files.STATE, state)
    os.utime(home / "k3", (now - 7200, now - 7200))
    (home / ".gone-k9-1").mkdir()
    sweep(5)
    assert [path.name for path in home.iterdir()] == ["k2"]


def test_a_removed_value_is_an_error_that_names_the_file(
    reserved: tuple[JobDirectory, int],
) -> None:
    """It is asked for again each time."""
    place, _ = reserved
    outcome = place.outcome({"state": "finished", "kind": "value", "shown": "42"})
    assert repr(outcome.value) == "42"
    with pytest.raises(CannotSend, match=r"cannot be read from .*value\.pickle: No such file"):
        outcome.get()
    (Path(place.path) / "value.pickle").write_bytes(b"I42\n.")
    (Path(place.path) / "value.pickle").chmod(0o600)
    assert outcome.get() == 42
