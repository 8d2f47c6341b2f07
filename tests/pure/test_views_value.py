"""Values in one line."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ipy_bgtasks.job.host import Host
from ipy_bgtasks.views.value import is_plain, kind_line, value_line


def job_of(value: object) -> Any:
    """A job that has finished with *value*."""
    outcome = SimpleNamespace(value=value)
    return SimpleNamespace(number=1, outcome=outcome, value_text=None, enter=int, host=Host())


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (np.zeros((3, 4)), "ndarray 3 × 4 float64"),
        (np.zeros(1000, dtype="int8"), "ndarray of 1,000 int8"),
        (np.float32(0.5), "np.float32(0.5)"),
        ("text", "'text'"),
        ([1, "a"], "[1, 'a']"),
        (type("Silent", (), {"__repr__": lambda _: ""})(), "Silent"),
    ],
)
def test_a_line_says_what_a_value_is(value: object, line: str) -> None:
    """Its shape where it has one, else its repr."""
    assert value_line(job_of(value), 100) == line


def test_a_repr_is_made_once_and_not_waited_for() -> None:
    """It is shown when it is there."""
    go, made = threading.Event(), []

    class Slow:
        def __repr__(self) -> str:
            made.append(threading.current_thread())
            go.wait(30)
            return "slow"

    job = job_of(Slow())
    assert value_line(job, 100) == "<Slow object>"
    assert value_line(job, 100) == "<Slow object>"
    go.set()
    made[0].join(30)
    assert value_line(job, 100) == "slow"
    assert len(made) == 1
    assert made[0] is not threading.current_thread()


def test_what_may_run_somebodys_code_is_not_plain() -> None:
    """A collection of a few plain things is."""
    assert is_plain({"a": [1, 2.5, None]})
    assert not is_plain([object()])
    assert not is_plain(type("Text", (str,), {})())
    assert not is_plain(list(range(1000)))
    assert kind_line(object()) is None
