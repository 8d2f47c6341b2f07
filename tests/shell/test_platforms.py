"""Jobs run where the platform lacks what Linux has: asked of a process without those names."""

from __future__ import annotations

import faulthandler  # noqa: F401 - looked up by name
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MACOS = ["os.pidfd_open", "os.waitid", "time.pthread_getcpuclockid"]
WINDOWS = [
    *MACOS,
    "os.setsid",
    "os.getsid",
    "os.killpg",
    "os.fork",
    "os.set_blocking",
    "os.register_at_fork",
    "signal.SIGKILL",
    "signal.SIGCONT",
    "signal.pthread_kill",
    "signal.pthread_sigmask",
    "faulthandler.register",
]

_SCRIPT = """
import asyncio, concurrent.futures.thread, faulthandler, json, os, signal, subprocess, sys, time
import psutil
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

for name in json.loads(sys.argv[1]):
    module, _, attribute = name.rpartition(".")
    delattr(sys.modules[module], attribute)
import ipy_bgtasks.runners.sessions as sessions
sessions._PROC = "/nowhere"
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
shell.run_line_magic("load_ext", "ipy_bgtasks")
shell.user_ns.update(asyncio=asyncio, time=time)
run, told = shell.run_line_magic, {}

def ends(job):
    try:
        return repr(job.result(20))
    except BaseException as error:
        return type(error).__name__

async def wait(job):
    return await job

def fg(job):
    return repr(shell.loop_runner(wait(job)))

job = run("bg", "asyncio.sleep(0.01, 'slept')")
told["loop"] = fg(job)
told["thread"] = ends(run("bg", "sum([1, 2])"))
job = run("bg", "!echo printed; exit 3")
told["shell"] = ends(job), job.log.stdout
job = run("bg", "!echo $$; sleep 1000 & echo $!; wait")
while job.log.stdout.count("\\n") < 2:
    time.sleep(0.01)
job.cancel()
told["stopped shell"] = ends(job)
pids = [int(pid) for pid in job.log.stdout.split()]
deadline = time.monotonic() + 10
while (alive := [p for p in pids if psutil.pid_exists(p)
                 and psutil.Process(p).status() != "zombie"]) and time.monotonic() < deadline:
    time.sleep(0.01)
told["left"] = alive
told["kept"] = []
if not hasattr(os, "setsid"):
    try:
        run("bg", "--keep !echo kept")
    except Exception as error:
        told["kept"] = [str(error)]
job = shell.run_cell_magic("bg", "", "while True: time.sleep(0.001)")
job.cancel()
told["stopped thread"] = ends(job)
print("\\n" + json.dumps(told))
"""


@pytest.mark.parametrize("lacks", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_jobs_run_and_stop_without(lacks: list[str], tmp_path: Path) -> None:
    """On the loop, in threads, and as commands with everything that those start."""
    pytest.importorskip("psutil")
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    there = [name for name in lacks if hasattr(sys.modules[name.split(".")[0]], name.split(".")[1])]
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(there)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    posix = "os.setsid" not in lacks
    no_sessions = "--keep needs the sessions of POSIX, which this platform does not have"
    assert told == {
        "kept": [] if posix else [no_sessions],
        "loop": "'slept'",
        "thread": "3",
        "shell": ["CalledProcessError", "printed\n"],
        "stopped shell": "CancelledError",
        "left": [],
        "stopped thread": "CancelledError",
    }
