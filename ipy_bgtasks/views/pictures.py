"""Pictures of jobs, as SVG: when they were queued and ran, and where the time of one goes.

Both stay in a saved notebook: they are self-contained, without styles and scripts, and their
colours are legible on white and on black, since a front end may show them as separate images.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from wcwidth import width as width_of

from ipy_bgtasks.stacks import Cells, innermost, is_library, no_cells, place, source_line
from ipy_bgtasks.text import cut_middle, elapsed_text, one_line, printable
from ipy_bgtasks.views.describe import clock, frame_line
from ipy_bgtasks.views.display import COLOURS, STYLE, aligned, html_note, html_text

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.stacks import Site, Times


_GREY = "#7a7a7a"
_WAIT = "#7a7a7a55"

_NAME = 210  # pixels, as all of these
_BARS = 380
_END = 130
_ROW = 20
_HEAD = 22
_COLUMN = 6.7  # of the font
_TEXT_BARS = 40  # columns

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Span:
    """The life of one job up to now; times are seconds since the epoch."""

    number: int
    name: str
    state: str
    launched: float
    started: float | None
    ended: float | None

    @classmethod
    def of(cls, job: Record) -> Span:
        """Return the span of a job as it is now."""
        times = job.launched, job.started, job.ended
        return cls(job.number, job.name, str(job.state), *times)

    def parts(self, now: float) -> Iterator[tuple[str, float, float]]:
        """Yield what the job did from when to when: it waits, or is in a state."""
        end = self.ended or now
        begun = self.started or end
        yield "wait" if self.started or self.ended else self.state, self.launched, begun
        if self.started is not None:
            yield self.state, begun, end


class Timeline:
    """A picture of when some jobs were queued and ran, up to when it was made."""

    def __init__(self, jobs: Iterable[Record]) -> None:
        self._now = time.time()
        self.spans = [Span.of(job) for job in jobs]

    def __repr__(self) -> str:
        return printable(timeline_text(self.spans, self._now))

    def _repr_svg_(self) -> str:
        return timeline_svg(self.spans, self._now)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "image/svg+xml": self._repr_svg_()}


def timeline_text(spans: Sequence[Span], now: float) -> str:
    """Return one line per job: dots while it was queued, a bar while it ran."""
    if not spans:
        return "no jobs"
    first, length = _range(spans, now)

    def column(at: float) -> int:
        return round((at - first) / length * _TEXT_BARS)

    names = [f"[{span.number}] {cut_middle(one_line(span.name, 200), 30)}" for span in spans]
    width = max(map(width_of, names))
    lines = []
    for name, span in zip(names, spans, strict=True):
        end = span.ended or now
        launched, begun = column(span.launched), column(span.started or end)
        bar = "━" * max(column(end) - begun, span.started is not None)
        drawn = f"{' ' * launched}{'·' * (begun - launched)}{bar}"
        lines.append(
            f"{name}{' ' * (width - width_of(name))}  {drawn:{_TEXT_BARS + 1}}  {_end(span, now)}"
        )
    return "\n".join(lines)


def timeline_svg(spans: Sequence[Span], now: float) -> str:
    """Return the picture as SVG text."""
    width = _NAME + _BARS + _END
    height = _HEAD + _ROW * len(spans) + 4
    first, length = _range(spans, now)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_label(spans)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11">'
    ]
    if spans:
        parts += _axis(first, length, height)
    for i, span in enumerate(spans):
        parts += _row(span, _HEAD + _ROW * i, first, length, now)
    return "\n".join([*parts, "</svg>"])


def _range(spans: Sequence[Span], now: float) -> tuple[float, float]:
    """Return the first moment shown, and the length in seconds."""
    first = min((span.launched for span in spans), default=now)
    last = max((span.ended or now for span in spans), default=now)
    return first, max(last - first, 0.05)


def _axis(first: float, length: float, height: int) -> Iterator[str]:
    """Yield lines at round times; if fewer than two fit, at the first moment only."""
    step = next((s for s in _STEPS if length / s <= 5), 86400 * (1 + length // 432_000))
    offset = time.localtime(first).tm_gmtoff
    at = (first + offset) // step * step - offset + step
    marks = [first]
    while at < first + length:
        if at - first > length / 6:
            marks.append(at)
        at += step
    for mark in marks:
        x = _NAME + (mark - first) / length * _BARS
        text = clock(mark, "%H:%M" if step >= 86400 else "%H:%M:%S")
        yield f'<path d="M{x:.1f} 16V{height - 4}" stroke="{_WAIT}"/>'
        yield f'<text x="{x:.1f}" y="11" fill="{_GREY}">{text}</text>'


def _row(span: Span, y: int, first: float, length: float, now: float) -> Iterator[str]:
    def x(at: float) -> float:
        return _NAME + max(0.0, min(1.0, (at - first) / length)) * _BARS

    name = one_line(span.name, 500)
    shown = cut_middle(name, int((_NAME - 12) / _COLUMN) - len(str(span.number)) - 2)
    text = 'dominant-baseline="central"'
    middle = y + _ROW // 2
    yield f"<g><title>{_xml(f'{span.number}: {name}, {_end(span, now)}')}</title>"
    # Isolated, so that a name written from right to left does not carry the number along.
    yield (
        f'<text x="0" y="{middle}" {text} fill="{_GREY}">{span.number}  '
        f"\u2068{_xml(shown)}\u2069</text>"
    )
    for word, start, end in span.parts(now):
        waits = word in ("wait", "queued")
        colour = _WAIT if waits else COLOURS.get(word, _GREY)
        width = x(end) - x(start)
        if width > 0.5 or not waits:
            yield (
                f'<rect x="{x(start):.1f}" y="{y + 4}" width="{max(width, 2):.1f}" '
                f'height="{_ROW - 8}" rx="2" fill="{colour}"/>'
            )
    at = _NAME + _BARS + 10
    yield f'<text x="{at}" y="{middle}" {text} fill="{_GREY}">{_xml(_end(span, now))}</text></g>'


def _end(span: Span, now: float) -> str:
    if span.started is None:
        return span.state
    return f"{span.state} {elapsed_text((span.ended or now) - span.started)}"


def _label(spans: Sequence[Span]) -> str:
    return f"Timeline of {len(spans)} job{'s' * (len(spans) != 1)}"


def _xml(text: str) -> str:
    return html.escape(_NOT_XML.sub("\ufffd", text))


# Where the time of a job goes, from samples of its stack: by line, and as a flame graph

_LINES = 20
_LONG = 80  # characters of a text

_WIDTH, _HEIGHT = 800, 17  # of the graph and of a box, in pixels
_LEAST = 2  # pixels of a box that is drawn
_DEEP = 60  # boxes above each other
_USERS, _LIBRARIES = "#e8935a", "#9aa7b0"


def profile(job: Record, times: Times, cells: Cells = no_cells) -> dict[str, str]:
    """Return a table and a graph; *cells* tells which cell a file name stands for."""
    title = f"job {job.number} ({one_line(job.name, _LONG)}): "
    title += f"{elapsed_text(sum(times.values()))}{', until it ended' if job.done() else ''}"
    found = lines(times, cells)
    shares, rest = aligned([each[:1] for each in found], right=True), [each[1:] for each in found]
    text = [f"{a}  {b}".rstrip() for a, b in zip(shares, aligned(rest), strict=True)]
    rows = "\n".join(
        f'<tr><td class="num">{share}</td><td>{where}</td><td>{function}</td>'
        f"<td><code>{source}</code></td></tr>"
        for share, where, function, source in (map(html_text, each) for each in found)
    )
    table = f'{STYLE}<div class="ipybg"><table><tbody>\n{rows}\n</tbody></table></div>'
    return {
        "text/plain": "\n".join([title, *text]),
        "text/html": html_note(title) + table + flame_graph(times, cells),
    }


def lines(times: Times, cells: Cells = no_cells) -> list[tuple[str, ...]]:
    """Return share, place, function and source of the user's lines, the most of the time first.

    What a line calls in libraries counts as its own.
    """
    total = sum(times.values())
    spent: dict[tuple[str, ...], float] = {}
    for stack, seconds in times.items():
        line = ("its code could not be seen", "", "")
        if frame := innermost([FrameSummary(*site, lookup_line=False) for site in stack]):
            function = "" if frame.name.startswith("<") else frame.name
            line = (place(frame, cells), function, source_line(frame))
        spent[line] = spent.get(line, 0.0) + seconds
    ordered = sorted(spent.items(), key=itemgetter(1), reverse=True)
    if rest := ordered[_LINES:]:
        ordered[_LINES:] = [((f"{len(rest):,} more", "", ""), sum(map(itemgetter(1), rest)))]
    return [
        (f"{part / total:.0%}", *(one_line(text, _LONG) for text in line)) for line, part in ordered
    ]


def flame_graph(times: Times, cells: Cells = no_cells) -> str:
    """Return a picture: callers above what they call, each as wide as its share of the time."""
    total = sum(times.values())

    def boxes(
        stacks: Iterable[tuple[tuple[Site, ...], float]], depth: int, x: float
    ) -> Iterator[str]:
        """Yield the boxes of stacks that are alike above *depth*, from *x* on."""
        alike: dict[Site, list[tuple[tuple[Site, ...], float]]] = {}
        for stack, seconds in stacks:
            if depth < min(len(stack), _DEEP):
                alike.setdefault(stack[depth], []).append((stack, seconds))
        for site, inner in alike.items():
            share = sum(seconds for _, seconds in inner) / total
            if (width := share * _WIDTH) >= _LEAST:
                yield _box(FrameSummary(*site, lookup_line=False), share, depth, x, cells)
                yield from boxes(inner, depth + 1, x)
            x += width

    height = _HEIGHT * min(max(map(len, times), default=0), _DEEP)
    drawn = "\n".join(boxes(times.items(), 0, 0.0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Flame graph" '
        f'style="max-width: 100%; margin-top: 6px" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-size="11" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace">\n{drawn}\n</svg>'
    )


def _box(frame: FrameSummary, share: float, depth: int, x: float, cells: Cells) -> str:
    width, y = share * _WIDTH, depth * _HEIGHT
    colour = _LIBRARIES if is_library(frame.filename) else _USERS
    name = place(frame, cells) if frame.name.startswith("<") else frame.name
    return (
        f"<g><title>{share:.0%} {html_text(frame_line(frame, cells))}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{width - 0.5:.1f}" height="{_HEIGHT - 1}" '
        f'fill="{colour}"/><text x="{x + 3:.1f}" y="{y + 12}" fill="#111">'
        f"{html_text(one_line(name, int((width - 4) / _COLUMN)))}</text></g>"
    )
