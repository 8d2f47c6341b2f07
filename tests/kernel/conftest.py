"""The ring of real kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Kernel, MakeKernel
from spares import Spare


@pytest.fixture(scope="package")
def _spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spare]:
    spare = Spare(lambda: tmp_path_factory.mktemp("kernel"))
    yield spare
    spare.close()


@pytest.fixture
def make_kernel(
    request: pytest.FixtureRequest, tmp_path: Path, _spare: Spare
) -> Iterator[MakeKernel]:
    """For tests that need a kernel of another configuration, or several."""
    kernels: list[Kernel] = []
    started = request.node.get_closest_marker("started") is not None

    def make(*, config: str = "", env: dict[str, str] | None = None) -> Kernel:
        if config or env or started:
            home = tmp_path / f"kernel-{len(kernels)}"
            home.mkdir()
            kernels.append(Kernel(home, config=config, env=env))
        else:
            kernels.append(_spare.take())
        return kernels[-1]

    yield make
    for kernel in kernels:
        kernel.close()


@pytest.fixture
def bare_kernel(make_kernel: MakeKernel) -> Kernel:
    """A fresh kernel without the extension."""
    return make_kernel()


@pytest.fixture
def kernel(bare_kernel: Kernel) -> Kernel:
    """A fresh kernel with the extension loaded."""
    bare_kernel.load()
    return bare_kernel


@pytest.fixture(scope="module")
def _kernels() -> Iterator[list[Kernel]]:
    kernels: list[Kernel] = []
    yield kernels
    for kernel in kernels:
        kernel.close()


@pytest.fixture
def shared(_kernels: list[Kernel], _spare: Spare) -> Iterator[Kernel]:
    """A kernel with the extension loaded, for all tests of a module that do not interfere.

    After each test it must still answer; what the test left running is stopped and forgotten.
    After a failure the next test gets a fresh one.
    """
    if not _kernels:
        _kernels.append(_spare.take())
        _kernels[0].load()
    kernel = _kernels.pop()
    try:
        yield kernel
        kernel.ok("%cancel all\n%jobs --prune", timeout=10)
    except BaseException:
        kernel.close()
        raise
    _kernels.append(kernel)
