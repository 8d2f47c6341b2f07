"""The card under a `%bg` cell: one job in one line that is kept up to date."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.text import elapsed_text, one_line, visible
from ipy_bgtasks.views.estimates import progress_left
from ipy_bgtasks.views.html import html_dot, html_line
from ipy_bgtasks.views.rows import attempt_text, progress_text, summary

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

_NAME = 80
_RESULT = 100

_CODE = (
    '<code style="font-family: var(--jp-code-font-family, monospace); color: inherit; '
    'background: transparent; padding: 0; overflow-wrap: anywhere">'
)


def card(job: Record, place: str | None = None) -> dict[str, str]:
    """Return a job's card as a MIME bundle: state, name, start, progress; at the end its result.

    *place* is what a notice finds the card by.
    """
    return {"text/plain": card_text(job), "text/html": card_html(job, place)}


def card_data(job: Record) -> dict[str, Any]:
    """Return the facts of a card for one that draws itself."""
    progress = None if job.done() else progress_of(job)
    return {
        "n": job.number,
        "state": str(job.state),
        "ended": job.done(),
        "name": one_line(job.name, _NAME),
        "code": one_line(job.code, 500),
        "fraction": None if progress is None else progress.fraction,
        "facts": [
            *([] if progress is None else [one_line(progress_text(job, progress), _NAME)]),
            *map(visible, _facts(job)),
        ],
    }


def card_text(job: Record) -> str:
    """Return the card as plain text.

    Without a state at first: a console that shows no updates goes on showing this.
    """
    if job.state is JobState.QUEUED and not attempt_text(job):
        return f"[{job.number}]  {one_line(job.name, _NAME)}"
    parts = [f"[{job.number}]", str(job.state), one_line(job.name, _NAME), *_facts(job)]
    progress = None if job.done() else progress_of(job)
    if progress is not None and progress.fraction is not None:
        parts += [f"{progress.fraction:.0%}", progress_left(progress, job.elapsed)]
    return "  ".join(part for part in parts if part)


def card_html(job: Record, place: str | None = None) -> str:
    """Return the card as HTML; *place* is what a notice finds it by."""
    card = card_data(job)
    state = card["state"]
    return html_line(
        f"[{card['n']}]",
        [f"<span>{html_dot(state)} {state}</span>", f"{_CODE}{html.escape(card['name'])}</code>"],
        card["fraction"],
        card["facts"],
        place=place,
        tooltip=card["code"],
    )


def _facts(job: Record) -> list[str]:
    if job.started is None:
        return [] if job.done() else [attempt_text(job) or "waiting to start"]
    if not job.done():
        since = f"since {time.strftime('%H:%M:%S', time.localtime(job.started))}"
        return [attempt, since] if (attempt := attempt_text(job)) else [since]
    end = summary(job, _RESULT)
    return [elapsed_text(job.elapsed), *([end] if end else [])]
