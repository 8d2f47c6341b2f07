"""What there is to say of a job, raw: the one description from which every view is made.

`row` says it in one line, as in the table of `%jobs`, `card_facts` side by side, as on the card
under a cell, `all_facts` in full, and `describe` as plain data. `views.display` prints the first
three as text and as HTML, and escapes them. The plain data is what `%jobs --json` prints and
`job.describe()` returns: what is shortened says so. The guide documents its keys, and they stay.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from traceback import FrameSummary, TracebackException
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.job.outcome import JobState, LazyError
from ipy_bgtasks.job.progress import Progress, from_line, progress_of
from ipy_bgtasks.platforms import usage_of
from ipy_bgtasks.stacks import Cells, innermost, no_cells, place, source_line
from ipy_bgtasks.text import (
    bar,
    elapsed_text,
    error_line,
    message_of,
    one_line,
    short_repr,
    strip_ansi,
    visible,
)
from ipy_bgtasks.views.value import value_line
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record

_SOONEST = 2.0  # seconds after the start
_LEAST = 0.01  # of all that is to do
_GLANCE = 0.1  # seconds, of which processor time is measured
_AFTER = 30  # characters of the name of a job that another waits for
_NAMED = 3  # of these jobs
_LAST = 200  # characters of output or of a result that a row carries

_CARD = 80  # characters of a name or of progress, on a card
_CARD_END = 100  # of a result, there
_FULL = 500  # of a result or an error, in full
_CODE = 10_000  # characters of code that are shown
_DEEP = 20  # frames shown at each end of a stack
_TRACE = 20_000  # characters of a traceback
_TAIL, _TAIL_LINES = 8_000, 20  # characters of the log searched for the last lines, and of these

_VALUE = 2_000  # characters of a value, a message or the code, in plain data
_OUTPUT = 50_000  # characters of output or of a traceback, there

#: Places whose workers' output stays with them, with the name to show for each.
_ELSEWHERE = {"dask": "Dask", "ipyparallel": "ipyparallel", "executor": "the executor"}

#: The sign of each state, so that it can be told without colours.
GLYPHS = {
    "queued": "○",
    "running": "●",
    "paused": "‖",
    "cancelling": "◐",
    "finished": "✓",
    "failed": "✕",
    "cancelled": "–",  # noqa: RUF001
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `%jobs`; its texts are raw, for each view to escape."""

    number: int | str  # "*" for the cell that runs, "q1" for one that waits
    mark: str  # "+" the current job, "-" the one before, " " any other
    state: str
    where: str
    name: str
    elapsed: str  # empty for a job that never started
    last: str  # what matters most now
    fraction: float | None = None  # progress, from 0 to 1; then `label` is what else to say
    label: str = ""
    at: str = ""  # where its code is right now, if requested
    kind: str = ""  # what `last` is: progress, result, error, reason, output, wait or nothing


class Fact(NamedTuple):
    """Something that is said of a job; its text is raw, for each view to escape."""

    #: What it is: a state, its glyph alone, a count of jobs in one, a bar, code, result, error,
    #: text, or quiet text.
    kind: str
    text: str
    label: str = ""
    fraction: float = 0.0  # of a bar; the text is what stands beside it


def rows(
    jobs: Iterable[Record],
    *,
    current: object = None,
    previous: object = None,
    where_now: bool = False,
    cells: Cells = no_cells,
) -> list[Row]:
    """Return a row for each job; `current` and `previous` are two of them or None.

    With `where_now` a running job's row says which line of the user's code it is in, and what its
    processes use; `cells` tells which cell a file name stands for.
    """
    jobs = list(jobs)
    uses = uses_now(jobs) if where_now else {}
    found = []
    for job in jobs:
        mark = "+" if job is current else "-" if job is previous else " "
        line = line_now(job, cells) if where_now and job.outcome is None else ""
        at = " · ".join(filter(None, (line, uses.get(job.pid))))
        found.append(row(job, mark, at))
    return found


