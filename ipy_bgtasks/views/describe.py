"""Jobs as plain data, for programs: no colours, no HTML, and what is shortened says so.

`%jobs --json` prints it, `job.describe()` returns it. The guide documents the keys, and they stay.
"""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.platforms import usage_of
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.text import message_of, one_line, strip_ansi
from ipy_bgtasks.views.rows import line_now
from ipy_bgtasks.views.value import value_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.views.rows import Row

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
