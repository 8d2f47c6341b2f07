"""The stress command in a small size."""

from __future__ import annotations

from pathlib import Path

from interrupts import run


def test_interrupts_at_random_moments_hit_the_foreground_alone(tmp_path: Path) -> None:
    """Every job ends with its right result, no line is lost, and the kernel always replies."""
    counts = run("kernel", tmp_path, interrupts=25, jobs=12, seed=4)
    assert counts.good, str(counts)
    assert counts.interrupts >= 25
