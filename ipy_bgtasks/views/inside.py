"""Where the time of a job goes: its samples by line, as a table, and as a flame graph in SVG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from traceback import FrameSummary
from typing import TYPE_CHECKING, TypeAlias

from ipy_bgtasks.stacks import Cells, innermost, is_library, no_cells, place, source_line
from ipy_bgtasks.text import one_line
from ipy_bgtasks.views.html import STYLE, html_note, html_text
from ipy_bgtasks.views.rows import frame_line
from ipy_bgtasks.views.text import aligned

if TYPE_CHECKING:
    from ipy_bgtasks.inspection import Site

#: Seconds in each stack, as `inspection.Sampling` has them.
Times: TypeAlias = "Mapping[tuple[Site, ...], float]"
#: The share, the place, the function and the source of a line.
Line: TypeAlias = tuple[str, ...]

_LINES = 20
_LONG = 80  # characters of a text
_UNSEEN = "nothing of its code could be seen"

_WIDTH, _HEIGHT = 800, 17  # of the graph and of a box, in pixels
_LEAST = 2  # pixels of a box that is drawn
_COLUMN = 6.7  # of the font
_DEEP = 60  # boxes above each other
_USERS, _LIBRARIES = "#e8935a", "#9aa7b0"


def profile(title: str, times: Times, cells: Cells = no_cells) -> dict[str, str]:
    """Return the table and the graph; *cells* tells which cell a file name stands for."""
    found = lines(times, cells)
    shares = aligned([line[:1] for line in found], right=True)
    rest = aligned([line[1:] for line in found])
    text = "\n".join([title, *(f"{a}  {b}".rstrip() for a, b in zip(shares, rest, strict=True))])
    rows = "\n".join(map(_html_row, found))
    table = f'{STYLE}<div class="ipybg"><table><tbody>\n{rows}\n</tbody></table></div>'
    return {"text/plain": text, "text/html": html_note(title) + table + flame_graph(times, cells)}


def lines(times: Times, cells: Cells = no_cells) -> list[Line]:
    """Return the lines of the user's code in which the time went, the most of it first.

    What a line calls in libraries counts as its own.
    """
    total = sum(times.values()) or 1.0
    spent: dict[tuple[str, str, str], float] = {}
    for stack, seconds in times.items():
        line = (_UNSEEN, "", "")
        if frame := innermost([FrameSummary(*site, lookup_line=False) for site in stack]):
            function = "" if frame.name.startswith("<") else frame.name
            line = (place(frame, cells), function, source_line(frame))
        spent[line] = spent.get(line, 0.0) + seconds
    ordered = sorted(spent.items(), key=itemgetter(1), reverse=True)
    found = [
        (_percent(part / total), *(one_line(text, _LONG) for text in line))
        for line, part in ordered[:_LINES]
    ]
    if rest := ordered[_LINES:]:
        share = _percent(sum(part for _, part in rest) / total)
        found.append((share, f"{len(rest):,} more", "", ""))
    return found


def flame_graph(times: Times, cells: Cells = no_cells) -> str:
    """Return a picture: callers above what they call, each as wide as its share of the time."""
    total = sum(times.values())
    height = _HEIGHT * min(max(map(len, times), default=0), _DEEP)
    if not total or not height:
        return ""
    boxes = "\n".join(_boxes(times.items(), 0, 0.0, _WIDTH / total, total, cells))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Flame graph" '
        f'style="max-width: 100%; margin-top: 6px" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-size="11" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace">\n{boxes}\n</svg>'
    )


def _boxes(
    stacks: Iterable[tuple[tuple[Site, ...], float]],
    depth: int,
    x: float,
    scale: float,
    total: float,
    cells: Cells,
) -> Iterator[str]:
    """Yield the boxes of stacks that are alike above *depth*, from *x* on."""
    alike: dict[Site, list[tuple[tuple[Site, ...], float]]] = {}
    for stack, seconds in stacks:
        if len(stack) > depth:
            alike.setdefault(stack[depth], []).append((stack, seconds))
    for site, inner in alike.items():
        share = sum(seconds for _, seconds in inner)
        if (width := share * scale) >= _LEAST:
            frame = FrameSummary(*site, lookup_line=False)
            colour = _LIBRARIES if is_library(frame.filename) else _USERS
            name = frame.name if not frame.name.startswith("<") else place(frame, cells)
            label = html_text(one_line(name, int((width - 4) / _COLUMN)))
            about = html_text(f"{_percent(share / total)} {frame_line(frame, cells)}")
            y = depth * _HEIGHT
            yield (
                f"<g><title>{about}</title>"
                f'<rect x="{x:.1f}" y="{y}" width="{width - 0.5:.1f}" height="{_HEIGHT - 1}" '
                f'rx="1" fill="{colour}"/>'
                f'<text x="{x + 3:.1f}" y="{y + 12}" fill="#111">{label}</text></g>'
            )
            if depth + 1 < _DEEP:
                yield from _boxes(inner, depth + 1, x, scale, total, cells)
        x += width


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _html_row(line: Line) -> str:
    share, where, function, source = map(html_text, line)
    return (
        f'<tr><td class="num">{share}</td><td>{where}</td><td>{function}</td>'
        f"<td><code>{source}</code></td></tr>"
    )
