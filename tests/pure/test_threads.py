"""Stopping what runs in threads: never the wrong code, and never said before it is true."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import work
from patience import until

from ipy_bgtasks.async_exceptions import StopThread
from ipy_bgtasks.context import current
from ipy_bgtasks.frontends import running_cells
from ipy_bgtasks.frontends.running_cells import Signals
from ipy_bgtasks.hooks import threads_of_jobs
from ipy_bgtasks.job.handle import current_job
from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import SHORT, ServiceLoop, SwitchInterval

BOUND = 20.0

#: How often a job is cancelled at the very moment of its end. The full proof is 100,000.
ROUNDS = int(os.environ.get("BG_STRESS", "4000"))


class Place:
    """A registry with a loop in a thread, and a pool of threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        service = ServiceLoop()
        self.threads = ThreadRunner(LoopRunner(self.loop, self.thread.ident), service=service)
        runners = {"loop": self.threads.loop_runner, "thread": self.threads}
        self.registry = Registry(runners, service)

    def launch(self, call: Callable[[], Any], **options: Any) -> Record:
        """Run *call* in a thread."""
        return self.registry.launch(work(call, **options), where="thread")

    def close(self) -> None:
        """End the loop, and whatever a failed test left."""
        for job in self.registry.alive():
            job.cancel(force=True)
            job.exception(BOUND) if not job.cancel_requested else ended(job)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(BOUND)
        self.loop.close()


@pytest.fixture
def place() -> Iterator[Place]:
    """Threads and a loop."""
    place = Place()
    yield place
    place.close()


def ended(job: Record) -> JobState:
    """The state of a job that has ended; waits for it."""
    try:
        job.result(BOUND)
    except (concurrent.futures.CancelledError, Exception):
        assert job.done(), (job.run.why_not_stopped(), job.stack())
    return job.state


def test_a_loop_in_python_is_stopped(place: Place) -> None:
    """At its next step; `finally:` in its code runs before the job is called cancelled."""
    spinning, states = threading.Event(), []

    def spin() -> None:
        job = current_job()
        assert job is not None
        try:
            spinning.set()
            while True:
                pass
        finally:
            states.append(job.state)

    job = place.launch(spin)
    spinning.wait(BOUND)
    assert job.cancel()
    assert ended(job) is JobState.CANCELLED
    assert states == [JobState.CANCELLING]


def test_what_waits_in_c_is_cancelling_until_that_returns(place: Place) -> None:
    """It is never called cancelled while it runs."""
    lock = threading.Lock()
    lock.acquire()
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        lock.acquire()

    job = place.launch(wait)
    waiting.wait(BOUND)
    job.cancel(force=True)
    until(lambda: job.run.why_not_stopped() == "waiting")
    assert job.state is JobState.CANCELLING
    assert job.stack()[-1].line == "lock.acquire()"
    lock.release()
    assert ended(job) is JobState.CANCELLED


def test_without_force_it_is_raised_once(place: Place) -> None:
    """Code that catches it goes on, and what becomes of it is reported."""
    caught, go_on = [], threading.Event()
    ready = threading.Event()

    def stubborn() -> int:
        try:
            ready.set()
            while True:
                pass
        except BaseException as error:
            caught.append(error)
        while not go_on.is_set():
            pass
        return 7

    job = place.launch(stubborn)
    ready.wait(BOUND)
    job.cancel()
    until(lambda: job.run.why_not_stopped() == "caught")
    assert job.state is JobState.CANCELLING
    go_on.set()
    assert job.result(BOUND) == 7
    assert job.state is JobState.FINISHED
    assert [isinstance(error, StopThread) for error in caught] == [True]


def test_with_force_it_is_raised_again(place: Place) -> None:
    """Until the code lets itself be stopped, also where it was cancelled without force before."""
    caught: list[BaseException] = []
    ready = threading.Event()

    def stubborn() -> None:
        while True:
            try:
                ready.set()
                while True:
                    pass
            except BaseException as error:
                caught.append(error)
                if len(caught) == 4:
                    raise

    job = place.launch(stubborn)
    ready.wait(BOUND)
    job.cancel()
    until(lambda: caught)
    job.cancel(force=True)
    assert ended(job) is JobState.CANCELLED
    assert len(caught) == 4


def test_force_leaves_time_to_clean_up(place: Place) -> None:
    """Another exception in the middle of a `finally:` would leave things half undone."""
    ready, cleaned = threading.Event(), []

    def tidy() -> None:
        try:
            ready.set()
            while True:
                pass
        finally:
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                pass
            cleaned.append(True)

    job = place.launch(tidy)
    ready.wait(BOUND)
    job.cancel(force=True)
    until(lambda: job.done() or job.run.why_not_stopped() == "cleaning")
    assert ended(job) is JobState.CANCELLED
    assert cleaned == [True]


