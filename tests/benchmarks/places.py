"""Other places than loop and threads, each against the bare way to the same place."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.stacks import sample

from .contest import OURS, Contests, Round, Size, Unavailable, excess, ratio, turns
from .shells import launch_of, loaded, plain_shell

BENCH = Contests("places")


@BENCH.add("warm `-p` jobs, one after the other", {"Pebble schedule": ratio(1.2)})
def process(size: Size) -> Iterator[Round]:
    """Launch to result."""
    import pebble

    with pebble.ProcessPool(max_workers=1) as pool, _launching("-p noop()") as launch:
        count = size.count(100)
        contenders = {
            OURS: lambda: _one_by_one(lambda: launch().result(), count),
            "Pebble schedule": lambda: _one_by_one(lambda: pool.schedule(_noop).result(), count),
        }
        yield from turns(contenders, size.rounds(11))


@BENCH.add("jobs `--on` a Dask client", {"client.submit": ratio(1.2)})
def dask(size: Size) -> Iterator[Round]:
    """Many at once, launch to results; a cluster of two processes."""
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    quiet: Any = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster,
        Client(cluster) as client,
        _launching("--on client noop()", client=client) as launch,
    ):
        count = size.count(200)
        contenders = {
            OURS: lambda: _all_at_once(launch, count),
            "client.submit": lambda: _all_at_once(lambda: client.submit(_noop, pure=False), count),
        }
        yield from turns(contenders, size.rounds(11))


@BENCH.add("jobs `--on` an ipyparallel view", {"view.apply_async": ratio()})
def ipyparallel(size: Size) -> Iterator[Round]:
    """Many at once, launch to results; two engines."""
    import ipyparallel

    with ipyparallel.Cluster(n=2, log_level=40) as clients:
        view = clients.load_balanced_view()
        with _launching("--on view noop()", view=view) as launch:
            count = size.count(100)
            contenders = {
                OURS: lambda: _all_at_once(launch, count),
                "view.apply_async": lambda: _all_at_once(lambda: view.apply_async(_noop), count),
            }
            yield from turns(contenders, size.rounds(7))


_COMMANDS = {"Popen of the shell in a thread": ratio(1.15), "Popen of `true` in a thread": ratio()}


@BENCH.add("`%bg !true`, one after the other", _COMMANDS)
def shell_command(size: Size) -> Iterator[Round]:
    """Launch to exit status. A command is the shell's to read, which the bare program is not."""
    shell = [os.environ.get("SHELL", "/bin/sh"), "-c", "true"]

    def popen(command: list[str]) -> None:
        thread = threading.Thread(target=lambda: subprocess.Popen(command).wait())
        thread.start()
        thread.join()

    with _launching("!true") as launch:
        count = size.count(50)
        contenders = {
            OURS: lambda: _one_by_one(lambda: launch().result(), count),
            "Popen of the shell in a thread": lambda: _one_by_one(partial(popen, shell), count),
            "Popen of `true` in a thread": lambda: _one_by_one(partial(popen, ["true"]), count),
        }
        yield from turns(contenders, size.rounds(11))


_PROFILED = {"not profiled": excess(5)}


@BENCH.add("profiling a thread job, 30 calls deep: per cent of it", _PROFILED, unit="integer")
def profiled_thread(size: Size) -> Iterator[Round]:
    """What it costs this process, if it computes all the time."""
    yield from _profiled("_compute", size)


@BENCH.add("profiling a `-p` job, 30 calls deep: per cent of it", _PROFILED, unit="integer")
def profiled_process(size: Size) -> Iterator[Round]:
    """What it costs the worker."""
    yield from _profiled("-p _compute", size)


def _profiled(call: str, size: Size) -> Iterator[Round]:
    """Processor time, whatever else runs here: what 100 samples add, as a part of a second."""
    with _launching(f"{call}({size.count(3_000_000)})", _compute=_compute) as launch:

        def run(looks: list[Any] | None = None) -> float:
            job = launch()
            if looks is not None:
                counted = SimpleNamespace(done=job.done)
                counted.stack = lambda: looks.append(None) or job.stack()
                sample(counted, 60, {}, threading.Event())  # type: ignore[arg-type]
            return float(job.result())

        run()
        for _ in range(size.rounds(15)):
            gc.collect()
            looks: list[Any] = []
            before, with_it, after = run(), run(looks), run()
            extra = with_it - (before + after) / 2
            yield {OURS: 100 * extra / (len(looks) / 100), "not profiled": 0.0}


def _compute(count: int, depth: int = 30) -> float:
    if depth:
        return _compute(count, depth - 1)
    began = process_time()
    total = 0
    for n in range(count):
        total += n * n % 7
    return process_time() - began


@contextlib.contextmanager
def _launching(line: str, **variables: Any) -> Iterator[Callable[[], Any]]:
    """What `%bg LINE` calls once LINE is read, if that is possible here."""
    with plain_shell() as shell, loaded(shell) as session:
        shell.user_ns.update(variables, noop=_noop)
        try:
            launch = launch_of(session, line)
            launch().result()
        except BadInput as error:
            raise Unavailable(str(error)) from None
        yield launch


def _one_by_one(call: Callable[[], Any], count: int) -> float:
    began = perf_counter()
    for _ in range(count):
        call()
    return perf_counter() - began


def _all_at_once(make: Callable[[], Any], count: int) -> float:
    began = perf_counter()
    for made in [make() for _ in range(count)]:
        made.result()
    return perf_counter() - began


def _noop() -> None:
    pass
