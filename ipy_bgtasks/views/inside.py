"""Where the time of a job goes, from samples of its stack: by line, and as a flame graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from traceback import FrameSummary
from typing import TYPE_CHECKING

from ipy_bgtasks.stacks import Cells, innermost, is_library, no_cells, place, source_line
from ipy_bgtasks.text import elapsed_text, one_line
from ipy_bgtasks.views.html import STYLE, html_note, html_text
from ipy_bgtasks.views.rows import frame_line
from ipy_bgtasks.views.text import aligned

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.stacks import Site, Times

_LINES = 20
_LONG = 80  # characters of a text

_WIDTH, _HEIGHT = 800, 17  # of the graph and of a box, in pixels
_LEAST = 2  # pixels of a box that is drawn
_COLUMN = 6.7  # of the font
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
