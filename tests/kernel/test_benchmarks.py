"""The benchmarks can be run, saved and compared; what they say is not looked at here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyperf", reason="comes with the extra `bench`")

_ROOT = Path(__file__).parents[2]


def test_benchmarks_run_save_and_compare(tmp_path: Path) -> None:
    """Two small ones, the second time against the saved first."""
    saved = str(tmp_path / "saved.json")
    chosen = ["--only", "turns of the loop", "--only", "a finished coroutine job"]
    first = _benchmarks("--quick", *chosen, "--json", saved)
    assert "cancel to ended" in first
    assert "a finished task" in first
    assert "was " in _benchmarks("--quick", *chosen, "--compare", saved)


def _benchmarks(*words: str) -> str:
    run = [sys.executable, "-m", "tests.benchmarks", *words]
    return subprocess.run(run, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