def row(job: Record, mark: str = " ", at: str = "") -> Row:
    """Return the row of one job; *at* is where it is now, if that was asked for."""
    job.look_for_pause()
    state = str(job.state)  # first: what is read later may be newer, and more informative
    ended = JobState(state).ended
    progress = None if ended or state == "queued" else progress_of(job)
    fraction = None if progress is None else progress.fraction
    label = "" if progress is None else one_line(progress_text(job, progress), _LAST)
    attempt = "" if ended else attempt_text(job)
    if fraction is not None:
        label = " · ".join(filter(None, (attempt, label)))
        kind, last = "progress", f"{bar(fraction)} {label}".rstrip()
    else:
        kind, last = ("progress", label) if label else end_of(job, _LAST)
        if attempt:
            # Until its next line comes, the last one is on the attempt that failed.
            parts = (attempt, last) if not last.startswith("attempt ") else (last,)
            kind, last = "wait", ": ".join(filter(None, parts))
        elif state == "queued" and (why := _waits_text(job)):
            kind, last = "wait", why
    if state == JobState.PAUSED:
        kind, last = "wait", f"%bg {job.number} lets it go on"
    return Row(
        number=job.number,
        mark=mark,
        state=state,
        where=job.where if job.pid is None else f"{job.where} {job.pid}",
        name=one_line(job.name, 500),
        elapsed="" if job.started is None else elapsed_text(job.elapsed),
        last=last,
        kind=kind,
        fraction=fraction,
        label=label,
        at=at,
    )


def running_cell(code: str, elapsed: float, stack: list[FrameSummary], cells: Cells) -> Row:
    """Return the row of the foreground's cell, which has run for *elapsed* seconds."""
    return Row(
        number="*",
        mark=" ",
        state="running",
        where="cell",
        name=one_line(label_of_cell(code), 500),
        elapsed=elapsed_text(elapsed),
        last=frame_line(innermost(stack), cells),
        kind="wait",
    )


def waiting_cell(code: str, place: int) -> Row:
    """Return the row of a cell that waits for others."""
    name = one_line(label_of_cell(code), 500)
    return Row(f"q{place}", " ", "queued", "cell", name, elapsed="", last="")


def summary(job: Record, limit: int) -> str:
    """Return a job's result or error, else the last line of its output."""
    return end_of(job, limit)[1]


def end_of(job: Record, limit: int) -> tuple[str, str]:
    """Return what `summary` does, after what it is: result, error, reason, output or nothing."""
    outcome = job.outcome
    if outcome is not None and outcome.error is not None:
        if str(job.state) != "cancelled":
            return "error", exit_status(job) or error_line(outcome.error, limit)
        # The state says it already, unless there is a reason.
        reason = one_line(message_of(outcome.error), limit)
        return "reason", "" if reason == f"job {job.number} was cancelled" else reason
    if outcome is not None and outcome.value is not None:
        return "result", value_line(job, limit)
    if not job.has_output:
        return "", ""
    last = job.log.last_line
    if outcome is not None and from_line(last) is not None:
        return "", ""  # a full bar says no more than the state
    return "output", one_line(last, limit)


def exit_status(job: Record) -> str:
    """Return ``exit status 3`` of a command that has failed, which says all; else nothing."""
    if job.where != "shell" or job.outcome is None or job.outcome.error is None:
        return ""
    line = error_line(job.outcome.error)
    return line.partition(": ")[0] if line.startswith(("exit status ", "killed by ")) else ""


def attempt_text(job: Record) -> str:
    """Return ``attempt 2 of 4``; empty in the first one, and where there is only one."""
    attempts = job.attempts
    return str(attempts) if attempts is not None and attempts.has_failed else ""


def after_text(job: Record) -> str:
    """Return which jobs it waits for: ``after 2 (train)``; empty if for none."""
    names = [f"{o.number} ({one_line(o.name, _AFTER)})" for o in job.after if not o.done()]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"after {', '.join(names[:_NAMED])}{more}" if names else ""


