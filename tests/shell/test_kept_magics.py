"""Jobs that outlive their session, seen from sessions: this process, and others that end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from IPython.core.error import UsageError
from keeping_ends import end_kept_jobs
from patience import until
from processes import is_gone
from receivers import receiver

from ipy_bgtasks import CannotSend, Job, ProcessDied, jobs
from ipy_bgtasks.runners.kept.directory import directories
from ipy_bgtasks.session.notices import Notices

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
    pytest.mark.usefixtures("home"),
]
BOUND = 30.0

#: Another session: runs the cells given as arguments.
OTHER = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
for cell in ["%load_ext ipy_bgtasks", *sys.argv[1:]]:
    shell.run_cell(cell).raise_error()
"""
DIES = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kept jobs are; whatever a test leaves running there is ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SHELL", "/bin/sh")
    yield tmp_path / "state" / "ipy_bgtasks" / "kept"
    end_kept_jobs()


def other_session(*cells: str) -> str:
    """What another session, which is gone when this returns, has printed."""
    texts = [textwrap.dedent(cell) for cell in cells]
    done = subprocess.run(
        [sys.executable, "-c", OTHER, *texts], capture_output=True, text=True, timeout=BOUND
    )
    assert done.returncode == (-9 if DIES in cells else 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def state_of(home: Path, number: str) -> dict[str, Any]:
    """What is written of a job's state; empty before it runs."""
    path = home / number / "state.json"
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


async def test_a_kept_command_is_a_job_as_any_other(cells: Any) -> None:
    """With output on both streams, exit status, and a number of its own kind."""
    job: Job = await cells("%bg --keep !echo one; echo two >&2; exit 3")
    assert (str(job.number), job.where) == ("k1", "kept")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await job
    assert caught.value.returncode == 3
    assert (job.log.stdout, job.log.stderr) == ("one\n", "two\n")
    assert await cells("%fg --any k1") is job


async def test_python_code_is_run_in_a_process_and_its_value_comes_back(cells: Any) -> None:
    """Without -p, with -p, as a cell, as an assignment, and awaited."""
    await cells("import asyncio, os\ndef f(x): return os.getpid(), {x}")
    pid, value = await (await cells("%bg --keep f(1)"))
    assert (pid != os.getpid(), value) == (True, {1})
    assert (await (await cells("%bg -p --keep f(2)")))[1] == {2}
    assert await (await cells("%%bg --keep\nx = 3\nx + 1")) == 4
    await (await cells("%bg --keep bound = f(5)"))
    assert (await cells("bound"))[1] == {5}
    assert await (await cells("%bg --keep asyncio.sleep(0, 'slept')")) == "slept"
    assert await (await cells("%bg --keep print('nothing')")) is None


async def test_a_failure_has_the_traceback_of_where_it_was_raised(cells: Any) -> None:
    """And the state says what it is before the exception itself is loaded."""
    job = await cells("def fails(): raise ZeroDivisionError('oh')\n") or await cells(
        "%bg --keep fails()"
    )
    with pytest.raises(ZeroDivisionError, match="oh") as caught:
        await job
    assert "fails" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert isinstance(job.exception(), ZeroDivisionError)
    assert "ZeroDivisionError: oh" in repr(jobs())


async def test_a_value_that_cannot_be_sent_says_so(cells: Any) -> None:
    """The job has failed: nothing of its value is left."""
    await cells("class Never:\n    def __reduce__(self): raise TypeError('never')")
    with pytest.raises(CannotSend, match="of type Never, cannot be sent: TypeError: never"):
        await (await cells("%bg --keep Never()"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%bg --keep -t print()", "it goes with -p or a !command, not with --thread"),
        ("%bg --keep -l print()", "not with --loop"),
        ("%bg --keep -p !ls", "it takes no --process"),
        ("%bg --keep 42", "42 is nothing to run"),
        ("%bg --keep lock.acquire()", "cannot be sent"),
        ("%bg --keep --log /nowhere/x print()", "cannot write to the log file"),
        ("%fg k7", "no job k7"),
    ],
)
async def test_bad_input_is_one_line_and_keeps_nothing(
    cells: Any, home: Path, line: str, message: str
) -> None:
    """No directory is left behind."""
    await cells("import threading; lock = threading.Lock()")
    with pytest.raises(UsageError, match=message):
        await cells(line)
    assert not home.exists() or not list(home.iterdir())


async def test_the_next_session_finds_what_a_killed_one_has_kept(
    cells: Any, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one line at loading, the table, the whole output, the value; as often as it is asked."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    other_session(
        """
        def train(path):
            print("epoch 1")
            open(path).read()
            print("epoch 2")
            return [1, 2]
        """,
        f"%bg --keep train({str(gate)!r})",
        "%bg --keep -q !echo done",
        "import ipy_bgtasks; ipy_bgtasks.jobs()['k2'].result()",
        "import time\nwhile not ipy_bgtasks.jobs()['k1'].started: time.sleep(0.01)",
        DIES,
    )
    await cells("")
    assert "2 kept jobs: 1 running, 1 finished (%jobs)" in capsys.readouterr().err
    await cells("%jobs")
    table = capsys.readouterr().out
    assert "[k1]+  ● running   kept" in table
    assert "[k2]-  ✓ finished  kept" in table
    gate.write_text("")
    assert await cells("%fg k1") == [1, 2]
    assert "epoch 1\nepoch 2\n" in capsys.readouterr().out
    assert jobs()["k1"].result() == [1, 2]
    assert jobs()["k1"].log.stdout == "epoch 1\nepoch 2\n"
    assert "[1, 2]" in other_session("print(get_ipython().run_line_magic('fg', 'k1'))")


async def test_a_session_that_leaves_says_what_goes_on(home: Path) -> None:
    """And does not take it along."""
    printed = other_session("%bg --keep -n long !sleep 1000")
    assert "kept job goes on: k1 (long)" in printed
    assert until(lambda: state_of(home, "k1"))["state"] == "running"


async def test_another_session_cancels_the_whole_tree(cells: Any, home: Path) -> None:
    """The one that launched it hears that it was cancelled."""
    job = await cells("%bg --keep !sh -c 'sleep 1000 & echo $!; wait'; sleep 1001")
    pid = int(until(lambda: job.log.stdout.strip()))
    assert "job k1" in other_session("%cancel k1")
    until(job.done)
    assert job.cancelled()
    until(lambda: is_gone(pid))


async def test_cancel_all_leaves_the_jobs_of_others(
    cells: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are stopped by their number only."""
    other_session("%bg --keep !sleep 1000")
    await cells("%jobs")
    await cells("%cancel all")
    assert capsys.readouterr().out.endswith(
        "\nno job of this session to stop; left alone: k1 (%cancel k1 stops it)\n"
    )
    await cells("%cancel k1")
    assert "job k1 (!sleep 1000) cancelled" in capsys.readouterr().out


async def test_a_timeout_needs_no_session(home: Path) -> None:
    """The watcher keeps it."""
    other_session("%bg --keep --timeout 0.3 !sleep 1000", DIES)
    until(lambda: "ended" in state_of(home, "k1"))
    assert "TimeoutError: job k1 took" in other_session("%jobs")


async def test_a_queued_job_of_a_dead_session_never_starts(cells: Any, home: Path) -> None:
    """One that another session still holds is queued there as here."""
    first = await cells("%bg --keep !sleep 1000")
    await cells("%bg --keep -n second --after + !echo never")
    assert "queued" in other_session("%jobs").splitlines()[1]
    first.cancel()
    until(lambda: state_of(home, "k2"))
    assert state_of(home, "k2")["state"] == "cancelled"
    other_session("%bg --keep !sleep 1000", "%bg --keep --after + !echo never", DIES)
    await cells("%jobs")
    assert str(jobs()["k4"].state) == "cancelled"
    with pytest.raises(Exception, match="k4 never started: the session ended"):
        jobs()["k4"].result()


@pytest.mark.parametrize("code", ["!sleep 1000 & echo $!; wait", "__import__('time').sleep(1000)"])
async def test_a_killed_watcher_takes_the_job_along(cells: Any, home: Path, code: str) -> None:
    """Its guard ends what is left, and writes that."""
    job = await cells(f"%bg --keep {code}")
    state = until(lambda: state_of(home, "k1"))
    os.kill(state["watcher"], 9)
    until(job.done)
    with pytest.raises(ProcessDied, match="its watcher was killed"):
        job.result()
    assert is_gone(state["pid"])


async def test_if_nobody_is_left_the_next_who_looks_writes_the_end(home: Path) -> None:
    """Watcher and guard are gone: the processes are found by what they carry."""
    other_session("%bg --keep !setsid sleep 1000 & sleep 1001", DIES)
    state = until(lambda: state_of(home, "k1"))
    children = Path(f"/proc/{state['watcher']}/task/{state['watcher']}/children").read_text()
    guard = next(int(pid) for pid in children.split() if int(pid) != state["pid"])
    os.kill(state["watcher"], 19)  # so that it does not renew its guard
    os.kill(guard, 9)
    os.kill(state["watcher"], 9)
    until(lambda: is_gone(state["watcher"]))
    assert "failed" in other_session("%jobs")
    assert is_gone(state["pid"])


async def test_a_guard_that_was_killed_is_replaced(cells: Any, home: Path) -> None:
    """The job does not notice."""
    job = await cells("%bg --keep !sleep 1000")
    watcher = until(lambda: state_of(home, "k1"))["watcher"]
    children = Path(f"/proc/{watcher}/task/{watcher}/children")

    def guards() -> set[int]:
        return {int(pid) for pid in children.read_text().split()} - {state_of(home, "k1")["pid"]}

    (first,) = until(guards)
    os.kill(first, 9)
    until(lambda: guards() - {first})
    until(job.running)


async def test_a_restart_of_the_machine_is_told_from_a_kill(home: Path) -> None:
    """By the identity of the time since it started."""
    other_session("%bg --keep !sleep 1000", DIES)
    state = until(lambda: state_of(home, "k1"))
    job = json.loads((home / "k1" / "job.json").read_text())
    place = directories()[0]
    place.request("force")
    until(lambda: is_gone(state["watcher"]))
    (home / "k1" / "job.json").write_text(json.dumps({**job, "boot": "another"}))
    (home / "k1" / "state.json").write_text(json.dumps(state))
    assert place.settle()["why"] == "the machine was restarted"


async def test_pruning_forgets_what_has_ended(
    cells: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the disk too; what runs stays, and a later job may get the number."""
    other_session("%bg --keep !true", "get_ipython().run_line_magic('fg', 'k1')")
    await cells("%bg --keep !sleep 1000")
    await cells("%jobs --prune")
    assert "forgot 1 job" in capsys.readouterr().out
    assert [path.name for path in home.iterdir()] == ["k2"]


async def test_old_jobs_go_by_themselves(cells: Any, home: Path) -> None:
    """Those that ended more than `keep_days` ago."""
    other_session("%bg --keep !true", "get_ipython().run_line_magic('fg', 'k1')")
    await cells("%jobs")
    assert (home / "k1").exists()
    await cells("%config BgTasks.keep_days = 0\n%jobs")
    assert not (home / "k1").exists()
    assert "k1" not in repr(jobs())


async def test_nobody_else_can_read_or_write(cells: Any, home: Path) -> None:
    """Directories are 0700, files 0600, whatever the umask is."""
    before = os.umask(0)
    try:
        await (await cells("%bg --keep print(1) or {2}"))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (home / "k1").iterdir()}
    assert "value.pickle" in modes
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE((home / "k1").stat().st_mode) == 0o700


async def test_a_pickle_that_others_can_write_is_not_loaded(cells: Any, home: Path) -> None:
    """The error names the file."""
    job = await cells("%bg --keep dict(a=1)")
    until(job.done)
    (home / "k1" / "value.pickle").chmod(0o622)
    with pytest.raises(CannotSend, match=r"value\.pickle: others can write to it"):
        job.result()
    (home / "k1" / "value.pickle").chmod(0o600)
    (home / "k1").chmod(0o720)
    with pytest.raises(CannotSend, match="others can write to its directory"):
        job.result()
    (home / "k1").chmod(0o700)
    assert job.result() == {"a": 1}


async def test_a_value_whose_class_is_gone_leaves_the_file(cells: Any, tmp_path: Path) -> None:
    """The job has finished; what cannot be had is its value, here."""
    (tmp_path / "shapes.py").write_text("class Circle: pass")
    other_session(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shapes",
        "%bg --keep shapes.Circle()",
        "get_ipython().run_line_magic('fg', 'k1')",
    )
    await cells("%jobs")
    assert str(jobs()["k1"].state) == "finished"
    for _ in range(2):
        with pytest.raises(CannotSend, match=r"No module named 'shapes'; it is kept in .*k1/value"):
            await cells("%fg k1")


async def test_progress_and_place_are_seen_from_another_session(cells: Any, tmp_path: Path) -> None:
    """While it runs."""
    gate = tmp_path / "gate"
    await cells(
        "import os, time; from ipy_bgtasks import track\n"
        "def steps(path):\n"
        "    for i in track(range(4)):\n"
        "        while i == 1 and not os.path.exists(path): time.sleep(0.01)\n"
    )
    job = await cells(f"%bg --keep steps({str(gate)!r})")
    until(lambda: job.progress is not None and job.progress.fraction == 0.25)
    assert until(job.stack)[-1].name == "steps"
    # On a busy machine the job's process may answer too late for one look.
    looks = (
        "from IPython.utils.capture import capture_output\nshown = ''\n"
        "while not ('25%' in shown and 'in steps' in shown):\n"
        "    with capture_output() as captured:\n"
        "        get_ipython().run_line_magic('jobs', '-v')\n"
        "    shown = captured.stdout\n"
        "print(shown)"
    )
    printed = other_session("%jobs", looks)
    assert "25%" in printed
    assert "in steps" in printed
    gate.write_text("")
    assert job.result(BOUND) is None


async def test_the_first_look_of_another_session_shows_the_last_line(
    cells: Any, home: Path
) -> None:
    """Of a job that runs, at once."""
    job = await cells("%bg --keep !echo first; echo ep''och 7; sleep 1000")
    until(lambda: job.log.last_line == "epoch 7")
    assert "epoch 7" in other_session("%jobs")
    await cells("%cancel -f k1")


async def test_a_log_file_goes_on_without_the_session(home: Path, tmp_path: Path) -> None:
    """The watcher writes it."""
    copy = tmp_path / "copy.txt"
    other_session(f"%bg --keep --log {copy} !sleep 0.5; echo late", DIES)
    until(lambda: "ended" in state_of(home, "k1"))
    assert copy.read_text() == "late\n"


def test_the_addresses_are_told_when_no_session_is_there(home: Path) -> None:
    """By the watcher, or by its guard; what it needs for that holds secrets, and goes."""
    pytest.importorskip("apprise")
    with receiver() as server:
        home.parent.mkdir(parents=True, exist_ok=True)
        gate = home.parent / "gate"
        os.mkfifo(gate)
        notify = f"%config BgTasks.notify = [{server.url!r}]"
        other_session(notify, f"%bg --keep --notify -n nightly !read x < {gate}; exit $x", DIES)
        left = home / "k1" / "tell.json"
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
        gate.write_text("3\n")
        told = server.next()
        assert told["title"] == "job k1 failed: nightly"
        assert "exit status 3" in told["message"]
        assert not left.exists()
        assert "secret" not in (home / "k1" / "watcher.txt").read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise's own
async def test_the_addresses_are_told_once_where_a_session_is_there(cells: Any) -> None:
    """Its watcher tells them, not the session too."""
    pytest.importorskip("apprise")
    with receiver() as server:
        await cells(f"%config BgTasks.notify = [{server.url!r}]")
        await cells("def six(): return 6")
        assert await cells("%bg --keep --notify -n six six()\nx = %fg %six\nx") == 6
        assert server.next()["title"] == "job k1 finished: six"
        await cells("%bg --notify -n last six()")
        assert server.next()["title"] == "job 1 finished: last"


async def test_the_session_leaves_the_addresses_to_the_watcher(
    cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody has brought the job to the foreground."""
    pytest.importorskip("apprise")
    posted: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(Notices, "_post", lambda _self, job, _notice: posted.put(str(job.number)))
    with receiver() as server:
        await cells(f"%config BgTasks.notify = [{server.url!r}]")
        await cells("def six(): return 6\njob = %bg --keep --notify -n six six()\nawait job")
        assert server.next()["title"] == "job k1 finished: six"
        await cells("%bg --notify -n last six()")
        assert posted.get(timeout=BOUND) == "1"


async def test_a_notice_that_reached_nobody_is_said_in_the_output(cells: Any, home: Path) -> None:
    """Where the next session finds it, without the secrets of the address."""
    pytest.importorskip("apprise")
    nobody = "%config BgTasks.notify = ['json://user:secret@127.0.0.1:1']"
    other_session(nobody, "job = %bg --keep --notify !echo text", "job.result()")
    until(lambda: "not delivered" in "".join(f.read_text() for f in home.glob("k1/output-*")))
    await cells("%fg --any k1")
    job = jobs()["k1"]
    assert job.log.stdout == "text\n"
    assert job.log.stderr.startswith("[notice not delivered: ")
    assert "secret" not in job.log.stderr


async def test_kept_jobs_of_a_group_respect_its_limit(cells: Any, tmp_path: Path) -> None:
    """The second waits for the first in this session, and is kept as it begins."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    first = await cells(f"%bg --keep -g one:1 !read x < {gate}")
    second = await cells("%bg --keep -g one:1 !echo second")
    until(lambda: str(first.state) == "running")
    assert str(second.state) == "queued"
    gate.write_text("go\n")
    assert await second == 0
    assert (str(first.state), second.log.stdout) == ("finished", "second\n")


def remove(directory: Path) -> None:
    """Remove a directory in which somebody may just be writing a file."""
    until(lambda: shutil.rmtree(directory, ignore_errors=True) or not directory.exists())


@pytest.mark.parametrize("code", ["!sleep 1000", "__import__('time').sleep(1000)"])
async def test_a_job_whose_directory_is_removed_is_ended(cells: Any, home: Path, code: str) -> None:
    """It is failed only when none of its code runs any more."""
    await cells(f"%bg --keep {code}")
    state = until(lambda: state_of(home, "k1"))
    remove(home / "k1")
    job = jobs()["k1"]
    with pytest.raises(ProcessDied, match="its directory was removed"):
        job.result(BOUND)
    assert is_gone(state["pid"])
    until(lambda: is_gone(state["watcher"]))


async def test_a_watcher_whose_directory_is_removed_ends_the_job(cells: Any, home: Path) -> None:
    """No session is there to see it."""
    other_session("%bg --keep !sleep 1000")
    state = until(lambda: state_of(home, "k1"))
    remove(home / "k1")
    until(lambda: is_gone(state["pid"]) and is_gone(state["watcher"]))


async def test_a_forked_child_of_a_kept_job_ends_in_silence(cells: Any) -> None:
    """It comes back from the user's code as its parent does, and is none of ours."""
    await cells(
        """\
        import os, warnings
        def f():
            warnings.simplefilter("ignore")  # from Python 3.12 on it warns where there are threads
            child = os.fork()
            if child == 0:
                raise SystemExit(3)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        """
    )
    job = await cells("%bg --keep f()")
    assert job.result(BOUND) == 3
    assert job.log.text == ""


async def test_values_that_cannot_be_looked_at_do_not_kill_the_worker(cells: Any) -> None:
    """A class whose `__getattr__` raises something else than AttributeError."""
    await cells(
        """\
        class Slip(Exception):
            def __getattr__(self, name):
                return {}[name]
        def raises():
            raise Slip("slipped")
        """
    )
    error = (await cells("%bg --keep raises()")).exception(BOUND)
    assert type(error).__name__ in ("Slip", "CannotSend")
    assert not isinstance(error, ProcessDied)
    (await cells("%bg --keep Slip()")).exception(BOUND)
    assert "k2" in jobs()
    assert jobs()["k2"] in jobs()


async def test_an_interrupt_leaves_nothing_half_launched(
    cells: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job has its number, is said, and runs; the interrupt comes after that."""
    await cells("import time\n%bg --keep -q print(1)")
    make = os.mkdir

    def interrupted(*args: Any, **options: Any) -> None:
        make(*args, **options)
        monkeypatch.setattr(os, "mkdir", make)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "mkdir", interrupted)
    capsys.readouterr()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        await cells("%bg --keep time.sleep(1000)")
    signal.signal(signal.SIGINT, before)
    assert "time.sleep(1000)" in capsys.readouterr().out
    job = jobs()["k2"]
    assert not job.done()
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["k1", "k2"]
    job.cancel(force=True)
    with pytest.raises(CancelledError):
        job.result(BOUND)
