"""Notices that jobs have ended: what they say, and how they are sent to Apprise URLs.

Plain facts in, plain text out, so that whoever watches a job can compose one: a session, or the
process beside a kept job when no session is running.

An Apprise URL holds a password or a token more often than not, so nothing here shows more of it
than its scheme: no repr, no message, and no log record, whichever library writes it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.text import elapsed_text, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_NAME = 80  # characters of a name
_LAST = 200  # … of a value, or of an error's line
_NAMED = 5  # jobs of a set that are named


class Ended(NamedTuple):
    """One job that has ended, as far as a notice is concerned."""

    #: Its number as users write it: 3, or "k3".
    number: int | str
    name: str
    #: "finished", "failed" or "cancelled".
    state: str
    #: For how long it ran, in seconds; None if it never started.
    seconds: float | None
    #: Its value, or its error, in one line; empty if there is nothing to say.
    last: str = ""


class Notice(NamedTuple):
    """One message: *title* is one line and stands alone, *body* may be empty."""

    title: str
    body: str
    #: "finished", "failed" or "cancelled"; of several jobs the worst.
    state: str

    @property
    def line(self) -> str:
        """Both in one line."""
        return one_line(f"{self.title}  {self.body}".rstrip(), _NAME + _LAST)


def notice_of(job: Ended) -> Notice:
    """Return the notice of one job: state, name, time, and its value or its error's line."""
    took = "" if job.seconds is None else elapsed_text(job.seconds)
    body = "  ".join(part for part in (took, one_line(job.last, _LAST)) if part)
    return Notice(f"job {job.number} {job.state}: {one_line(job.name, _NAME)}", body, job.state)


def notice_of_all(jobs: Sequence[Ended], name: str, seconds: float) -> Notice:
    """Return one notice for jobs that belong together, *name* them, and took *seconds* in all.

    Those that failed are named, with the error of each.
    """
    counts = Counter(job.state for job in jobs)
    states = [state for state in ("failed", "cancelled", "finished") if counts[state]]
    told = ", ".join(f"{counts[state]:,} {state}" for state in reversed(states))
    failed = [job for job in jobs if job.state == "failed"]
    lines = [elapsed_text(seconds)]
    for job in failed[:_NAMED]:
        lines.append(f"[{job.number}] {one_line(job.name, _NAME)}: {one_line(job.last, _LAST)}")
    if len(failed) > _NAMED:
        lines.append(f"… and {len(failed) - _NAMED:,} more failed")
    return Notice(f"{one_line(name, _NAME)}: {told}", "\n".join(lines), states[0])


def joined(notices: Sequence[Notice]) -> Notice:
    """Return one message for *notices* that go out at the same time."""
    if len(notices) == 1:
        return notices[0]
    states = {notice.state for notice in notices}
    worst = next(s for s in ("failed", "cancelled", "finished") if s in states)
    body = "\n".join(notice.line for notice in notices)
    return Notice(f"{len(notices):,} notices of jobs that have ended", body, worst)


#: Seconds after which an address counts as one that does not answer.
LIMIT = 10.0
#: Seconds for looking at addresses, most of which is importing Apprise.
_PATIENCE = 30.0
_SCHEME = r"(?i)([a-z][a-z0-9+.-]{0,15})://"
#: What Apprise and the libraries below it call their loggers.
_TALKERS = frozenset(
    ["apprise", "requests", "urllib3", "oauthlib", "requests_oauthlib", "paho", "slixmpp"]
)

NOT_INSTALLED = "needs Apprise: pip install 'ipy_bgtasks[notify]'"


