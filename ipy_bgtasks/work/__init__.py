"""CODE -> work: turns what was typed into something that can run anywhere.

Knows syntax trees and a namespace, but no shell. `reading` parses and compiles, `names` finds the
names that CODE loads, and `plan` decides how its value is run.
"""

from __future__ import annotations

from ipy_bgtasks.work.reading import Scope, Work, read

__all__ = ["Scope", "Work", "read"]
