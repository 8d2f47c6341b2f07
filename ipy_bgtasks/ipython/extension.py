"""Loading and unloading: one registry to one shell. What the one does, the other undoes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.cells import transforms_a_cell
from ipy_bgtasks.frontends.exits import ExitQuestion, watch_exits
from ipy_bgtasks.frontends.kernel.stop_button import spare_the_kernel
from ipy_bgtasks.hooks.asking import refuse_questions
from ipy_bgtasks.hooks.threads import carry_jobs
from ipy_bgtasks.ipython.completion import completions_for
from ipy_bgtasks.ipython.magics import JobMagics
from ipy_bgtasks.job.handle import Job, record_of
from ipy_bgtasks.runners.loop import contain_exits
from ipy_bgtasks.session.core import Core, Session
from ipy_bgtasks.session.foreground import Foreground
from ipy_bgtasks.session.helping_threads import HelpingThreads
from ipy_bgtasks.session.leaving import Leaving
from ipy_bgtasks.session.rewriting import await_magics
from ipy_bgtasks.session.settings import BgTasks
from ipy_bgtasks.sigint import wake_on_signals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.screen import Screen

#: The attribute of the shell under which its jobs outlive an unloading.
_CORE = "_ipy_bgtasks_core"
_LOADED = "_ipy_bgtasks_loaded"


class Loaded:
    """Everything that one loading changed, and how to change it back."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._undo: list[Callable[[], None]] = []
        self.session: Session | None = None

    def load(self) -> None:
        """Install everything; a failure on the way undoes what was done."""
        try:
            self._load()
        except BaseException:
            self.unload()
            raise

    def unload(self) -> None:
        """Undo everything, the last first."""
        while self._undo:
            self._undo.pop()()

    def _load(self) -> None:
        shell = self.shell
        core: Core | None = getattr(shell, _CORE, None)
        if core is None:
            core = Core(shell, _loop_of(shell))
            setattr(shell, _CORE, core)
        settings = BgTasks(parent=shell)
        self._append(shell.configurables, settings)
        screen = core.screen = core.screen or _screen_of(shell, core)
        foreground = Foreground(core.loop, lambda job: screen.follow(job, everything=False))
        session = self.session = Session(shell, core, settings, screen, foreground)
        self._undo.append(session.start())
        self._undo.append(screen.install())
        self._undo.append(carry_jobs())
        self._undo.append(refuse_questions(getattr(shell, "kernel", None)))
        self._on_loop(core.loop, lambda: contain_exits(core.loop))
        self._append(shell.input_transformers_post, self._await_magics)
        if (completer := getattr(shell, "Completer", None)) is not None:
            self._append(completer.custom_matchers, completions_for(core.registry))
        self._register(session)
        self._display_jobs(screen)
        self._share_loop(core.loop, screen)
        self._watch_exits(session)

    def _await_magics(self, lines: list[str]) -> list[str]:
        return await_magics(lines, enabled=self._cells_await, top_level=transforms_a_cell())

    def _cells_await(self) -> bool:
        shell = self.shell
        return bool(
            shell.autoawait
            and str(shell.loop_runner) == "asyncio"
            and not getattr(shell, "trio_runner", None)
        )

    def _share_loop(self, loop: asyncio.AbstractEventLoop, screen: Screen) -> None:
        if (kernel := getattr(self.shell, "kernel", None)) is not None:
            self._on_loop(loop, lambda: wake_on_signals(loop))
            if hasattr(kernel, "pre_handler_hook"):
                self._on_loop(loop, lambda: spare_the_kernel(self.shell))
        elif hasattr(self.shell, "prompt_for_code"):
            from ipy_bgtasks.frontends.terminal.loop import TerminalLoop
            from ipy_bgtasks.frontends.terminal.screen import TerminalScreen

            assert isinstance(screen, TerminalScreen)
            terminal = TerminalLoop(self.shell, loop, around_prompt=screen.around_prompt)
            if line := terminal.install():
                screen.say(f"ipy_bgtasks: {line}")
            self._undo.append(terminal.uninstall)

    def _watch_exits(self, session: Session) -> None:
        registry, settings = session.registry, session.settings
        helping = HelpingThreads(session.core.loop)
        self._undo.append(helping.install())
        leaving = Leaving(registry, session.core.loop, lambda: settings.exit_grace)
        leaving.on_begin += [session.screen.shutdown, helping.let_go]
        leaving.on_end += [helping.let_go, session.close_views]
        self._undo.append(watch_exits(self.shell, leaving))
        if hasattr(self.shell, "prompt_for_code") and not hasattr(self.shell, "embedded_active"):
            question = ExitQuestion(self.shell, registry, settings, session.screen)
            self._undo.append(question.install())

    def _on_loop(
        self, loop: asyncio.AbstractEventLoop, install: Callable[[], Callable[[], None]]
    ) -> None:
        """Install something that belongs to the loop's thread, from whichever thread loads."""
        if threading.current_thread() is threading.main_thread():
            self._undo.append(install())
            return
        done: list[Callable[[], None]] = []
        loop.call_soon_threadsafe(lambda: done.append(install()))

        def undo() -> None:
            loop.call_soon_threadsafe(lambda: done.pop()() if done else None)

        self._undo.append(undo)

    def _display_jobs(self, screen: Screen) -> None:
        formatter = self.shell.display_formatter.ipython_display_formatter
        before = formatter.for_type(Job, lambda job: screen.display_job(record_of(job)))

        def undo() -> None:
            formatter.pop(Job, None)
            if before is not None:
                formatter.for_type(Job, before)

        self._undo.append(undo)

    def _append(self, items: list[Any], item: Any) -> None:
        items.append(item)

        def undo() -> None:
            if item in items:
                items.remove(item)

        self._undo.append(undo)

    def _register(self, session: Session) -> None:
        shell, manager = self.shell, self.shell.magics_manager
        ours = JobMagics(shell, session)
        shell.configurables.remove(ours)  # where it has filed itself
        self._append(shell.configurables, ours)
        names = [(kind, name) for kind in ("line", "cell") for name in ours.magics[kind]]
        before = {(kind, name): manager.magics[kind].get(name) for kind, name in names}
        if taken := [where for where in names if before[where] is not None]:
            print(f"ipy_bgtasks: {_were_anothers(taken)}")
        registered = type(ours).__name__ in manager.registry
        shell.register_magics(ours)
        now = {(kind, name): manager.magics[kind][name] for kind, name in names}

        def undo() -> None:
            for (kind, name), fn in before.items():
                if manager.magics[kind].get(name) is not now[kind, name]:
                    continue  # somebody has taken it since
                if fn is not None:
                    manager.magics[kind][name] = fn
                else:
                    del manager.magics[kind][name]
            if not registered:
                manager.registry.pop(type(ours).__name__, None)

        self._undo.append(undo)


