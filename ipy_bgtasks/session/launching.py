"""Launching: what `%bg`, `%%bg`, `%fg CODE` and `%%fg` share, from text to a running job.

The functions take the session for which they launch. Any thread may call them. All this is imported
with the first job: it takes longer than all else that a session needs, and a session in which
nothing is launched needs none of it.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections import ChainMap
from contextlib import nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import ipy_bgtasks.log.output  # noqa: F401 - or the first line of the first job waits for it
from ipy_bgtasks.context import current
from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.frontends.installing import BETWEEN, expanded
from ipy_bgtasks.job.host import Runner
from ipy_bgtasks.log.output import FileSink
from ipy_bgtasks.platforms import has_processes, has_sessions, has_threads
from ipy_bgtasks.registry import specs
from ipy_bgtasks.registry.collection import LaunchOptions, Registry
from ipy_bgtasks.runners.commands import ShellRunner
from ipy_bgtasks.runners.loop import LoopRunner, Watchdog
from ipy_bgtasks.runners.processes import ProcessRunner
from ipy_bgtasks.runners.supervisor import Supervisor
from ipy_bgtasks.runners.threads import ThreadRunner
from ipy_bgtasks.service import MemoryLimits
from ipy_bgtasks.session.rewriting import await_magics, awaits
from ipy_bgtasks.sigint import Shielded
from ipy_bgtasks.text import error_line, short_repr
from ipy_bgtasks.work import Scope, read
from ipy_bgtasks.work.plan import runs_once
from ipy_bgtasks.work.reading import command_in, command_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.executors import Executors
    from ipy_bgtasks.runners.kept.runner import Finder, KeptRunner
    from ipy_bgtasks.session.control import Core, Session
    from ipy_bgtasks.session.settings import BgTasks
    from ipy_bgtasks.work import Work


def launch(
    session: Session,
    code: str,
    options: LaunchOptions,
    *,
    local: Mapping[str, Any] | None = None,
    cell: bool = False,
    prepare: Callable[[Record], object] | None = None,
) -> Record:
    """Launch CODE, typed on a magic's line or, with *cell*, as its body.

    Raises `BadInput` for what cannot be run and `SyntaxError` for what is not Python; then
    nothing is launched. *prepare* is called with the job before it can start.
    """
    command = None if cell else command_in(code.strip())
    _ = session.registry  # the first job replaces `input` and the like before CODE binds them
    known = variables(session, local)
    where = where_to_run(session, options, known, is_command=command is not None)
    after = find_jobs(session, options.after, known) if options.after else []
    if command is None:
        late = frozenset().union(*(job.assigns for job in after)) if after else frozenset()
        work = _read(session, code, local, cell, late)
    else:
        work = command_work(command, code.strip(), partial(_expand, variables=known))
    if options.retries and (name := runs_once(work, known)):
        raise BadInput(
            f"--retries cannot run {name} again, which ends once: give a call that makes it"
        )
    return start(session, work, options, where=where, after=after, prepare=prepare)


def start(
    session: Session,
    work: Work,
    options: LaunchOptions,
    *,
    where: str | Runner | None = None,
    after: Sequence[Record] = (),
    prepare: Callable[[Record], object] | None = None,
) -> Record:
    """Launch *work* from the caller's cell; *where* and *after* are what the options name."""
    if options.halt and options.group is None:
        raise BadInput("--halt stops a group at its first failure: -g NAME names it")
    # With *after* it is copied when it starts.
    work = _accepted(session, work, where, copy=not after)
    sink = FileSink(options.log) if options.log else None
    kept = session.core.runners.kept if options.keep else None
    if kept is not None and sink is not None:
        sink.close()  # its watcher writes there: it may be written to
    if work.source is not None:
        session.core.sources.hold(work.source)

    def prepare_job(job: Record) -> None:
        _attach(session, job, options, kept, sink)
        if prepare is not None:
            prepare(job)

    origin = session.front_end.here()
    key = session.front_end.key(origin)
    # An interrupt must not come between a kept job's directory and its start.
    with nullcontext() if kept is None else Shielded():
        number = None if kept is None else kept.reserve()
        try:
            return session.registry.launch(
                work,
                options,
                where=where,
                after=after,
                origin=origin,
                # A job that launches others may go on doing so for days.
                cell=(key, session.shell.execution_count) if current.get() is None else None,
                prepare=prepare_job,
                number=number,
            )
        except BaseException:
            if kept is not None and number is not None:
                kept.release(number)
            raise


