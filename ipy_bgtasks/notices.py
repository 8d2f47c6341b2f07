"""What a notice says: that a job has ended, or a set of jobs, in words for any channel.

Plain facts in, plain text out, so that whoever watches a job can say it: a session, or the
process beside a kept job when no session is there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ipy_bgtasks.text import elapsed_text, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

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
