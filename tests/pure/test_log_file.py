"""A log that also goes to a file."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.log.output import FileSink, Log


def test_output_is_appended_as_it_comes(tmp_path: Path) -> None:
    """Both streams, raw, the plain text of displays too; what was there before stays."""
    path = tmp_path / "job.log"
    path.write_bytes(b"before\n")
    log, sink = Log(), FileSink(path)
    log.attach_file(sink)
    log.write("stdout", "1%\r")
    log.write("stderr", "é\ud800\n")
    log.display({"text/plain": "fig"})
    assert path.read_bytes() == b"before\n1%\r\xc3\xa9\\ud800\nfig\n"
    sink.close()
    log.write("stdout", "after close")
    assert path.read_bytes().endswith(b"fig\n")


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    """The message names the file and the reason."""
    for path in (str(tmp_path), str(tmp_path / "no" / "file"), "nul\0"):
        with pytest.raises(BadInput, match="cannot write to the log file") as caught:
            FileSink(path)
        assert repr(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_does_not_reach_the_job() -> None:
    """The log goes on; the sink keeps the error."""
    log, sink = Log(), FileSink("/dev/full")
    log.attach_file(sink)
    log.write("stdout", "a")
    log.write("stdout", "b")
    assert log.text == "ab"
    assert isinstance(sink.error, OSError)
    sink.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    """Up to the last line."""
    path = tmp_path / "job.log"
    code = (
        "import os, signal, sys\n"
        "from ipy_bgtasks.log.output import FileSink, Log\n"
        "log = Log(); log.attach_file(FileSink(sys.argv[1]))\n"
        "for n in range(100): log.write('stdout', f'{n}\\n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "".join(f"{n}\n" for n in range(100))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_failure_is_told_once_and_kept() -> None:
    """When it happens, by the thread that writes."""
    log, sink, told = Log(), FileSink("/dev/full"), []
    sink.on_error = lambda: told.append(sink.problem())
    log.attach_file(sink)
    assert log.file_error == ""
    log.write("stdout", "lost\n")
    log.write("stdout", "as well\n")
    assert told == [log.file_error]
    assert "log file '/dev/full': No space left on device" in log.file_error
    assert log.text == "lost\nas well\n"
    sink.close()
