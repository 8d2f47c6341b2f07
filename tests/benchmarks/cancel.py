"""From asking a job to stop until it has ended."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from time import perf_counter
from typing import Any

from .contest import OURS, Contests, Round, Size, Unavailable, own, own_p99
from .shells import launch_of, loaded, plain_shell

BENCH = Contests("cancel")


@BENCH.add("turns of the loop from cancel to ended", {"bare task": own(2)}, unit="integer")
def turns_of_loop(size: Size) -> Iterator[Round]:
    """A task takes one turn to get the cancellation, and one for its done callbacks."""
    yield from asyncio.run(_coroutines(size.rounds(50), _turns))


@BENCH.add("cancel to ended: coroutine", {"bare task.cancel()": own_p99(0.020)})
def coroutine(size: Size) -> Iterator[Round]:
    """With the ten idle turns of the loop between two of them."""
    yield from asyncio.run(_coroutines(size.rounds(200), _seconds))


@BENCH.add("cancel to ended: thread in a Python loop", {"bare SetAsyncExc": own_p99(0.020)})
def thread(size: Size) -> Iterator[Round]:
    """The main thread waits as it would for any thread."""
    with plain_shell() as shell, loaded(shell) as session:
        shell.user_ns["spin"] = _spin
        launch = launch_of(session, "spin()")
        for _ in range(size.rounds(200)):
            yield {OURS: _cancel(launch()), "bare SetAsyncExc": _raise_in_thread()}


@BENCH.add("cancel to ended: thread in time.sleep", {"bare SetAsyncExc": own_p99(0.020)})
def asleep(size: Size) -> Iterator[Round]:
    """Against a thread that computes: a bare exception would wait until the sleep is over."""
    yield from _waiting("time.sleep(1000)", size.rounds(200))


@BENCH.add("cancel to ended: thread in recv", {"bare SetAsyncExc": own_p99(0.020)})
def receiving(size: Size) -> Iterator[Round]:
    """Of a socket that nobody sends to."""
    yield from _waiting("recv()", size.rounds(200))


@BENCH.add("cancel to ended: thread in subprocess.run", {"bare SetAsyncExc": own_p99(0.020)})
def running_a_process(size: Size) -> Iterator[Round]:
    """The process ends by the signal, and is waited for."""
    yield from _waiting("subprocess.run(['sleep', '1000'])", size.rounds(100))


@BENCH.add("cancel to ended: process stuck in C", {"thread job": own_p99(0.250)})
def process(size: Size) -> Iterator[Round]:
    """Stuck in `time.sleep` of its own, which only a signal ends."""
    with plain_shell() as shell, loaded(shell) as session:
        if "process" not in session.registry.runners:
            raise Unavailable("no process jobs here")
        shell.user_ns["spin"] = _spin
        stuck = launch_of(session, "-p __import__('time').sleep(1000)")
        spin = launch_of(session, "spin()")
        for _ in range(size.rounds(40)):
            yield {OURS: _cancel(stuck(), settle=0.05), "thread job": _cancel(spin())}


def _waiting(code: str, rounds: int) -> Iterator[Round]:
    def recv() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.recv(1)

    with plain_shell() as shell, loaded(shell) as session:
        shell.user_ns.update(recv=recv, subprocess=subprocess, time=time)
        launch = launch_of(session, code)
        for _ in range(rounds):
            yield {OURS: _cancel(launch(), settle=0.02), "bare SetAsyncExc": _raise_in_thread()}


async def _coroutines(rounds: int, measure: Any) -> list[Round]:
    with plain_shell() as shell, loaded(shell) as session:
        gate = shell.user_ns["gate"] = asyncio.Event()
        launch = launch_of(session, "gate.wait()")
        name = "bare task" if measure is _turns else "bare task.cancel()"
        taken = []
        for _ in range(rounds):
            job, task = launch(), asyncio.create_task(gate.wait())
            for _ in range(10):
                await asyncio.sleep(0)
            taken.append({OURS: await measure(job), name: await measure(task)})
        return taken


async def _turns(running: Any) -> float:
    count = 0
    running.cancel()
    while not running.done():
        await asyncio.sleep(0)
        count += 1
    return float(count)


async def _seconds(running: Any) -> float:
    began = perf_counter()
    running.cancel()
    while not running.done():
        await asyncio.sleep(0)
    return perf_counter() - began


def _cancel(job: Any, settle: float = 0.002) -> float:
    threading.Event().wait(settle)  # well into its code
    began = perf_counter()
    job.cancel()
    with suppress(CancelledError):
        job.result()
    return perf_counter() - began


def _raise_in_thread() -> float:
    ended = threading.Event()

    def run() -> None:
        try:
            _spin()
        except KeyboardInterrupt:
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    threading.Event().wait(0.002)
    began = perf_counter()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
    )
    ended.wait()
    taken = perf_counter() - began
    thread.join()
    return taken


def _spin() -> None:
    while True:
        sum(range(100))
