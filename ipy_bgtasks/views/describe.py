"""What there is to say of a job: as a row of `%jobs`, and as plain data for programs.

The plain data is what `%jobs --json` prints and `job.describe()` returns: no colours, no HTML, and
what is shortened says so. The guide documents its keys, and they stay.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.progress import Progress, from_line, progress_of
from ipy_bgtasks.platforms import usage_of
from ipy_bgtasks.stacks import Cells, innermost, no_cells, place, source_line
from ipy_bgtasks.text import bar, elapsed_text, error_line, message_of, one_line, strip_ansi
from ipy_bgtasks.views.value import value_line
from ipy_bgtasks.work.reading import label_of_cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record


_SOONEST = 2.0  # seconds after the start
_LEAST = 0.01  # of all that is to do
_GLANCE = 0.1  # seconds, of which processor time is measured
_NAME = 30  # characters of a job that another waits for
_NAMED = 3  # of these jobs
_LAST = 200  # characters of output or of a result that a row carries


#: What a row says of a job that has ended.
ENDED = frozenset(state.value for state in JobState if state.ended)

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

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED


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
        seen = row(job, mark, where_now, cells)
        if (use := uses.get(job.pid)) is not None:
            seen = replace(seen, at=f"{seen.at} · {use}" if seen.at else use)
        found.append(seen)
    return found


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
        leader: f"{max(now.cpu - before[leader].cpu, 0) / took:.0%} CPU, {now}"
        for leader, now in after.items()
        if leader in before
    }


def row(job: Record, mark: str = " ", where_now: bool = False, cells: Cells = no_cells) -> Row:
    """Return the row of one job."""
    job.look_for_pause()
    state = str(job.state)  # first: what is read later may be newer, and more informative
    ended = JobState(state).ended
    progress = None if ended or state == "queued" else progress_of(job)
    fraction = None if progress is None else progress.fraction
    label = "" if progress is None else one_line(progress_text(job, progress), _LAST)
    attempt = "" if ended else attempt_text(job)
    if fraction is not None:
        label = " · ".join(part for part in (attempt, label) if part)
        kind, last = "progress", f"{bar(fraction)} {label}".rstrip()
    else:
        kind, last = ("progress", label) if label else end_of(job, _LAST)
        if attempt:
            # Until its next line comes, the last one is on the attempt that failed.
            parts = (attempt, last) if not last.startswith("attempt ") else (last,)
            kind, last = "wait", ": ".join(part for part in parts if part)
        elif state == "queued" and (why := after_text(job) or waits_text(job)):
            kind, last = "wait", why
    pid = job.pid
    if state == JobState.PAUSED:
        kind, last = "wait", f"%bg {job.number} lets it go on"
    return Row(
        number=job.number,
        mark=mark,
        state=state,
        where=job.where if pid is None else f"{job.where} {pid}",
        name=one_line(job.name, 500),
        elapsed="" if job.started is None else elapsed_text(job.elapsed),
        last=last,
        kind=kind,
        fraction=fraction,
        label=label,
        at=line_now(job, cells) if where_now and not ended else "",
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
    names = [f"{o.number} ({one_line(o.name, _NAME)})" for o in job.after if not o.done()]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"after {', '.join(names[:_NAMED])}{more}" if names else ""


def waits_text(job: Record) -> str:
    """Return what else keeps a job from starting: ``3rd of @fits``."""
    runner = job.runner
    return "" if runner is None or job.started is not None else runner.waits(job)


def progress_text(job: Record, progress: Progress) -> str:
    """Return what is said beside a job's bar, with the time that it will still take."""
    parts = (progress_label(progress), progress_left(progress, job.elapsed))
    return " · ".join(part for part in parts if part)


def progress_label(progress: Progress) -> str:
    """Return what is said beside the bar: the reporter's own words, or the counts."""
    if progress.text:
        return progress.text
    if progress.total is None:
        return f"{progress.done:,}"
    # For a total of 1 or 100 the percentage suffices.
    return "" if progress.total in (1, 100) else f"{progress.done:,}/{progress.total:,}"


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


def seconds_left(fraction: float | None, elapsed: float) -> float | None:
    """Return how many seconds it will still take, at the pace so far; None if it is too early.

    *fraction* is the part that was done in *elapsed* seconds.
    """
    if fraction is None or not _LEAST <= fraction < 1 or elapsed < _SOONEST:
        return None
    return elapsed * (1 - fraction) / fraction


def left_text(seconds: float | None) -> str:
    """Return it in words, such as ``2m left``; empty if it cannot be told."""
    return "" if seconds is None else f"{rough_time(seconds)} left"


def progress_left(progress: Progress | None, elapsed: float) -> str:
    """Return in words how much longer a job will take that has run for *elapsed* seconds."""
    return left_text(None if progress is None else seconds_left(progress.fraction, elapsed))


def rough_time(seconds: float) -> str:
    """Return a time in the form of `elapsed_text`, but rounded: ``41s``, ``2m``, ``1h05m``."""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else elapsed_text(minutes * 60)


_VALUE = 2_000  # characters of a value, a message or the code
_OUTPUT = 50_000  # characters of output or of a traceback in one answer


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
    """Return what there is to say of a job; any thread may call.

    With *full* that includes its traceback and its output from position *since* on, counted in
    characters from its beginning. What JSON has no type for is text.
    """
    state, outcome = job.state, job.outcome  # first: what is read later may be newer
    failed = outcome is not None and outcome.error is not None
    found: dict[str, Any] = {
        "number": _number(job.number),
        "name": one_line(job.name, _VALUE),
        "code": _bounded(job.code, _VALUE),
        "state": str(state),
        "where": job.where,
        "group": job.group,
        "started": job.started,
        "elapsed": round(job.elapsed, 3),
        "progress": _progress(job),
        "memory": None,
        "at": (line_now(job, cells) or None) if outcome is None else None,
        "error": _error(outcome),
        "result": None,
    }
    if job.pid is not None and (used := usage_of({job.pid}).get(job.pid)):
        found["memory"] = used.memory
    if outcome is not None and not failed and outcome.value is not None:
        found["result"] = value_line(job, _VALUE)
    if full:
        found["output"] = _output(job, since)
        found["traceback"] = _traceback(outcome)
    return found


def _number(number: Any) -> int | str:
    return number if type(number) is int else str(number)


def _progress(job: Record) -> dict[str, Any] | None:
    if (seen := progress_of(job)) is None:
        return None
    return {"done": seen.done, "total": seen.total, "part": seen.fraction, "text": seen.text}


def _error(outcome: Outcome | None) -> dict[str, str] | None:
    if outcome is None or outcome.error is None:
        return None
    message = _bounded(message_of(outcome.error), _VALUE)
    return {"type": type(outcome.error).__name__, "message": message}


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


def _traceback(outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.error is None or str(outcome.state) == "cancelled":
        return None
    error = outcome.error
    lines = traceback.format_exception(type(error), error, outcome.traceback)
    return strip_ansi(_bounded("".join(lines), _OUTPUT))


def _bounded(text: str, limit: int) -> str:
    more = len(text) - limit
    return text if more <= 0 else f"{text[:limit]}… ({more:,} more characters)"
