"""The card under a `%bg` cell: one job in one line that is kept up to date."""

from __future__ import annotations

import html
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.text import elapsed_text, one_line, visible
from ipy_bgtasks.views.html import html_text
from ipy_bgtasks.views.rows import progress_label, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ipy_bgtasks.job.record import Record

_NAME = 80
_RESULT = 100
_FAILED = 5  # names of failed jobs

_GREY = "#888"
_COLOURS = {
    "running": "var(--jp-brand-color1, #2f80ed)",
    "cancelling": "var(--jp-warn-color1, #d98200)",
    "finished": "var(--jp-success-color1, #2e9e4f)",
    "failed": "var(--jp-error-color1, #d9413a)",
}
_LINE = (
    "display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; "
    "padding-left: var(--jp-code-padding, 5px); "
    "color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-code-font-size, 13px)"
)
_QUIET = "color: var(--jp-ui-font-color2, inherit)"
_FACT = f"{_QUIET}; overflow-wrap: anywhere"
_CODE = (
    "font-family: var(--jp-code-font-family, monospace); color: inherit; "
    "background: transparent; padding: 0; overflow-wrap: anywhere"
)
_TRACK = (
    "display: inline-block; width: 120px; height: 8px; border-radius: 4px; overflow: hidden; "
    "background: var(--jp-border-color2, #8886)"
)
_FILL = "display: block; height: 100%; background: var(--jp-brand-color1, #2f80ed);"


def card(job: Record, place: str | None = None) -> dict[str, str]:
    """Return state, name, start, progress; at the end elapsed time and result, as a MIME bundle.

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
            *([] if progress is None else [one_line(progress_label(progress), _NAME)]),
            *map(visible, _facts(job)),
        ],
    }


def card_text(job: Record) -> str:
    """Return the card as plain text."""
    parts = [f"[{job.number}]", str(job.state), one_line(job.name, _NAME), *_facts(job)]
    progress = None if job.done() else progress_of(job)
    if progress is not None and progress.fraction is not None:
        parts.append(f"{progress.fraction:.0%}")
    return "  ".join(part for part in parts if part)


def card_html(job: Record, place: str | None = None) -> str:
    """Return the card as HTML that follows the notebook's theme.

    Styles stand in the elements, because a reopened notebook that is not trusted keeps those only.
    """
    state = str(job.state)
    title = html.escape(one_line(job.code, 500), quote=True)
    bar = _bar(job) if not job.done() else ""
    facts = "".join(f'<span style="{_FACT}">{html_text(fact)}</span>' for fact in _facts(job))
    return (
        f'<div style="{_LINE}" title="{title}"{_at(place)}>'
        f'<span style="{_QUIET}">[{job.number}]</span>'
        f'<span><span style="color: {_COLOURS.get(state, _GREY)}">●</span> {state}</span>'
        f'<code style="{_CODE}">{html_text(one_line(job.name, _NAME))}</code>{bar}{facts}</div>'
    )


def _at(place: str | None) -> str:
    return "" if place is None else f' data-bg="{html.escape(place, quote=True)}"'


def group_card(
    running: Sequence[Record],
    over: Mapping[str, int],
    failed: Sequence[str],
    place: str | None = None,
) -> dict[str, str]:
    """Return one card for the jobs of a cell: those that go on, and how the others ended.

    *over* says how many ended in which state, *failed* names those that failed.
    """
    counts = Counter({str(state): count for state, count in over.items()})
    done = float(sum(over.values()))
    for job in running:
        counts[str(job.state)] += 1
        progress = progress_of(job)
        done += (progress.fraction or 0.0) if progress is not None else 0.0
    total = len(running) + sum(over.values())
    words = [f"{counts[state]:,} {state}" for state in map(str, JobState) if counts[state]]
    names = ", ".join(one_line(name, _NAME) for name in failed[:_FAILED])
    more = counts["failed"] - min(len(failed), _FAILED)
    if names and more > 0:
        names += f" and {more:,} more"
    percent = int(done / total * 100 + 1e-9)
    dots = "".join(
        f'<span><span style="color: {_COLOURS.get(state, _GREY)}">●</span> '
        f"{counts[state]:,} {state}</span>"
        for state in map(str, JobState)
        if counts[state]
    )
    end = f'<span style="{_FACT}">{html_text(f"failed: {names}")}</span>' if names else ""
    bar = "" if not running else f"<span>{percent}%</span>{_track(percent)}"
    return {
        "text/plain": "  ".join(
            [f"{total:,} jobs", *words, *([f"{percent}%"] if running else [])]
            + ([f"failed: {names}"] if names else [])
        ),
        "text/html": f'<div style="{_LINE}"{_at(place)}>'
        f'<span style="{_QUIET}">{total:,} jobs</span>'
        f"{dots}{bar}{end}</div>",
    }


def _track(percent: int) -> str:
    return f'<span style="{_TRACK}"><span style="{_FILL} width: {percent}%"></span></span>'


def _bar(job: Record) -> str:
    progress = progress_of(job)
    if progress is None:
        return ""
    label = html_text(one_line(progress_label(progress), _NAME))
    if (fraction := progress.fraction) is None:
        return f'<span style="{_FACT}">{label}</span>'
    percent = int(fraction * 100)
    return f'<span>{percent}%</span>{_track(percent)}<span style="{_FACT}">{label}</span>'


def _facts(job: Record) -> list[str]:
    if job.started is None:
        return [] if job.done() else ["waiting to start"]
    if not job.done():
        return [f"since {time.strftime('%H:%M:%S', time.localtime(job.started))}"]
    end = summary(job, _RESULT)
    if job.state is JobState.FINISHED and not end:
        return [elapsed_text(job.elapsed)]
    return [elapsed_text(job.elapsed), end] if end else [elapsed_text(job.elapsed)]
