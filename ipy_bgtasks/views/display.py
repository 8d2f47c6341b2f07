"""Rows and facts as text, for a terminal, and as HTML, for a notebook.

Everything that came from a user or a job is made visible, and escaped. The HTML of a card stands in
the notebook, with the key of the kernel and the job's number in `data-` attributes. By these the
script of the page (`live/page`) finds the card and brings it to life. Its styles stand in its
elements: a notebook that is not trusted keeps only those.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from wcwidth import width as width_of

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.text import bar, cut_end, cut_middle, elapsed_text, one_line, visible
from ipy_bgtasks.views.describe import (
    GLYPHS,
    Fact,
    Row,
    all_facts,
    card_facts,
    exit_status,
    log_tail,
    summary,
    traceback_text,
)
from ipy_bgtasks.views.value import value_line

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

_LONGEST = 120  # characters of a name or a last line that are shown
_GAP = "  "
_VALUE = 60  # characters of a value in a notice
_LEAST_NAME = 8  # columns; a name is not cut shorter, whatever the width
_LEAST_LAST = 6  # columns; less of the last column says nothing
_NO_JOBS = "no jobs"

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

_BOX = (
    "display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; "
    "padding-left: var(--jp-code-padding, 5px); "
    "color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-code-font-size, 13px)"
)
_FAILED = "; border-left: 3px solid var(--jp-error-color1, #d9413a)"
_HEADINGS = (
    '<th></th><th></th><th>state</th><th>where</th><th>name</th><th class="num">time</th><th></th>'
)


def html_table(rows: Sequence[Row]) -> str:
    """Return a table with one row per job, or ``no jobs``."""
    if not rows:
        return f'{STYLE}<div class="ipybg">{_NO_JOBS}</div>'
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


def _html_glyph(state: str) -> str:
    return f'<span style="color: {THEMED.get(state, "#888")}">{GLYPHS.get(state, "○")}</span>'


def _html_state(state: str) -> str:
    return f'<span class="state">{_html_glyph(state)} {html_text(one_line(state, 20))}</span>'


def _html_bar(fraction: float) -> str:
    percent = int(min(max(fraction, 0.0), 1.0) * 100 + 1e-9)
    fill = f'<span style="{_FILL}; width: {percent}%"></span>'
    return f'<span>{percent}%</span> <span style="{_TRACK}">{fill}</span> '


def html_fact(fact: Fact) -> str:
    """Return what is said of a job, without its label."""
    kind, text, _, fraction = fact
    if kind == "glyph":
        return _html_glyph(text)
    if kind == "state":
        return _html_state(text)
    if kind == "count":
        return f"<span>{_html_glyph(text.rpartition(' ')[2])} {html_text(text)}</span>"
    if kind == "bar":
        return _html_bar(fraction) + (f"{QUIET}{html_text(text)}</span>" if text else "")
    if kind in ("code", "result", "error"):
        return f"{CODE}{'→ ' * (kind == 'result')}{html_text(text)}</code>"
    return f"{QUIET}{html_text(text)}</span>" if kind == "quiet" and text else html_text(text)


def html_details(summary: str, text: str) -> str:
    """Return text that opens with a click on its summary, which is HTML."""
    pre = f'<pre style="margin: 0 0 6px 1em">{html_text(text)}</pre>'
    return f"<details><summary>{summary}</summary>{pre}</details>"


def _html_row(row: Row) -> str:
    name = one_line(row.name, 500)
    # A name that is cut is shown in full as a tooltip.
    title = f' title="{html_text(name)}"' if len(name) > _LONGEST else ""
    if row.fraction is None:
        last = _code("→ " * (row.kind == "result") + one_line(row.last, _LONGEST))
    else:
        last = _html_bar(row.fraction) + html_text(one_line(row.label, _LONGEST))
    if row.at:
        last += f"{'<br>' if last else ''}at {_code(one_line(row.at, _LONGEST))}"
    cells = (
        f'<td class="num">{row.number}</td>',
        f"<td>{html_text(one_line(row.mark, 1))}</td>",
        f"<td>{_html_state(row.state)}</td>",
        f"<td>{html_text(one_line(row.where, 20))}</td>",
        f"<td{title}>{_code(cut_middle(name, _LONGEST))}</td>",
        f'<td class="num">{html_text(one_line(row.elapsed, 20))}</td>',
        f"<td>{last}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _code(text: str) -> str:
    return f"<code>{html_text(text)}</code>" if text else ""


def text_table(rows: Sequence[Row], width: int = 80) -> str:
    """Return one line per job, aligned, in at most `width` columns; ``no jobs`` if there is none.

    In a very narrow terminal lines are longer, so that some of each job's name is left.
    """
    if not rows:
        return _NO_JOBS
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
    if row.fraction is None:
        last = "→ " * (row.kind == "result") + one_line(row.last, 500)
    else:
        last = f"{bar(row.fraction)} {one_line(row.label, 500)}".rstrip()
    return head, one_line(row.name, 500), one_line(row.elapsed, 20), last


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


def card(
    job: Record, key: str = "", *, live: bool = False, again: bool = False, late: str = ""
) -> dict[str, str]:
    """Return a job's card as a MIME bundle.

    *key* is that of the kernel. Where a page shows it *live*, progress is not part of it. With
    *again* the job was launched by an earlier run of the cell under which the card stands. *late*
    is output that is shown nowhere else.
    """
    facts = list(card_facts(job, live, again))
    title, below = f"[{job.number}]", ""
    text = card_text(title, facts)
    if late:
        text += "\n" + late.rstrip()
        below = html_details("what came after its cell had ended", late.rstrip())
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


def detail(job: Record, cells: Cells = no_cells) -> dict[str, str]:
    """Return all there is to say of a job as a MIME bundle; the end of its log comes last."""
    facts = list(all_facts(job, cells))
    below = [log_tail(job)]
    if job.outcome is not None and str(job.state) == "failed":
        below.append(traceback_text(job.outcome, cells))
    size = max(len(fact.label) for fact in facts)
    lines, rows = [], []
    for fact in facts:
        kind, text, label, fraction = fact
        shown = f"{bar(fraction)} {text}" if kind == "bar" else visible(text)
        first, *more = shown.split("\n")
        lines.append(f"{label:{size}}  {first}".rstrip())
        lines += [f"{'':{size}}  {line}".rstrip() for line in more]
        rows.append(f"<tr><th>{label}</th><td>{html_fact(fact)}</td></tr>")
    lines += [f"\n{visible(part)}" for part in below if part]
    body = "\n".join(rows)
    log = "".join(f'<pre class="log">{html_text(part)}</pre>' for part in below if part)
    return {
        "text/plain": "\n".join(lines),
        "text/html": (
            f'{STYLE}<div class="ipybg"><table><tbody>\n{body}\n</tbody></table>{log}</div>'
        ),
    }
