"""One job, told as facts: in a line on the card under its cell, in full by `%jobs N`.

The card's HTML stands in the notebook, with the key of the kernel and the job's number in `data-`
attributes. By these the script of the page (`live/page`) finds the card and brings it to life.
Its styles stand in its elements: a notebook that is not trusted keeps only those.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Iterator
from traceback import FrameSummary, TracebackException
from typing import TYPE_CHECKING

from ipy_bgtasks.job.outcome import LazyError
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.stacks import Cells, innermost, no_cells
from ipy_bgtasks.text import (
    bar,
    elapsed_text,
    error_line,
    message_of,
    one_line,
    short_repr,
    visible,
)
from ipy_bgtasks.views.html import QUIET, STYLE, html_fact, html_text
from ipy_bgtasks.views.rows import (
    Fact,
    after_text,
    attempt_text,
    end_of,
    frame_line,
    progress_text,
    row,
    stack_now,
    uses_now,
)

if TYPE_CHECKING:
    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.views.rows import Row

_NAME = 80  # characters, on a card
_LINE = 100  # of a result, on a card
_RESULT = 500  # of a result or an error, in full
_CODE = 10_000  # characters of code that are shown
_TAIL = 8_000  # characters of the log searched for the last lines
_TAIL_LINES = 20
_TRACE = 20_000  # characters of a traceback
_DEEP = 20  # frames shown at each end of a stack
#: Places whose workers' output stays with them, with the name to show for each.
_ELSEWHERE = {"dask": "Dask", "ipyparallel": "ipyparallel", "executor": "the executor"}

_BOX = (
    "display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; "
    "padding-left: var(--jp-code-padding, 5px); "
    "color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-code-font-size, 13px)"
)
_FAILED = "; border-left: 3px solid var(--jp-error-color1, #d9413a)"

# The card


def card(
    job: Record, key: str = "", *, live: bool = False, again: bool = False, late: str = ""
) -> dict[str, str]:
    """Return a job's card as a MIME bundle.

    *key* is that of the kernel. Where a page shows it *live*, progress is not part of it. With
    *again* the job was launched by an earlier run of the cell under which the card stands. *late*
    is output that is shown nowhere else.
    """
    facts = list(_lasting_facts(job, live, again))
    title, below = f"[{job.number}]", ""
    text = card_text(title, facts)
    if late:
        text += "\n" + late.rstrip()
        below = "<details><summary>what came after its cell had ended</summary>"
        below += f'<pre style="margin: 0 0 6px 1em">{html_text(late.rstrip())}</pre></details>'
    page = card_html(str(job.number), title, facts, key, job.code, again, below)
    return {"text/plain": text, "text/html": page}


def card_text(title: str, facts: Iterable[Fact]) -> str:
    """Return a card as plain text."""
    words = [title]
    for kind, text, _, fraction in facts:
        words += [f"{int(fraction * 100 + 1e-9)}%"] if kind == "bar" else []
        words += [text] if kind != "glyph" else []
    return "  ".join(word for word in words if word)


def card_html(
    name: str,
    title: str,
    facts: Iterable[Fact],
    key: str = "",
    code: str = "",
    again: bool = False,
    below: str = "",
) -> str:
    """Return a card as HTML; *name* is what the script finds it by, *below* is HTML."""
    parts = [f"{QUIET}{html.escape(title)}</span>", *map(html_fact, facts)]
    failed = _FAILED if ("state", "failed") in [fact[:2] for fact in facts] else ""
    found = f' data-bgt="{name}" data-bgt-key="{key}"' if key else ""
    found += ' data-bgt-again=""' if again else ""
    tip = f' title="{html.escape(one_line(code, 500))}"' if code else ""
    return f'<div{found}><div style="{_BOX}{failed}"{tip}>{"".join(parts)}</div>{below}</div>'


def _lasting_facts(job: Record, live: bool, again: bool) -> Iterator[Fact]:
    """Yield what a card says; of a job that goes on nothing that time makes wrong."""
    state = str(job.state)
    ended = job.done()
    if job.started is None and not ended:
        # Without the word: a console that shows no updates goes on showing this.
        yield Fact("glyph", "queued")
    else:
        yield Fact("glyph" if live and not ended else "state", state)
    yield Fact("code", one_line(job.name, _NAME))
    if ended:
        took = "" if job.started is None else f" after {elapsed_text(job.elapsed)}"
        yield Fact("quiet", f"{_clock(job.ended or 0.0)}{took}")
    else:
        yield Fact("quiet", attempt_text(job) or after_text(job))
        if job.started is not None:
            yield Fact("quiet", f"started {_clock(job.started)}")
    if again:
        yield Fact("quiet", "from an earlier run of this cell")
    if ended:
        kind, text = end_of(job, _LINE)
        if kind in ("result", "error", "reason"):
            yield Fact("quiet" if kind == "reason" else kind, text)
    elif not live and job.started is not None and (progress := progress_of(job)) is not None:
        text = one_line(progress_text(job, progress), _NAME)
        fraction = progress.fraction
        yield Fact("quiet", text) if fraction is None else Fact("bar", text, fraction=fraction)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


# In full


def detail_text(job: Record, cells: Cells = no_cells) -> str:
    """Return all there is to say about a job, as plain text; the log's tail comes last."""
    facts = list(_all_facts(job, cells))
    size = max(len(fact.label) for fact in facts)
    lines = []
    for kind, text, label, fraction in facts:
        shown = f"{bar(fraction)} {text}" if kind == "bar" else visible(text)
        first, *more = shown.split("\n")
        lines.append(f"{label:{size}}  {first}".rstrip())
        lines += [f"{'':{size}}  {line}".rstrip() for line in more]
    lines += [f"\n{visible(part)}" for part in _below(job, cells)]
    return "\n".join(lines)


