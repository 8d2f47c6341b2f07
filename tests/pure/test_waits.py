"""A thread that waits is stopped where it waits, and is as good as new for the next job."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import multiprocessing
import os
import queue
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import work
from patience import until
from test_threads import BOUND, Place, ended

from ipy_bgtasks import waits
from ipy_bgtasks.async_exceptions import Sent, send_again
from ipy_bgtasks.job.handle import on_cancel
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import descendants, frame_of
from ipy_bgtasks.runners.threads import ThreadRun

#: How often each wait is ended in a random moment.
ROUNDS = int(os.environ.get("BG_STRESS", "100"))

# What an exception in a moment of its own choosing leaves open, as with any Ctrl-C.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

linux = pytest.mark.skipif(sys.platform != "linux", reason="seen from the system call")


@pytest.fixture(scope="module", autouse=True)
def _collected_here() -> Iterator[None]:
    """Find what is left open where that is ignored, and not in a test of another file."""
    yield
    gc.collect()


@pytest.fixture
def place() -> Iterator[Place]:
    """One thread and a loop, with all that loading changes for waits."""
    place = Place()
    changes = Installation()
    waits.replace_sleep(changes)
    send_again(changes)
    yield place
    place.close()
    changes.undo()


def _condition() -> None:
    with (condition := threading.Condition()):
        condition.wait_for(lambda: False)


def _accept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.accept()


def _with_pair(use: Callable[[socket.socket], Any]) -> Callable[[], None]:
    def call() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            use(ours)

    return call


def _recv_within(ours: socket.socket) -> None:
    ours.settimeout(1000)
    ours.recv(1)


def _select(ours: socket.socket) -> None:
    select.select([ours], [], [], 1000)


def _poll(ours: socket.socket) -> None:
    poller = select.poll()
    poller.register(ours, select.POLLIN)
    poller.poll(1_000_000)


def _urlopen() -> None:
    from urllib.request import urlopen

    with socket.create_server(("127.0.0.1", 0)) as server:
        urlopen(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=1000)


def _lines() -> None:
    with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            pass


def _pipe() -> None:
    with os.popen("sleep 1000") as pipe:
        pipe.read()


#: Waits of Python's own …
PYTHONS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(1000),
    "Event": lambda: threading.Event().wait(),
    "Event within": lambda: threading.Event().wait(1000),
    "Condition": _condition,
    "Semaphore": lambda: threading.Semaphore(0).acquire(),
    "Barrier": lambda: threading.Barrier(2).wait(),
    "Queue": lambda: queue.Queue().get(),
    "Queue within": lambda: queue.Queue().get(timeout=1000),
    "Future": lambda: Future[None]().result(),
    "futures": lambda: wait([Future[None]()]),
}
#: … and of the system's.
SYSTEMS: dict[str, Callable[[], object]] = {
    "recv": _with_pair(lambda ours: ours.recv(1)),
    "recv within": _with_pair(_recv_within),
    "select": _with_pair(_select),
    "poll": _with_pair(_poll),
    "accept": _accept,
    "urlopen": _urlopen,
    "run": lambda: subprocess.run(["sleep", "1000"]),
    "run within": lambda: subprocess.run(["sleep", "1000"], timeout=1000),
    "check_output": lambda: subprocess.check_output(["sleep", "1000"]),
    "a shell's children": lambda: subprocess.run("sleep 1000; true", shell=True),
    "os.system": lambda: os.system("sleep 1000"),
    "a pipe": _pipe,
    "lines": _lines,
}
KINDS = PYTHONS | SYSTEMS
every_kind = pytest.mark.parametrize(
    "kind", [*PYTHONS, *(pytest.param(kind, marks=linux) for kind in SYSTEMS)]
)


def children() -> list[int]:
    """The processes that this one has started and that still run."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def waiting(place: Place, kind: str, is_async: bool = False) -> tuple[Record, list[str]]:
    """A job that waits, and what it did afterwards."""
    did: list[str] = []
    before = set(children())

    def call() -> None:
        try:
            KINDS[kind]()
        finally:
            did.append("finally")

    async def call_async() -> None:
        call()

    job = place.launch(call_async if is_async else call, is_async=is_async)
    thread = job.thread
    assert thread is not None

    def is_there() -> bool:
        frame = frame_of(thread)
        return frame is not None and waits.can_be_ended(thread, frame)

    until(is_there)
    if kind in ("run", "run within", "check_output", "os.system", "a pipe", "lines"):
        until(lambda: set(children()) - before)
    return job, did


