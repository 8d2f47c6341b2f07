"""Rows and facts as text, for a terminal, and as HTML, for a notebook.

Everything that came from a user or a job is made visible, and escaped. The HTML of a card stands in
the notebook, with the key of the kernel and the job's number in `data-` attributes. By these the
script of the page (`live/page`) finds the card and brings it to life. Its styles stand in its
elements: a notebook that is not trusted keeps only those.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from traceback import FrameSummary, TracebackException
from typing import TYPE_CHECKING

from wcwidth import width as width_of

from ipy_bgtasks.job.outcome import JobState, LazyError
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.stacks import Cells, innermost, no_cells
from ipy_bgtasks.text import (
    bar,
    cut_end,
    cut_middle,
    elapsed_text,
    error_line,
    message_of,
    one_line,
    short_repr,
    visible,
)
from ipy_bgtasks.views.describe import (
    GLYPHS,
    Fact,
    Row,
    after_text,
    attempt_text,
    end_of,
    exit_status,
    frame_line,
    progress_text,
    row,
    stack_now,
    summary,
    uses_now,
)
from ipy_bgtasks.views.value import value_line

if TYPE_CHECKING:
    from ipy_bgtasks.job.outcome import Outcome
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.views.describe import Row


_LONGEST = 120  # characters of a name or a last line that are shown

# The state is also a word, so that a front end that strips styles loses nothing.
#: The colour of each state that has one, in all views; distinct on white and on black.
COLOURS = {
    "running": "#2f80ed",
    "cancelling": "#d98200",
    "finished": "#2e9e4f",
    "failed": "#d9413a",
}
_ROLES = {"running": "brand", "cancelling": "warn", "finished": "success", "failed": "error"}
#: The same colours as CSS that follows JupyterLab's theme where there is one.
THEMED = {state: f"var(--jp-{_ROLES[state]}-color1, {c})" for state, c in COLOURS.items()}

STYLE = """<style>
.ipybg { color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-code-font-size, 13px); }
.ipybg table { border-collapse: collapse; margin: 0; width: auto; color: inherit;
  font-size: inherit; }
.ipybg th, .ipybg td { text-align: left !important; padding: 2px 10px 2px 0; border: none;
  vertical-align: baseline; background: transparent; color: inherit; }
