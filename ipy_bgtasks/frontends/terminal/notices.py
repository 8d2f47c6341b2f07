"""What a terminal says when jobs end: at once while the prompt waits, else with the next one.

The jobs of a group have one notice together, when the last of them has ended.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

#: Tracebacks of a group's jobs that are shown, the first; its notice names the others.
_GROUP_FAILURES = 3
#: Seconds after which no further job of a group that has ended is expected from the same loop.
_SURELY = 0.1


class _News(NamedTuple):
    """The end of a job: its traceback, if that is to be shown, and whether a notice follows."""

    job: Record
    failure: str
    notice: bool


class Notices:
    """The ends of jobs, on their way to the screen. Any thread may call.

    *put* shows a text, *of_job* returns the notice of a job, *of_group* that of a group, which
    is empty as long as one of its jobs goes on.
    """

    def __init__(
        self,
        put: Callable[[str], None],
        later: Callable[..., object],
        of_job: Callable[[Record], str],
        of_group: Callable[[str], str],
    ) -> None:
        self._put = put
        self._later = later
        self._of_job = of_job
        self._of_group = of_group
        self._lock = threading.RLock()
        #: What waits for the next prompt; None while one waits.
        self._held: list[_News] | None = []
        #: How many failures of a group have come since it was last told of.
        self._failures: Counter[str] = Counter()
        #: Groups that may have ended, which is not certain before a moment later.
        self._ending: set[str] = set()

    def tell(self, job: Record, failure: Callable[[], str] | None, *, notice: bool) -> None:
        """Tell of the end of a job: with its traceback, if one is given, and with a notice."""
        if failure is not None and job.group is not None:
            self._failures[job.group] += 1
            if self._failures[job.group] > _GROUP_FAILURES:
                failure = None
        text = "" if failure is None else failure()
        if text or (notice and job.group is None):
            self._tell(_News(job, text, notice and job.group is None))
        if notice and job.group is not None:
            self._tell_of_group(job, job.group)

    def forget(self, job: Record) -> None:
        """Drop what waits of the job's end, and of its group's."""
        with self._lock:
            if self._held is not None:
                self._held = [
                    news
                    for news in self._held
                    if news.job is not job and not _is_of_group(news, job.group)
                ]

    def take_held(self, *, hold: bool) -> str:
        """Return what has waited; with *hold* all that comes waits from now on."""
        with self._lock:
            held, self._held = self._held, [] if hold else None
        return "".join(self._text(news) for news in held or ())

    def _tell_of_group(self, job: Record, name: str) -> None:
        with self._lock:
            if self._held is not None:
                if self._held and _is_of_group(self._held[-1], name):
                    return  # it will say how all are by then
                self._held = [news for news in self._held if not _is_of_group(news, name)]
                self._held.append(_News(job, "", True))
            elif name not in self._ending and self._of_group(name):
                self._ending.add(name)
                self._later(_SURELY, lambda: self._tell_certain(job, name))

    def _tell_certain(self, job: Record, name: str) -> None:
        self._ending.discard(name)
        self._tell(_News(job, "", True))

    def _tell(self, news: _News) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(news)
                return
        if text := self._text(news):
            self._put(text)

    def _text(self, news: _News) -> str:
        if not news.notice:
            return news.failure
        if news.job.group is None:
            return f"{news.failure}{self._of_job(news.job)}\n"
        if line := self._of_group(news.job.group):
            self._failures.pop(news.job.group, None)
            return f"{line}\n"
        return ""


def _is_of_group(news: _News, name: str | None) -> bool:
    return name is not None and news.notice and news.job.group == name
