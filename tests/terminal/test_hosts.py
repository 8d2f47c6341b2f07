"""The other ways to start IPython, each run to its end: what jobs give comes, and none is left."""

from __future__ import annotations

import os
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


def output(home: Path, *command: str) -> str:
    """Run a program to its end, which must be a good one, and return what it printed."""
    done = subprocess.run(
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
