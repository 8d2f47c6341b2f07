"""Which cells may run before those that were there first."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ipy_bgtasks.work.names import may_run_ahead

SOURCE = """
def train(): return data
def other(n=0): return n
def sleeps(): return math.sin(1)
class Model:
    def fit(self): pass
def evaluate(): return model
model = Model()
data = [1]
job = object()
"""


@pytest.fixture
def variables() -> dict[str, Any]:
    """What the user has."""
    found: dict[str, Any] = {"math": math}
    exec(SOURCE, found)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "%jobs",
        "  %jobs -v  # what runs\n",
        "%jobs 3 --json --since 20",
        '%jobs 3 --show "len(data) * 2, model"',
        "%jobs --profile 5 3",
        "%cancel 3",
        "%cancel q2",
        "%cancel all -f",
        "r = %fg 3",
        "%fg",
        "%fg @fits",
        "%fg -a --timeout 3 job",
        "%fg --any 3 4",
        "%bg other()",
        "job = %bg other(2)",
        "%bg -q -n x --timeout 60 other(math.pi)",
        "%bg !make -j4",
        "%bg !python train.py y",
        "%bg sleeps()",
        "%%bg\nx = other(1)\nprint(x)",
    ],
)
def test_one_magic_alone_that_concerns_none_of_them(code: str, variables: dict[str, Any]) -> None:
    """It runs at once, whatever else computes."""
    assert may_run_ahead(code, ["train()\nsleeps()", "y = Model()\nmath.sin(other())"], variables)


@pytest.mark.parametrize(
    "code",
    [
        "%bg",
        "%bg ;",
        "%fg other()",
        "%jobs\nprint(1)",
        "print(1)\n%jobs",
        "%timeit other()",
        "jobs()",
        "",
        "!ls",
        "%bgx",
        "a.b = %bg other()",
    ],
)
def test_all_else_keeps_its_place(code: str, variables: dict[str, Any]) -> None:
    """Two lines, other magics, code in the foreground, `%bg` alone."""
    assert not may_run_ahead(code, ["train()"], variables)


@pytest.mark.parametrize(
    ("code", "before"),
    [
        ("%bg evaluate(model)", "model.fit()"),
        ("%bg evaluate()", "model.fit()"),
        ("%bg print(data)", "train()"),
        ("%bg train()", "data = 3"),
        ("%bg new()", "def new(): pass"),
        ("%bg other()", "def other(): pass"),
        ("%bg other()", "x = 1; other = 3"),
        ("%bg other()", "from here import other"),
        ("%bg Model()", "class Model(): pass"),
        ("%fg job", "job = %bg other()"),
        ("%cancel job", "job = 3"),
        ("data = %bg other()", "print(data)"),
        ("%bg !make {n}", "n = 3"),
        ("%%bg\nfresh = 1", "fresh = 2"),
        ("%bg int(data)", "int(data)"),
        ("%bg other(job != 3)", "job = 3"),
    ],
)
def test_what_depends_on_a_cell_before_keeps_its_place(
    code: str, before: str, variables: dict[str, Any]
) -> None:
    """It is meant for what is there when that has run."""
    assert not may_run_ahead(code, ["other()", before], variables)
    assert may_run_ahead(code, ["zzz = 3"], variables)
