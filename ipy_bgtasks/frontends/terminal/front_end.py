"""IPython in a terminal as a front end: its screen, its prompt and event loop, its exits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.streams import part_publishers
from ipy_bgtasks.frontends.terminal.screen import TerminalScreen
from ipy_bgtasks.frontends.tracebacks import without_our_frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.job.record import Record


class TerminalFrontEnd:
    """One terminal session, or a shell without any terminal, from the first loading on.

    *notice* returns the line that says that a job has ended, *group_notice* that for a group, or an
    empty text while one of its jobs goes on; *running* returns how many jobs an
    exit would stop, or 0 if there is nothing to ask.
    """

    def __init__(
        self,
        shell: Any,
        loop: asyncio.AbstractEventLoop,
        later: Callable[..., object],
        *,
        notice: Callable[[Record], str],
        group_notice: Callable[[str], str],
        running: Callable[[], int],
    ) -> None:
        self.screen = TerminalScreen(shell, later, notice, group_notice)
        self._shell = shell
        self._loop = loop
        self._running = running
        self._prompts = hasattr(shell, "prompt_for_code")
        self.waits: Callable[[int], bool] = lambda _thread: False
        self.sends_away: Callable[[], bool] = lambda: False
        self.cells = None

    def install(self, changes: Installation) -> None:
        """Route output, and let the prompt and await cells share the loop."""
        changes.add(self.screen.install())
        changes.step("captures", self._part_captures)
        changes.step("partial lines", self.screen.spare_values)
        changes.step("tracebacks", lambda: without_our_frames(self._shell))
        if self._prompts:
            changes.step("prompt", self._share_loop)

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Keep jobs from asking, and apart on rich's one console. Any thread may call."""
        from ipy_bgtasks.frontends.consoles import part_consoles
        from ipy_bgtasks.hooks.asking import refuse_questions

        changes.step("rich", part_consoles)
        changes.step("questions", refuse_questions)

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        return threading.current_thread() is threading.main_thread()

    def sent_away(self) -> Record:
        """Refuse: a terminal takes no input while a cell runs."""
        from ipy_bgtasks.errors import BadInput

        raise BadInput(
            "`%bg` alone sends away a cell that runs, in a notebook; in a terminal start it with "
            "%fg CODE or %%fg, and Ctrl-C sends it to the background"
        )

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before IPython's own shutdown, and ask a question before that."""
        from ipy_bgtasks.frontends.terminal.exits import ExitQuestion
        from ipy_bgtasks.frontends.versions import before_clean_up

        # A job's clean-up may need the user's names.
        changes.step("exit", lambda: before_clean_up(self._shell, leaving.finish))
        if self._prompts and not hasattr(self._shell, "embedded_active"):
            question = ExitQuestion(self._shell, self.screen, self._running)
            changes.step("exit", question.install)

    def _part_captures(self) -> Callable[[], None]:
        return part_publishers(self._shell, self._shell.display_pub)[1]

    def _share_loop(self) -> Callable[[], None]:
        from ipy_bgtasks.frontends.terminal.loop import TerminalLoop

        terminal = TerminalLoop(self._shell, self._loop, around_prompt=self.screen.around_prompt)
        line = terminal.install()
        if line and getattr(self._shell.parent, "interact", True):  # else there will be no prompt
            self.screen.say(f"ipy_bgtasks: {line}")
        return terminal.uninstall