def test_code_of_our_own_is_never_hit(place: Place) -> None:
    """What the user's code calls of ours is left in peace, and stopped when it has returned."""
    inside, leave = threading.Event(), threading.Event()
    outcome: list[str] = []

    def ours() -> None:
        try:
            inside.set()
            while not leave.is_set():
                pass
            outcome.append("whole")
        except BaseException:
            outcome.append("torn")
            raise

    # Code of this package, as far as anybody can tell.
    namespace = {"__name__": "ipy_bgtasks.log.output", **ours.__globals__, **locals()}
    namespace["__name__"] = "ipy_bgtasks.log.output"
    ours = type(ours)(ours.__code__, namespace, "ours", None, ours.__closure__)

    def printing() -> None:
        ours()
        while True:
            pass

    job = place.launch(printing)
    inside.wait(BOUND)
    job.cancel()
    until(lambda: job.run.why_not_stopped() == "waiting")
    leave.set()
    assert ended(job) is JobState.CANCELLED
    assert outcome == ["whole"]


def test_a_checkpoint_stops_what_is_hardly_ever_in_its_own_code(place: Place) -> None:
    """Printing is one; a thread that the job started is not meant."""
    job_in: list[Record] = []
    ready = threading.Event()

    def checks() -> None:
        job = current.get()
        job_in.append(job)
        ready.set()
        while True:
            job.checkpoint()

    job = place.launch(checks)
    ready.wait(BOUND)
    job.run._due = True
    job.checkpoint()  # this thread is not the job's
    assert ended(job) is JobState.CANCELLED


def test_a_lower_limit_holds_for_threads_that_are_idle(place: Place) -> None:
    """They are not all used because they are there; what is queued starts in order all the same."""
    gate, order = threading.Event(), []
    for job in [place.launch(gate.wait) for _ in range(4)]:
        gate.set()
        assert job.result(BOUND)
    place.threads.max_threads = 1
    gates = [threading.Event() for _ in range(3)]

    def take(n: int) -> None:
        order.append(n)
        gates[n].wait(BOUND)

    jobs = [place.launch(lambda n=n: take(n)) for n in range(3)]
    assert [str(job.state) for job in jobs] == ["running", "queued", "queued"]
    for n, job in enumerate(jobs):
        gates[n].set()
        job.result(BOUND)
    assert order == [0, 1, 2]


def test_the_next_job_of_the_thread_is_never_hit(place: Place) -> None:
    """Cancelled at the very moment of finishing, again and again; counts what came out."""
    place.threads.max_threads = 1
    place.registry.max_finished = 10
    chance = random.Random(4)
    outcomes: Counter[str] = Counter()
    died: list[Any] = []
    before, threading.excepthook = threading.excepthook, died.append
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    delay = 100.0  # steps from the signal that lets the job end to the request to stop it
    try:
        for n in range(ROUNDS):
            go, hit = [], []
            job = place.launch(_counting(go, chance.randrange(100), n, hit))
            following = place.launch(lambda n=n: [n for _ in range(20)][-1])
            go.append(True)
            for _ in range(chance.randrange(int(delay) + 1)):
                pass
            job.cancel(force=n % 2 == 0)
            assert following.result(BOUND) == n, f"round {n}: {outcomes}"
            state = ended(job)
            outcomes[state] += 1
            assert (state is JobState.FINISHED) == (not hit and job.outcome.value == n)
            # Keep aiming at the moment: both outcomes must come about equally often.
            delay = min(max(delay * (0.95 if state is JobState.FINISHED else 1.05), 1), 1e5)
    finally:
        sys.setswitchinterval(interval)
        threading.excepthook = before
    print({str(state): count for state, count in outcomes.items()}, end=" ")
    assert not died
    assert set(outcomes) <= {JobState.FINISHED, JobState.CANCELLED}
    if ROUNDS >= 1000:
        assert min(outcomes[state] for state in ("finished", "cancelled")) > ROUNDS / 50


def _counting(go: list[bool], count: int, value: int, hit: list[int]) -> Callable[[], int]:
    def run() -> int:
        try:
            while not go:
                pass
            for _ in range(count):
                pass
        except BaseException:
            hit.append(value)
            raise
        return value

    return run


def test_what_had_finished_is_reported_as_finished(place: Place) -> None:
    """Also if the request came while it was asked."""
    job = place.launch(lambda: 3)
    assert job.result(BOUND) == 3
    assert not job.cancel()
    assert job.state is JobState.FINISHED


def test_a_coroutine_in_a_thread_is_cancelled_on_its_own_loop(place: Place) -> None:
    """At its await, with CancelledError."""
    ready, seen = threading.Event(), []

    async def wait() -> None:
        ready.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            seen.append(type(error))
            raise

    job = place.launch(wait, is_async=True)
    ready.wait(BOUND)
    job.cancel()
    assert ended(job) is JobState.CANCELLED
    assert seen == [asyncio.CancelledError]


@pytest.mark.parametrize("as_child", [False, True])
def test_a_coroutine_that_blocks_its_own_loop_needs_force(place: Place, as_child: bool) -> None:
    """Then the exception is raised where it runs; its tasks end in good order."""
    ready, seen = threading.Event(), []

    async def spin() -> None:
        try:
            ready.set()
            while True:
                pass
        except BaseException as error:
            seen.append(isinstance(error, StopThread))
            raise

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(spin())
            tasks.create_task(asyncio.sleep(1000))

    job = place.launch(group if as_child else spin, is_async=True)
    ready.wait(BOUND)
    job.cancel()
    until(lambda: job.run.why_not_stopped() == "blocked")
    assert job.state is JobState.CANCELLING
    job.cancel(force=True)
    assert ended(job) is JobState.CANCELLED
    assert seen == [True]


