"""Jobs run where the platform lacks what Linux has: asked of a process without those names."""

from __future__ import annotations

import faulthandler  # noqa: F401 - looked up by name
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ipy_bgtasks

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

#: Imported first, in the session and in its worker processes.
_TAKES_AWAY = """
import faulthandler, json, os, signal, sys, time
for name in json.loads(os.environ["LACKS"]):
    module, _, attribute = name.rpartition(".")
    delattr(sys.modules[module], attribute)
"""

_SCRIPT = """
import asyncio, concurrent.futures.thread, faulthandler, json, os, signal, subprocess, sys, time
import psutil
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import ipy_bgtasks.runners.sessions as sessions
sessions._PROC = "/nowhere"
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
shell.run_line_magic("load_ext", "ipy_bgtasks")
shell.user_ns.update(asyncio=asyncio, time=time, os=os, session=os.getpid(), large=bytes(1 << 20))
CELL = '''
import os, subprocess, time
child = subprocess.Popen(["sleep", "1000"])
print(os.getpid(), child.pid, sep=chr(10))
def sleeps(): time.sleep(1000)
sleeps()
'''
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

def alive(pids):
    deadline = time.monotonic() + 10
    while (left := [p for p in pids if psutil.pid_exists(p)
                    and psutil.Process(p).status() != "zombie"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left

told["left"] = alive(map(int, job.log.stdout.split()))
job = shell.run_cell_magic("bg", "", "!echo $$; sleep 1000 & echo $!; wait")
while job.log.stdout.count("\\n") < 2:
    time.sleep(0.01)
job.cancel()
told["stopped shell within"] = ends(job)
told["left"] += alive(map(int, job.log.stdout.split()))
told["process"] = ends(run("bg", "-p os.getpid() != session and hasattr(os, 'setsid')"))
told["failed process"] = ends(run("bg", "-p 1 / 0"))
told["large"] = ends(run("bg", "-p len(large)"))
job = shell.run_cell_magic("bg", "-p", CELL)
while job.log.stdout.count("\\n") < 2:
    time.sleep(0.01)
while not (stack := job.stack()):  # a busy worker may take too long to answer
    pass
told["at"] = [frame.name for frame in stack][-1:]
job.cancel()
told["stopped process"] = ends(job)
told["left"] += alive(map(int, job.log.stdout.split()))
told["died"] = ends(run("bg", "-p os._exit(3)"))
told["next"] = ends(run("bg", "-p sum([1, 2])"))
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
    """On the loop, in threads, in processes, as commands, with everything that those start."""
    pytest.importorskip("psutil")
    pytest.importorskip("cloudpickle")
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    there = [name for name in lacks if hasattr(sys.modules[name.split(".")[0]], name.split(".")[1])]
    (tmp_path / "sitecustomize.py").write_text(_TAKES_AWAY)
    path = os.pathsep.join([str(tmp_path), str(Path(ipy_bgtasks.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "LACKS": json.dumps(there), "PYTHONPATH": path},
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
        "stopped shell within": "CancelledError",
        "process": str(posix),
        "failed process": "ZeroDivisionError",
        "large": str(1 << 20),
        "at": ["sleeps"],
        "stopped process": "CancelledError",
        "died": "ProcessDied",
        "next": "3",
        "stopped thread": "CancelledError",
    }
