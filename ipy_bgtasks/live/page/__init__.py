"""What runs in the browser: plain scripts and a style sheet, made into the module of a widget.

An anywidget is one module, and a build step would be one too many: the files are joined, what they
share first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ipy_bgtasks.views.describe import GLYPHS
from ipy_bgtasks.views.display import THEMED

_HERE = Path(__file__).parent
_SCRIPTS = ("elements", "log", "card", "sweep", "timeline", "panel", "page")


def page_widget(key: str) -> Any:
    """Return what brings the cards and panels with that key to life in each page that has them."""
    import anywidget  # with ipywidgets, which takes a while: when it is first needed
    import traitlets

    class PageWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        _esm = _script()
        _css = _style()
        key: Any = traitlets.Unicode().tag(sync=True)

    return PageWidget(key=key)


def _script() -> str:
    """Return the module; only the last of its parts exports anything."""
    parts = [(_HERE / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return "\n".join([f"const GLYPHS = {json.dumps(GLYPHS, ensure_ascii=False)};", *parts])


def _style() -> str:
    """Return the style sheet; in it `--state` is the colour of the state that is a class."""
    colours = [f".bgt .{state} {{ --state: {css}; }}" for state, css in THEMED.items()]
    return "\n".join([*colours, (_HERE / "page.css").read_text("utf-8")])
