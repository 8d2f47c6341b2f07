"""Rows as HTML, for a notebook. Everything that came from a user or a job is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ipy_bgtasks.text import cut_middle, one_line, visible
from ipy_bgtasks.views.rows import GLYPHS, Fact, Row
from ipy_bgtasks.views.text import NO_JOBS

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
