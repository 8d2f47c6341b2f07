"""What runs in the browser: plain scripts and styles, made into the modules of the widgets.

An anywidget is one module, and a build step would be one too many: the files that a widget needs
are joined, what they share first.
"""

from __future__ import annotations

from pathlib import Path

from ipy_bgtasks.views.html import THEMED

_HERE = Path(__file__).parent
_WIDGETS = ":is(.bgp, .bgc)"


def script(*names: str) -> str:
    """Return one module of these scripts; only the last of them exports anything."""
    return "\n".join((_HERE / f"{name}.js").read_text("utf-8") for name in names)


def style(name: str) -> str:
    """Return one style sheet; in it `--state` is the colour of the state that is a class."""
    colours = [f"{_WIDGETS} .{state} {{ --state: {css}; }}" for state, css in THEMED.items()]
    return "\n".join([*colours, (_HERE / f"{name}.css").read_text("utf-8")])
