"""What several files of tests without IPython share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from elsewhere import House
from fakes import FakeClock, FakeRunner
from shell_place import LONG, Place

from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.service import ServiceLoop

# On a machine that is busy any example may take long.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def service() -> ServiceLoop:
    """One for all tests: it is never stopped."""
    return ServiceLoop()


@pytest.fixture
def fake() -> FakeRunner:
    """A place where nothing happens by itself."""
    return FakeRunner()


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes when the test says so."""
    return FakeClock()


@pytest.fixture
def registry(fake: FakeRunner, clock: FakeClock) -> Registry:
    """A registry whose every place is the fake one."""
    return Registry({"loop": fake, "thread": fake}, clock)  # type: ignore[arg-type]


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


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> House:
    """The names that jobs elsewhere use, those of the module's ``SOURCE``."""
    return House(request.module.SOURCE)
