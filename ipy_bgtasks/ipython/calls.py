"""What the four magics do: parse, call the session, show. Imported when the first is called."""

from __future__ import annotations

import asyncio
import inspect
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from ipy_bgtasks.errors import BadInput, NoSuchJob
from ipy_bgtasks.ipython import options as opt
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.registry import specs
from ipy_bgtasks.registry.retention import MOST
from ipy_bgtasks.session.launching import find_jobs, launch, variables
from ipy_bgtasks.stacks import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.session.control import Session


#: Names cells that wait for the one that runs.
_WAITING_CELL = re.compile(r"queue|q[1-9]\d*")


def bg(
    session: Session, line: str, cell: str | None, local: Mapping[str, Any] | None = None
) -> Job:
    """Launch CODE and return its Job."""
    table, magic = opt.BG, "%bg" if cell is None else "%%bg"
    options, code = opt.read_options(line, table, magic, partial(variables, session, local))
    if cell is None and line.partition("#")[0].strip(" ;") in ("", "--notify"):
        away = session.sent_away()
        if options.notify:
            session.notices.request([away])
        return away.job
    if cell is not None:
        _refuse_code_above(code, magic)
        code = cell
    elif code.isidentifier() and (job := _paused(session, code, local)) is not None:
        return job.job
    quiet = code.rstrip().endswith(";")
    card = None if quiet else session.front_end.launching
    try:
        job = launch(session, code, options, local=local, cell=cell is not None, prepare=card)
    except (BadInput, SyntaxError):
        if cell is None and (job := _paused(session, code, local)) is not None:
            return job.job
        if cell is None and (hint := opt.misplaced(code, options)):
            raise BadInput(hint) from None
        raise
    if quiet:
        session.front_end.mute(job)
    return job.job


def _paused(session: Session, code: str, local: Mapping[str, Any] | None) -> Record | None:
    """Let the paused job that CODE names go on, or the jobs of its group; None if it is none."""
    try:
        group = session.registry.group(code) if specs.is_group(code) else None
    except NoSuchJob:
        return None
    if group is not None:
        jobs = [job for job in group.jobs() if session.is_paused(job)]
        if not (group.paused or jobs):
            return None
        group.paused = False
        for job in jobs:
            session.go_on(job)
        return (jobs or group.jobs())[-1]
    if not specs.is_spec(code, known := variables(session, local)):
        return None
    try:
        job = session.registry.find(code, known)
    except NoSuchJob:
        return None
    if not session.is_paused(job):
        return None
    session.go_on(job)
    return job


def fg(
    session: Session, line: str, cell: str | None, local: Mapping[str, Any] | None = None
) -> Any:
    """Wait for jobs, or launch CODE and wait for that."""
    known = partial(variables, session, local)
    if cell is not None:
        options, code = opt.read_options(line, opt.FG_CELL, "%%fg", known)
        _refuse_code_above(code, "%%fg")
        rest, every = "", False
        jobs = [_launch_attached(session, cell, options, local, cell=True)]
    else:
        line = line.rstrip()
        if not line.endswith("\\;"):  # which a shell command may need
            line = line.removesuffix(";")
        options, rest = opt.read_options(line, opt.FG, "%fg", known)
        found = _named(session, rest, local)
        if found is None:
            jobs, every = [_launch_attached(session, rest, options, local, cell=False)], False
        else:
            jobs, every = found
            if options.notify and (left := [job for job in jobs if not job.done()]):
                session.notices.request(left, f"{len(left):,} jobs" * (len(left) > 1))
    return session.attach(jobs, options, spec=rest if every else None)


def jobs(session: Session, line: str, local: Mapping[str, Any] | None = None) -> Any:
    """Show the table, a few jobs, or the live view."""
    options, words = opt.read_all(line, opt.JOBS, "%jobs")
    if options.show or options.profile:
        return session.look_inside(find_jobs(session, words or ["+"], local), options)
    if words == ["all"]:
        words, options.all = [], True
    chosen, by_state = _chosen(session, words, local)
    if options.prune:
        session.prune(chosen)
        if chosen is not None:
            return None
    if options.watch:
        live = session.loaded.live_views()
        return live.watch(chosen, every=options.all, awaited=options.awaited)
    if options.json or options.since:
        session.show_data(chosen, every=options.all, since=options.since)
        return None
    groups = [session.registry.group(word) for word in words if specs.is_group(word)]
    if chosen == [] and by_state:
        session.print_line(f"no job is {' or '.join(words)}")
    elif chosen is not None and len(chosen) == 1 and not (groups or by_state):
        session.show_job(chosen[0])
    else:
        session.show_jobs(chosen, groups, every=options.all, verbose=options.verbose)
    return None


