"""What annoyed in the first hour, and does not any more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Terminal

import ipy_bgtasks

SETUP = "import asyncio, threading, time\ngo = threading.Event()"


def test_a_semicolon_shows_nothing(loaded: Terminal) -> None:
    """Not even an empty `Out[2]: `."""
    shown = loaded.run("%bg go.wait();")
    assert "Out[" not in shown
    assert "Out[" in loaded.run("%bg go.wait()")


def test_a_look_between_two_exits_is_no_reason_to_ask_again(loaded: Terminal) -> None:
    """`exit`, `%jobs`, `exit` leaves."""
    loaded.run("%bg go.wait();")
    assert "exit again to leave" in loaded.run("exit")
    assert "go.wait()" in loaded.run("%jobs")
    loaded.start("exit")
    assert loaded.leave() == 0


def test_a_failure_in_the_foreground_is_shown_once(loaded: Terminal) -> None:
    """And not at all where the cell catches it."""
    loaded.run("def bad(): raise ValueError('bad ' 'thing')")
    assert loaded.run("%fg bad()").count("ValueError: bad thing") == 1
    caught = loaded.run("try:\n    %fg bad()\nexcept ValueError:\n    print('cau' 'ght')\n")
    assert "caught" in caught
    assert "bad thing" not in caught + loaded.run("1 + 1")


def test_nothing_is_left_to_be_told_after_fg(loaded: Terminal) -> None:
    """However fast the job was."""
    for _ in range(10):
        assert "finished" not in loaded.run("%fg time.sleep(0)")
    assert "finished" not in loaded.run("1 + 1")


def test_fg_shows_how_far_a_job_is(loaded: Terminal) -> None:
    """As the card does in a notebook."""
    loaded.run("from ipy_bgtasks import track")
    loaded.run(
        "def far():\n    for n in track(range(4)):\n        if n == 2: go.wait()\n    return n"
    )
    loaded.start("%fg far()")
    loaded.expect(r"\[1\]  50% ")
    loaded.interrupt()
    loaded.expect("Detached")
    loaded.prompt()
    loaded.run("go.set()")


def test_a_stopped_process_is_not_shown_as_running(loaded: Terminal) -> None:
    """And the table says how it goes on."""
    loaded.run("import os, signal\njob = %bg !sleep 1000")
    loaded.run("os.kill(job.pid, signal.SIGSTOP)\nos.waitid(os.P_PID, job.pid, os.WSTOPPED)")
    shown = loaded.run("%jobs")
    assert "paused" in shown
    assert "%bg 1 lets it go on" in shown
    loaded.run("%cancel job")


def _ipython(
    *arguments: str, home: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", *arguments],
        env={
            **os.environ,
            "IPYTHONDIR": str(home),
            "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding=(environment or {}).get("PYTHONIOENCODING"),
        timeout=60,
    )


def test_a_script_tells_of_failures_when_it_ends(tmp_path: Path) -> None:
    """No prompt comes at which they could be told; and nothing is said of prompts."""
    script = tmp_path / "script.ipy"
    script.write_text(
        "%load_ext ipy_bgtasks\n"
        "def bad(): raise ValueError('bad thing')\n"
        "job = %bg bad()\n"
        "error = job.exception()\n"
    )
    done = _ipython(str(script), home=tmp_path)
    assert "ValueError: bad thing" in done.stderr
    assert "failed  bad()" in done.stderr
    assert "prompt" not in done.stdout + done.stderr
    code = "%bg 1 + 1; \nimport time; time.sleep(.2)"  # for a notice that must not come
    quiet = _ipython("--ext", "ipy_bgtasks", "-c", code, home=tmp_path)
    assert "prompt" not in quiet.stdout + quiet.stderr


def test_a_script_says_which_jobs_end_with_it(tmp_path: Path) -> None:
    """On stderr, in one line: nobody was asked, and its output may go into a pipe."""
    code = "import threading\n%bg threading.Event().wait();\n%bg !sleep 1000;\n%bg print();"
    done = _ipython("--ext", "ipy_bgtasks", "-c", code + "\n%fg", home=tmp_path)
    assert done.returncode == 0
    line = "2 jobs were ended with the session: [1] threading.Event().wait(), [2] !sleep 1000\n"
    assert line in done.stderr
    assert "session" not in done.stdout
    done = _ipython("--ext", "ipy_bgtasks", "-c", "%fg sum([1])", home=tmp_path)
    assert done.stderr == ""


def test_each_attempt_that_fails_is_one_line(loaded: Terminal) -> None:
    """At once, not only with the last one; and `%jobs` says it once."""
    loaded.run("def flaky():\n    print('try ' 'it')\n    raise ValueError('why')")
    loaded.run("job = %bg --retries 2 flaky()")
    loaded.wait(lambda: "attempt 2 of 3 failed: ValueError: why; again in 2 s\n" in loaded.text)
    # The prompt of before may be drawn anew in between; then the line stands behind its input.
    assert "[1] attempt 1 of 3 failed: ValueError: why; again in 1 s\n" in loaded.text
    shown = loaded.run("%jobs")
    assert re.search(r"queued +thread +flaky\(\) +attempt 2 of 3 failed: ValueError: why;", shown)
    assert "attempt 3 of 3: attempt" not in shown
    loaded.run("%cancel 1")


def test_of_a_group_the_first_failed_attempts_are_shown(loaded: Terminal) -> None:
    """Hundreds would scroll away what the user looks at."""
    loaded.run("def flaky(n): raise ValueError(n)")
    loaded.run("for n in range(6):\n    %bg -g many:1 --retries 1 flaky(n)\n")
    loaded.wait(lambda: "ValueError: 2; again in 1 s" in loaded.text)
    loaded.run("%fg --settled @many")
    assert loaded.text.count("attempt 1 of 2 failed") == 3


def test_failed_commands_and_quiet_jobs_say_why(loaded: Terminal) -> None:
    """In the narrowest table, and in the only line that there is."""
    loaded.run("%bg -q --name long_name_of_a_command_that_takes_room !exit 3")
    loaded.run("%bg -q !kill -9 $$")
    shown = loaded.text[loaded.text.rindex("In [") :] + loaded.run("%fg -")
    loaded.run("def boom(): raise ValueError('why')\n%bg -q boom()")
    loaded.sync()
    assert re.search(r"\[3\]\+ failed  boom\(\)  0\.\ds  ValueError: why\n", loaded.text)
    assert re.search(r"failed  !kill -9 \$\$  0\.\ds  killed by SIGKILL", loaded.text), shown
    shown = loaded.run("import os; os.environ['COLUMNS'] = '70'\n%jobs")
    assert re.search(r"failed +shell +long\S+ +0\.\ds  exit status 3", shown)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_shows_what_it_can(tmp_path: Path, encoding: str) -> None:
    """What a job prints there, too; a table stays a table."""
    script = tmp_path / "script.ipy"
    script.write_text(
        "%load_ext ipy_bgtasks\n"
        "from ipy_bgtasks import current_job, jobs\n"
        "import threading; half, go = threading.Event(), threading.Event()\n"
        "def f(_):\n"
        "    print('gr\\u00fc\\u00dfe \\u2026 \\u4e16')\n"
        "    current_job().progress = 0.57\n"
        "    half.set(); go.wait()\n"
        "job = %bg f(['a long argument', 'that is cut', 'at its end', 'of this line', 'there'])\n"
        "half.wait()\n"
        "%jobs\n"
        "print(repr(job), jobs().plot(), jobs())\n"
        "job\n"
        "%jobs 1\n"
        "go.set()\n"
        "%fg 1\n",
        encoding="utf-8",
    )
    environment = {"PYTHONIOENCODING": encoding, "COLUMNS": "70"}
    done = _ipython(str(script), home=tmp_path, environment=environment)
    assert "Error" not in done.stdout + done.stderr
    assert "57% #####=" in done.stdout
    assert "~" in done.stdout
    assert re.search(r"\[1\]\+ +\* running  thread", done.stdout)
    assert done.returncode == 0


def test_the_notice_of_a_cell_shows_its_last_value(loaded: Terminal) -> None:
    """Whatever names the cell binds; the value of `name = …` needs no display."""
    loaded.run("%%bg\nx = 21\nx * 2")
    loaded.run("%bg y = max(3, 4)")
    loaded.sync()
    assert re.search(r"\[1\][+-]? finished  x = 21 x \* 2  0\.\ds  42\n", loaded.text)
    assert re.search(r"\[2\][+-]? finished  y = max\(3, 4\)  0\.\ds\n", loaded.text)


def test_a_script_that_loads_and_awaits_is_told_of_the_option(tmp_path: Path) -> None:
    """It is compiled as one cell, before it loads anything; with the option it runs."""
    script = tmp_path / "script.ipy"
    body = "import asyncio\njob = %bg asyncio.sleep(0, 'slept')\nawait job\nx = %fg job\nprint(x)"
    script.write_text(f"%load_ext ipy_bgtasks\n{body}")
    assert "ipython --ext ipy_bgtasks SCRIPT" in _ipython(str(script), home=tmp_path).stderr
    script.write_text(body)
    done = _ipython("--ext", "ipy_bgtasks", str(script), home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith("slept\n")