def _were_anothers(names: list[tuple[str, str]]) -> str:
    shown = [("%" if kind == "line" else "%%") + name for kind, name in names]
    if len(shown) == 1:
        return f"{shown[0]} was another's; %unload_ext ipy_bgtasks gives it back"
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{listed} were another's; %unload_ext ipy_bgtasks gives them back"


def load(shell: Any) -> None:
    """Load into *shell*; called by `%load_ext`, in any thread."""
    if getattr(shell, _LOADED, None) is not None:
        return
    loaded = Loaded(shell)
    loaded.load()
    setattr(shell, _LOADED, loaded)


def unload(shell: Any) -> None:
    """Put back everything that loading changed; running jobs go on."""
    loaded: Loaded | None = getattr(shell, _LOADED, None)
    if loaded is not None:
        delattr(shell, _LOADED)
        loaded.unload()


def session_of(shell: Any) -> Session | None:
    """The session of a shell, if the extension is loaded there."""
    loaded: Loaded | None = getattr(shell, _LOADED, None)
    return None if loaded is None else loaded.session


def _loop_of(shell: Any) -> asyncio.AbstractEventLoop:
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        from IPython.core.async_helpers import get_asyncio_loop

        return get_asyncio_loop()  # type: ignore[no-untyped-call, no-any-return, unused-ignore]
    io_loop: Any = getattr(kernel, "io_loop", None)
    if io_loop is None:  # loaded by configuration: the kernel has not started yet
        from tornado.ioloop import IOLoop

        io_loop = IOLoop.current()
    return io_loop.asyncio_loop  # type: ignore[no-any-return]


def _screen_of(shell: Any, core: Core) -> Screen:
    if getattr(shell, "kernel", None) is not None:
        from ipy_bgtasks.frontends.kernel.screen import KernelScreen

        return KernelScreen(shell, core.service.later)
    from ipy_bgtasks.frontends.terminal.screen import TerminalScreen

    def notice(job: Any) -> str:
        from ipy_bgtasks.views.text import notice

        return notice(job, core.registry.current, core.registry.previous)

    return TerminalScreen(shell, core.service.later, notice)
