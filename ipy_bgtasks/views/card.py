"""The card under a `%bg` cell: what stays true of a job without anybody, as text and as HTML.

The HTML stands in the notebook, with the key of the kernel and the job's number in `data-`
attributes. By these the script of the page (`live/page`) finds the card and brings it to life.
Its styles stand in its elements: a notebook that is not trusted keeps only those.
"""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING

from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.text import elapsed_text, one_line
from ipy_bgtasks.views.html import CODE, html_bar, html_glyph, html_text
from ipy_bgtasks.views.rows import after_text, attempt_text, end_of, progress_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipy_bgtasks.job.record import Record

_NAME = 80  # characters
_RESULT = 100

_BOX = (
    "display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; "
    "padding-left: var(--jp-code-padding, 5px); "
    "color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-code-font-size, 13px)"
)
_FAILED = "; border-left: 3px solid var(--jp-error-color1, #d9413a)"
_QUIET = '<span style="color: var(--jp-ui-font-color2, inherit); overflow-wrap: anywhere">'

#: A fact, after what kind it is: glyph (of a state), count, name, quiet, result, error or bar.
Fact = tuple[str, str]


def card(
    job: Record, key: str = "", *, live: bool = False, again: bool = False, late: str = ""
) -> dict[str, str]:
    """Return a job's card as a MIME bundle.

    *key* is that of the kernel. Where a page shows it *live*, progress is not part of it. With
    *again* the job was launched by an earlier run of the cell under which the card stands. *late* is
    output that is shown nowhere else.
    """
    facts = _facts(job, live, again)
    title, number = f"[{job.number}]", str(job.number)
    text, below = card_text(title, facts), ""
    if late:
        text += "\n" + late.rstrip()
        below = "<details><summary>what came after its cell had ended</summary>"
        below += f'<pre style="margin: 0 0 6px 1em">{html_text(late.rstrip())}</pre></details>'
    page = card_html(number, title, facts, key, job.code, again, below)
    return {"text/plain": text, "text/html": page}


def card_text(title: str, facts: Iterable[Fact]) -> str:
    """Return a card as plain text."""
    words = [
        f"{int(float(text) * 100 + 1e-9)}%" if kind == "bar" else text
        for kind, text in facts
        if kind != "glyph"
    ]
    return "  ".join(word for word in [title, *words] if word)


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
    parts, failed = [f"{_QUIET}{html.escape(title)}</span>"], False
    for kind, text in facts:
        if kind == "glyph":
            failed |= text == "failed"
            parts.append(html_glyph(text))
        elif kind == "bar":
            parts.append(html_bar(float(text)))
        elif kind == "count":  # a state, and how many are in it
            parts.append(f"<span>{html_glyph(text.rpartition(' ')[2])} {html.escape(text)}</span>")
        elif kind == "name":
            parts.append(f"{CODE}{html.escape(text)}</code>")
        elif kind in ("result", "error"):
            parts.append(f"{CODE}{'→ ' * (kind == 'result')}{html.escape(text)}</code>")
        elif text:
            parts.append(f"{_QUIET}{html.escape(text)}</span>")
    found = f' data-bgt="{name}" data-bgt-key="{key}"' if key else ""
    found += ' data-bgt-again=""' if again else ""
    tip = f' title="{html.escape(one_line(code, 500))}"' if code else ""
    line = f'<div style="{_BOX}{_FAILED if failed else ""}"{tip}>{"".join(parts)}</div>'
    return f"<div{found}>{line}{below}</div>"


def _facts(job: Record, live: bool, again: bool) -> list[Fact]:
    """Return what there is to say; of a job that goes on nothing that time makes wrong."""
    name = ("name", one_line(job.name, _NAME))
    facts: list[Fact] = [("quiet", "from an earlier run of this cell")] if again else []
    if job.done():
        ended, kind, text = job.ended or 0.0, *end_of(job, _RESULT)
        state = str(job.state)
        took = "" if job.started is None else elapsed_text(job.elapsed)
        facts += [("quiet", " ".join([_clock(ended), *([f"after {took}"] if took else [])]))]
        facts += [(kind, text)] if kind in ("result", "error", "reason") and text else []
        return [("glyph", state), ("quiet", state), name, *facts]
    waits = attempt_text(job) or after_text(job)
    if job.started is None:
        # Without a state: a console that shows no updates goes on showing this.
        return [("glyph", "queued"), name, ("quiet", waits), *facts]
    state = str(job.state)
    facts = [("quiet", waits), ("quiet", f"started {_clock(job.started)}"), *facts]
    progress = None if live else progress_of(job)
    if progress is not None:
        fraction = progress.fraction
        facts += [] if fraction is None else [("bar", str(fraction))]
        facts += [("quiet", one_line(progress_text(job, progress), _NAME))]
    return [("glyph", state), *([] if live else [("quiet", state)]), name, *facts]


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
