"""What the four magics do: parse, call the session, show. Imported when the first is called."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.ipython import options as opt
from ipy_bgtasks.registry import specs
from ipy_bgtasks.stacks import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.live.watching import Watching
    from ipy_bgtasks.session.control import Session


class Calls:
    """The calls of the magics of one session. Any thread may call."""

    def __init__(self, session: Session, live: Callable[[], Watching]) -> None:
        self._session = session
        self._live = live

    def bg(self, line: str, cell: str | None, local_ns: Mapping[str, Any] | None) -> Job:
        """Launch CODE and return its Job."""
        options, code = self._read(line, opt.BG, "%bg" if cell is None else "%%bg", local_ns)
        if cell is not None and code:
            raise BadInput(f"%%bg takes options only, and the code below them, not {code!r}")
        if cell is None and line.partition("#")[0].strip(" ;") in ("", "--notify"):
            away = self._session.sent_away()
            if options.notify:
                self._session.notices.ask([away])
            return away.job
        return self._launch(code if cell is None else cell, options, cell is not None, local_ns).job

    def fg(self, line: str, cell: str | None, local_ns: Mapping[str, Any] | None) -> Any:
        """Wait for jobs, or launch CODE and wait for that."""
        if cell is not None:
            options, rest = self._read(line, opt.FG_CELL, "%%fg", local_ns)
            if rest:
                raise BadInput(f"%%fg takes options only, and the code below them, not {rest!r}")
            job = self._session.launch_attached(
                cell, options.launch(), local=local_ns, cell=True, awaited=options.awaited
            )
            jobs, every = [job], False
        else:
            line = line.rstrip()
            if not line.endswith("\\;"):  # which a shell command may need
                line = line.removesuffix(";")
            options, rest = self._read(line, opt.FG, "%fg", local_ns)
            jobs, every = self._foreground_jobs(rest, options, local_ns)
            if options.notify and (left := [job for job in jobs if not job.done()]):
                self._session.notices.ask(left, f"{len(left):,} jobs" * (len(left) > 1))
        return self._session.attach(
            jobs,
            every=every,
            first=cell is None and options.any,
            timeout=options.timeout,
            all_output=options.all,
            awaited=options.awaited,
        )

    def jobs(self, line: str, local_ns: Mapping[str, Any] | None) -> Any:
        """Show the table, a few jobs, or the live view."""
        options, words = opt.read_all(line, opt.JOBS, "%jobs")
        if options.prune:
            self._session.prune()
        chosen = self._session.launcher.jobs(words, local_ns) if words else None
        if options.watch:
            return self._live().watch(chosen, every=options.all, awaited=options.awaited)
        groups = [self._session.registry.group(word) for word in words if specs.is_group(word)]
        self._session.show_jobs(chosen, groups, every=options.all, verbose=options.verbose)
        return None

    def cancel(self, line: str, local_ns: Mapping[str, Any] | None) -> Any:
        """Stop jobs, and report what became of them."""
        from ipy_bgtasks.session.foreground import Stopping

        options, words = opt.read_all(line, opt.CANCEL, "%cancel")
        if not words:
            raise BadInput("%cancel needs a job: %cancel 3, %cancel %name, or %cancel all")
        if words == ["all"]:
            registry = self._session.registry
            jobs = [job for job in registry.alive() if job.number not in registry.adopted]
        else:
            jobs = self._session.launcher.jobs(words, local_ns)
        cells = self._session.core.sources.cell
        stopping = Stopping(jobs, self._session.screen, force=options.force, cells=cells)
        return self._session.report(stopping, awaited=options.awaited)

    def _launch(
        self, typed: str, options: opt.Options, cell: bool, local_ns: Mapping[str, Any] | None
    ) -> Record:
        quiet = typed.rstrip().endswith(";")
        job = self._session.launcher.launch(
            typed,
            options.launch(),
            local=local_ns,
            cell=cell,
            timeout=options.timeout,
            card=not quiet,
        )
        if quiet:
            self._session.screen.mute(job)
        return job

    def _read(
        self,
        line: str,
        table: tuple[opt.Option, ...],
        magic: str,
        local_ns: Mapping[str, Any] | None,
    ) -> tuple[opt.Options, str]:
        variables = self._session.launcher.variables(local_ns)
        return opt.read_options(line, table, magic, variables)

    def _foreground_jobs(
        self, rest: str, given: opt.Options, local_ns: Mapping[str, Any] | None
    ) -> tuple[list[Record], bool]:
        session = self._session
        variables = session.launcher.variables(local_ns)
        if rest == "all":
            adopted = session.registry.adopted
            jobs = [job for job in session.registry if not (job.done() and job.end_shown)]
            return [job for job in jobs if job.number not in adopted], True
        if specs.is_group(rest):
            return session.registry.find_all(rest), True
        if specs.is_spec(rest, variables):
            return [session.registry.find(rest, variables)], False
        words = opt.split_specs(rest.replace(" ", ","))
        if len(words) > 1 and all(specs.is_spec(word, variables) for word in words):
            return session.launcher.jobs(words, local_ns), True
        if rest.isidentifier() and not inspect.isawaitable(variables.get(rest)):
            raise BadInput(
                f"{rest!r} is no job and nothing that can be awaited: "
                f"%fg {rest}() launches a call, %fg ?{rest} finds a job by name"
            )
        options = opt.Options(opt.FG_CELL)
        options.give("notify", given.notify)
        launch = options.launch()
        job = session.launch_attached(
            rest, launch, local=local_ns, cell=False, awaited=given.awaited
        )
        return [job], False


def shown(error: BaseException) -> BaseException:
    """Return what to raise in place of *error*: one that IPython shows as our users expect."""
    if isinstance(error, BadInput):
        return UsageError(str(error))
    if isinstance(error, SyntaxError):
        return _Refused(error)
    hide(error)
    return error


class _Refused(Exception):
    """A syntax error in CODE, shown as IPython shows one in a cell: without the stack.

    Not a `SyntaxError` itself, because of those IPython shows the stack that led to us.
    """

    def __init__(self, error: SyntaxError) -> None:
        super().__init__(str(error))
        self._error = error

    def _render_traceback_(self) -> list[str]:
        from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

        shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
        lines: list[str] = shell.SyntaxTB.structured_traceback(SyntaxError, self._error, [])
        return lines


# It is shown under the name that everybody knows.
_Refused.__name__ = _Refused.__qualname__ = "SyntaxError"