def _waits_text(job: Record) -> str:
    """Return that, or what else keeps a job from starting: ``3rd of @fits``."""
    if (text := after_text(job)) or job.runner is None or job.started is not None:
        return text
    return job.runner.waits(job)


def progress_text(job: Record, progress: Progress) -> str:
    """Return what is said beside a job's bar, with the time that it will still take.

    It is the reporter's own words, or the counts.
    """
    if progress.text:
        words = progress.text
    elif progress.total is None:
        words = f"{progress.done:,}"
    else:  # for a total of 1 or 100 the percentage suffices
        words = "" if progress.total in (1, 100) else f"{progress.done:,}/{progress.total:,}"
    return " · ".join(filter(None, (words, left_text(progress.fraction, job.elapsed))))


def left_text(fraction: float | None, elapsed: float) -> str:
    """Return in words how much longer it will take, at the pace so far: ``2m left``.

    *fraction* is the part that was done in *elapsed* seconds; empty where it is too early to tell.
    """
    if fraction is None or not _LEAST <= fraction < 1 or elapsed < _SOONEST:
        return ""
    seconds = elapsed * (1 - fraction) / fraction
    minutes = round(seconds / 60)  # nobody wants to know more
    if seconds < 59.5:
        return f"{max(round(seconds), 1)}s left"
    return f"{minutes}m left" if minutes < 60 else f"{elapsed_text(minutes * 60)} left"


def clock(at: float, form: str = "%H:%M:%S") -> str:
    """Return a time in seconds since the epoch as the time of day here."""
    return time.strftime(form, time.localtime(at))


def line_now(job: Record, cells: Cells = no_cells) -> str:
    """Return where a job's code is right now: the innermost line of the user's own code."""
    return frame_line(innermost(stack_now(job)), cells)


def stack_now(job: Record) -> list[FrameSummary]:
    """Return where a job is right now, the innermost entry last; empty if unknown."""
    try:
        return job.stack()
    except Exception:  # a thread or a process may end while it is looked at
        return []


def frame_line(frame: FrameSummary | None, cells: Cells = no_cells) -> str:
    """Return a frame as one line: ``train.py:12 in fit: loss.backward()``."""
    if frame is None:
        return ""
    inside = f" in {frame.name}" if not frame.name.startswith("<") else ""
    line = source_line(frame)
    return one_line(f"{place(frame, cells)}{inside}: {line}".rstrip(": "), _LAST)


# Side by side, and in full


def card_facts(job: Record, live: bool, again: bool) -> Iterator[Fact]:
    """Yield what a card says; of a job that goes on nothing that time makes wrong."""
    state = str(job.state)
    ended = job.done()
    if job.started is None and not ended:
        # Without the word: a console that shows no updates goes on showing this.
        yield Fact("glyph", "queued")
    else:
        yield Fact("glyph" if live and not ended else "state", state)
    yield Fact("code", one_line(job.name, _CARD))
    if ended:
        took = "" if job.started is None else f" after {elapsed_text(job.elapsed)}"
        yield Fact("quiet", f"{clock(job.ended or 0.0)}{took}")
    else:
        yield Fact("quiet", attempt_text(job) or after_text(job))
        if job.started is not None:
            yield Fact("quiet", f"started {clock(job.started)}")
    if again:
        yield Fact("quiet", "from an earlier run of this cell")
    if ended:
        kind, text = end_of(job, _CARD_END)
        if kind in ("result", "error", "reason"):
            yield Fact("quiet" if kind == "reason" else kind, text)
    elif not live and job.started is not None and (progress := progress_of(job)) is not None:
        text = one_line(progress_text(job, progress), _CARD)
        fraction = progress.fraction
        yield Fact("quiet", text) if fraction is None else Fact("bar", text, fraction=fraction)


