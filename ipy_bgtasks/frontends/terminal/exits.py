"""Leaving a terminal session: jobs are stopped first; with jobs running, the first `exit` asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.screen import Screen


class ExitQuestion:
    """The question before leaving: with jobs running, only a second `exit` or Ctrl-D leaves.

    For a shell that is the whole session, in its main thread. *running* returns how many jobs
    would be stopped; 0 if there is nothing to ask.
    """

    def __init__(self, shell: Any, screen: Screen, running: Callable[[], int]) -> None:
        self._shell = shell
        self._screen = screen
        self._running = running
        self._said = False
        self._said_before_cell = False

    def install(self) -> Callable[[], None]:
        """Replace the shell's own exits; returns what undoes it."""
        shell = self._shell
        self._ask_exit, self._prompt = shell.ask_exit, shell.prompt_for_code
        attributes = [
            Attribute(shell, "ask_exit", self._exit),
            Attribute(shell, "prompt_for_code", self._prompt_for_code),
        ]
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)

        def undo() -> None:
            shell.events.unregister("pre_run_cell", self._cell_begins)
            shell.events.unregister("post_run_cell", self._cell_ends)
            for attribute in attributes:
                attribute.restore()

        return undo

    def _prompt_for_code(self) -> str:
        try:
            return str(self._prompt())
        except EOFError:
            if not self._is_to_ask():
                raise  # IPython may have a question of its own
            self._exit()
            return ""

    def _exit(self) -> None:
        if self._is_to_ask() and not (self._said or self._said_before_cell):
            self._said = True
            self._screen.say(_question(self._running()))
        else:
            self._ask_exit()

    def _is_to_ask(self) -> bool:
        return bool(self._running())

    def _cell_begins(self, info: Any) -> None:
        # A look at what runs, between two exits, is no reason to ask again.
        if str(getattr(info, "raw_cell", "")).strip().lstrip("%").partition(" ")[0] == "jobs":
            return
        self._said, self._said_before_cell = False, self._said

    def _cell_ends(self, _result: object) -> None:
        self._said_before_cell = False


def _question(count: int) -> str:
    if count == 1:
        return "1 job is running (%jobs lists it); exit again to leave, it will be stopped"
    return f"{count} jobs are running (%jobs lists them); exit again to leave, they will be stopped"