@every_kind
@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine's thread"])
def test_a_wait_ends_when_the_job_is_stopped(place: Place, kind: str, is_async: bool) -> None:
    """Its `finally:` runs, it is cancelled, and no process is left."""
    before = set(children())
    job, did = waiting(place, kind, is_async)
    job.cancel()
    assert ended(job) is JobState.CANCELLED
    assert did == ["finally"]
    until(lambda: not set(children()) - before)


@every_kind
def test_the_next_job_of_the_thread_waits_as_long_as_it_should(place: Place, kind: str) -> None:
    """Stopped in a random moment of its wait, again and again, the last one included."""
    place.threads.max_threads = 1
    place.registry.max_finished = 10
    chance = random.Random(7)
    heavy = kind in SYSTEMS and kind not in ("recv", "recv within", "select", "poll", "accept")
    rounds = max(ROUNDS // 10, 10) if heavy else ROUNDS
    for n in range(rounds):
        job = place.launch(KINDS[kind])
        gate, waited = threading.Event(), []

        def follow(gate: threading.Event = gate, waited: list[Any] = waited) -> str:
            waited.append(gate.wait(BOUND))
            time.sleep(0.0001)  # a wait that a late stop would end
            return "whole"

        following = place.launch(follow)
        # As it begins to wait, as its child starts, and while that runs.
        for _ in range(chance.randrange(chance.choice((300, 10_000, 300_000)))):
            pass
        job.cancel(force=n % 3 == 0)
        assert ended(job) in (JobState.CANCELLED, JobState.FAILED), f"round {n}"
        if job.state is JobState.FAILED:  # what it made of a wait that was ended
            assert isinstance(job.outcome.error, OSError), job.outcome.error
        gate.set()
        assert following.result(BOUND) == "whole", f"round {n}"
        assert waited == [True]


def test_a_wait_of_the_clean_up_is_not_ended(place: Place) -> None:
    """What waits in `finally:` waits for what it needs."""
    place.threads.max_threads = 1
    saved, seen = threading.Event(), []

    def tidy() -> None:
        try:
            time.sleep(1000)
        finally:
            seen.append("cleaning")
            seen.append(saved.wait(BOUND))

    for n in range(ROUNDS):
        saved.clear()
        seen.clear()
        job = place.launch(tidy)
        job.cancel()
        while not seen and not job.done():
            time.sleep(0.0001)  # the job may have ended unseen: both are looked at
        saved.set()
        assert ended(job) is JobState.CANCELLED
        assert seen in (["cleaning", True], []), f"round {n}"


def test_sleep_is_the_originals_elsewhere(place: Place) -> None:
    """Its errors, its name, its length; and unloading puts the original back."""
    assert (time.sleep.__name__, time.sleep.__module__) == ("sleep", "time")

    def errors() -> list[str]:
        found = []
        for wrong in (-1, "1", float("nan"), 1e30, None):
            with pytest.raises((ValueError, TypeError, OverflowError)) as caught:
                time.sleep(wrong)
            found.append(repr(caught.value))
        return found

    def timed() -> float:
        began = time.perf_counter()
        time.sleep(0.02)  # what is measured
        return time.perf_counter() - began

    assert place.launch(errors).result(BOUND) == errors()
    assert 0.02 <= place.launch(timed).result(BOUND) < BOUND


@linux
def test_a_child_that_ignores_the_signal_gets_a_stronger_one(place: Place) -> None:
    """After the grace period SIGTERM, and with force SIGKILL at once."""
    place.threads.grace = 0.1
    trap = "trap '' INT; echo; while :; do sleep 0.05; done"
    for force, deaf in ((False, trap), (True, trap.replace("INT", "INT TERM"))):
        begun = threading.Event()

        def run(deaf: str = deaf, begun: threading.Event = begun) -> None:
            with subprocess.Popen(deaf, shell=True, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                begun.set()
                process.wait()

        job = place.launch(run)
        assert begun.wait(BOUND)
        job.cancel(force)
        assert ended(job) is JobState.CANCELLED


#: A handler in C that blocks: it writes into a pipe that is full.
_HANDLING = """
import faulthandler, os, signal, threading, time
from ipy_bgtasks.platforms import is_pending
reads, writes = os.pipe()
os.set_blocking(writes, False)
try:
    while True: os.write(writes, bytes(4096))
except BlockingIOError:
    os.set_blocking(writes, True)
faulthandler.register(signal.SIGUSR1, writes, all_threads=False)
seen = [is_pending(signal.SIGUSR1)]
def look():  # while the main thread holds no lock of the interpreter's
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.2)
    seen.append(is_pending(signal.SIGUSR1))
    while len(os.read(reads, 65536)) == 65536: pass
thread = threading.Thread(target=look)
thread.start()
thread.join()
print(*seen, is_pending(signal.SIGUSR1))
"""


@linux
def test_a_signal_is_pending_until_its_handler_has_returned() -> None:
    """A thread whose child has died of it must know that it comes."""
    done = subprocess.run([sys.executable, "-c", _HANDLING], stdout=subprocess.PIPE, timeout=BOUND)
    assert done.stdout == b"False True False\n"


def test_waiting_for_another_job_is_ended(place: Place) -> None:
    """And that job goes on."""
    gate = threading.Event()
    other = place.launch(gate.wait)
    for call in (other.job.result, other.job.future.result):
        job = place.launch(call)
        job.cancel()
        assert ended(job) is JobState.CANCELLED
    assert other.state is JobState.RUNNING
    gate.set()
    assert other.result(BOUND) is True


def test_what_is_lost_in_a_destructor_is_sent_again(place: Place) -> None:
    """Python prints and forgets what is raised there."""
    begun, did = threading.Event(), []

    class Slow:
        def __del__(self) -> None:
            try:
                begun.set()
                while True:
                    pass
            finally:
                did.append("lost")

    cancel_in(place, Slow, begun, did)
    assert did == ["lost", "went on"]


def cancel_in(place: Place, drop: Callable[[], object], begun: threading.Event, did: Any) -> None:
    """Cancel a job that drops what *drop* makes, in the middle of that; it went on after it."""

    def run() -> None:
        drop()
        did.append("went on")
        while True:
            pass

    job = place.launch(run)
    assert begun.wait(BOUND)
    job.cancel()
    assert ended(job) is JobState.CANCELLED


def test_to_ask_for_it_again_takes_no_lock(place: Place) -> None:
    """A collection of garbage may, in the middle of anything."""
    gate = threading.Event()
    job = place.launch(gate.wait)
    assert isinstance(job.run, ThreadRun)
    job.run._sent = Sent(0)
    with job.run._lock:
        asked = threading.Thread(target=job.run._send_again, daemon=True)
        asked.start()
        asked.join(BOUND)
        assert not asked.is_alive()
    assert ended(job) is JobState.CANCELLED


@pytest.mark.parametrize("handles", [False, True], ids=["plain", "with a finally"])
def test_what_is_lost_where_a_dropped_file_is_closed_is_sent_again(
    place: Place, handles: bool
) -> None:
    """Python forgets what is raised there without a word."""
    begun, did = threading.Event(), []

    class Slow(io.RawIOBase):
        def close(self) -> None:
            if handles:
                try:
                    self.loop()
                finally:
                    super().close()
            self.loop()

        def loop(self) -> None:
            while not self.closed and not did:
                begun.set()

    cancel_in(place, Slow, begun, did)
    assert did == ["went on"]


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine's thread"])
def test_a_progress_bar_of_a_stopped_job_ends_where_it_lives(
    place: Place, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the job, whatever the moment; Python ignores no exception in its generator."""
    rich = pytest.importorskip("rich")
    from rich.progress import track

    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    send_again(changes := Installation())
    place.threads.max_threads = 1
    chance = random.Random(7)
    for n in range(ROUNDS):
        begun, console = threading.Event(), rich.get_console().__class__(file=io.StringIO())

        def bar(console: Any = console, begun: threading.Event = begun) -> Iterator[int]:
            for step in track(range(100_000), console=console):
                begun.set()
                yield step

        def call(bar: Any = bar) -> None:
            for _ in bar():
                time.sleep(0.0001)  # its work, in which the stop comes

        async def call_async(bar: Any = bar) -> None:
            for _ in bar():
                await asyncio.sleep(0.0001)  # its work, in which the stop comes

        job = place.launch(call_async if is_async else call, is_async=is_async)
        assert begun.wait(BOUND)
        for _ in range(chance.randrange(3000)):
            pass
        job.cancel()
        assert ended(job) is JobState.CANCELLED, f"round {n}"
        assert not ignored, f"round {n}"
    changes.undo()


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
def test_on_cancel_ends_what_only_its_library_can_end(
    place: Place, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called in another thread, as long as the block runs; its errors are shown."""
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    lock = threading.Lock()
    lock.acquire()
    begun, threads = threading.Event(), []

    def interrupt() -> None:
        threads.append(threading.current_thread().name)
        lock.release()
        raise ValueError("shown")

    def before() -> None:
        threads.append("too late")

    def query() -> None:
        with on_cancel(before):
            pass
        with on_cancel(interrupt):
            begun.set()
            lock.acquire()
        raise AssertionError("not stopped")

    async def query_async() -> None:
        query()
        await asyncio.sleep(0)

    job = place.launch(query_async if is_async else query, is_async=is_async)
    begun.wait(BOUND)
    job.cancel()
    state = ended(job)
    assert state is (JobState.FAILED if is_async else JobState.CANCELLED)
    assert threads == ["bg-stop"]
    until(lambda: "ValueError: shown" in said.getvalue())
    assert job.on_cancel == ()


def test_on_cancel_does_nothing_in_the_foreground() -> None:
    """There is no job that could be stopped."""
    with on_cancel(lambda: 1 / 0):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_forked_child_ends_as_python_would(
    place: Place, capfd: pytest.CaptureFixture[str], where: str, end: str, status: int, says: str
) -> None:
    """After the user's code, with its status, and nothing of ours goes on there."""

    def run() -> int:
        pid = os.fork()
        if not pid:
            exec(end)
            return -1
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def run_async() -> int:
        return run()

    on_loop = where == "loop"
    job = place.registry.launch(work(run_async if on_loop else run, is_async=on_loop), where=where)
    assert job.result(BOUND) == status
    said = capfd.readouterr().err
    assert said.endswith(says)
    assert "ipy_bgtasks" not in said.replace(str(Path(__file__).parent), "")


class Hostile:
    """A value that cannot be looked at."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("not here")


def test_a_value_that_cannot_be_looked_at_is_a_value(place: Place) -> None:
    """The job ends, and its thread takes the next one."""
    place.threads.max_threads = 1
    value = Hostile()
    job = place.launch(lambda: value)
    until(job.done)
    assert job.outcome.value is value
    assert place.launch(lambda: 1).result(BOUND) == 1


async def _sleeps(anyio: Any, begun: threading.Event) -> None:
    begun.set()
    await anyio.sleep(1000)


async def _computes(anyio: Any, begun: threading.Event) -> None:
    begun.set()
    while True:
        await anyio.sleep(0)


async def _blocks(anyio: Any, begun: threading.Event) -> None:
    begun.set()
    time.sleep(1000)


@pytest.mark.parametrize("step", [_sleeps, _computes, _blocks])
@pytest.mark.parametrize("library", ["trio", "anyio on trio", "anyio on asyncio"])
def test_a_loop_of_another_kind_ends_in_good_order(place: Place, library: str, step: Any) -> None:
    """The `finally:` of all its tasks runs before the job ends, in its thread."""
    module = pytest.importorskip(library.partition(" ")[0])
    if "trio" in library:
        pytest.importorskip("trio")
    begun, did = threading.Event(), []

    async def task(run: Any, begun: threading.Event) -> None:
        try:
            await run(module, begun)
        finally:
            did.append((run.__name__, threading.get_ident()))

    async def main() -> None:
        nursery = module.open_nursery() if library == "trio" else module.create_task_group()
        async with nursery as tasks:
            tasks.start_soon(task, _sleeps, threading.Event())
            tasks.start_soon(task, step, begun)

    def run() -> None:
        if library == "trio":
            module.run(main)
        else:
            module.run(main, backend=library.rpartition(" ")[2])

    job = place.launch(run)
    begun.wait(BOUND)
    thread = job.thread
    job.cancel()
    assert ended(job) is JobState.CANCELLED
    assert sorted(did) == sorted([("_sleeps", thread), (step.__name__, thread)])
    assert place.launch(lambda: 1).result(BOUND) == 1


@linux
def test_two_that_are_cancelled_at_the_same_moment_are_both_seen_to(place: Place) -> None:
    """And so is all that is cancelled after them."""
    both = threading.Barrier(2)

    class Queue(deque[ThreadRun]):
        def append(self, run: ThreadRun) -> None:
            super().append(run)
            if not both.broken:
                both.wait(BOUND)

    place.threads._pursued = Queue()

    def receiving() -> Record:
        ours, theirs = socket.socketpair()
        job = place.launch(lambda: (ours.recv(1), theirs))
        until(lambda: "recv" in waits.system_call(job.thread or 0)[0])
        return job

    jobs = [receiving(), receiving()]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Record.cancel, jobs))
    both.abort()
    jobs.append(receiving())
    jobs[-1].cancel()
    assert [ended(job) for job in jobs] == [JobState.CANCELLED] * 3


@linux
def test_the_sockets_by_which_signals_are_taken_are_never_shut_down() -> None:
    """A thread that takes a signal is there for a moment; without them no other would be taken."""
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(ours.recv(1)))
    waits.signal_sockets.add(ours.fileno())
    try:
        thread.start()
        until(lambda: "recv" in waits.system_call(thread.ident or 0)[0])
        waits.Waits(thread.ident or 0, [True]).end()
        theirs.send(b"x")
        thread.join(10)
    finally:
        waits.signal_sockets.discard(ours.fileno())
        ours.close()
        theirs.close()
    assert got == [b"x"]


def test_a_stop_leaves_no_block_without_its_exit(place: Place) -> None:
    """Whatever the moment: at the start of that it would, or one step before on Python 3.13."""

    class Block:
        depth = 0

        def __enter__(self) -> None:
            self.depth += 1

        def look(self) -> int:
            return abs(3)  # a step at which a thread may wait for its turn

        def __exit__(self, *_: object) -> None:
            self.depth -= 1

    chance = random.Random(7)
    for n in range(5 * ROUNDS):
        block = Block()

        def blocks(block: Block = block) -> None:
            while True:
                with block:
                    block.look()

        job = place.launch(blocks)
        for _ in range(chance.randrange(3_000)):
            pass
        job.cancel()
        assert ended(job) is JobState.CANCELLED
        assert block.depth == 0, f"round {n}"


def _import() -> None:
    name = "sched" if threading.current_thread().name == "rival" else "colorsys"
    sys.modules.pop(name, None)
    __import__(name)


def _logs() -> Callable[[], None]:
    logger = logging.Logger("nobody's")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    return lambda: logger.warning("one line")


def _shares_lock() -> Callable[[], None]:
    lock = multiprocessing.RLock()

    def call() -> None:
        with lock:
            pass

    return call


def _draws_bars() -> Callable[[], None]:
    tqdm = pytest.importorskip("tqdm")
    tqdm.tqdm.get_lock()  # is made under another, which tqdm gives back in no `finally:`

    def call() -> None:
        with tqdm.tqdm.get_lock():
            pass

    return call


@pytest.mark.parametrize(
    "use",
    [lambda: _import, _logs, _shares_lock, _draws_bars],
    ids=["import", "log", "share", "bar"],
)
def test_a_stop_leaves_no_lock_of_a_library_locked(
    place: Place, use: Callable[[], Callable[[], None]]
) -> None:
    """Others wanted it for ever, and of imports there is one for all."""
    # What other tests left would be collected in the jobs: in the `close` of a file that is
    # dropped Python forgets whatever is raised.
    gc.collect()
    call, chance, over, rounds = use(), random.Random(7), threading.Event(), [0]

    def endless() -> None:
        while True:
            call()
            for _ in range(2_000):  # where it can be stopped
                pass

    def take_turns() -> None:
        while not over.is_set():
            call()
            rounds[0] += 1
            time.sleep(0.0002)  # else, on Python 3.12, nobody else ever gets the lock

    rival = threading.Thread(target=take_turns, name="rival", daemon=True)
    rival.start()
    for _ in range(ROUNDS):
        job = place.launch(endless)
        for _ in range(chance.randrange(3_000)):
            pass
        job.cancel()
        assert ended(job) is JobState.CANCELLED
        before = rounds[0]
        until(lambda before=before: rounds[0] > before + 1)
    over.set()
    rival.join(BOUND)