def all_facts(job: Record, cells: Cells = no_cells) -> Iterator[Fact]:
    """Yield all that there is to say of a job, but for its output and its traceback."""
    seen = row(job)
    yield Fact("text", str(job.number), "job")
    yield Fact("code", seen.name, "name")
    code = job.code.strip("\n")
    if code.strip() != job.name.strip():
        yield Fact("code", code if len(code) <= _CODE else code[:_CODE] + "…", "code")
    yield Fact("state", seen.state, "state")
    if seen.state == "queued" and seen.kind == "wait":
        yield Fact("text", seen.last, "waits")
    yield Fact("text", seen.where, "where")
    if use := uses_now([job]).get(job.pid):
        yield Fact("text", use, "uses")
    if seen.where in _ELSEWHERE and not job.has_output:
        stays = f"what other processes of {_ELSEWHERE[seen.where]} print stays there"
        yield Fact("text", stays, "output")
    if job.has_output and (problem := job.log.file_error):
        yield Fact("code", problem, "log file")
    if group := job.group:
        yield Fact("code", group, "group")
    if attempts := job.attempts:
        yield Fact("text", str(attempts).removeprefix("attempt "), "attempt")
    yield from _course_facts(job, seen, cells)


def _course_facts(job: Record, seen: Row, cells: Cells) -> Iterator[Fact]:
    if job.started is not None:
        yield Fact("text", clock(job.started, "%Y-%m-%d %H:%M:%S"), "started")
        yield Fact("text", seen.elapsed, "elapsed")
    if seen.fraction is not None:
        yield Fact("bar", seen.label, "progress", seen.fraction)
    elif seen.label:
        yield Fact("text", seen.last, "progress")
    outcome = job.outcome
    if outcome is None:
        if stack := stack_now(job):
            yield Fact("code", frame_line(innermost(stack), cells), "at")
        if len(stack) > 1:
            shown = stack if len(stack) <= 2 * _DEEP else stack[:_DEEP] + stack[-_DEEP:]
            lines = "\n".join(frame_line(frame, cells) for frame in shown)
            yield Fact("code", lines, "stack")
    elif outcome.error is None:
        yield Fact("code", short_repr(outcome.value, _FULL), "result")
    elif seen.state == "cancelled":
        yield Fact("code", one_line(message_of(outcome.error), _FULL), "reason")
    else:
        yield Fact("code", error_line(outcome.error, _FULL), "error")


def uses_now(jobs: Iterable[Record]) -> dict[int | None, str]:
    """Return what the processes of jobs use, by their numbers: ``98% CPU, 3.1 GB``.

    Looks twice, a moment apart, if there are any.
    """
    leaders = {job.pid for job in jobs if job.pid is not None}
    before, began = usage_of(leaders), time.monotonic()
    if not before:
        return {}
    time.sleep(_GLANCE)
    after, took = usage_of(leaders), time.monotonic() - began
    return {
        leader: now.since(before[leader], took) for leader, now in after.items() if leader in before
    }


def log_tail(job: Record) -> str:
    """Return the last lines of a job's output, after a mark if there were more."""
    if not job.has_output:
        return ""
    log = job.log
    entries = log.tail(_TAIL)
    # A display is a block of its own even if its text has no line feed.
    blocks = [f"{e.text}\n" if e.bundle is not None else e.text for e in entries]
    lines = "".join(blocks).rstrip("\n").split("\n")
    if len(lines) > _TAIL_LINES or log.size > _TAIL or log.dropped:
        lines = ["[… earlier output left out …]", *lines[-_TAIL_LINES:]]
    return "\n".join(lines)


