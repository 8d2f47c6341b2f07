"""What CODE is called: its label in lists, and the file name that stands for it in tracebacks."""

from __future__ import annotations

import linecache

__all__ = ["LABEL_WIDTH", "label_of", "name_source"]

LABEL_WIDTH = 60


def label_of(code: str) -> str:
    """The code on one line, shortened to 60 characters."""
    line = code.strip()
    if "\n" in line:
        line = " ".join(line.split())
    return line if len(line) <= LABEL_WIDTH else line[: LABEL_WIDTH - 1].rstrip() + "…"


def name_source(text: str) -> str:
    """Make the text known to tracebacks and return the file name that finds it.

    The same text gets the same name. May be called from any thread.
    """
    lines = [line + "\n" for line in text.split("\n")]
    label = label_of(text)
    name, count = f"<%bg {label}>", 1
    # No modification time, so that linecache never looks for such a file on the disk.
    entry = (len(text), None, lines, name)
    while linecache.cache.setdefault(name, entry)[2:3] != (lines,):
        count += 1
        name = f"<%bg {label} #{count}>"
        entry = (len(text), None, lines, name)
    return name
