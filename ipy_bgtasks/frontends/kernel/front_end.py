"""A Jupyter kernel as a front end: its screen, its interrupts, its exits."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.kernel.screen import KernelScreen
from ipy_bgtasks.frontends.kernel.stop_button import spare_the_kernel
from ipy_bgtasks.hooks.asking import refuse_questions
from ipy_bgtasks.hooks.attributes import Attribute
from ipy_bgtasks.sigint import wake_on_signals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.installing import Installation


class KernelFrontEnd:
    """The front ends of one kernel, from the first loading on. Any thread may load."""

    def __init__(
        self, shell: Any, loop: asyncio.AbstractEventLoop, later: Callable[..., object]
    ) -> None:
        self.screen = KernelScreen(shell, later)
        self._shell = shell
        self._loop = loop

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""
        shell, kernel = self._shell, self._shell.kernel
        changes.step("streams", self.screen.install)
        changes.step("questions", lambda: refuse_questions(kernel))
        changes.step_on_loop("wake-up", self._loop, lambda: wake_on_signals(self._loop))
        changes.step_on_loop("stop button", self._loop, lambda: spare_the_kernel(shell))

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Let *leaving* come before the kernel's own end."""
        changes.step("shutdown", lambda: _watch_shutdown(self._shell, leaving))


def _watch_shutdown(shell: Any, leaving: Leaving) -> Callable[[], None]:
    kernel = shell.kernel
    shut_down, ask = kernel.do_shutdown, shell.ask_exit

    async def do_shutdown(restart: bool) -> Any:
        leaving.tell()
        await leaving.ended()
        reply = shut_down(restart)
        return await reply if inspect.isawaitable(reply) else reply

    def ask_exit() -> None:
        ask()
        if shell.exit_now:  # `exit` in a cell, and the kernel is not to be kept
            leaving.tell()

    undo = [Attribute(kernel, "do_shutdown", do_shutdown), Attribute(shell, "ask_exit", ask_exit)]

    def undo_all() -> None:
        for each in undo:
            each.restore()

    return undo_all