def _attach(
    session: Session,
    job: Record,
    options: LaunchOptions,
    kept: KeptRunner | None,
    sink: FileSink | None,
) -> None:
    """Give a job that is about to be launched its log file, its limits and its notice."""
    if kept is not None:
        kept.prepare(
            job,
            timeout=options.timeout,
            memory=options.memory,
            log=None if sink is None else sink.path,
            notify=options.notify and options.group is None,
        )
    else:
        if options.memory is not None:
            session.core.runners.limits.watch(job, options.memory)
        if sink is not None:
            job.log.attach_file(sink)
            sink.on_error = lambda: session.front_end.print_at(
                job, f"job {job.number}: {sink.problem()}"
            )
            job.add_done_callback(lambda _: sink.close())
    session.front_end.join_capture(job)
    if options.notify:  # of a group there is one notice
        session.notices.request([job], f"group {job.group}" if job.group else "")


def variables(session: Session, local: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the user's variables as the caller of a magic sees them."""
    namespace: dict[str, Any] = session.shell.user_ns
    if local is None or local is namespace:
        return namespace
    return ChainMap(cast("dict[str, Any]", local), namespace)  # made for each launch in a loop


def find_jobs(session: Session, given: Iterable[str], known: Mapping[str, Any]) -> list[Record]:
    """Return the jobs that the specs name, each once; `BadInput` for one that names none.

    *known* are the user's variables, some of which may hold jobs.
    """
    found = (job for spec in given for job in session.registry.find_all(spec, known))
    return list({job.number: job for job in found}.values())


def _read(
    session: Session,
    code: str,
    local: Mapping[str, Any] | None,
    cell: bool,
    late: frozenset[str],
) -> Work:
    """Read CODE; if it looks like a job or shell command, the error suggests what to write."""
    if not cell:
        code = code.strip().removesuffix(";").rstrip()
        if code[:1] in ("@", "%"):
            _refuse_a_job(session, code)
    shell = session.shell
    line, file = _place_of_call()
    scope = Scope(
        namespace=shell.user_ns,
        local=None if local is shell.user_ns or cell else local,
        transform=partial(_transform, shell),
        transform_ast=shell.transform_ast if shell.ast_transformers else None,
        name_source=partial(session.core.sources.name, caller=file),
        first_line=line + 1 if cell else line,
    )
    try:
        return read(code, scope, cell=cell, late=late)
    except (BadInput, SyntaxError) as error:
        if cell or not _is_program(code, variables(session, local)):
            raise
        reason = str(error) if isinstance(error, BadInput) else f"{code!r} is not Python"
        raise BadInput(f"{reason}; %bg !{code} runs a shell command") from None


def _refuse_a_job(session: Session, code: str) -> None:
    """Raise `BadInput` if CODE names a job or a group: there is nothing to launch."""
    if specs.is_group(code):
        raise BadInput(f"{code} names a group: %fg {code} waits for its jobs")
    if code[0] == "%" and specs.is_spec(code) and " " not in code:
        number = session.registry.find(code).number
        raise BadInput(f"{code} is a job: %fg {number} brings it to the foreground")


def where_to_run(
    session: Session, options: LaunchOptions, known: Mapping[str, Any], *, is_command: bool
) -> str | Runner | None:
    """Return the runner that the options name, or None for the default.

    *known* are the user's variables. Raises `BadInput` for what does not go together.
    """
    place = "on" if options.on is not None else options.place
    if options.memory is not None and not (is_command or options.keep or place == "process"):
        raise BadInput("--memory limits processes: it goes with -p, --keep or a !command")
    if is_command and place is not None:
        raise BadInput(f"a !command is a process of its own: it takes no --{place}")
    if options.keep:
        if options.retries:
            raise BadInput("--keep takes no --retries: only this session would run it again")
        if place not in (None, "process"):
            raise BadInput(
                "--keep needs a process of its own: it goes with -p or a !command, not with "
                f"--{place}"
            )
        return session.core.runners.kept
    if is_command:
        return "shell"
    if options.on is not None:
        if not isinstance(options.on, str):
            return session.core.runners.executors.runner_for(options.on, short_repr(options.on))
        try:
            executor = eval(options.on, dict(known))
        except Exception as error:
            raise BadInput(f"--on {options.on}: {error_line(error)}") from None
        return session.core.runners.executors.runner_for(executor, options.on)
    return session.core.runners.processes if place == "process" else place


def _expand(command: str, variables: Mapping[str, Any]) -> str:
    """Return the command with `{expressions}` and `$names` replaced, as IPython does it."""
    try:
        return expanded(command, variables)
    except Exception:  # the shell's own braces and dollars: left as they are
        return command


def _transform(shell: Any, text: str) -> str:
    """Transform IPython syntax to Python. Where the body itself awaits, its magics may, too."""
    lines = shell.input_transformer_manager.transform_cell(text).splitlines(keepends=True)
    return "".join(await_magics(lines, top_level=awaits("".join(lines))))


def _accepted(session: Session, work: Work, where: str | Runner | None, *, copy: bool) -> Work:
    """Return the work as it is sent there; raises `BadInput` if it cannot run there."""
    place = where.where if isinstance(where, Runner) else where
    if place in ("shell", "process") and not has_processes():
        what = "a !command" if place == "shell" else "-p"
        raise BadInput(
            f"{what} needs a process, and a browser has none: use `await`, or -l for a call "
            "that is short"
        )
    if place in ("shell", "process") and not has_sessions():
        from ipy_bgtasks.runners.supervisor import refuse_without_psutil

        refuse_without_psutil()
    if (
        place == "thread" or (place is None and not work.is_async)
    ) and "thread" not in session.registry.runners:
        raise BadInput(
            "a call needs a thread, and a browser has none: give a coroutine, a cell that "
            "awaits, or -l to call it on the event loop"
        )
    return where.accept(work) if copy and isinstance(where, Runner) else work


def _place_of_call() -> tuple[int, str]:
    """Return the line of the magic, and the file name of its cell."""
    frame = sys._getframe(1)
    while True:
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in BETWEEN:
            return frame.f_lineno or 1, frame.f_code.co_filename
        if frame.f_back is None:
            return 1, ""
        frame = frame.f_back


def _is_program(code: str, variables: Mapping[str, Any]) -> bool:
    """Return whether CODE begins with a word that is not a name here, but that of a program."""
    import shutil

    word = code.split(maxsplit=1)[0] if code.strip() else ""
    known = word in variables or hasattr(builtins, word)
    return word.isidentifier() and not known and shutil.which(word) is not None


class Runners:
    """The runners of one shell, and its registry. Any thread may call."""

    def __init__(self, core: Core) -> None:
        supervisor = Supervisor()
        self.loop = LoopRunner(core.loop, threading.main_thread().ident, core.service)
        self.threads = ThreadRunner(self.loop, service=core.service)
        self.commands = ShellRunner(core.service, supervisor)
        self.processes = ProcessRunner(supervisor, live=core.front_end.live)
        self.registry = Registry(
            {
                "loop": self.loop,
                "thread": self.threads,
                "shell": self.commands,
                "process": self.processes,
            },
            core.service,
        )
        if not has_threads():
            del self.registry.runners["thread"]
        discarded = core.front_end.discarded
        self.registry.on_discard += [core.sources.release, self.processes.discard, discarded]
        self.limits = MemoryLimits(core.service.later)
        #: Reports the jobs for which others have to wait.
        self.watchdog = Watchdog(
            self.loop,
            self.threads,
            core.service,
            core.front_end.print_at,
            limit=0,
            cells=core.sources.cell,
        )
        self.watchdog.on_block = core.front_end.on_block
        self.loop.on_active = self.threads.on_begin = self.watchdog.wake
        self.watchdog.remedy = self._remedy
        self._core = core

    @cached_property
    def executors(self) -> Executors:
        """The user's own executors as places, imported when one is first named."""
        from ipy_bgtasks.runners.executors import Executors

        return Executors()

    @cached_property
    def kept(self) -> KeptRunner:
        """The runner of jobs that outlive the session; raises `BadInput` on Windows."""
        from ipy_bgtasks.runners.kept.runner import KeptRunner

        runner = KeptRunner(self._core.service, lambda job: self.registry.host.changed(job))
        self._apply_to_kept(runner)
        return runner

    @cached_property
    def finder(self) -> Finder:
        """What finds the kept jobs of other sessions; raises `BadInput` on Windows."""
        from ipy_bgtasks.runners.kept.runner import Finder

        return Finder(self.registry, self.kept, lambda: self._core.front_end.settings.keep_days)

    def _remedy(self, job: Record) -> str:
        return self._core.front_end.remedy(job) if self.loop.ends_steps else ""

    def apply(self, settings: BgTasks) -> None:
        """Use these settings from now on."""
        self.threads.max_threads = settings.max_threads
        self.threads.grace = self.commands.grace = settings.cancel_grace
        self.processes.max_processes = settings.max_processes
        self.registry.max_finished = settings.max_finished
        self.watchdog.limit = settings.watchdog
        if self.loop.active or self.threads.busy():
            self.watchdog.wake()
        if "kept" in vars(self):
            self._apply_to_kept(self.kept)

    def _apply_to_kept(self, runner: KeptRunner) -> None:
        settings = self._core.front_end.settings
        runner.grace, runner.log_limit = settings.cancel_grace, settings.keep_log_limit
        runner.urls = [address.reveal() for address in settings.notify]
