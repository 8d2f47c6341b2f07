"""The ring of real kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Kernel, MakeKernel


@pytest.fixture
def make_kernel(tmp_path: Path) -> Iterator[MakeKernel]:
    """For tests that need a kernel of another configuration, or several."""
    kernels: list[Kernel] = []

    def make(*, config: str = "", env: dict[str, str] | None = None) -> Kernel:
        home = tmp_path / f"kernel-{len(kernels)}"
        home.mkdir()
        kernels.append(Kernel(home, config=config, env=env))
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
