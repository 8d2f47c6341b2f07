"""What the four magics do: parse, act on jobs, show. Imported when the first is called."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from dataclasses import replace
from functools import partial
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from ipy_bgtasks.context import caller
from ipy_bgtasks.errors import BadInput, NoSuchJob
from ipy_bgtasks.frontends.installing import is_awaited
from ipy_bgtasks.ipython import options as opt
from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.platforms import has_kept_jobs, has_threads
from ipy_bgtasks.registry import specs
from ipy_bgtasks.registry.retention import MOST
from ipy_bgtasks.session.launching import find_jobs, launch, variables
from ipy_bgtasks.stacks import Times, aside, hide, parsed_expression, sample
from ipy_bgtasks.text import numbered
from ipy_bgtasks.views.describe import frame_line, report, running_cell, waiting_cell
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.queueing import Group
    from ipy_bgtasks.session.control import Session
    from ipy_bgtasks.session.foreground import Stopping
    from ipy_bgtasks.views.describe import Row

#: Names cells that wait for the one that runs.
_WAITING_CELL = re.compile(r"queue|q[1-9]\d*")


# %bg


def bg(
    session: Session, line: str, cell: str | None, local: Mapping[str, Any] | None = None
) -> Job:
    """Launch CODE and return its Job."""
    magic, known = "%bg" if cell is None else "%%bg", variables(session, local)
    options, code = opt.read_options(line, opt.BG, magic, known)
    if cell is None and line.partition("#")[0].strip(" ;") in ("", "--notify"):
        job = _backgrounded(session)
        if options.notify:
            session.notices.request([job])
        return job.job
    if cell is not None:
        _refuse_code_above(code, magic)
        code = cell
    elif code.isidentifier() and (paused := _paused(session, code, known)) is not None:
        return paused.job
    quiet = code.rstrip().endswith(";")
    card = None if quiet else session.front_end.launching
    try:
        job = launch(session, code, options, local=local, cell=cell is not None, prepare=card)
    except (BadInput, SyntaxError):
        if cell is None and (paused := _paused(session, code, known)) is not None:
            return paused.job
        if cell is None and code.isdecimal() and (there := session.registry.get(int(code))):
            said = f"job {code} is {there.state} already: %fg {code} returns to it"
            raise BadInput(said) from None
        if cell is None and (hint := opt.misplaced(code, options)):
            raise BadInput(hint) from None
        raise
    if quiet:
        session.front_end.mute(job)
    return job.job


def _paused(session: Session, code: str, known: Mapping[str, Any]) -> Record | None:
    """Let the paused job that CODE names go on, or the jobs of its group; None if it is none."""
    registry = session.registry
    if not specs.is_spec(code, known):
        return None
    try:
        group = registry.group(code) if specs.is_group(code) else None
        jobs = registry.find_all(code, known)
    except NoSuchJob:
        return None
    paused = [job for job in jobs if _is_paused(job)]
    if not (paused or (group is not None and group.paused)):
        return None
    if group is not None:
        group.paused = False
    for job in paused:
        _go_on(session, job)
    return (paused or jobs)[-1]


def _backgrounded(session: Session) -> Record:
    """Return the job of the cell that `%bg` alone has just sent to the background.

    Raises `BadInput` if no such cell ran.
    """
    job = session.core.front_end.last_backgrounded()
    if _blocks_loop(job) and any(j.where == "loop" for j in session.registry.alive()):
        session.print_line("coroutine jobs stand still while that cell computes")
    return job


def _blocks_loop(job: Record) -> bool:
    return job.runner is not None and job.runner.blocks(threading.main_thread().ident)


def _is_paused(job: Record) -> bool:
    """Return whether the job was paused, by `%cancel --pause` or by somebody else."""
    job.look_for_pause()
    return job.state is JobState.PAUSED


def _go_on(session: Session, job: Record) -> None:
    """Let a paused job go on, and say so."""
    job.pause(False)
    session.print_line(f"job {job.number} ({job.name}) goes on")


def _refuse_code_above(code: str, magic: str) -> None:
    if code:
        raise BadInput(f"{magic} takes options only, and the code below them, not {code!r}")


def _nothing() -> Any:
    """Return what a magic returns that has nothing to wait for: a rewritten cell awaits it."""
    return asyncio.sleep(0) if is_awaited() else None


# %fg


def fg(
    session: Session, line: str, cell: str | None, local: Mapping[str, Any] | None = None
) -> Any:
    """Wait for jobs, or launch CODE and wait for that."""
    known = variables(session, local)
    # Until this is called, the foreground shows the job's end, even if that comes first.
    release: Callable[[], None] = lambda: None  # noqa: E731

    def claim(job: Record) -> None:
        nonlocal release
        release = session.front_end.claim(job)

    def launched(code: str) -> Record:
        if not is_awaited():
            session.foreground.refuse_to_block()
        of_job = replace(options, timeout=None)  # which bounds the wait, not the job
        return launch(session, code, of_job, local=local, cell=cell is not None, prepare=claim)

    rest, every = "", False
    if cell is not None:
        options, code = opt.read_options(line, opt.FG_CELL, "%%fg", known)
        _refuse_code_above(code, "%%fg")
        jobs = [launched(cell)]
    else:
        line = line.rstrip()
        if not line.endswith("\\;"):  # which a shell command may need
            line = line.removesuffix(";")
        options, rest = opt.read_options(line, opt.FG, "%fg", known)
        found = _named(session, rest, known)
        if found is None:
            jobs = [launched(rest)]
        else:
            jobs, every = found
            if options.notify and (left := [job for job in jobs if not job.done()]):
                session.notices.request(left, f"{len(left):,} jobs" * (len(left) > 1))
    try:
        return _attach(session, jobs, options, spec=rest if every else None)
    finally:  # the wait has begun, and sees all that follows
        release()


def _named(
    session: Session, text: str, known: Mapping[str, Any]
) -> tuple[list[Record], bool] | None:
    """Return the jobs that *text* names, and whether a list is wanted; None if it is CODE."""
    registry = session.registry
    if text == "all":
        fresh = [job for job in registry if not (job.done() and job.end_shown)]
        _print_missing(session, registry.pop_lost())
        return [job for job in fresh if job.number not in registry.adopted], True
    if specs.is_group(text):
        _print_missing(session, registry.group(text).lost)
        return registry.find_all(text), True
    if specs.is_spec(text, known):
        return [registry.find(text, known)], False
    words = opt.split_specs(text.replace(" ", ","))
    if len(words) > 1 and all(specs.is_spec(word, known) for word in words):
        return find_jobs(session, words, known), True
    if text.isidentifier() and not inspect.isawaitable(known.get(text)):
        if any(job.name == text for job in registry):
            return [registry.find(text)], False
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


def _attach(
    session: Session, jobs: Sequence[Record], options: opt.Options, *, spec: str | None
) -> Any:
    """Wait for jobs in the foreground: an awaitable in a rewritten cell, else the value.

    *spec* is what has named several, whose results are returned as a list.
    """
    for job in jobs:
        session.registry.touch(job)
        session.front_end.forget_notice(job)

    def follow(job: Record) -> Callable[[], None]:
        return session.front_end.follow(job, everything=options.all, among=len(jobs) > 1)

    _print_blocker(session, jobs)

    def wait() -> asyncio.Future[Any]:
        waiting = session.foreground.attach(
            jobs,
            follow,
            every=spec is not None,
            first=options.any,
            settled=options.settled,
            timeout=options.timeout,
            budget=options.budget,
            on_budget=session.print_line,
            on_failure=partial(_print_rest, session, len(jobs), spec),
        )
        for job in jobs:  # only now does an interrupt detach
            if job.pid is not None and _is_paused(job):
                _go_on(session, job)
        return waiting

    if not is_awaited():
        return session.foreground.block(wait)
    if (job := caller()) is not None:
        session.print_line(f"job {job.number} waits here: %cancel {job.number} ends the wait")
    elif not session.foreground.interruptible():
        session.print_line("this wait cannot be interrupted: it is in a subshell")
    return wait()


def _print_blocker(session: Session, jobs: Sequence[Record]) -> None:
    """Say so if *jobs* cannot go on until a cell that was sent away has ended, or another job."""
    blocker = session.core.front_end.blocking
    if blocker is None:
        blocker = next((job for job in session.registry.alive() if _blocks_loop(job)), None)
    still = [j.number for j in jobs if j.where == "loop" and j is not blocker and not j.done()]
    if still and blocker is not None:
        who = numbered(still, "stands", "stand")
        session.print_line(f"{who} still until job {blocker.number} ({blocker.name}) ends")


def _print_rest(session: Session, count: int, spec: str | None, failed: int) -> None:
    """Say how to get the results of those that have not failed."""
    if failed < count:
        rest = "%fg all returns the results of the others"
        if spec != "all":
            rest = f"%fg --settled {spec} returns all, with exceptions in the place of results"
        session.print_line(f"{failed:,} of {count:,} jobs did not finish: {rest}")


# %jobs


def jobs(session: Session, line: str, local: Mapping[str, Any] | None = None) -> Any:
    """Show the table, a few jobs, or the live view."""
    options, words = opt.read_all(line, opt.JOBS, "%jobs")
    known = variables(session, local)
    if options.show or options.profile:
        return _look_inside(session, find_jobs(session, words or ["+"], known), options)
    if words == ["all"]:
        words, options.all = [], True
    chosen, by_state = _chosen(session, words, known)
    if options.prune:
        _prune(session, chosen)
        if chosen is not None:
            return None
    if options.watch:
        live = session.loaded.live_views()
        return live.watch(chosen, every=options.all, awaited=is_awaited())
    if options.json or options.since:
        _show_data(session, chosen, every=options.all, since=options.since)
        return None
    groups = [session.registry.group(word) for word in words if specs.is_group(word)]
    if chosen == [] and by_state:
        session.print_line(f"no job is {' or '.join(words)}")
    elif chosen is not None and len(chosen) == 1 and not (groups or by_state):
        from ipy_bgtasks.views.display import detail

        session.front_end.show(detail(chosen[0], session.core.sources.cell))
    else:
        _show_jobs(session, chosen, groups, every=options.all, verbose=options.verbose)
    return None


def _chosen(
    session: Session, words: list[str], known: Mapping[str, Any]
) -> tuple[list[Record] | None, bool]:
    """Return the jobs that *words* name, None for no words, and whether they name states."""
    if not words:
        return None, False
    if {*JobState}.issuperset(words) and not any(specs.is_spec(it, known) for it in words):
        return [job for job in session.visible(every=True) if str(job.state) in words], True
    return find_jobs(session, words, known), False


def _look_inside(session: Session, jobs: Sequence[Record], options: opt.Options) -> Any:
    """Print what an expression is in the code of each job, or show where its time goes."""
    if options.profile:
        if len(jobs) != 1:
            raise BadInput(f"--profile takes one job, not {len(jobs)}: %jobs 3 --profile 5")
        if why := _hidden(jobs[0]):
            raise BadInput(f"job {jobs[0].number} {why}")
        return _profile(session, jobs[0], options.profile, is_awaited())
    parsed_expression(expression := str(options.show))
    for job in jobs:
        value, site = _hidden(job), None
        if not value:
            value, site = job.evaluate(expression)
        at = None if site is None else FrameSummary(*site, lookup_line=False)
        line = frame_line(at, session.core.sources.cell)
        session.print_line(f"[{job.number}] {value}{line and f'  ({line})'}")
    return _nothing()


def _profile(session: Session, job: Record, seconds: float, awaited: bool) -> Any:
    """Sample the job's stack for *seconds*, or until an interrupt, and show what was seen."""
    from ipy_bgtasks.views.pictures import profile

    times: Times = {}
    over = threading.Event()

    async def wait_and_show() -> None:
        sampling = aside(partial(sample, job, seconds, times, over), "bg-profile")
        try:
            await asyncio.wrap_future(sampling)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if caller() is not None:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # by the user, who wants to see what there is
        finally:
            over.set()
        session.front_end.show(profile(job, dict(times), session.core.sources.cell))

    if not has_threads():
        raise BadInput("--profile needs threads, which a browser does not have")
    if not awaited and asyncio._get_running_loop() is not None:
        raise BadInput("--profile cannot wait here: use it at the top level of a cell")
    return session.wait(wait_and_show(), awaited, instead=lambda: None)


