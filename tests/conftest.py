"""For all rings."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile

import pytest

# A shell that puts the tests in the background has their SIGINT ignored, and everything they
# start inherits that: no test of an interrupt would mean anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests start some hundred processes, each of which would compile the whole package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What the tests keep is not to be found by the sessions of whoever runs them.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="ipy-bgtasks-state-")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker of tests that are about how a process starts or ends."""
    config.addinivalue_line("markers", "started: kernels and terminals are started, not forked")


def pytest_collection_finish() -> None:
    """Leave what is here before the first test out of the collections that follow.

    IPython collects whenever a shell ends.
    """
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """Take two workers for each core, since most tests wait for a process of their own."""
    return 2 * (os.cpu_count() or 1)