def detail_html(job: Record, cells: Cells = no_cells) -> str:
    """Return all there is to say about a job, as HTML."""
    body = "\n".join(
        f"<tr><th>{fact.label}</th><td>{html_fact(fact)}</td></tr>"
        for fact in _all_facts(job, cells)
    )
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


def _all_facts(job: Record, cells: Cells) -> Iterator[Fact]:
    seen = row(job)
    yield Fact("text", str(job.number), "job")
    yield Fact("code", one_line(job.name, 500), "name")
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
    yield from _course(job, seen)
    yield from _outcome(job, seen.state, cells)


def _course(job: Record, seen: Row) -> Iterator[Fact]:
    if job.started is not None:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        yield Fact("text", began, "started")
        yield Fact("text", seen.elapsed, "elapsed")
    if seen.fraction is not None:
        yield Fact("bar", seen.label, "progress", seen.fraction)
    elif seen.label:
        yield Fact("text", seen.last, "progress")


def _outcome(job: Record, state: str, cells: Cells) -> Iterator[Fact]:
    outcome = job.outcome
    if outcome is None:
        if stack := stack_now(job):
            yield Fact("code", frame_line(innermost(stack), cells), "at")
        if len(stack) > 1:
            frames = [frame_line(frame, cells) for frame in _shortened(stack)]
            yield Fact("code", "\n".join(frames), "stack")
    elif outcome.error is None:
        yield Fact("code", short_repr(outcome.value, _RESULT), "result")
    elif state == "cancelled":
        yield Fact("code", one_line(message_of(outcome.error), _RESULT), "reason")
    else:
        yield Fact("code", error_line(outcome.error, _RESULT), "error")


def _shortened(stack: list[FrameSummary]) -> list[FrameSummary]:
    """Return both ends of a stack that is very deep."""
    return stack if len(stack) <= 2 * _DEEP else stack[:_DEEP] + stack[-_DEEP:]
