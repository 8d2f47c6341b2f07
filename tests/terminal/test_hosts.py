"""The other ways to start IPython, each run to its end: what jobs give comes, and none is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipy_bgtasks

CODE = """
import asyncio, time
def double(x):
    return 2 * x
async def later(x):
    await asyncio.sleep(0.01)
    return x
one = %bg later(1)
two = %bg double(1)
three = %bg -p double(1.5)
four = %bg !echo said
w = %fg one
x = %fg two
y = %fg three
z = %fg four
print("values", w, x, y, z, four.log.stdout)
asleep = %bg asyncio.sleep(1000)
stuck = %bg time.sleep(1000)
command = %bg !sleep 1000
"""
START = """
import IPython
def triple(x):
    return 3 * x
IPython.start_ipython(argv=["--ext", "ipy_bgtasks", "-c", CODE], user_ns={"triple": triple, "n": 4})
print("goes " "on")
"""
CONFIGURED = "c.InteractiveShellApp.extensions = ['ipy_bgtasks']"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with configurations that load the extension in a terminal and in a kernel."""
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    for name in ("ipython_config", "ipython_kernel_config"):
        (profile / f"{name}.py").write_text(CONFIGURED)
    return tmp_path


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=home,
        env={
            **os.environ,
            "IPYTHONDIR": str(home / "ipython"),
            "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(home: Path, *command: str) -> str:
    """Run a program to its end, which must be a good one, and return what it printed."""
    done = run(home, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_a_command_line(home: Path) -> None:
    """`ipython -c`, which ends with its jobs."""
    assert "values 1 2 3.0 0 said\n" in output(home, "-m", "IPython", "-c", CODE)


def test_a_script_of_magics(home: Path) -> None:
    """`ipython script.ipy`."""
    (home / "script.ipy").write_text(CODE)
    assert "values 1 2 3.0 0 said\n" in output(home, "-m", "IPython", "script.ipy")


def test_a_script_that_starts_ipython(home: Path) -> None:
    """`start_ipython(argv=[…], user_ns={…})`: the script's own names are there, and it goes on."""
    code = "one = %bg triple(n)\ntwo = %bg -p triple(n)\nprint('values', await one, await two)"
    (home / "script.py").write_text(f"CODE = {code!r}\n{START}")
    assert output(home, "script.py").endswith("values 12 12\ngoes on\n")


def test_jupyter_run(home: Path) -> None:
    """`jupyter run` sends a script as one cell to a kernel that a configuration has prepared."""
    (home / "script.py").write_text(CODE)
    assert "values 1 2 3.0 0 said\n" in output(home, "-m", "jupyter_client.runapp", "script.py")


STRICT = """\
%config BgTasks.strict = True
import atexit, threading
begun = threading.Event()
kept = open("kept.txt", "w")
def fails(word):
    begun.wait()
    raise ValueError(word)
def ends():
    kept.write("not flushed before the end")
atexit.register(ends)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("job = %bg fails('unseen')", "1 job failed, and nobody asked why: [1] fails('unseen') (V"),
        ("job = %bg threading.Event().wait()", "1 job was ended with the session: [1] threading."),
        ("job = %bg fails('seen')\nbegun.set(); print(repr(job.exception()))", ""),
        ("job = %bg 'fine'.upper()", ""),
    ],
    ids=["failed", "cut off", "seen", "finished"],
)
def test_strict_makes_lost_jobs_the_scripts_failure(home: Path, code: str, said: str) -> None:
    """The status says so, stderr why; the rest of the program's end takes place."""
    code = f"{STRICT}{code}\nbegun.set()\nwhile job.running() and 'ails' in job.name: pass\n"
    (home / "script.ipy").write_text(code)
    for command in (["script.ipy"], ["-c", code]):
        done = run(home, "-m", "IPython", *command)
        assert done.returncode == (120 if said else 0), done.stderr
        assert said in done.stderr
        assert said or not re.search("nobody asked|with the session", done.stderr)
        assert (home / "kept.txt").read_text() == "not flushed before the end"


def test_without_strict_a_script_ends_as_its_own_code_does(home: Path) -> None:
    """Jobs that failed were shown, and are no failure of the script."""
    code = STRICT.replace("True", "False") + "job = %bg fails('x')\nbegun.set()\n"
    done = run(home, "-m", "IPython", "-c", code)
    assert done.returncode == 0
    assert "nobody asked" not in done.stderr
