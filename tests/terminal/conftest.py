"""The fixtures `terminal`, `loaded` and `spawn_terminal`; `terminals` says what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminals import Spare, Terminal


@pytest.fixture(scope="package")
def _spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spare]:
    spare = Spare(lambda: tmp_path_factory.mktemp("terminal"))
    yield spare
    spare.close()


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _spare: Spare
) -> Path:
    """The directory of this test's terminals; `terminal` has begun to start in its own."""
    if "terminal" in request.fixturenames and not request.node.get_closest_marker("started"):
        return _spare.directory
    return tmp_path_factory.mktemp("terminal")


@pytest.fixture
def spawn_terminal(tmp_path: Path, _spare: Spare) -> Iterator[Callable[..., Terminal]]:
    """Start terminals of one's own: ``spawn_terminal(*arguments, term="xterm")``."""
    spawned: list[Terminal] = []

    def spawn(*arguments: str, term: str = "xterm", script: Path | None = None) -> Terminal:
        plain = not arguments and term == "xterm" and script is None
        if plain and tmp_path == _spare.directory:
            terminal = _spare.take()
        else:
            terminal = Terminal(tmp_path, *arguments, term=term, script=script)
        spawned.append(terminal)
        return terminal

    yield spawn
    for terminal in spawned:
        terminal.close()


@pytest.fixture
def terminal(spawn_terminal: Callable[..., Terminal]) -> Terminal:
    """A terminal IPython at its first prompt, without any extension."""
    return spawn_terminal()


@pytest.fixture
def loaded(spawn_terminal: Callable[..., Terminal], request: pytest.FixtureRequest) -> Terminal:
    """A terminal IPython that was started with the extension; the module's ``SETUP`` has run."""
    terminal = spawn_terminal("--ext", "ipy_bgtasks")
    if setup := getattr(request.module, "SETUP", ""):
        terminal.run(setup)
    return terminal
