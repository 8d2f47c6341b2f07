"""CODE -> work: turns what was typed into something that can run anywhere.

Knows syntax trees and a namespace, but no shell. ``text`` parses, ``names`` finds which names
CODE loads, ``static`` tells what they stand for, ``plan`` decides how a value is run, ``compile``
makes the code, ``forms`` keeps what the text alone decides, and puts it together.
"""

from __future__ import annotations

from ipy_bgtasks.work.reading import Scope, Work, read, same_tree

__all__ = ["Scope", "Work", "read", "same_tree"]
