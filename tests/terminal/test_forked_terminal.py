"""What the terminals of the tests are."""

from __future__ import annotations

from pathlib import Path

import pytest
from forks import AVAILABLE, FACTS, differences
from terminals import Terminal


@pytest.mark.skipif(not AVAILABLE, reason="nothing is forked here")
def test_a_forked_terminal_is_as_a_started_one(
    terminal: Terminal, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing else is imported, open, handled, or running in it."""
    there = tmp_path_factory.mktemp("started")
    started = Terminal(there)
    try:
        for each in (terminal, started):
            each.run(FACTS)
        assert differences(tmp_path, there) == set()
    finally:
        started.close()
