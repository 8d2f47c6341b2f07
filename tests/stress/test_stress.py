"""The stress command in a small size."""

from __future__ import annotations

from pathlib import Path

import pytest
from interrupts import run
from sweeps import main as sweeps


def test_interrupts_at_random_moments_hit_the_foreground_alone(tmp_path: Path) -> None:
    """Every job ends with its right result, no line is lost, and the kernel always replies."""
    counts = run("kernel", tmp_path, interrupts=25, jobs=12, seed=4)
    assert counts.good, str(counts)
    assert counts.interrupts >= 25


def test_limited_groups_hold_whatever_is_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    """No limit exceeded, no job forgotten, order kept."""
    assert sweeps(rounds=2, jobs=300) == 0, capsys.readouterr().out
