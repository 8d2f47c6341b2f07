"""What several files of tests without IPython share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from shell_place import LONG, Place

from ipy_bgtasks.service import ServiceLoop

# On a machine that is busy any example may take long.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def service() -> ServiceLoop:
    """One for all tests: it is never stopped."""
    return ServiceLoop()


@pytest.fixture
def place(service: ServiceLoop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place with the plain shell; whatever a test leaves behind is gone afterwards."""
    monkeypatch.setenv("SHELL", "/bin/sh")
    place = Place(service)
    yield place
    place.supervisor.close(wait=LONG)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe by name; a command that reads from it waits until the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path
