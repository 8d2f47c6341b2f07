"""The fixtures `terminal` and `spawn_terminal`; `terminals` says what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminals import Terminal


@pytest.fixture
def spawn_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start terminals of one's own: ``spawn_terminal(*arguments, term="xterm")``."""
    spawned: list[Terminal] = []

    def spawn(*arguments: str, term: str = "xterm", script: Path | None = None) -> Terminal:
        spawned.append(Terminal(tmp_path, *arguments, term=term, script=script))
        return spawned[-1]

    yield spawn
    for terminal in spawned:
        terminal.close()


@pytest.fixture
def terminal(spawn_terminal: Callable[..., Terminal]) -> Terminal:
    """A terminal IPython at its first prompt, without any extension."""
    return spawn_terminal()
