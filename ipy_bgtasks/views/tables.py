"""Several jobs: the tables of `%jobs`, and what is said of many as one."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ipy_bgtasks.job.outcome import JobState
from ipy_bgtasks.job.progress import progress_of
from ipy_bgtasks.stacks import Cells, no_cells
from ipy_bgtasks.text import bar, elapsed_text, message_of, one_line
from ipy_bgtasks.views.describe import Fact, Row, clock, left_text, rows, traceback_text
from ipy_bgtasks.views.display import (
    CODE,
    card_html,
    card_text,
    html_details,
    html_note,
    html_table,
    html_text,
    text_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.registry.queueing import Group


_NAME = 80  # characters
_MESSAGE = 200
_FAILED = 5  # kinds of failures, and of one kind, that are named
_MOST = 100  # rows of a live table
_NAMED = 8  # jobs that are left out, by number


@dataclass(slots=True)
class Tally:
    """A summary of several jobs; *elapsed* is for how many seconds they have gone on."""

    counts: Counter[str] = field(default_factory=Counter)
    #: How many of them are done, those that run by their fraction; of those that do something.
    done: float = 0.0
    elapsed: float = 0.0
    #: How many have failed with which error, by the name of its class.
    kinds: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        alive: Iterable[Record],
        over: Mapping[str, int],
        elapsed: float = 0.0,
        kinds: Mapping[str, int] | None = None,
    ) -> Tally:
        """Count some jobs, and those of which only the states and errors are known."""
        counts = Counter({str(state): count for state, count in over.items()})
        errors = Counter(kinds or {})
        done = float(counts["finished"] + counts["failed"])
        for job in alive:
            state = str(job.state)
            counts[state] += 1
            if state in ("running", "paused", "cancelling"):
                progress = progress_of(job)
                done += (progress.fraction or 0.0) if progress is not None else 0.0
            elif state in ("finished", "failed"):
                done += 1
            if state == "failed":
                errors[kind_of(job)] += 1
        return cls(counts, done, elapsed, errors)

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
        return left_text(self.done / max(work, 1), self.elapsed)

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


class Failure(NamedTuple):
    """One job that failed, as text: it outlives the job."""

    number: int
    name: str
    #: The name of the exception's class, and its message.
    kind: str
    message: str
    #: Empty for those of which nobody will want to read it.
    trace: str = ""

    @property
    def title(self) -> str:
        """What failed, and how: ``[4] fit(3): ValueError: bad 3``."""
        message = f": {self.message}" if self.message else ""
        return f"[{self.number}] {self.name}: {self.kind}{message}"


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
        return f"{line}  {elapsed_text(group.elapsed)}"
    if group.paused:
        return f"{line}  paused: %bg @{group.name} lets it go on"
    return f"{line}  {bar(tally.fraction).strip()}  {tally.left}".rstrip()


def group_html(group: Group) -> str:
    """Return that line as HTML."""
    tally, jobs = group_tally(group), group.jobs()
    failed = [failure_of(job, traced=False) for job in jobs if job.state is JobState.FAILED]
    return card_html("", f"{one_line(group.name, _NAME)}: {tally.title}", _facts(tally, failed))


def many_card(
    tally: Tally, failed: Sequence[Failure], name: str, key: str, discarded: int = 0
) -> dict[str, str]:
    """Return one card for all jobs of a cell, with the tracebacks of the first that failed.

    *discarded* is how many of them were forgotten.
    """
    facts = _facts(tally, failed)
    if discarded:
        facts.append(Fact("quiet", f"{discarded:,} forgotten"))
    below = "".join(
        html_details(f"{CODE}{html_text(each.title)}</code>", each.trace)
        for each in failed
        if each.trace
    )
    shown = sum(bool(each.trace) for each in failed)
    if below and tally.counts["failed"] > shown:
        below += html_note(f"{tally.counts['failed'] - shown:,} more: %jobs N shows its traceback")
    return {
        "text/plain": card_text(tally.title, facts),
        "text/html": card_html(name, tally.title, facts, key, below=below),
    }


def failure_of(job: Record, *, traced: bool, cells: Cells = no_cells) -> Failure:
    """Return a job that has failed as text; with its traceback only if *traced*."""
    outcome = job.outcome
    assert outcome is not None
    assert outcome.error is not None
    message = one_line(message_of(outcome.error), _MESSAGE)
    trace = traceback_text(outcome, cells) if traced else ""
    return Failure(job.number, one_line(job.name, _NAME), kind_of(job), message, trace)


def kind_of(job: Record) -> str:
    """Return the name of the class of a job's error."""
    return one_line(type(job.outcome and job.outcome.error).__name__, _NAME)


