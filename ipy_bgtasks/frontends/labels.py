"""Labels that say whose line it is where several jobs show their output at the same time.

Only what is shown is labelled; what is recorded is not.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

#: Where a new line begins, if anything follows.
_NEW_LINE = r"\r?\n|\r(?!\n)"


class _Line:
    """The partial line of a place: whose it is, and whether it will be overwritten.

    *bare* says that its label is still to be written, before the next text.
    """

    __slots__ = ("bar", "bare", "number")

    def __init__(self, number: int, *, bar: bool, bare: bool) -> None:
        self.number, self.bar, self.bare = number, bar, bare


class _Place:
    """Whose output is shown in one place now."""

    __slots__ = ("bare", "labelled", "present")

    def __init__(self) -> None:
        self.present: dict[int, Record] = {}
        #: Of those, the ones without a label: so that a launch looks at no others.
        self.bare: list[Record] = []
        self.labelled: set[int] = set()


class Labels:
    """The labels of all places. Any thread may call; a place is anything hashable."""

    def __init__(self) -> None:
        #: Whether there are any.
        self.on = True
        #: Held while the result of `put` is shown, where nothing else keeps that in order.
        self.order = threading.RLock()
        self._lock = threading.Lock()
        self._places: dict[Any, _Place] = {}
        self._lines: dict[tuple[Any, str], _Line] = {}

    def enter(self, job: Record, place: Any, *, among: bool = False) -> None:
        """Note that the job's output is shown in *place*; with *among* others are about to be."""
        with self._lock:
            here = self._places.get(place)
            if here is None:
                here = self._places[place] = _Place()
            elif job.number in here.present:
                return
            for other in reversed(here.present.values()):  # the newest most likely runs still
                if among := among or not other.done():
                    break
            here.present[job.number] = job
            if not among:
                here.bare.append(job)
                return
            here.labelled.add(job.number)
            if here.bare:
                here.labelled.update(other.number for other in here.bare if not other.done())
                here.bare.clear()

    def leave(self, job: Record, place: Any) -> None:
        """Note that the job's output is no longer shown in *place*."""
        with self._lock:
            here = self._places.get(place)
            if here is None or here.present.pop(job.number, None) is None:
                return
            here.labelled.discard(job.number)
            if job in here.bare:
                here.bare.remove(job)
            if not here.present:
                del self._places[place]
                for key in [key for key in self._lines if key[0] == place]:
                    del self._lines[key]

    def wanted(self, job: Record, place: Any) -> bool:
        """Return whether its lines are labelled there: until its end, once it was not alone."""
        here = self._places.get(place)
        return self.on and here is not None and job.number in here.labelled

    def put(self, job: Record, place: Any, stream: str, text: str) -> str:
        """Return *text*, which the job is about to show there, with its labels.

        After another job's partial line this begins a new one, unless both are bars, which share
        it. Call this in the order in which the texts are shown.
        """
        if not text or not self.wanted(job, place):
            return text
        label = f"[{job.number}] "
        line = self._lines.pop((place, stream), None)
        bare = line is None or line.bare
        before = ""
        if line is not None and line.number != job.number:
            bare = True
            before = "" if line.bar and text[0] == "\r" else "\n"
        ends = list(re.finditer(_NEW_LINE, text))
        bar = any(end[0] == "\r" for end in ends)
        if not text.endswith("\n"):
            # Of a bar that comes with each `\r` before or after it, the label comes before it.
            self._lines[place, stream] = _Line(job.number, bar=bar, bare=text[-1] == "\r")
        at = 0
        out = [before]
        for end in ends:
            if bare and end.start() > at:
                out.append(label)
            out.append(text[at : end.end()])
            at, bare = end.end(), True
        if at < len(text):
            out += [label, text[at:]] if bare else [text[at:]]
        return "".join(out)