def _chosen(
    session: Session, words: list[str], local: Mapping[str, Any] | None
) -> tuple[list[Record] | None, bool]:
    """Return the jobs that *words* name, None for no words, and whether they name states."""
    if not words:
        return None, False
    known = variables(session, local)
    if {*JobState}.issuperset(words) and not any(specs.is_spec(it, known) for it in words):
        return [job for job in session.visible(every=True) if str(job.state) in words], True
    return find_jobs(session, words, local), False


def cancel(session: Session, line: str, local: Mapping[str, Any] | None = None) -> Any:
    """Stop jobs, and report what became of them."""
    options, words = opt.read_all(line, opt.CANCEL, "%cancel")
    if not words:
        raise BadInput("%cancel needs a job: %cancel 3, %cancel %name, or %cancel all")
    known = variables(session, local)
    cells = [w for w in words if _WAITING_CELL.fullmatch(w) and not specs.is_spec(w, known)]
    if cells:
        session.take_out(None if "queue" in cells else {int(word[1:]) for word in cells})
        if not (words := [word for word in words if word not in cells]):
            return asyncio.sleep(0) if options.awaited else None
    if words == ["all"]:
        registry = session.registry
        jobs = [job for job in registry.alive() if job.number not in registry.adopted]
    else:
        jobs = find_jobs(session, words, local)
    if options.pause:
        session.pause(
            jobs, [session.registry.group(word) for word in words if specs.is_group(word)]
        )
        return asyncio.sleep(0) if options.awaited else None
    return session.report(session.stop(jobs, force=options.force), awaited=options.awaited)


def _refuse_code_above(code: str, magic: str) -> None:
    if code:
        raise BadInput(f"{magic} takes options only, and the code below them, not {code!r}")


def _named(
    session: Session, text: str, local: Mapping[str, Any] | None
) -> tuple[list[Record], bool] | None:
    """Return the jobs that *text* names, and whether a list is wanted; None if it is CODE."""
    registry, known = session.registry, variables(session, local)
    if text == "all":
        fresh = [job for job in registry if not (job.done() and job.end_shown)]
        _print_missing(session, registry.take_lost())
        return [job for job in fresh if job.number not in registry.adopted], True
    if specs.is_group(text):
        _print_missing(session, registry.group(text).lost)
        return registry.find_all(text), True
    if specs.is_spec(text, known):
        return [registry.find(text, known)], False
    words = opt.split_specs(text.replace(" ", ","))
    if len(words) > 1 and all(specs.is_spec(word, known) for word in words):
        return find_jobs(session, words, local), True
    if text.isidentifier() and not inspect.isawaitable(known.get(text)):
        raise BadInput(
            f"{text!r} is neither a job nor awaitable: "
            f"%fg {text}() launches a call, %fg ?{text} finds a job by name"
        )
    return None


def _print_missing(session: Session, count: int) -> None:
    if count:
        results = "1 older result is" if count == 1 else f"{count:,} older results are"
        session.print_line(
            f"{results} missing: only so many ended jobs are kept (BgTasks.max_finished; of one "
            f"cell or group {MOST:,}); a job in a variable keeps its own"
        )


def _launch_attached(
    session: Session,
    code: str,
    options: opt.Options,
    local: Mapping[str, Any] | None,
    *,
    cell: bool,
) -> Record:
    """Launch CODE for a wait in the foreground, having made sure that it can wait here."""
    if not options.awaited:
        session.foreground.refuse_to_block()
    options = replace(options, timeout=None)  # which bounds the wait, not the job
    return launch(session, code, options, local=local, cell=cell, prepare=session.claim)


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