def traceback_text(outcome: Outcome, cells: Cells = no_cells, limit: int = _TRACE) -> str:
    """Return the traceback of a job that has failed, as plain and visible text; never raises."""
    error = outcome.error
    if issubclass(type(error), LazyError):
        text = "\n".join(error._render_traceback_())  # type: ignore[union-attr]
    else:
        kind = type(error)
        try:
            lines = TracebackException(kind, error, outcome.traceback, compact=True).format()  # type: ignore[arg-type]
            text = "".join(lines)
        except BaseException:  # it does not let itself be looked at: what it raises is its own
            text = "" if error is None else error_line(error, _FULL)
    for name in set(re.findall(r'File "([^"]+)"', text)):
        if (number := cells(name)) is not None:
            text = text.replace(f'File "{name}"', f"cell {number}")
    text = visible(text).rstrip("\n")
    return text if len(text) <= limit else f"{text[: limit // 2]}\n[…]\n{text[-limit // 2 :]}"


# As plain data


def report(
    jobs: Iterable[Record],
    *,
    active: int,
    full: bool,
    since: int = 0,
    cells: Cells = no_cells,
    cell_rows: tuple[list[Row], list[Row]] = ([], []),
) -> str:
    """Return one line of JSON; *active* says how many jobs of the session have not ended.

    *cell_rows* are those of the cell that runs in the foreground, and of those that wait.
    """
    running = [{"name": row.name, "elapsed": row.elapsed, "at": row.last} for row in cell_rows[0]]
    data = {
        "jobs": [describe(job, full=full, since=since, cells=cells) for job in jobs],
        "active": active,
        "cell": running[0] if running else None,
        "queue": [{"number": row.number, "name": row.name} for row in cell_rows[1]],
    }
    return json.dumps(data, separators=(",", ":"))


def describe(
    job: Record, *, full: bool = True, since: int = 0, cells: Cells = no_cells
) -> dict[str, Any]:
    """Return what there is to say of a job as plain data; any thread may call.

    With *full* that includes its traceback and its output from position *since* on, counted in
    characters from its beginning. What JSON has no type for is text.
    """
    state, outcome = job.state, job.outcome  # first: what is read later may be newer
    error = None if outcome is None else outcome.error
    found: dict[str, Any] = {
        "number": str(job.number) if isinstance(job.number, str) else job.number,
        "name": one_line(job.name, _VALUE),
        "code": _bounded(job.code),
        "state": str(state),
        "where": job.where,
        "group": job.group,
        "started": job.started,
        "elapsed": round(job.elapsed, 3),
        "progress": None,
        "memory": None,
        "at": (line_now(job, cells) or None) if outcome is None else None,
        "error": None,
        "result": None,
    }
    if (seen := progress_of(job)) is not None:
        part = seen.fraction
        found["progress"] = {
            "done": seen.done,
            "total": seen.total,
            "part": part,
            "text": seen.text,
        }
    if job.pid is not None and (used := usage_of({job.pid}).get(job.pid)):
        found["memory"] = used.memory
    if error is not None:
        found["error"] = {"type": type(error).__name__, "message": _bounded(message_of(error))}
    elif outcome is not None and outcome.value is not None:
        found["result"] = value_line(job, _VALUE)
    if full:
        found["output"], found["traceback"] = _output(job, since), None
        if outcome is not None and state == JobState.FAILED:
            found["traceback"] = traceback_text(outcome, cells, _OUTPUT)
    return found


def _output(job: Record, since: int) -> dict[str, Any]:
    """Return the output from *since* on: ``from`` and ``to`` are the positions of ``text``.

    The last line is left for the next answer while the job may still rewrite it, as bars do.
    """
    if not job.has_output:
        return {"from": since, "to": since, "text": "", "dropped": 0}
    log = job.log
    with_mark, dropped = log.text, log.dropped
    text = with_mark.partition("\n")[2] if dropped else with_mark
    if not job.done():
        text = text[: text.rfind("\n") + 1]
    start = min(max(since, dropped), dropped + len(text))
    shown = text[start - dropped :][:_OUTPUT]
    return {
        "from": start,
        "to": start + len(shown),
        "text": strip_ansi(shown),
        "dropped": max(0, start - since),
    }


def _bounded(text: str) -> str:
    more = len(text) - _VALUE
    return text if more <= 0 else f"{text[:_VALUE]}… ({more:,} more characters)"
