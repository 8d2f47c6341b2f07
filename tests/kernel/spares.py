"""Kernels ahead of the tests that want a plain one, forked where that is the same as started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forks import AVAILABLE, ForkServer
from jupyter_client.provisioning import local_provisioner
from kernels import Kernel, kernel_environment

#: By this a kernel knows whose end is its own; jupyter_client sets it for those that it starts.
_PARENT = {"JPY_PARENT_PID": str(os.getpid())}


@contextlib.contextmanager
def _forking(server: ForkServer | None) -> Iterator[None]:
    """Let jupyter_client's kernels be forks, where those are the same as what it starts."""
    start = local_provisioner.launch_kernel

    def launch_kernel(cmd: list[str], **options: Any) -> Any:
        environment = options["env"] | _PARENT
        if server is None or not server.can_be(environment):
            return start(cmd, **options)
        reads, writes = os.pipe()
        forked = server.fork(
            *cmd[2:],
            env=environment,
            cwd=options["cwd"],
            streams=[reads, options["stdout"].fileno(), options["stderr"].fileno()],
        )
        os.close(reads)
        forked.stdin = os.fdopen(writes, "wb")
        return forked

    local_provisioner.launch_kernel = launch_kernel
    try:
        yield
    finally:
        local_provisioner.launch_kernel = start


class Spare:
    """One kernel that starts while the test before still runs, for tests that want a plain one."""

    def __init__(self, new_home: Callable[[], Path]) -> None:
        self._new_home = new_home
        self._kernel: Kernel | None = None
        self._environment: dict[str, str] = {}
        self._server: ForkServer | None = None
        if AVAILABLE:
            home = new_home()
            with open(os.devnull, "rb") as nothing, (home / "output.txt").open("wb") as output:
                self._server = ForkServer(
                    ["ipykernel.kernelapp"],
                    kernel_environment(home) | _PARENT,
                    [nothing.fileno(), output.fileno(), output.fileno()],
                )

    def take(self) -> Kernel:
        """Return a fresh kernel; the next one begins to start."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None and self._environment != _environment_now():
            kernel.close()
            kernel = None
        kernel = kernel or self._new()
        try:
            kernel.connect()
        except BaseException:
            kernel.close()
            raise
        self._environment = _environment_now()
        self._kernel = self._new()
        return kernel

    def close(self) -> None:
        """End the one that nobody took."""
        if self._kernel is not None:
            self._kernel.close()
        if self._server is not None:
            self._server.close()

    def _new(self) -> Kernel:
        with _forking(self._server):
            return Kernel(self._new_home(), wait=False)


def _environment_now() -> dict[str, str]:
    """Return what a kernel inherits; pytest tells each test's name in it."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
