"""Launching: what `%bg`, `%%bg`, `%fg CODE` and `%%fg` share, from text to a running job."""

from __future__ import annotations

import builtins
import sys
from collections import ChainMap
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.frontends.cells import expanded
from ipy_bgtasks.frontends.installing import BETWEEN
from ipy_bgtasks.job.host import Runner
from ipy_bgtasks.log.output import FileSink
from ipy_bgtasks.platforms import has_processes, has_sessions, has_threads
from ipy_bgtasks.registry import specs
from ipy_bgtasks.session.rewriting import AwaitedMagics, await_magics, awaits, mark_awaited
from ipy_bgtasks.text import error_line
from ipy_bgtasks.work import Scope, read
from ipy_bgtasks.work.plan import runs_once
from ipy_bgtasks.work.reading import command_in, command_work

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Mapping, Sequence

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.frontends.cells import Sources
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import GroupName
    from ipy_bgtasks.runners.executors import Executors
    from ipy_bgtasks.runners.kept.runner import KeptRunner
    from ipy_bgtasks.runners.processes import ProcessRunner
    from ipy_bgtasks.session.settings import BgTasks
    from ipy_bgtasks.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How to launch CODE; what was not given is None, or empty.

    Made from the words of a magic by `ipython.options`, and by hand in tests.
    """

    #: The place that was asked for: "loop", "thread" or "process"; None for the default …
    place: str | None = None
    #: … or the expression that names an executor, in place of that.
    on: str | None = None
    #: The job's name; None for the code, shortened.
    name: str | None = None
    #: Whether output is recorded only, and not shown.
    quiet: bool = False
    #: The specs of the jobs that must finish first.
    after: tuple[str, ...] = ()
    #: The file to which output is appended as well.
    log: str | None = None
    #: The group that the job joins, and the limit that it gives it.
    group: GroupName | None = None
    #: How many times it is run again if it fails.
    retries: int = 0
    #: Whether the user is to be told, wherever that is, when it has ended.
    notify: bool = False
    #: Whether the job outlives the session.
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Launcher:
    """Launches the CODE of one shell's user into one registry. Any thread may call."""

    shell: Any
    registry: Registry
    screen: FrontEnd
    settings: BgTasks
    sources: Sources
    process_runner: ProcessRunner
    executors: Callable[[], Executors]
    #: Asks for a notice of a job's end.
    ask: Callable[[Record], object]
    #: What runs jobs that outlive the session.
    kept: Callable[[], KeptRunner]

    def launch(
        self,
        code: str,
        options: LaunchOptions,
        *,
        local: Mapping[str, Any] | None = None,
        cell: bool = False,
        timeout: float | None = None,
        card: bool = False,
        prepare: Callable[[Record], object] | None = None,
    ) -> Record:
        """Launch CODE, typed on a magic's line or, with *cell*, as its body.

        Raises `BadInput` for what cannot be run and `SyntaxError` for what is not Python; then
        nothing is launched. With *card* the job is displayed before it starts; *prepare* is
        called with it before that, too.
        """
        command = None if cell else command_in(code.strip())
        if not cell and command is None:
            code = code.strip().removesuffix(";").rstrip()
        where = self._place(options, local) if command is None else _place_of_command(options)
        if options.keep:
            _refuse_to_keep(options)
            where = self.kept()
        after = self.jobs(list(options.after), local) if options.after else []
        late = frozenset().union(*(job.assigns for job in after)) if after else frozenset()
        if command is None:
            work = self._read(code, local, cell, late)
        else:
            work = command_work(command, code.strip(), lambda text: self._expand(text, local))
        _refuse_what_cannot_be(work, where)
        if options.retries and (name := runs_once(work, self.variables(local))):
            raise BadInput(
                f"--retries cannot run {name} again, which ends once: give a call that makes it"
            )
        return self.start(
            work,
            options,
            where=where,
            timeout=timeout,
            after=after,
            card=card,
            prepare=prepare,
        )

    def _read(
        self, code: str, local: Mapping[str, Any] | None, cell: bool, late: frozenset[str]
    ) -> Work:
        """Read CODE; if it looks like a job or shell command, the error suggests what to write."""
        if not cell and specs.is_group(code):
            raise BadInput(f"{code} names a group: %fg {code} waits for its jobs")
        if not cell and code[:1] == "%" and specs.is_spec(code) and " " not in code:
            number = self.registry.find(code).number
            raise BadInput(f"{code} is a job: %fg {number} brings it to the foreground")
        try:
            return read(code, self._scope(local, cell), cell=cell, late=late)
        except (BadInput, SyntaxError) as error:
            if cell or not _is_program(code, self.variables(local)):
                raise
            reason = str(error) if isinstance(error, BadInput) else f"{code!r} is not Python"
            raise BadInput(f"{reason}; %bg !{code} runs a shell command") from None

    def start(
        self,
        work: Work,
        options: LaunchOptions,
        *,
        where: str | Runner | None = None,
        timeout: float | None = None,
        after: Sequence[Record] = (),
        card: bool = False,
        prepare: Callable[[Record], object] | None = None,
    ) -> Record:
        """Launch the work read from CODE, from the caller's cell, with the rest of the options."""
        if isinstance(where, Runner) and not after:
            work = where.accept(work)  # copied now; with *after*, when it starts
        sink = FileSink(options.log) if options.log else None
        if options.keep and sink is not None:
            sink.close()  # its watcher writes there: it may be written to
        if work.source is not None:
            self.sources.hold(work.source)

        def prepare_all(job: Record) -> None:
            if options.keep or sink is not None or options.notify:
                self._prepare(job, options, timeout, sink)
            if card:
                self.screen.launching(job)
            if prepare is not None:
                prepare(job)

        number = self.kept().reserve() if options.keep else None
        try:
            return self.registry.launch(
                work,
                where=where,
                name=options.name,
                timeout=None if options.keep else timeout,  # its watcher keeps it
                after=after,
                origin=self.screen.here(),
                quiet=options.quiet,
                group=options.group,
                retries=options.retries,
                prepare=prepare_all,
                number=number,
            )
        except BaseException:
            if number is not None:
                self.kept().release(number)
            raise

    def _prepare(
        self, job: Record, options: LaunchOptions, timeout: float | None, sink: FileSink | None
    ) -> None:
        if options.keep:
            log = None if sink is None else sink.path
            alone = options.notify and options.group is None
            self.kept().prepare(job, timeout=timeout, log=log, tells=alone)
        elif sink is not None:
            job.log.attach_file(sink)
            job.add_done_callback(lambda _: sink.close())
        if options.notify:
            self.ask(job)

    def jobs(self, given: list[str], local: Mapping[str, Any] | None = None) -> list[Record]:
        """Return the jobs that the specs name, each once; `BadInput` for one that names none."""
        variables = self.variables(local)
        found = (job for spec in given for job in self.registry.find_all(spec, variables))
        return list({job.number: job for job in found}.values())

    def variables(self, local: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the user's variables as the caller of a magic sees them."""
        namespace: dict[str, Any] = self.shell.user_ns
        if local is None or local is namespace:
            return namespace
        return ChainMap(cast("dict[str, Any]", local), namespace)  # made for each launch in a loop

    def _place(
        self, options: LaunchOptions, local: Mapping[str, Any] | None
    ) -> str | Runner | None:
        """Return where to run: what was asked for, or None for the default."""
        if options.on is not None:
            return self.executors().runner_for(self._evaluate(options.on, local), options.on)
        return self.process_runner if options.place == "process" else options.place

    def _evaluate(self, expression: str, local: Mapping[str, Any] | None) -> Any:
        try:
            return eval(expression, dict(self.variables(local)))
        except Exception as error:
            raise BadInput(f"--on {expression}: {error_line(error)}") from None

    def _expand(self, command: str, local: Mapping[str, Any] | None) -> str:
        """Return the command with `{expressions}` and `$names` replaced, as IPython does it."""
        try:
            return expanded(command, self.variables(local))
        except Exception:  # the shell's own braces and dollars: left as they are
            return command

    def _scope(self, local: Mapping[str, Any] | None, cell: bool) -> Scope:
        shell = self.shell
        line, file = _place_of_call()
        number = self.sources.number(file)
        return Scope(
            namespace=shell.user_ns,
            local=None if local is shell.user_ns or cell else local,
            transform=self._transform,
            transform_magics=_marked,
            transform_ast=shell.transform_ast if self._others_transform() else None,
            name_source=partial(self.sources.name, number=number),
            first_line=line + 1 if cell else line,
        )

    def _transform(self, text: str) -> str:
        """Transform IPython syntax to Python. Where the body itself awaits, its magics may, too."""
        lines = self.shell.input_transformer_manager.transform_cell(text).splitlines(keepends=True)
        return "".join(await_magics(lines, top_level=awaits("".join(lines))))

    def _others_transform(self) -> bool:
        """Return whether somebody else changes the trees of cells."""
        return any(not isinstance(each, AwaitedMagics) for each in self.shell.ast_transformers)


def _marked(tree: ast.Module) -> ast.Module:
    mark_awaited(tree)
    return tree


def _refuse_what_cannot_be(work: Work, where: str | Runner | None) -> None:
    """Raise `BadInput` if *work* cannot run there on this platform."""
    place = where.where if isinstance(where, Runner) else where
    if place in ("shell", "process") and not has_processes():
        what = "a !command" if place == "shell" else "-p"
        raise BadInput(
            f"{what} needs a process, and a browser has none: use `await`, or -l for a call "
            "that is short"
        )
    if place in ("shell", "process") and not has_sessions():
        from ipy_bgtasks.runners.trees import refuse_without_psutil

        refuse_without_psutil()
    if (place == "thread" or (place is None and not work.is_async)) and not has_threads():
        raise BadInput(
            "a call needs a thread, and a browser has none: give a coroutine, a cell that "
            "awaits, or -l to call it on the event loop"
        )


def _refuse_to_keep(options: LaunchOptions) -> None:
    """Raise `BadInput` for a place, or a wish, that does not outlive the session."""
    if options.retries:
        raise BadInput("--keep takes no --retries: only this session would run it again")
    asked = "on" if options.on is not None else options.place
    if asked not in (None, "process"):
        raise BadInput(
            f"--keep needs a process of its own: it goes with -p or a !command, not with --{asked}"
        )


def _place_of_command(options: LaunchOptions) -> str:
    if (asked := "on" if options.on is not None else options.place) is not None:
        raise BadInput(f"a !command is a process of its own: it takes no --{asked}")
    return "shell"


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