def _hidden(job: Record) -> str:
    """Return why nobody can look into the job's code; empty if that is possible."""
    job.look_for_pause()
    if job.done():
        return f"has ended: {job.state}"
    if job.started is None:
        return "has not started"
    if job.where == "shell" or (job.where == "kept" and job.code.startswith("!")):
        return "is a command: only Python code can be looked into"
    paused = f"is paused: %bg {job.number} lets it go on"
    return paused if job.state is JobState.PAUSED else ""


def _prune(session: Session, chosen: list[Record] | None = None) -> None:
    """Discard the jobs that have ended, or those of *chosen*; `BadInput` if one has not."""
    if chosen is None:
        count = session.core.runners.finder.prune() if has_kept_jobs() else 0
        count += session.registry.prune()
    else:
        session.registry.discard(*chosen)
        count = len(chosen)
    session.print_line(f"forgot {count} job{'s' * (count != 1)}")


def _show_jobs(
    session: Session,
    chosen: list[Record] | None,
    groups: Sequence[Group],
    *,
    every: bool,
    verbose: bool,
) -> None:
    """Display the table; of *chosen* jobs with a line on *groups*."""
    from ipy_bgtasks.views.tables import left_out, table

    shown = partial(table, session.registry, verbose=verbose, cells=session.core.sources.cell)
    if chosen is not None:
        session.front_end.show(shown(chosen, groups=groups))
        return
    session.look_for_kept()
    jobs = session.visible(every)
    names = {job.group for job in jobs}
    groups = [group for group in session.registry.groups() if group.name in names]
    notes, (running, waiting) = left_out(session.registry, jobs), _cell_rows(session)
    session.front_end.show(
        shown(jobs, groups=groups, notes=notes, running=running, waiting=waiting)
    )


