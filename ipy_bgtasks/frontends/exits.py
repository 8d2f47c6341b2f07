"""The ways out of a session: what IPython and ipykernel do when it ends, with ours before it."""

from __future__ import annotations

import atexit
import inspect
import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.sigterm import before_sigterm
from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.screen import Screen
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.session.leaving import Leaving
    from ipy_bgtasks.session.settings import BgTasks


def watch_exits(shell: Any, leaving: Leaving) -> Callable[[], None]:
    """Let *leaving* come first, whichever way *shell* ends; returns what undoes it.

    Any thread may call.
    """
    undo = [before_sigterm(lambda: _clean_up(leaving))]
    undo.append(_at_exit(leaving.finish))
    if (kernel := getattr(shell, "kernel", None)) is not None:
        undo += _watch_kernel(shell, kernel, leaving)
    elif hasattr(shell, "_atexit_once"):
        # It clears the user's namespace, which a job's clean-up may need.
        undo.append(_before(shell, "_atexit_once", leaving.finish))

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return undo_all


def _at_exit(finish: Callable[[], None]) -> Callable[[], None]:
    """Call *finish* when the interpreter begins to end, before it waits for any thread."""
    atexit.register(finish)
    # Other than `atexit` it comes before executors are shut down, which a job's clean-up may
    # need, and their threads waited for. There is no unregistering: what is left is empty.
    calls = [finish]
    if (register := getattr(threading, "_register_atexit", None)) is not None:
        register(lambda: [call() for call in calls])

    def undo() -> None:
        atexit.unregister(finish)
        calls.clear()

    return undo


def _clean_up(leaving: Leaving) -> None:
    leaving.tell()
    leaving.wait()


def _watch_kernel(shell: Any, kernel: Any, leaving: Leaving) -> list[Callable[[], None]]:
    undo = []
    if (before := getattr(kernel, "do_shutdown", None)) is not None:

        async def do_shutdown(restart: bool) -> Any:
            leaving.tell()
            await leaving.ended()
            reply = before(restart)
            return await reply if inspect.isawaitable(reply) else reply

        undo.append(Attribute(kernel, "do_shutdown", do_shutdown).restore)
    if (ask := getattr(shell, "ask_exit", None)) is not None:

        def ask_exit() -> None:
            ask()
            if shell.exit_now:  # `exit` in a cell, and the kernel is not to be kept
                leaving.tell()

        undo.append(Attribute(shell, "ask_exit", ask_exit).restore)
    return undo


def _before(owner: Any, name: str, first: Callable[[], object]) -> Callable[[], None]:
    original = getattr(owner, name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        first()
        return original(*args, **kwargs)

    return Attribute(owner, name, replacement).restore


class ExitQuestion:
    """With jobs running, the first `exit` or Ctrl-D says so, and a second straight after leaves.

    For a shell that is the whole session, in its main thread.
    """

    def __init__(self, shell: Any, registry: Registry, settings: BgTasks, screen: Screen) -> None:
        self._shell = shell
        self._registry = registry
        self._settings = settings
        self._screen = screen
        self._said = False
        self._said_before_cell = False

    def install(self) -> Callable[[], None]:
        """Stand before the shell's own ways; returns what undoes it."""
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
            self._screen.say(_running(len(self._registry.alive())))
        else:
            self._ask_exit()

    def _is_to_ask(self) -> bool:
        return self._settings.confirm_exit and bool(self._registry.alive())

    def _cell_begins(self, _info: object) -> None:
        self._said, self._said_before_cell = False, self._said

    def _cell_ends(self, _result: object) -> None:
        self._said_before_cell = False


def _running(count: int) -> str:
    if count == 1:
        return "1 job is running (%jobs lists it); exit again to leave, it will be stopped"
    return f"{count} jobs are running (%jobs lists them); exit again to leave, they will be stopped"