def _facts(tally: Tally, failed: Sequence[Failure]) -> list[Fact]:
    facts = [Fact("count", words) for words in tally.words()]
    if not tally.is_over:
        facts.append(Fact("bar", tally.left, fraction=tally.fraction))
    for kind, count in tally.kinds.most_common(_FAILED):
        names = [f"[{each.number}] {each.name}" for each in failed if each.kind == kind][:_FAILED]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        facts.append(Fact("quiet", f"{count:,} × {kind}: {', '.join(names)}{more}"))
    return facts


# The tables of `%jobs`


def table(
    registry: Registry,
    jobs: Sequence[Record],
    *,
    groups: Sequence[Group] = (),
    verbose: bool = False,
    cells: Cells = no_cells,
    notes: Sequence[str] = (),
    running: Sequence[Row] = (),
    waiting: Sequence[Row] = (),
) -> dict[str, str]:
    """Return the table of some jobs, with *verbose* also where each running one is.

    It begins with rows for cells that are *running*, and ends with those that are *waiting*. Above
    it stands one line for each of *groups*, below it *notes*. *cells* tells which cell a file name
    stands for.
    """
    found = [
        *running,
        *rows(
            jobs,
            current=registry.current,
            previous=registry.previous,
            where_now=verbose,
            cells=cells,
        ),
        *waiting,
    ]
    text = text_table(found, shutil.get_terminal_size().columns)
    bundle = {"text/plain": text, "text/html": html_table(found)}
    if groups:
        lines = "\n".join(map(group_line, groups))
        bundle["text/plain"] = f"{lines}\n{text}" if found else lines
        bundle["text/html"] = "".join(map(group_html, groups)) + bundle["text/html"]
    if notes:
        bundle["text/plain"] = "\n".join([bundle["text/plain"], *notes])
        bundle["text/html"] += "".join(map(html_note, notes))
    return bundle


def left_out(registry: Registry, jobs: Sequence[Record]) -> list[str]:
    """Return a line on those that run, and one on those that failed, and are not among *jobs*.

    Those that are queued in a group are counted in its own line.
    """
    shown = {job.number for job in jobs}
    rest = [job for job in registry if job.number not in shown]
    run = sum(not job.done() and (job.group is None or job.started is not None) for job in rest)
    failed = [str(job.number) for job in rest if job.state is JobState.FAILED]
    lines = [f"{run:,} more {'runs' if run == 1 else 'run'}: %jobs -a"] if run else []
    if failed:
        named = ", ".join(failed[-_NAMED:])
        dots = "…, " * (len(failed) > _NAMED)
        lines.append(f"{len(failed):,} more failed ({dots}{named}): %jobs -a")
    return lines


def live_table(
    registry: Registry, jobs: Sequence[Record], *, key: str = "", only: str = "", note: str = ""
) -> dict[str, str]:
    """Return the table for a display that is updated only on events, and so shows no clock.

    *key* and *only* are by what the script of a page finds it, and shows the panel in its place.
    """
    found = rows(jobs[-_MOST:], current=registry.current, previous=registry.previous)
    still = [
        replace(row, elapsed=f"since {clock(job.started)}")
        if job.started is not None and not job.done()
        else row
        for job, row in zip(jobs[-_MOST:], found, strict=True)
    ]
    notes = [f"the newest {_MOST} of {len(jobs):,} jobs"] if len(jobs) > len(found) else []
    notes += [note] if note else []
    below = "".join(map(html_note, notes))
    found_by = f' data-bgt="panel" data-bgt-only="{only}" data-bgt-key="{key}"' if key else ""
    return {
        "text/plain": text_table(still, shutil.get_terminal_size().columns),
        "text/html": f"<div{found_by}>{html_table(still)}{below}</div>",
    }
