"""One job in full, as text and as HTML."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from traceback import FrameSummary, TracebackException
from typing import TYPE_CHECKING

from ipy_bgtasks.job.outcome import LazyError
from ipy_bgtasks.stacks import Cells, innermost, no_cells
from ipy_bgtasks.text import error_line, message_of, one_line, short_repr, visible
from ipy_bgtasks.views.html import STYLE, html_bar, html_state, html_text
from ipy_bgtasks.views.rows import frame_line, row, stack_now, uses_now

if TYPE_CHECKING:
    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record

_CODE = 10_000  # characters of code that are shown
_TAIL = 8_000  # characters of the log searched for the last lines
_TAIL_LINES = 20
_TRACE = 20_000  # characters of a traceback
_DEEP = 20  # frames shown at each end of a stack
#: Places whose workers' output stays with them, with the name to show for each.
_ELSEWHERE = {"dask": "Dask", "ipyparallel": "ipyparallel", "executor": "the executor"}
_RESULT = 500  # characters of a result or an error


def detail_text(job: Record, cells: Cells = no_cells) -> str:
    """Return all there is to say about a job, as plain text; the log's tail comes last."""
    facts = list(_facts(job, cells))
    size = max(len(label) for label, _ in facts)
    lines = []
    for label, text in facts:
        first, *more = visible(text).split("\n")
        lines.append(f"{label:{size}}  {first}".rstrip())
        lines += [f"{'':{size}}  {line}".rstrip() for line in more]
    lines += [f"\n{visible(part)}" for part in _below(job, cells)]
    return "\n".join(lines)


def detail_html(job: Record, cells: Cells = no_cells) -> str:
    """Return all there is to say about a job, as HTML."""
    body = "\n".join(_html_fact(job, label, text) for label, text in _facts(job, cells))
    log = "".join(f'<pre class="log">{html_text(part)}</pre>' for part in _below(job, cells))
    return f'{STYLE}<div class="ipybg"><table><tbody>\n{body}\n</tbody></table>{log}</div>'


def _below(job: Record, cells: Cells) -> Iterator[str]:
    """Yield the log's tail, and the traceback of a job that has failed."""
    if tail := log_tail(job):
        yield tail
    if job.outcome is not None and str(job.state) == "failed":
        yield traceback_text(job.outcome, cells)


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


def traceback_text(outcome: Outcome, cells: Cells = no_cells) -> str:
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
            text = "" if error is None else error_line(error, _RESULT)
    for name in set(re.findall(r'File "([^"]+)"', text)):
        if (number := cells(name)) is not None:
            text = text.replace(f'File "{name}"', f"cell {number}")
    text = visible(text).rstrip("\n")
    return text if len(text) <= _TRACE else f"{text[: _TRACE // 2]}\n[…]\n{text[-_TRACE // 2 :]}"


def _facts(job: Record, cells: Cells) -> Iterator[tuple[str, str]]:
    seen = row(job)
    yield "job", str(job.number)
    yield "name", one_line(job.name, 500)
    code = job.code.strip("\n")
    if code.strip() != job.name.strip():
        yield "code", code if len(code) <= _CODE else code[:_CODE] + "…"
    yield "state", seen.state
    if seen.state == "queued" and seen.kind == "wait":
        yield "waits", seen.last
    yield "where", seen.where
    if use := uses_now([job]).get(job.pid):
        yield "uses", use
    if seen.where in _ELSEWHERE and not job.has_output:
        yield "output", f"what other processes of {_ELSEWHERE[seen.where]} print stays there"
    if job.has_output and (problem := job.log.file_error):
        yield "log file", problem
    if group := job.group:
        yield "group", group
    if attempts := job.attempts:
        yield "attempt", str(attempts).removeprefix("attempt ")
    if job.started is not None:
        yield "started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        yield "elapsed", seen.elapsed
    if seen.fraction is not None or seen.label:
        yield "progress", seen.last
    yield from _outcome(job, seen.state, cells)


def _outcome(job: Record, state: str, cells: Cells) -> Iterator[tuple[str, str]]:
    outcome = job.outcome
    if outcome is None:
        if stack := stack_now(job):
            yield "at", frame_line(innermost(stack), cells)
        if len(stack) > 1:
            yield "stack", "\n".join(frame_line(frame, cells) for frame in _shortened(stack))
    elif outcome.error is None:
        yield "result", short_repr(outcome.value, _RESULT)
    elif state == "cancelled":
        yield "reason", one_line(message_of(outcome.error), _RESULT)
    else:
        yield "error", error_line(outcome.error, _RESULT)


def _shortened(stack: list[FrameSummary]) -> list[FrameSummary]:
    """Return both ends of a stack that is very deep."""
    return stack if len(stack) <= 2 * _DEEP else stack[:_DEEP] + stack[-_DEEP:]


def _html_fact(job: Record, label: str, text: str) -> str:
    shown = f"<code>{html_text(text)}</code>"
    if label == "state":
        shown = html_state(text)
    elif label == "progress" and (seen := row(job)).fraction is not None:
        shown = html_bar(seen.fraction) + html_text(seen.label)
    elif label in ("job", "where", "started", "elapsed"):
        shown = html_text(text)
    return f"<tr><th>{label}</th><td>{shown}</td></tr>"
