"""Loading and unloading: one registry for each shell. Unloading undoes what loading did."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.installing import (
    complete_with,
    keep_cell_numbers,
    keep_get_ipython,
    kernel_of,
    loop_of,
    missing_line,
    runs_in_a_cell,
    transforms_a_cell,
)
from ipy_bgtasks.ipython.magics import JobMagics
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.platforms import hold_descriptors
from ipy_bgtasks.session.control import Core, Session
from ipy_bgtasks.session.rewriting import await_magics, mentions
from ipy_bgtasks.session.settings import BgTasks

if TYPE_CHECKING:
    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.live.watching import Watching
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.session.launching import Runners

#: The attribute of the shell that keeps its jobs across an unloading.
_CORE = "_ipy_bgtasks_core"
_LOADED = "_ipy_bgtasks_loaded"
#: Descriptors that are held back for the end. Where all are in use a kernel cannot end: ipykernel
#: opens sockets to itself then, in several threads, and files to import (7.4; also without us).
_HELD = 10


class Loaded:
    """Everything that one loading changed, and how to undo it."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        core: Core | None = getattr(shell, _CORE, None)
        if core is None:
            core = Core(shell, loop_of(shell))
            core.front_end = _front_end_of(shell, core)
            setattr(shell, _CORE, core)
        core.front_end.settings = settings = _settings_of(shell)
        self.session = Session(self, core, settings)
        self._changes = Installation()
        self._watching: Watching | None = None
        self._held: list[int] = []
        #: The number of the cell that loads this, if one does.
        self._loading = shell.execution_count if runs_in_a_cell() else None

    def is_loading(self) -> bool:
        """Return whether the cell that runs is the one that has loaded this."""
        return bool(self._loading == self.shell.execution_count)

    def unload(self) -> None:
        """Undo everything, in reverse order."""
        self._changes.undo()

    def live_views(self) -> Watching:
        """Return what shows jobs live; it is imported and made when it is first needed."""
        if self._watching is None:
            from ipy_bgtasks.live.watching import Watching

            self._watching = Watching(self.session)
        return self._watching

    def _close_views(self) -> None:
        if self._watching is not None:
            self._watching.close()

    def load(self) -> None:
        """Install everything."""
        shell, session, changes = self.shell, self.session, self._changes
        front_end, cells = session.front_end, session.core.sources.cell
        self._held = hold_descriptors(_HELD)
        changes.add(self._free_descriptors)
        changes.append(shell.configurables, session.settings)
        changes.add(self._close_views)
        changes.add(front_end.use_page(lambda: self.live_views().open_page(), cells))
        front_end.install(changes)
        session.open()
        changes.add(session.close)
        changes.step("cells", keep_cell_numbers, shell)
        changes.step("get_ipython", keep_get_ipython, shell)
        changes.step("rewriting", self._rewrite)
        changes.step("completion", self._complete, session)
        changes.step("display", self._display_jobs, front_end)
        self._register(session)
        self._report()
        session.print_kept()

    def _free_descriptors(self) -> None:
        held, self._held = self._held, []
        # By as few calls as can be: beside threads that compute each takes a turn of all.
        for _, each in groupby(enumerate(held), lambda pair: pair[1] - pair[0]):
            run = [descriptor for _, descriptor in each]
            os.closerange(run[0], run[-1] + 1)

    def prepare_for_jobs(self, runners: Runners) -> None:
        """Install what concerns jobs only; all of it is imported with the first."""
        from ipy_bgtasks.async_exceptions import send_again
        from ipy_bgtasks.frontends.commands import run_commands_of_jobs
        from ipy_bgtasks.hooks import executor_for_jobs, threads_of_jobs
        from ipy_bgtasks.runners.loop import contain_exits
        from ipy_bgtasks.waits import replace_sleep

        core, changes = self.session.core, self._changes
        loop = core.loop
        changes.step("waits", replace_sleep)
        changes.step("stopping threads", send_again)
        changes.step("threads", threads_of_jobs.track)
        changes.step("threads", executor_for_jobs, loop)
        run = runners.commands.run_within
        changes.step("commands", run_commands_of_jobs, self.shell, run)
        changes.step_on_loop("exits of tasks", loop, contain_exits, loop)
        core.front_end.prepare_for_jobs(changes)
        self._watch_exits(self.session, runners.registry)
        self._report()

    def _report(self) -> None:
        """Say in one line which steps were left out, those that were told already apart."""
        if line := missing_line(self._changes):
            self.session.front_end.print_aside(line)

    def _rewrite(self, changes: Installation) -> None:
        changes.append(self.shell.input_transformers_post, self._await_magics)

    def _await_magics(self, lines: list[str]) -> list[str]:
        # Most cells mention no magic of ours; only for one that does is the stack looked at.
        if not mentions("".join(lines)):
            return lines
        return await_magics(lines, enabled=self._cells_await, top_level=transforms_a_cell())

    def _cells_await(self) -> bool:
        shell = self.shell
        return bool(
            shell.autoawait
            and str(shell.loop_runner) == "asyncio"
            and not getattr(shell, "trio_runner", None)
        )

    def _complete(self, changes: Installation, session: Session) -> None:
        completer = getattr(self.shell, "Completer", None)
        if completer is None:  # no completion here
            return

        def complete(line: str, token: str) -> list[tuple[str, str]]:
            if not any(name in line for name in ("bg", "fg", "jobs", "cancel")):
                return []
            from ipy_bgtasks.ipython.options import candidates

            return candidates(session.registry, line, token, self.shell.user_ns)

        complete_with(changes, completer, complete)

    def _display_jobs(self, changes: Installation, front_end: FrontEnd) -> None:
        formatter = self.shell.display_formatter.ipython_display_formatter
        where = "ipy_bgtasks", "Job"  # by name: it is imported when there is one

        def display(job: Job) -> None:
            from ipy_bgtasks.job.handle import record_of

            front_end.display_job(record_of(job))

        before = formatter.for_type_by_name(*where, display)

        def undo() -> None:
            formatter.pop(".".join(where), None)
            if before is not None:
                formatter.for_type_by_name(*where, before)

        changes.add(undo)

    def _watch_exits(self, session: Session, registry: Registry) -> None:
        from ipy_bgtasks.hooks import at_exit, before_sigterm, threads_of_jobs
        from ipy_bgtasks.session.leaving import Leaving

        core, settings, changes = session.core, session.settings, self._changes
        leaving = Leaving(registry, core.loop, lambda: settings.exit_grace)
        leaving.on_begin += [
            self._free_descriptors,
            session.report_leaving,
            core.front_end.shutdown,
        ]
        leaving.on_begin += [threads_of_jobs.let_go, session.close_notices]
        leaving.on_end += [threads_of_jobs.let_go, self._close_views]

        def clean_up() -> None:
            leaving.begin()
            leaving.wait()

        before_sigterm(changes, clean_up)
        at_exit(changes, leaving.finish)
        core.front_end.watch_exits(changes, leaving)

    def _register(self, session: Session) -> None:
        """Register the magics, and name those of the same names that they hide."""
        shell, manager, changes = self.shell, self.shell.magics_manager, self._changes
        ours = JobMagics(shell, session)
        shell.configurables.remove(ours)  # it has registered itself there
        changes.append(shell.configurables, ours)
        changes.entry(manager.registry, type(ours).__name__, ours)
        hidden = []
        for kind, percent in (("line", "%"), ("cell", "%%")):
            for name, magic in ours.magics[kind].items():
                if name in manager.magics[kind]:
                    hidden.append(percent + name)
                changes.entry(manager.magics[kind], name, magic)
        if hidden:
            print(
                f"ipy_bgtasks: hides other magics of the same names: {', '.join(hidden)}; "
                "%unload_ext ipy_bgtasks brings them back"
            )