class Address:
    """One Apprise URL, shown as its scheme only: ``slack://…``. Immutable."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url.strip()

    def __repr__(self) -> str:
        scheme = re.match(_SCHEME, self._url)
        return "…" if scheme is None else f"{scheme[1]}://…"

    def reveal(self) -> str:
        """Return the whole URL, for a process that sends notices when this one is gone."""
        return self._url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def connect(self) -> Any:
        """Return an `apprise.Apprise` for it; raises `_Unsendable` if there is none."""
        try:
            import apprise
        except ImportError:
            raise _Unsendable(NOT_INSTALLED) from None
        _hush()  # the loggers that have just been made
        try:
            # Apprise's own limit would leave the work to a pool, which an exit waits for.
            asset = apprise.AppriseAsset(async_mode=False, service_timeout=0)
        except (AttributeError, TypeError):  # before there was one
            asset = apprise.AppriseAsset(async_mode=False)
        server = apprise.Apprise(asset=asset)
        if not server.add(self._url):
            raise _Unsendable("is not a URL that Apprise knows")
        return server


class _Unsendable(Exception):
    """Why nothing can be sent to an address; the text holds nothing of it."""


class _Sender(threading.Thread):
    """A thread whose log records are dropped, since they may contain URLs."""


def invalid_addresses(addresses: Sequence[Address]) -> str:
    """Return one line about the first address that Apprise does not know; empty if it knows all.

    Imports Apprise, which takes about a second the first time.
    """
    reasons = _each(addresses, Address.connect, _PATIENCE)
    for n, reason in enumerate(reasons):
        if reason == NOT_INSTALLED:
            return f"BgTasks.notify {reason}"
        if reason:
            return f"BgTasks.notify: entry {n + 1}, {addresses[n]!r}, {reason}"
    return ""


def deliver(notice: Notice, addresses: Sequence[Address], seconds: float = LIMIT) -> str:
    """Send *notice* to all *addresses* at once; return one line of those it did not reach.

    Blocks the calling thread until all have answered, *seconds* at most; the line is empty if
    all took it. Requests that are still pending then continue in daemon threads.
    """

    def send(address: Address) -> None:
        from apprise import NotifyFormat, NotifyType

        kinds = {"finished": NotifyType.SUCCESS, "failed": NotifyType.FAILURE}
        taken = address.connect().notify(
            title=notice.title,
            body=notice.body or notice.title,
            notify_type=kinds.get(notice.state, NotifyType.WARNING),
            body_format=NotifyFormat.TEXT,
        )
        if not taken:
            raise _Unsendable("could not be reached, or refused it")

    reasons = _each(addresses, send, seconds)
    failed = [f"{addresses[n]!r} {reason}" for n, reason in enumerate(reasons) if reason]
    return f"notice not delivered: {'; '.join(failed)}" if failed else ""


def _each(
    addresses: Sequence[Address], call: Callable[[Address], object], seconds: float
) -> list[str]:
    """Call *call* with each address, each in a thread; return for each what went wrong."""
    reasons = [f"gave no answer in {seconds:g} s"] * len(addresses)
    ended: SimpleQueue[tuple[int, str]] = SimpleQueue()

    def run(n: int) -> None:
        _hush()
        try:
            call(addresses[n])
        except _Unsendable as error:
            reason = str(error)
        except BaseException as error:  # its text may hold the address
            reason = f"failed with {type(error).__name__}"
        else:
            reason = ""
        ended.put((n, reason))

    for n in range(len(addresses)):
        thread = _Sender(target=run, args=(n,), name="bg-notify", daemon=True)
        try:
            Context().run(thread.start)  # it belongs to no job
        except RuntimeError:  # there are no threads here, or the interpreter ends
            ended.put((n, "needs a thread, and there is none"))
    deadline = time.monotonic() + seconds
    for _ in addresses:
        try:
            n, reason = ended.get(timeout=max(deadline - time.monotonic(), 0))
        except Empty:
            break
        reasons[n] = reason
    return reasons


def _hush() -> None:
    """Drop what the libraries log in threads that send: with all loggers there are by now."""
    loggers = dict(logging.Logger.manager.loggerDict)
    for name, logger in loggers.items():
        if name.partition(".")[0] in _TALKERS and isinstance(logger, logging.Logger):
            logger.addFilter(_not_of_a_sender)  # adding it again has no effect


def _not_of_a_sender(_record: logging.LogRecord) -> bool:
    return not isinstance(threading.current_thread(), _Sender)
