"""The prompt and the await cells of terminal IPython on one event loop.

Tasks then run on while the prompt waits, and SIGINT ends the prompt or the cell but never
hits a task. This module knows IPython's terminal shell and prompt_toolkit, but nothing of
jobs. `IPython.terminal.interactiveshell` is the code whose parts it replaces.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ipy_bgtasks.sigint import (
    SigintHandler,
    complete,
    run_interruptible,
    sigint_for,
    sigint_handled,
)

if TYPE_CHECKING:
    from ipy_bgtasks.patching import Installation

T = TypeVar("T")

#: Seconds that a prompt that has ended waits for text that is being shown above it.
_PAINTS = 0.5

_ALONE = (
    "coroutine jobs advance only while %fg or an await cell runs: {why}; "
    "%bg --thread is not affected"
)


class TerminalLoop:
    """Makes the prompt and the await cells of `shell` run on `loop`, with safe interrupts.

    `shell` is a ``TerminalInteractiveShell``. `around_prompt` makes a context in which each
    prompt waits, and which yields what is to be called when the prompt has begun. All methods are
    for the main thread, unless stated otherwise; a thread with a loop of its own (`own_loop`) may
    prompt and run cells in its place.
    """

    def __init__(
        self,
        shell: Any,
        loop: asyncio.AbstractEventLoop,
        around_prompt: Callable[[], AbstractContextManager[Callable[[], None]]],
    ) -> None:
        self._shell = shell
        self._loop = loop
        self._around_prompt = around_prompt
        self._told = False
        #: The loop of a thread that has one of its own, and what takes interrupts of its cell.
        self._here = threading.local()

    def install(self, changes: Installation) -> str | None:
        """Replace the shell's prompt; return a line for the user if it cannot share the loop.

        It cannot with ``--simple-prompt``, and while a ``%gui`` loop runs the prompt.
        """
        shell = self._shell
        runners = shell.loop_runner_map
        changes.add(self._restore_runner)
        changes.attribute(shell, "loop_runner_map", {**runners, "asyncio": (self, True)})
        # Any other runner (trio's, say) is the user's choice; `%autoawait asyncio` finds ours.
        if shell.loop_runner is runners["asyncio"][0]:
            shell.loop_runner = self
        if shell.pt_app is None:
            why = "this prompt (--simple-prompt) cannot share the event loop"
            return _ALONE.format(why=why)
        changes.wrap(shell, "prompt_for_code", self._prompt_for_code)
        return self._new_obstacle()

    def _restore_runner(self) -> None:
        if self._shell.loop_runner is self:
            self._shell.loop_runner = self._shell.loop_runner_map["asyncio"][0]

    def __str__(self) -> str:
        """Return what `%autoawait` shows."""
        return "asyncio"

    def __call__(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run `coro` on the loop until it is done, as `run_interruptible` does. Any thread."""

        def reach(handler: SigintHandler) -> None:
            self._here.handler = handler

        try:
            return run_interruptible(self._loop_here(), coro, reach)
        finally:
            self._here.handler = None

    def handler_here(self) -> SigintHandler | None:
        """Return what takes interrupts of the calling thread's cell, if that awaits."""
        return getattr(self._here, "handler", None)

    @contextmanager
    def own_loop(self) -> Iterator[None]:
        """Give the calling thread, not the main one, a loop for its prompts and await cells.

        Afterwards it runs on until the tasks that those cells have left there are done.
        """
        loop = self._here.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            yield
            while tasks := asyncio.all_tasks(loop):
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def wait_for(self, future: Future[Any], interrupt: SigintHandler) -> None:
        """Run the loop on the main thread, on which nothing else runs, until *future* is done."""

        async def wait() -> None:
            await asyncio.wait([asyncio.wrap_future(future)])

        if self._loop.is_closed():
            future.exception()
            return
        with sigint_handled(self._loop, interrupt):
            complete(self._loop, self._loop.create_task(wait()))

    def _loop_here(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = getattr(self._here, "loop", self._loop)
        return loop

    def _prompt_for_code(self, _original: object) -> str:
        """Return the next input; called by the shell. `EOFError` means that the user leaves."""
        on_main = self._loop_here() is self._loop
        if on_main and (self._loop.is_closed() or self._gui() is not None):
            if line := self._new_obstacle():
                print(line)
            return self._separate_prompt()
        return self._shared_prompt()

    def _gui(self) -> str | None:
        """Return the GUI whose event loop runs the prompt at the moment, if any."""
        name = self._shell.active_eventloop
        # asyncio's input hook does nothing: it is IPython's name for the sharing we do.
        return None if self._shell._inputhook is None or name == "asyncio" else str(name)

    def _new_obstacle(self) -> str | None:
        gui = self._gui()
        if gui is None or self._told:
            return None
        self._told = True
        return _ALONE.format(why=f"%gui {gui} runs the prompt on a loop of its own")

    def _prompt_options(self) -> dict[str, Any]:
        default = self._shell.rl_next_input or ""
        if default:
            self._shell.rl_next_input = None
        return {"default": default, **self._shell._extra_prompt_options()}

    def _separate_prompt(self) -> str:
        with self._around_prompt() as begun:
            options = self._prompt_options()
            hook = self._shell._inputhook
            return str(self._shell.pt_app.prompt(inputhook=hook, pre_run=begun, **options))

    def _shared_prompt(self) -> str:
        loop = self._loop_here()
        interrupt = _PromptInterrupt(loop)
        # The handler is there before and after anything else changes, so that no interrupt
        # leaves the prompt's stream in `sys.stdout`.
        with sigint_for(loop, interrupt), self._around_prompt() as begun:
            # Let asyncio log the exception of a task. prompt_toolkit's own handler
            # would stop everything and ask for ENTER.
            prompt = self._shell.pt_app.prompt_async(
                handle_sigint=False,
                set_exception_handler=False,
                pre_run=begun,
                **self._prompt_options(),
            )
            interrupt.task = loop.create_task(prompt)
            try:
                code = str(complete(loop, interrupt.task))
            except asyncio.CancelledError:
                return ""
            finally:
                self._finish_painting(loop)
        return "" if interrupt.seen else code

    def _finish_painting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let what is being shown above the prompt come to its end on this loop.

        The next prompt, perhaps on another loop, waits for it, and it stops that one's input.
        """
        app = self._shell.pt_app.app
        painting = getattr(app, "_running_in_terminal_f", None)
        if painting is not None and not painting.done() and painting.get_loop() is loop:
            complete(loop, loop.create_task(_wait_for(painting)))
        if painting is not None:
            app._running_in_terminal_f = None


async def _wait_for(future: asyncio.Future[None]) -> None:
    await asyncio.wait([future], timeout=_PAINTS)


class _PromptInterrupt:
    """A SIGINT handler that cancels the prompt at its await, once.

    prompt_toolkit must end cleanly, or the terminal stays in raw mode: nothing is raised in its
    code, and nothing interrupts it while it ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.task: asyncio.Task[Any] | None = None
        self.seen = False

    def __call__(self, _: object) -> None:
        if not self.seen:
            self.seen = True
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