def load(shell: Any) -> None:
    """Load into *shell*; a failure on the way undoes what was done. Any thread may call."""
    if getattr(shell, _LOADED, None) is not None:
        return
    loaded = Loaded(shell)
    try:
        loaded.load()
    except BaseException:
        loaded.unload()
        raise
    setattr(shell, _LOADED, loaded)


def unload(shell: Any) -> None:
    """Restore everything that loading changed; running jobs go on."""
    loaded: Loaded | None = getattr(shell, _LOADED, None)
    if loaded is not None:
        delattr(shell, _LOADED)
        loaded.unload()


def session_of(shell: Any) -> Session | None:
    """Return the session of a shell, or None if the extension is not loaded there."""
    loaded: Loaded | None = getattr(shell, _LOADED, None)
    return None if loaded is None else loaded.session


def _settings_of(shell: Any) -> BgTasks:
    """Return the configured settings; if they are invalid, print one line and use the defaults."""
    from traitlets import TraitError

    try:
        return BgTasks(parent=shell)
    except TraitError as error:
        print(f"ipy_bgtasks: {' '.join(str(error).split())} The defaults are used.")
        return BgTasks()


def _front_end_of(shell: Any, core: Core) -> FrontEnd:
    if kernel_of(shell) is not None:
        from ipy_bgtasks.frontends.kernel.front_end import KernelFrontEnd

        return KernelFrontEnd(shell, core)
    from ipy_bgtasks.frontends.terminal.front_end import TerminalFrontEnd

    return TerminalFrontEnd(shell, core)
