"""A Jupyter kernel as a front end: its screen, its interrupts, its exits."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.frontends.kernel.interrupted import show_interrupts
from ipy_bgtasks.frontends.kernel.screen import KernelScreen
from ipy_bgtasks.frontends.kernel.stop_button import spare_the_kernel
from ipy_bgtasks.frontends.tracebacks import without_our_frames
from ipy_bgtasks.hooks.attributes import Attribute
from ipy_bgtasks.sigint import wake_on_signals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.front_end import ForegroundCells
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.kernel.away import CellsAway
    from ipy_bgtasks.frontends.kernel.cell_queue import CellRun
    from ipy_bgtasks.job.record import Record


class KernelFrontEnd:
    """The front ends of one kernel, from the first loading on. Any thread may load."""

    def __init__(
        self,
        shell: Any,
        loop: asyncio.AbstractEventLoop,
        later: Callable[..., object],
        *,
        launch_cell: Callable[..., Record],
    ) -> None:
        self.screen = KernelScreen(shell, later)
        self.waits: Callable[[int], bool] = lambda _thread: False
        self.sends_away: Callable[[], bool] = lambda: False
        self._shell = shell
        self._loop = loop
        self._launch_cell = launch_cell
        self._away: CellsAway | None = None

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""
        shell = self._shell
        changes.step("streams", self.screen.install)
        changes.step("captures", self.screen.part_captures)
        changes.step("tracebacks", lambda: without_our_frames(shell))
        changes.step_on_loop("wake-up", self._loop, lambda: wake_on_signals(self._loop))
        changes.step("cells sent away", self._send_cells_away)
        changes.step(
            "interrupted cells", lambda: show_interrupts(shell, self._diverted, self.divert)
        )
        changes.step_on_loop("stop button", self._loop, lambda: spare_the_kernel(shell, self))

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Keep jobs from asking, and apart on rich's one console. Any thread may call."""
        from ipy_bgtasks.frontends.consoles import part_consoles
        from ipy_bgtasks.hooks.asking import refuse_questions

        changes.step("rich", part_consoles)
        changes.step("questions", lambda: refuse_questions(self._shell.kernel))

    @property
    def cells(self) -> ForegroundCells | None:
        """Its cells, where one that runs can be sent to the background: on ipykernel 7."""
        return self._away

    def diverts(self) -> bool:
        """Return whether interrupts are meant for a cell that may run in another thread."""
        return self._away is not None and self._away.reaches()

    def divert(self) -> bool:
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        return self._away is not None and self._away.divert()

    def first_sends_away(self) -> bool:
        """Return whether the first interrupt of a cell is to send it to the background."""
        return self._away is not None and self.sends_away()

    def _diverted(self) -> bool:
        return self._away is not None and self._away.interrupted_here()

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        main = threading.current_thread() is threading.main_thread()
        return main or self.diverts()

    def sent_away(self) -> Record:
        """Return the job of the cell that `%bg` alone has just sent to the background."""
        from ipy_bgtasks.errors import BadInput

        if self._away is None:
            raise BadInput(
                "`%bg` alone needs ipykernel 7, whose subshells run other cells meanwhile; here "
                "start the cell with %%fg, and an interrupt sends it to the background"
            )
        if self._away.unable:
            raise BadInput(
                "`%bg` alone does not work with this version of IPython; start the cell with "
                "%%fg, and an interrupt sends it to the background"
            )
        if (job := self._away.last()) is None:
            raise BadInput(
                "no cell runs that could go to the background: `%bg`, alone in a cell of its own, "
                "sends away the one that runs at that moment; %bg CODE launches CODE"
            )
        return job

    def _send_cells_away(self) -> Callable[[], None]:
        from ipy_bgtasks.frontends.kernel.away import CellsAway
        from ipy_bgtasks.frontends.kernel.other_loop import explain_other_loop

        away = CellsAway(
            self._shell,
            self._launch,
            lambda thread: self.waits(thread),
            self.screen.untangle,
            self._say_stuck,
            self.first_sends_away,
            self._say_sent_away,
        )
        undo = away.install()
        undo_lines = explain_other_loop(self._shell, away.on_main)
        self._away = away

        def undo_all() -> None:
            self._away = None
            undo_lines()
            undo()

        return undo_all

    def _launch(self, run: CellRun, interrupt: Callable[[], object]) -> Record:
        from ipy_bgtasks.stacks import thread_stack

        assert run.began is not None
        below = code_that_runs_cells()
        job = self._launch_cell(
            run.code,
            origin=run.header,
            thread=run.thread,
            began=run.began,
            awaits=run.task is not None,
            interrupt=interrupt,
            stack=lambda: thread_stack(run.thread, below),
        )
        self.screen.sent_away(job)
        return job

    def _say_sent_away(self, job: Record) -> None:
        n = job.number
        self.screen.note(job, f"job {n} goes on: %fg {n} returns to it, %cancel {n} stops it")

    def _say_stuck(self, run: CellRun) -> None:
        from ipy_bgtasks.stacks import doing, innermost, place, thread_stack

        frame = innermost(thread_stack(run.thread, code_that_runs_cells()))
        where = "" if frame is None else f" {doing(frame)} ({place(frame)})"
        self.screen.write_below(
            run.header,
            "stderr",
            f"still in{where}; it stops when that returns. `%bg` alone, in the next cell, sends "
            "it to the background\n",
        )

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before the kernel's own shutdown."""
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
        if shell.exit_now:  # `exit` in a cell, without keeping the kernel
            leaving.tell()

    undo = [Attribute(kernel, "do_shutdown", do_shutdown), Attribute(shell, "ask_exit", ask_exit)]

    def undo_all() -> None:
        for each in undo:
            each.restore()

    return undo_all
