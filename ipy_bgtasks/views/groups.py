"""Several jobs seen as one: how many are in which state, how far all are, which failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.text import bar, one_line
from ipy_bgtasks.views.estimates import left_text, long_time, seconds_left
from ipy_bgtasks.views.html import html_dot, html_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.queueing import Group

_NAME = 80  # characters
_FAILED = 5  # of those that failed


@dataclass(slots=True)
class Tally:
    """A summary of several jobs; *elapsed* is for how many seconds they have gone on."""

    counts: Counter[str] = field(default_factory=Counter)
    #: How many of them are done, those that run by their fraction; of those that do something.
    done: float = 0.0
    elapsed: float = 0.0

    @classmethod
    def of(cls, alive: Iterable[Record], over: Mapping[str, int], elapsed: float = 0.0) -> Tally:
        """Count the jobs that go on, and those of which only the states are known."""
        counts = Counter({str(state): count for state, count in over.items()})
        done = float(counts["finished"] + counts["failed"])
        for job in alive:
            state = str(job.state)
            counts[state] += 1
            if state in ("running", "cancelling"):
                progress = progress_of(job)
                done += (progress.fraction or 0.0) if progress is not None else 0.0
            elif state in ("finished", "failed"):
                done += 1
        return cls(counts, done, elapsed)

    @property
    def total(self) -> int:
        """The number of jobs."""
        return sum(self.counts.values())

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return not any(self.counts[state] for state in JobState if not state.ended)

    @property
    def fraction(self) -> float:
        """The part that is done, from 0 to 1; a cancelled job counts as done."""
        return (self.done + self.counts["cancelled"]) / max(self.total, 1)

    @property
    def left(self) -> str:
        """The time they will still take, in words, judging by those that have ended."""
        if self.is_over or not (self.counts["finished"] + self.counts["failed"]):
            return ""
        work = self.total - self.counts["cancelled"]
        return left_text(seconds_left(self.done / max(work, 1), self.elapsed))

    def words(self) -> list[str]:
        """Return how many are in each state: ``8 running``, …."""
        return [f"{self.counts[s]:,} {s}" for s in map(str, JobState) if self.counts[s]]

    @property
    def title(self) -> str:
        """The number of jobs, in words."""
        return "1 job" if self.total == 1 else f"{self.total:,} jobs"


def group_tally(group: Group) -> Tally:
    """Count the jobs of a group."""
    return Tally.of(group.jobs(), {}, group.elapsed)


def group_line(group: Group) -> str:
    """Return ``crawl: 1,000 jobs, 997 finished, 3 failed (12, 45, 301)`` and the time.

    While jobs of the group go on, a bar and the time left stand in its place.
    """
    tally, jobs = group_tally(group), group.jobs()
    failed = [str(job.number) for job in jobs if job.state is JobState.FAILED]
    words = tally.words()
    if failed:
        more = f" and {len(failed) - _FAILED:,} more" if len(failed) > _FAILED else ""
        at = next(i for i, word in enumerate(words) if word.endswith(" failed"))
        words[at] += f" ({', '.join(failed[:_FAILED])}{more})"
    line = ", ".join([f"{one_line(group.name, _NAME)}: {tally.title}", *words])
    if tally.is_over:
        return f"{line}  {long_time(group.elapsed)}"
    return f"{line}  {bar(tally.fraction).strip()}  {tally.left}".rstrip()


def group_html(group: Group) -> str:
    """Return that line as HTML."""
    jobs = group.jobs()
    failed = [f"[{job.number}] {job.name}" for job in jobs if job.state is JobState.FAILED]
    return _html(group_data(jobs, {}, failed, group.elapsed), f"{one_line(group.name, _NAME)}: ")


def group_card(
    alive: Sequence[Record],
    over: Mapping[str, int],
    failed: Sequence[str],
    elapsed: float = 0.0,
    place: str | None = None,
) -> dict[str, str]:
    """Return one card for the jobs of a cell: those that go on, and how the others ended.

    *over* says how many ended in which state, *failed* names those that failed; they were
    launched *elapsed* seconds ago. *place* is what a notice finds the card by.
    """
    card = group_data(alive, over, failed, elapsed)
    states = [f"{count:,} {state}" for state, count in card["counts"]]
    ahead = [] if card["ended"] else [f"{int(card['fraction'] * 100 + 1e-9)}%"]
    return {
        "text/plain": "  ".join([card["title"], *states, *ahead, *card["facts"]]),
        "text/html": _html(card, place=place),
    }


def group_data(
    alive: Sequence[Record], over: Mapping[str, int], failed: Sequence[str], elapsed: float = 0.0
) -> dict[str, Any]:
    """Return the facts of such a card, for one that draws itself."""
    tally = Tally.of(alive, over, elapsed)
    return {
        "title": tally.title,
        "counts": [[s, tally.counts[s]] for s in map(str, JobState) if tally.counts[s]],
        "ended": tally.is_over,
        "fraction": None if tally.is_over else tally.fraction,
        "facts": [fact for fact in (tally.left, _named(tally, failed)) if fact],
    }


def _named(tally: Tally, failed: Sequence[str]) -> str:
    names = ", ".join(one_line(name, _NAME) for name in failed[:_FAILED])
    more = tally.counts["failed"] - min(len(failed), _FAILED)
    if not names:
        return ""
    return f"failed: {names}" + (f" and {more:,} more" if more > 0 else "")


def _html(card: dict[str, Any], name: str = "", place: str | None = None) -> str:
    states = [f"<span>{html_dot(s)} {count:,} {s}</span>" for s, count in card["counts"]]
    return html_line(name + card["title"], states, card["fraction"], card["facts"], place=place)