def _cell_rows(session: Session) -> tuple[list[Row], list[Row]]:
    """Return a row for each cell that runs, without the one that calls, and that waits."""
    if (cells := session.front_end.cells) is None:
        return [], []
    waiting = [waiting_cell(each.code, each.place) for each in cells.waiting()]
    number = session.core.sources.cell
    running = [
        running_cell(each.code, each.elapsed, each.stack(), number) for each in cells.others()
    ]
    return running, waiting


def _show_data(session: Session, chosen: list[Record] | None, *, every: bool, since: int) -> None:
    """Print one line of JSON: of *chosen* jobs with their output from *since* on."""
    if chosen is None:
        session.look_for_kept()
    print(
        report(
            session.visible(every) if chosen is None else chosen,
            active=len(session.registry.alive()),
            full=chosen is not None,
            since=since,
            cells=session.core.sources.cell,
            cell_rows=_cell_rows(session),
        )
    )


# %cancel


def cancel(session: Session, line: str, local: Mapping[str, Any] | None = None) -> Any:
    """Stop jobs, and report what became of them."""
    options, words = opt.read_all(line, opt.CANCEL, "%cancel")
    if not words:
        raise BadInput("%cancel needs a job: %cancel 3, %cancel %name, or %cancel all")
    known = variables(session, local)
    cells = [w for w in words if _WAITING_CELL.fullmatch(w) and not specs.is_spec(w, known)]
    if cells:
        _take_out(session, None if "queue" in cells else {int(word[1:]) for word in cells})
        if not (words := [word for word in words if word not in cells]):
            return _nothing()
    if words == ["all"]:
        registry = session.registry
        jobs = [job for job in registry.alive() if job.number not in registry.adopted]
    else:
        jobs = find_jobs(session, words, known)
    if options.pause:
        groups = [session.registry.group(word) for word in words if specs.is_group(word)]
        _pause(session, jobs, groups)
        return _nothing()
    return _report(session, session.stop(jobs, force=options.force), awaited=is_awaited())


