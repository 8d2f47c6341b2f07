"""Notices: telling users that what they wait for has ended, wherever they are.

A notice goes to the front end itself (the terminal, or the pages that show a notebook) and to the
addresses in `BgTasks.notify`. The thread that ended the job neither composes nor sends it.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipy_bgtasks.notify import Ended, Notice, joined, notice_of, notice_of_all
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.session.settings import function
from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.session.control import Session

_VALUE = 100  # characters of a value


@dataclass(slots=True)
class _Set:
    """Jobs of which one notice tells when all have ended; *name* is empty for a single one."""

    name: str
    jobs: list[Record] = field(default_factory=list)
    left: set[int] = field(default_factory=set)


class Requests:
    """The notices that are still to come; they outlive an unloading. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sets: dict[str | int, _Set] = {}
        self._key: dict[int, str | int] = {}

    def add(self, jobs: Iterable[Record], name: str) -> None:
        """Ask for a notice of each of *jobs*, or, with a name, for one when all have ended."""
        with self._lock:
            for job in jobs:
                key = name or job.number
                if job.done() or self._key.get(job.number) == key:
                    continue
                self._leave(job)
                request = self._sets.setdefault(key, _Set(name))
                request.jobs.append(job)
                request.left.add(job.number)
                self._key[job.number] = key

    def remove(self, job: Record) -> None:
        """Cancel the notice of that job."""
        with self._lock:
            self._leave(job)

    def __contains__(self, job: Record) -> bool:
        return job.number in self._key

    def ended(self, job: Record) -> _Set | None:
        """Return what its end completes; raises `KeyError` if it was not asked for."""
        with self._lock:
            key = self._key.pop(job.number)
            request = self._sets[key]
            request.left.discard(job.number)
            return None if request.left else self._sets.pop(key)

    def _leave(self, job: Record) -> None:
        if (key := self._key.pop(job.number, None)) is None:
            return
        request = self._sets[key]
        request.left.discard(job.number)
        request.jobs.remove(job)
        if not request.jobs:
            del self._sets[key]


class Notices:
    """The notices of one session, until it is closed. Any thread may call.

    They are composed on the service thread, and sent in threads of their own.
    """

    def __init__(self, session: Session) -> None:
        assert session.core.requests is not None
        self._session = session
        self._settings = session.settings
        self._front_end = session.front_end
        self._requests = session.core.requests
        self._live_views = session.loaded.live_views
        self._lock = threading.Lock()
        self._waiting: list[tuple[Record, Notice]] = []
        self._posting = False
        self._closed = False
        self._listens = False

    def listen(self) -> None:
        """Look at the ends of jobs from now on, and let the pages be ready."""
        with self._lock:
            if self._listens or self._closed:
                return
            self._listens = True
        self._front_end.on_end = self.ended
        if self._front_end.live:  # a page takes a moment to be ready
            self._session.core.service.later(0, lambda: self._live_views().open_page())

    def check(self) -> None:
        """Check the addresses of a config file, in a thread: importing Apprise takes a second."""
        from ipy_bgtasks.notify import invalid_addresses

        def look() -> None:
            if (line := invalid_addresses(self._settings.notify)) and not self._closed:
                self._front_end.print_line(f"ipy_bgtasks: {line}")

        with suppress(RuntimeError):  # no threads here: the first notice says so
            in_thread("bg-notify", look)

    def close(self) -> None:
        """Send no more notices; those that are being sent are left to themselves."""
        self._closed = True
        self._front_end.on_end = None

    # Asking

    def request(self, jobs: Iterable[Record], name: str = "") -> None:
        """Ask for a notice of each of *jobs*; of those that have ended there is none.

        With *name*, as in ``group crawl``, there is one notice when all have ended, those that
        are asked for under the same name until then included.
        """
        self._requests.add(jobs, name)
        self.listen()

    # Sending

    def ended(self, job: Record) -> None:
        """Send the notices that are due with the job's end; called on the thread that ended it."""
        if self._settings.on_end:
            self._call(job)
        if self._closed:
            return
        try:
            due = self._requests.ended(job)
        except KeyError:
            after = self._settings.notify_after
            due = _Set("", [job]) if 0 < after < job.elapsed else None
        if due is not None:
            self._session.core.service.later(0, self._send_each_way, due.name, due.jobs)

    def _call(self, job: Record) -> None:
        """Call the user's own function with the job; what it raises is one line."""
        path = self._settings.on_end
        try:
            function(path)(job.job)
        except BaseException as error:  # an exit would end the loop, or a thread of the pool
            self._front_end.print_at(job, f"BgTasks.on_end, {path}: {error_line(error)}")

    def _send_each_way(self, name: str, jobs: list[Record]) -> None:
        """Compose a notice and send it every way there is, even if one of them fails."""
        first = jobs[0]
        notice = _notice(name, jobs)
        ways: list[Callable[[], object]] = [lambda: self._front_end.alert(notice)]
        if self._front_end.live:
            ways.append(lambda: self._live_views().show_notice(notice, first))
        # Of a kept job its watcher sends it.
        if self._settings.notify and not first.notified_elsewhere:
            ways.append(lambda: self._post(first, notice))
        for way in ways:
            try:
                way()
            except Exception:
                logging.getLogger(__name__).exception("a notice of job %s", first.number)

    def _post(self, job: Record, notice: Notice) -> None:
        with self._lock:
            self._waiting.append((job, notice))
            if self._posting:
                return
            self._posting = True
        try:
            in_thread("bg-notify", self._post_all)
        except RuntimeError:  # where there are no threads
            self._posting = False
            self._front_end.print_at(
                job, f"job {job.number}: notice not delivered: it needs a thread"
            )

    def _post_all(self) -> None:
        """Send what waits, as one message, and then what has come meanwhile."""
        from ipy_bgtasks.notify import deliver

        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting or self._closed:
                    self._posting = False
                    return
            failed = deliver(joined([notice for _, notice in waiting]), self._settings.notify)
            if not failed or self._closed:
                continue
            for job, _ in waiting:
                with suppress(Exception):  # a front end that is gone
                    self._front_end.print_at(job, f"job {job.number}: {failed}")


def _notice(name: str, jobs: list[Record]) -> Notice:
    ends = [_ended(job, brief=bool(name)) for job in jobs]
    if not name:
        return notice_of(ends[0])
    began = [job.started for job in jobs if job.started is not None]
    ended = [job.ended for job in jobs if job.ended is not None]
    seconds = max(max(ended) - min(began), 0.0) if began and ended else 0.0
    return notice_of_all(ends, name, seconds)


def _ended(job: Record, *, brief: bool) -> Ended:
    """Return what a notice says of a job; with *brief* without its value."""
    from ipy_bgtasks.views.describe import summary

    outcome = job.outcome
    # Its last line of output was seen already, and what it assigns may be large.
    says = outcome is not None and (outcome.error is not None or outcome.value is not None)
    says = says and not (brief and job.state == "finished")
    last = summary(job, _VALUE) if says and not (job.stores and job.state == "finished") else ""
    seconds = None if job.started is None else job.elapsed
    return Ended(job.number, job.name, str(job.state), seconds, last)