def test_a_job_that_moves_to_the_loop_is_cancelled_there(place: Place) -> None:
    """Whenever the request comes: before, while or after it moves."""
    for _ in range(200):
        job = place.launch(lambda: asyncio.sleep(1000))
        job.cancel()
        assert ended(job) is JobState.CANCELLED


def test_a_front_end_that_fails_fails_the_job_alone(place: Place) -> None:
    """Whoever launches is not left waiting, and the thread goes on."""

    class Broken(Host):
        """A front end that cannot show anything."""

        def entering(self, job: Record) -> None:
            raise OSError("no screen")

    place.registry.host.exchange(Broken())
    job = place.launch(lambda: 1)
    assert ended(job) is JobState.FAILED
    place.registry.host.exchange(Host())
    assert place.launch(lambda: 2).result(BOUND) == 2


def test_an_ended_job_holds_nothing_of_its_run(place: Place) -> None:
    """Neither its context, thread and code, nor, if it failed, the frames of ours around it."""
    import gc

    from ipy_bgtasks.runners.threads import ThreadRun

    def fail() -> None:
        raise ValueError("x")

    jobs = [place.launch(call) for call in (fail, lambda: 1)]
    for job in jobs:
        ended(job)
        assert job.run is None
        assert job.work is None
    until(lambda: not place.threads.busy())
    gc.collect()
    # Other tests leave objects that refuse to be looked at.
    runs = [one for one in gc.get_objects() if type(one) is ThreadRun]
    assert [run.job for run in runs if run.job in jobs] == []
    frame = jobs[0].outcome.traceback.tb_frame
    while frame.f_back is not None:
        frame = frame.f_back
        assert not [v for v in frame.f_locals.values() if isinstance(v, Record)]


def test_a_tracer_works_after_a_stop_that_was_taken_back() -> None:
    """Python 3.11 looped for ever where a note of a pending exception was left behind."""
    code = (
        "import sys, threading\n"
        "from ipy_bgtasks import async_exceptions as raising\n"
        "send, number, what = raising._python_api()\n"
        "me = number(threading.get_ident())\n"
        "list(map(send, (me, me), (what(KeyboardInterrupt), what())))  # in C: it is not raised\n"
        "raising.take_back(me.value)\n"
        "def traced(): return 1\n"
        "sys.settrace(lambda *_: None)\n"
        "print(traced())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout == "1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_thread_that_begins_takes_no_signal_before_its_first_line() -> None:
    """What takes signals in C says nothing for a thread that Python does not know yet."""
    seen: list[bool] = []

    def is_blocked() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    class Thread(threading.Thread):
        def _bootstrap(self) -> None:
            seen.append(is_blocked())
            super()._bootstrap()  # type: ignore[misc]

    changes = Installation()
    threads_of_jobs.track(changes)
    signals = Signals({"SIGINT": int})
    signals.take("SIGINT")
    try:
        thread = Thread(target=lambda: seen.append(is_blocked()))
        thread.start()
        thread.join(BOUND)
    finally:
        signals.give_back("SIGINT")
        changes.undo()
    assert seen == [True, False]
    assert not is_blocked()
    assert not threads_of_jobs.blocked_at_start


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_is_waited_for_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gets from the system to us while we look at where it is, as well."""
    acts, goes_on, over = threading.Event(), threading.Event(), threading.Event()

    def act() -> None:
        acts.set()
        goes_on.wait(BOUND)

    signals = Signals({"SIGINT": act})
    passes = iter([signals.forward])

    def is_pending(_number: int) -> bool:
        for arrive in passes:
            arrive()
        return False

    def settle() -> None:
        signals.settle("SIGINT")
        over.set()

    monkeypatch.setattr(running_cells, "is_pending", is_pending)
    signals.take("SIGINT")
    try:
        thread = threading.Thread(target=settle)
        thread.start()
        assert acts.wait(BOUND)
        assert not over.wait(0.1)  # what must not happen, and did after half of that
        goes_on.set()
        assert over.wait(BOUND)
        thread.join(BOUND)
    finally:
        goes_on.set()
        signals.give_back("SIGINT")


def test_the_switch_interval_is_short_while_anybody_needs_that() -> None:
    """It is restored by the last, unless somebody else has set it since."""
    before = sys.getswitchinterval()
    interval = SwitchInterval()
    try:
        assert interval.short("threads", True)
        assert not interval.short("cells", True)
        interval.short("threads", False)
        assert sys.getswitchinterval() == pytest.approx(SHORT)
        interval.short("cells", False)
        assert sys.getswitchinterval() == pytest.approx(before)
        interval.short("cells", True)
        sys.setswitchinterval(0.1)
        interval.short("cells", False)
        assert sys.getswitchinterval() == pytest.approx(0.1)
    finally:
        sys.setswitchinterval(before)