def _take_out(session: Session, places: set[int] | None) -> None:
    """Take waiting cells out of the kernel's queue, by their numbers, or all, and say which.

    Raises `BadInput` if one of them does not wait.
    """
    cells = session.front_end.cells
    if cells is None:
        raise BadInput("the cells that wait can be reached in a kernel only")
    there = {each.place for each in cells.waiting()}
    if places is not None and (missing := sorted(places - there)):
        known = ", ".join(f"q{each}" for each in sorted(there)) or "none"
        raise BadInput(f"no cell q{missing[0]} waits: there is {known}")
    for cell in cells.take_out(places):
        session.print_line(f"q{cell.place} ({label_of_cell(cell.code)}) will not run")
    if not there:
        session.print_line("no cell waits")


def _pause(session: Session, jobs: Sequence[Record], groups: Sequence[Group]) -> None:
    """Stop the processes of jobs where they are, and start no more of *groups*.

    Raises `BadInput` if one of *jobs* cannot be paused; of a group all are that can be.
    """
    for group in groups:
        group.paused = True
    members = {job.number for group in groups for job in group.jobs()}
    for job in jobs:
        if job.done() or (job.number in members and job.started is None):
            if job.number not in members:
                session.print_line(f"job {job.number} ({job.name}) has ended: {job.state}")
            continue
        try:
            job.pause()
        except BadInput as error:
            if job.number not in members:
                raise
            session.print_line(str(error))
        else:
            n = job.number
            session.print_line(f"job {n} ({job.name}) is paused: %bg {n} or %fg {n} go on with it")
    for group in groups:
        name = group.name
        session.print_line(f"no more jobs of @{name} start until %bg @{name}")


def _report(session: Session, stopping: Stopping, *, awaited: bool) -> Any:
    """Wait a moment where that is possible, then report the state of the jobs."""

    def print_report() -> None:
        session.print_line("\n".join(stopping.report() or [_nothing_to_stop(session)]))

    async def wait_and_report() -> None:
        try:
            await stopping.wait(session.settings.cancel_wait)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if caller() is not None:
                raise
            raise stopping.detached() from None  # by the user, who sees what was done
        finally:
            print_report()

    return session.wait(wait_and_report(), awaited, instead=print_report)


def _nothing_to_stop(session: Session) -> str:
    registry = session.registry
    others = [job.number for job in registry.alive() if job.number in registry.adopted]
    if not others:
        return "no job to stop: none is running or queued"
    listed = ", ".join(map(str, others))
    return f"no job of this session to stop; left alone: {listed} (%cancel {others[0]} stops it)"


# Errors


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
