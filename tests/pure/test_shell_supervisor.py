"""The small process that ends ours when we are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import TREE, TREE_SIZE, still_alive, zombies_of

import ipy_bgtasks
from ipy_bgtasks.runners.supervisor import Supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

ROOT = str(Path(ipy_bgtasks.__file__).parents[1])

#: Launches trees and prints the numbers of their processes, then does *then*.
LAUNCHER = """
import os, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
from ipy_bgtasks.runners.supervisor import Supervisor
supervisor = Supervisor()
trees = []
for _ in range({count}):
    tree = subprocess.Popen({tree!r}, shell=True, stdout=subprocess.PIPE, start_new_session=True)
    supervisor.watch(tree.pid)
    trees.append(tree)
for tree in trees:
    pids = []
    while len(pids) < {size}:
        pids += tree.stdout.readline().split()
    print(*map(int, pids), sep="\\n")
print("up", flush=True)
{then}
"""


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """One that is gone after the test."""
    supervisor = Supervisor()
    yield supervisor
    supervisor.close(wait=30)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


def launched(then: str, count: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A launcher and the processes of its trees."""
    code = LAUNCHER.format(root=ROOT, tree=TREE, size=TREE_SIZE, count=count, then=then)
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pids = [int(line) for line in iter(launcher.stdout.readline, "up\n")]
    assert len(pids) == TREE_SIZE * count
    return launcher, pids


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="killed"),
        pytest.param("", id="normal end"),
        pytest.param("supervisor.close()", id="closed"),
        pytest.param(
            "if os.fork() == 0: time.sleep(9)\nos.kill(os.getpid(), signal.SIGKILL)",
            id="a forked child holds the pipe",
        ),
        pytest.param(
            "os.kill(supervisor._process.pid, 9); supervisor._process.wait()\n"
            "supervisor.watch(trees[0].pid); os.kill(os.getpid(), signal.SIGKILL)",
            id="a killed supervisor is replaced",
        ),
        pytest.param(
            "import debugpy; debugpy.listen(('127.0.0.1', 0))\n"
            "os.kill(supervisor._process.pid, 9); supervisor._process.wait()\n"
            "supervisor.watch(trees[0].pid); print(supervisor._process.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
            id="it starts while a debugger listens",
            marks=pytest.mark.skipif(not find_spec("debugpy"), reason="needs debugpy"),
        ),
        pytest.param(
            "os.killpg(supervisor._process.pid, signal.SIGTERM)\n"
            "os.killpg(supervisor._process.pid, signal.SIGINT)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
            id="signals do not end it",
        ),
    ],
)
def test_nothing_outlives_the_launcher(then: str) -> None:
    """Twenty trees of nine processes, some deaf to signals, are gone within 3 s."""
    launcher, pids = launched(then, 20)
    with launcher:
        launcher.wait(30)
        assert launcher.stdout is not None
        pids += map(int, launcher.stdout)  # the supervisor itself, where it is printed
        assert still_alive(pids, 3) == []


def test_what_a_finished_command_left_running_is_ended_too() -> None:
    """Its session is still watched."""
    then = (
        "tree = subprocess.Popen('sleep 1000 & echo $!', shell=True, stdout=subprocess.PIPE,"
        " start_new_session=True)\n"
        "supervisor.watch(tree.pid); tree.wait(); supervisor.unwatch(tree.pid)\n"
        "print(int(tree.stdout.readline()), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    launcher, _ = launched(then, 0)
    with launcher:
        assert launcher.stdout is not None
        assert still_alive([int(launcher.stdout.readline())], 3) == []


LAUNCH = """
def launch(command, then=lambda: None):
    def start(variables):
        process = subprocess.Popen(
            command, shell=True, stdout=subprocess.PIPE, start_new_session=True,
            env={**os.environ, **variables},
        )
        print(int(process.stdout.readline()), flush=True)
        then()
        return process
    supervisor.launch(start)
"""


def test_what_was_launched_at_the_last_moment_is_found() -> None:
    """The launcher was killed before it could tell."""
    then = LAUNCH + (
        "launch('echo $$')\n"
        "launch('sleep 1000 & echo $!; wait', lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    launcher, _ = launched(then, 0)
    with launcher:
        assert launcher.stdout is not None
        pids = [int(line) for line in launcher.stdout]
        assert len(pids) == 2
        assert still_alive(pids, 3) == []


def test_what_began_a_session_of_its_own_goes_free() -> None:
    """That is how something is meant to outlive us."""
    then = LAUNCH + (
        "launch(\"setsid sh -c 'echo $$; exec sleep 1000 >&-' & wait\")\n"
        "supervisor.close(wait=30); os.kill(os.getpid(), signal.SIGKILL)"
    )
    launcher, _ = launched(then, 0)
    with launcher:
        assert launcher.stdout is not None
        free = int(launcher.stdout.readline())
        launcher.wait(30)
        assert still_alive([free], 0) == [free]
        os.kill(free, signal.SIGKILL)


def test_it_is_deaf_from_its_first_moment_on(
    supervisor: Supervisor, sleeper: subprocess.Popen[bytes]
) -> None:
    """Before its own first line ran; and nobody else becomes deaf."""
    supervisor.watch(sleeper.pid)
    assert supervisor._process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.killpg(supervisor._process.pid, number)
    supervisor.close(wait=30)
    assert sleeper.wait(30) == -signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test itself forks
def test_a_forked_child_does_nothing(
    supervisor: Supervisor, sleeper: subprocess.Popen[bytes]
) -> None:
    """The processes are its parent's."""
    supervisor.watch(sleeper.pid)
    child = os.fork()
    if child == 0:
        told = supervisor.close()
        supervisor.unwatch(sleeper.pid)
        os._exit(int(told))
    assert os.waitpid(child, 0) == (child, 0)
    assert sleeper.poll() is None
    supervisor.close(wait=30)
    assert sleeper.wait(30) == -signal.SIGTERM


def test_it_starts_with_the_first_session_only(supervisor: Supervisor) -> None:
    """Who launches no process pays nothing, and closing what never began is nothing."""
    assert supervisor._process is None
    assert not supervisor.close()


def test_it_is_reaped_when_it_was_killed(
    supervisor: Supervisor, sleeper: subprocess.Popen[bytes]
) -> None:
    """By the next that has something to tell it."""
    supervisor.watch(sleeper.pid)
    assert supervisor._process is not None
    os.kill(supervisor._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, supervisor._process.pid, os.WEXITED | os.WNOWAIT)
    supervisor.watch(sleeper.pid)
    assert zombies_of(os.getpid()) == []


def test_without_an_interpreter_nothing_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is broken."""
    monkeypatch.setattr(sys, "executable", "")
    supervisor = Supervisor()
    supervisor.watch(os.getpid())
    supervisor.unwatch(os.getpid())
    assert not supervisor.close()