.ipybg th { font-weight: 600; color: var(--jp-ui-font-color2, inherit); white-space: nowrap; }
.ipybg thead th { border-bottom: 1px solid var(--jp-border-color2, #8888); }
.ipybg .num { text-align: right !important; white-space: nowrap; }
.ipybg.ipybg td code, .ipybg pre { font-family: var(--jp-code-font-family, monospace);
  color: inherit; background: transparent; padding: 0; margin: 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.ipybg tr { background: transparent !important; }
.ipybg.ipybg.ipybg .log { max-height: 24em; overflow: auto; margin-top: 4px; padding: 4px 8px;
  border-left: 2px solid var(--jp-border-color2, #8888); }
.ipybg .state { white-space: nowrap; }
</style>"""

CODE = (
    '<code style="font-family: var(--jp-code-font-family, monospace); color: inherit; '
    'background: transparent; padding: 0; overflow-wrap: anywhere; unicode-bidi: isolate">'
)
QUIET = '<span style="color: var(--jp-ui-font-color2, inherit); overflow-wrap: anywhere">'
_TRACK = (
    "display: inline-block; width: 100px; height: 8px; border-radius: 4px; overflow: hidden; "
    "background: var(--jp-border-color2, #8886)"
)
_FILL = "display: block; height: 100%; background: var(--jp-brand-color1, #2f80ed)"

_HEADINGS = (
    '<th></th><th></th><th>state</th><th>where</th><th>name</th><th class="num">time</th><th></th>'
)


def html_table(rows: Sequence[Row]) -> str:
    """Return a table with one row per job, or ``no jobs``."""
    if not rows:
        return f'{STYLE}<div class="ipybg">{NO_JOBS}</div>'
    body = "\n".join(_html_row(row) for row in rows)
    return (
        f'{STYLE}<div class="ipybg"><table>\n<thead><tr>{_HEADINGS}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def html_note(text: str) -> str:
    """Return a line of small print."""
    style = "color: var(--jp-ui-font-color2, inherit); font-size: 85%; margin-top: 4px"
    return f'<div style="{style}">{html_text(text)}</div>'


def html_text(text: str) -> str:
    """Return text, possibly of several lines, visible and escaped."""
    return html.escape(visible(text))


def html_glyph(state: str) -> str:
    """Return the sign of a state, with its colour in the element."""
    return f'<span style="color: {THEMED.get(state, "#888")}">{GLYPHS.get(state, "○")}</span>'


def html_state(state: str) -> str:
    """Return a state as a word after its sign."""
    return f'<span class="state">{html_glyph(state)} {html_text(one_line(state, 20))}</span>'


def html_bar(fraction: float) -> str:
    """Return a progress bar with its percentage; `fraction` from 0 to 1."""
    percent = int(min(max(fraction, 0.0), 1.0) * 100 + 1e-9)
    fill = f'<span style="{_FILL}; width: {percent}%"></span>'
    return f'<span>{percent}%</span> <span style="{_TRACK}">{fill}</span> '


def html_fact(fact: Fact) -> str:
    """Return what is said of a job, without its label."""
    kind, text, _, fraction = fact
    if kind == "glyph":
        return html_glyph(text)
    if kind == "state":
        return html_state(text)
    if kind == "count":
        return f"<span>{html_glyph(text.rpartition(' ')[2])} {html_text(text)}</span>"
    if kind == "bar":
        return html_bar(fraction) + (f"{QUIET}{html_text(text)}</span>" if text else "")
    if kind in ("code", "result", "error"):
        return f"{CODE}{'→ ' * (kind == 'result')}{html_text(text)}</code>"
    return f"{QUIET}{html_text(text)}</span>" if kind == "quiet" and text else html_text(text)


def html_last(row: Row) -> str:
    """Return the last column of a row: its progress as a bar, or its text as code."""
    if row.fraction is not None:
        return html_bar(row.fraction) + html_text(one_line(row.label, _LONGEST))
    return _code("→ " * (row.kind == "result") + one_line(row.last, _LONGEST))


def _html_row(row: Row) -> str:
    name = one_line(row.name, 500)
    # A name that is cut is shown in full as a tooltip.
    title = f' title="{html_text(name)}"' if len(name) > _LONGEST else ""
    last = html_last(row)
    if row.at:
        last += f"{'<br>' if last else ''}at {_code(one_line(row.at, _LONGEST))}"
    cells = (
        f'<td class="num">{row.number}</td>',
        f"<td>{html_text(one_line(row.mark, 1))}</td>",
        f"<td>{html_state(row.state)}</td>",
        f"<td>{html_text(one_line(row.where, 20))}</td>",
        f"<td{title}>{_code(cut_middle(name, _LONGEST))}</td>",
        f'<td class="num">{html_text(one_line(row.elapsed, 20))}</td>',
        f"<td>{last}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _code(text: str) -> str:
    return f"<code>{html_text(text)}</code>" if text else ""


_GAP = "  "
_VALUE = 60  # characters of a value in a notice
_LEAST_NAME = 8  # columns; a name is not cut shorter, whatever the width
_LEAST_LAST = 6  # columns; less of the last column says nothing

NO_JOBS = "no jobs"


def text_table(rows: Sequence[Row], width: int = 80) -> str:
    """Return one line per job, aligned, in at most `width` columns; ``no jobs`` if there is none.

    In a very narrow terminal lines are longer, so that some of each job's name is left.
    """
    if not rows:
        return NO_JOBS
    cells = [_cells(row) for row in rows]
    heads = aligned([head for head, _, _, _ in cells])
    times = aligned([(elapsed,) for _, _, elapsed, _ in cells], right=True)
    name_width, last_width = _share(
        width - width_of(heads[0]) - width_of(times[0]) - 2 * len(_GAP),
        max(width_of(name) for _, name, _, _ in cells),
        max(width_of(last) for _, _, _, last in cells),
    )
    lines = []
    for head, took, (_, name, _, last), each in zip(heads, times, cells, rows, strict=True):
        line = head + _GAP + _padded(cut_middle(name, name_width), name_width) + _GAP + took
        if last_width:
            line += _GAP + cut_end(last, last_width)
        lines.append(line.rstrip())
        if each.at:
            lines.append(cut_end(f"      at {one_line(each.at, width)}", width))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[tuple[str, ...], str, str, str]:
    head = (
        f"[{row.number}]{one_line(row.mark, 1) or ' '}",
        f"{GLYPHS.get(row.state, '○')} {one_line(row.state, 20)}",
        one_line(row.where, 20),
    )
    return head, one_line(row.name, 500), one_line(row.elapsed, 20), _last(row)


def _last(row: Row) -> str:
    if row.fraction is None:
        return "→ " * (row.kind == "result") + one_line(row.last, 500)
    return f"{bar(row.fraction)} {one_line(row.label, 500)}".rstrip()


def aligned(table: Sequence[tuple[str, ...]], *, right: bool = False) -> list[str]:
    """Return one text for each line of a table, its cells as wide as the widest of the column."""
    widths = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    return [
        _GAP.join(_padded(cell, size, right=right) for cell, size in zip(line, widths, strict=True))
        for line in table
    ]


def _share(room: int, name: int, last: int) -> tuple[int, int]:
    """Share the remaining width between names and last column; one may need less than half."""
    if name + len(_GAP) + last <= room or not last:
        return (name, last) if last else (max(_LEAST_NAME, min(name, room)), 0)
    half = (room - len(_GAP)) // 2
    name = max(_LEAST_NAME, min(name, max(half, room - len(_GAP) - last)))
    left = room - len(_GAP) - name
    if left < _LEAST_LAST:
        return max(_LEAST_NAME, min(name, room)), 0
    return name, min(last, left)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def notice(job: Record, current: Record | None, previous: Record | None) -> str:
    """Return number, mark, state, name, time, value: ``[3]+ finished  fetch(u)  1.2s  'text'``.

    Of a job that has failed it tells why only where no traceback is shown.
    """
    mark = "+" if job is current else "-" if job is previous else " "
    took = "" if job.started is None else elapsed_text(job.elapsed)
    line = f"[{job.number}]{mark} {job.state}  {one_line(job.name, 500)}  {took}".rstrip()
    assert job.outcome is not None
    if job.state is JobState.FINISHED:
        shows = job.outcome.value is not None and not job.stores
        return f"{line}  {value_line(job, _VALUE)}" if shows else line
    if job.state is JobState.FAILED and not (job.quiet or exit_status(job)):
        return line
    return f"{line}  {summary(job, _VALUE)}".rstrip()


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
