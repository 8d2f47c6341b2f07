"""A stop is a Ctrl-C: what `%cancel` raises in a thread, as the code there sees it."""

from __future__ import annotations

import asyncio
import gc
import http.server
import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import work

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.loop import LoopRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import ServiceLoop
from ipy_bgtasks.work.reading import Command

BOUND = 20.0


@pytest.fixture
def launch() -> Iterator[Callable[..., Record]]:
    """Launches a call in a thread; beside it runs a loop that is nobody's here."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    service = ServiceLoop()
    threads = ThreadRunner(LoopRunner(loop, thread.ident), service=service)
    registry = Registry({"loop": threads.loop_runner, "thread": threads}, service)

    def run(call: Callable[[], Any], **options: Any) -> Record:
        return registry.launch(work(call, **options), where="thread")

    yield run
    for job in registry.alive():
        job.cancel(force=True)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(BOUND)
    loop.close()


def end_of(job: Record) -> tuple[JobState, Any]:
    """How the job ended, and with what; waits for it."""
    ended = threading.Event()
    job.add_done_callback(lambda _: ended.set())
    assert ended.wait(BOUND)
    assert job.outcome is not None
    return job.state, job.outcome.value if job.outcome.error is None else job.outcome.error


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether somebody could listen on the port, as a server does, again."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def until_served(port: int) -> None:
    """Wait until somebody answers there."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)  # a server does not say when it begins to listen
        else:
            return
    raise AssertionError(f"nobody listens on {port}")


def test_code_that_catches_ctrl_c_saves_and_returns(launch: Callable[..., Record]) -> None:
    """The usual training loop: the job ends finished, with the value."""
    ready = threading.Event()

    def train() -> int:
        epochs = 0
        try:
            while True:
                epochs = 1
                ready.set()
        except KeyboardInterrupt:
            return epochs

    job = launch(train)
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job) == (JobState.FINISHED, 1)


def test_raising_it_anew_ends_cancelled(launch: Callable[..., Record]) -> None:
    """As code does that tidies up, and also where it makes one of its own."""
    for again in (None, KeyboardInterrupt("saved")):
        ready = threading.Event()

        def train(ready: threading.Event = ready, again: Any = again) -> None:
            try:
                while True:
                    ready.set()
            except KeyboardInterrupt:
                if again is not None:
                    raise again  # noqa: B904  # as is usual
                raise

        job = launch(train)
        ready.wait(BOUND)
        job.cancel()
        assert end_of(job)[0] is JobState.CANCELLED


def test_a_jobs_own_interrupt_is_a_failure(launch: Callable[..., Record]) -> None:
    """Nobody asked it to stop."""

    def interrupted() -> None:
        raise KeyboardInterrupt("mine")

    state, error = end_of(launch(interrupted))
    assert state is JobState.FAILED
    assert repr(error) == "KeyboardInterrupt('mine')"


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["run", "runner", "plain"])
def test_a_quiet_loop_in_a_thread_ends_in_good_order(
    launch: Callable[..., Record], factory: str, how: str
) -> None:
    """Tasks are cancelled, generators closed, and Ctrl-C comes out of the running of the loop."""
    module = pytest.importorskip(factory)
    ready = threading.Event()
    order: list[str] = []

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("child")

    async def main() -> None:
        tasks = [asyncio.create_task(child())]
        try:
            asyncio.get_running_loop().call_soon(ready.set)
            await asyncio.wait(tasks)
        finally:
            order.append("main")

    def serve() -> list[str]:
        try:
            if how == "run":
                with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
                    runner.run(main())
            elif how == "runner":
                with asyncio.Runner(loop_factory=module.new_event_loop) as unseen:
                    unseen.get_loop().run_until_complete(main())
            else:
                loop = module.new_event_loop()
                try:
                    task = loop.create_task(main())
                    loop.run_until_complete(task)
                finally:
                    for each in asyncio.all_tasks(loop):
                        each.cancel()
                        loop.run_until_complete(asyncio.wait([each]))
                    loop.close()
        except KeyboardInterrupt:
            order.append("interrupt")
        return order

    job = launch(serve)
    ready.wait(BOUND)
    job.cancel()
    state, value = end_of(job)
    assert state is JobState.FINISHED
    assert sorted(value) == ["child", "interrupt", "main"]
    assert value[-1] == "interrupt"


def test_code_that_blocks_its_own_loop_is_interrupted_where_it_is(
    launch: Callable[..., Record],
) -> None:
    """Its loop cannot turn."""
    ready = threading.Event()

    async def main() -> None:
        while True:
            ready.set()

    job = launch(lambda: asyncio.run(main()))
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job)[0] is JobState.CANCELLED


def test_a_loop_of_another_thread_is_left_alone(launch: Callable[..., Record]) -> None:
    """A job that waits for one, and so has a name for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    ready = threading.Event()

    def waits() -> None:
        others = loop
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), others)
        ready.set()
        while True:
            pass

    job = launch(waits)
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job)[0] is JobState.CANCELLED
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 5), loop).result(BOUND) == 5
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_coroutine_in_a_thread_is_cancelled_at_its_await(launch: Callable[..., Record]) -> None:
    """As asyncio's runner does at a Ctrl-C; what it returns then is its value."""
    ready = threading.Event()

    async def train() -> str:
        try:
            ready.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return ""

    job = launch(train, is_async=True)
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job) == (JobState.FINISHED, "saved")


