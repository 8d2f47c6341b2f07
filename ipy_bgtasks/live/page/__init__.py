"""What runs in the browser: plain scripts and styles, made into the modules of the widgets.

An anywidget is one module, and a build step would be one too many: the files that a widget needs
are joined, what they share first.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def script(*names: str) -> str:
    """Return one module of these scripts; only the last of them exports anything."""
    return "\n".join((_HERE / f"{name}.js").read_text("utf-8") for name in names)


def style(name: str) -> str:
    """Return one style sheet."""
    return (_HERE / f"{name}.css").read_text("utf-8")