def stop_server(launch: Callable[..., Record], app: Any, **options: Any) -> None:
    """Serve *app* in a thread and cancel that: `uvicorn.run` returns, and its port is free."""
    uvicorn = pytest.importorskip("uvicorn")
    port = free_port()

    def serve() -> str:
        uvicorn.run(app, port=port, log_config=None, **options)
        return "returned"

    job = launch(serve)
    until_served(port)
    job.cancel()
    assert end_of(job) == (JobState.FINISHED, "returned")
    assert is_free(port)
    gc.collect()  # here, and not in another test: some Pythons fail as they collect connections


# Whoever interrupts uvicorn leaves its connections to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn_ends_and_its_port_is_free(launch: Callable[..., Record], loop: str) -> None:
    """`uvicorn.run` returns."""
    pytest.importorskip(loop)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    stop_server(launch, app, loop=loop, lifespan="off", access_log=False)


@pytest.mark.parametrize("stubborn", [False, True], ids=["good", "stubborn"])
def test_uvicorn_ends_in_good_order(
    launch: Callable[..., Record], caplog: pytest.LogCaptureFixture, stubborn: bool
) -> None:
    """As in a script: the application shuts down first. One that does not is ended all the same."""
    seen: list[str] = []
    caplog.set_level(logging.INFO, logger="uvicorn.error")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            seen.append(message := (await receive())["type"])
            if stubborn and message == "lifespan.shutdown":
                await asyncio.Event().wait()
            await send({"type": message + ".complete"})

    stop_server(launch, app)
    assert "lifespan.shutdown" in seen
    assert ("Finished server process" in caplog.text) is not stubborn
    assert "Traceback" not in caplog.text


def test_http_server_ends_and_its_port_is_free(launch: Callable[..., Record]) -> None:
    """Caught, as in its documentation."""
    port = free_port()

    def serve() -> str:
        with http.server.HTTPServer(
            ("127.0.0.1", port), http.server.SimpleHTTPRequestHandler
        ) as server:
            server.serve_forever(0.05)
        return "not here"

    job = launch(serve)
    until_served(port)
    job.cancel()
    assert end_of(job)[0] is JobState.CANCELLED
    assert is_free(port)


def test_aiohttp_ends_and_its_port_is_free(launch: Callable[..., Record]) -> None:
    """`run_app` shuts its runner down and returns."""
    web = pytest.importorskip("aiohttp.web")
    port = free_port()
    order: list[str] = []

    async def closed(_: Any) -> None:
        order.append("cleaned up")

    def serve() -> list[str]:
        app = web.Application()
        app.on_cleanup.append(closed)
        loop = asyncio.new_event_loop()
        web.run_app(app, port=port, host="127.0.0.1", handle_signals=False, print=None, loop=loop)
        return order

    job = launch(serve)
    until_served(port)
    job.cancel()
    assert end_of(job) == (JobState.FINISHED, ["cleaned up"])
    assert is_free(port)


def test_joblib_ends(launch: Callable[..., Record]) -> None:
    """Its workers, too: the next call works."""
    joblib = pytest.importorskip("joblib")
    ready = threading.Event()

    def many() -> Any:
        for each in joblib.Parallel(n_jobs=2, return_as="generator")(
            joblib.delayed(time.sleep)(0.02) for _ in range(10_000)
        ):
            ready.set()
            del each

    job = launch(many)
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job)[0] is JobState.CANCELLED
    job = launch(lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-n) for n in range(4)))
    assert end_of(job) == (JobState.FINISHED, [0, 1, 2, 3])


def test_a_grid_search_ends(launch: Callable[..., Record]) -> None:
    """scikit-learn's, in this process; it does not take the stop for a failed fit."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.dummy import DummyClassifier

    ready = threading.Event()

    class Slow(DummyClassifier):  # type: ignore[misc]
        def fit(self, x: Any, y: Any) -> Any:
            ready.set()
            time.sleep(0.01)  # its work
            return super().fit(x, y)

    search = model_selection.GridSearchCV(Slow(strategy="constant"), {"constant": [0] * 5000}, cv=2)
    job = launch(lambda: search.fit([[0], [1], [0], [1]], [0, 1, 0, 1]))
    ready.wait(BOUND)
    job.cancel()
    assert end_of(job)[0] is JobState.CANCELLED


def test_no_signal_is_used() -> None:
    """The main thread's Ctrl-C stays its own."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_that_is_being_started_is_stopped_too(
    launch: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop at that moment came before anybody knew the process, which went on for ever."""
    began, may_go_on, started = threading.Event(), threading.Event(), []
    # Under the name of a library's file, as the code that it stands for.
    text = (
        "def popen(*args, **options):\n    process = real(*args, **options)\n"
        "    started.append(process)\n    began.set()\n"
        "    while not may_go_on.is_set(): pass\n    return process\n"
    )
    names: dict[str, Any] = {"__name__": "subprocess", "real": subprocess.Popen}
    names |= {"started": started, "began": began, "may_go_on": may_go_on}
    exec(compile(text, subprocess.__file__, "exec"), names)
    supervisor = Supervisor()
    runner = ShellRunner(ServiceLoop(), supervisor, grace=1.0)
    # The supervisor itself is started by the same Popen.
    supervisor.launch(lambda _: subprocess.Popen(["true"], start_new_session=True)).wait()
    monkeypatch.setattr(subprocess, "Popen", names["popen"])
    try:
        job = launch(lambda: runner.run_within(Command("sleep 1000"), print))
        assert began.wait(BOUND)
        monkeypatch.undo()
        job.cancel()
        threading.Timer(0.2, may_go_on.set).start()  # by then the stop was tried several times
        assert end_of(job)[0] is JobState.CANCELLED
        assert started[0].wait(BOUND) != 0
    finally:
        may_go_on.set()
        supervisor.close(wait=BOUND)
