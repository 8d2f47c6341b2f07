"""Jobs as rows, as text and as HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from traceback import FrameSummary
from typing import Any

import pytest
import wcwidth

from ipy_bgtasks.job.host import SILENT, Host
from ipy_bgtasks.job.progress import Progress
from ipy_bgtasks.log.output import Log
from ipy_bgtasks.views.describe import Row, frame_line, innermost, rows
from ipy_bgtasks.views.display import detail, html_table, text_table


@dataclass
class Ended:
    """A job's outcome."""

    value: Any = None
    error: BaseException | None = None


@dataclass
class FakeJob:
    """As much of a job as views read."""

    number: int = 1
    name: str = "f(x)"
    state: str = "running"
    where: str = "loop"
    pid: int | None = None
    started: float | None = 1.7e9
    elapsed: float = 1.23
    progress: Progress | None = None
    log: Log = field(default_factory=Log)
    outcome: Ended | None = None
    code: str = "f(x)"
    has_output: bool = True
    host: Host = SILENT
    bars: None = None
    attempts: None = None
    group: None = None
    value_text: str | None = None
    after: tuple[()] = ()
    runner: None = None
    frames: list[FrameSummary] = field(default_factory=list)

    def enter(self) -> None:
        """Run in its context: it has none."""

    def look_for_pause(self) -> None:
        """It is never paused."""

    def stack(self) -> list[FrameSummary]:
        """Where it is."""
        return self.frames


def printing(text: str, stream: str = "stdout", **attributes: Any) -> FakeJob:
    """A job that wrote `text`."""
    job = FakeJob(**attributes)
    job.log.write(stream, text)
    return job


def finished(value: Any = None, **attributes: Any) -> FakeJob:
    """A job that returned `value`."""
    return FakeJob(state="finished", outcome=Ended(value), **attributes)


def failed(error: BaseException, state: str = "failed", **attributes: Any) -> FakeJob:
    """A job that raised `error`."""
    return FakeJob(state=state, outcome=Ended(error=error), **attributes)


@pytest.mark.parametrize(
    ("job", "last"),
    [
        (FakeJob(), ""),
        (printing("one\n\x1b[31mtwo\x1b[0m\n\n"), "two"),
        (FakeJob(progress=Progress(45, 100)), " 45% ████▌"),
        (FakeJob(progress=Progress(3, 12)), " 25% ██▌        3/12"),
        (FakeJob(progress=Progress(3, 12, "epochs")), " 25% ██▌        epochs"),
        (FakeJob(progress=Progress(1234)), "1,234"),
        (
            printing("\r 10%|#  | 1/10 [00:01]", "stderr"),
            " 10% █          1/10 [00:01]",
        ),
        (finished([1, 2], progress=Progress(1, 2)), "[1, 2]"),
        (finished(None), ""),
        (failed(ValueError("bad\nthing")), "ValueError: bad thing"),
        (failed(Exception("job 1 was cancelled"), "cancelled"), ""),
        (failed(Exception("job 2 failed"), "cancelled"), "job 2 failed"),
    ],
)
def test_the_last_column_says_what_matters_now(job: FakeJob, last: str) -> None:
    """Progress, output, result or error."""
    assert rows([job])[0].last == last


def test_a_job_without_a_result_shows_its_last_output() -> None:
    """`None` says less than the last line."""
    job = printing("all done\n", state="finished", outcome=Ended())
    assert rows([job])[0].last == "all done"


def test_rows_mark_the_current_job_and_the_one_before() -> None:
    """By identity; a job that never started has no time."""
    jobs = [FakeJob(1), FakeJob(2), FakeJob(3, state="queued", started=None)]
    made = rows(jobs, current=jobs[1], previous=jobs[0])
    assert [(row.number, row.mark, row.elapsed) for row in made] == [
        (1, "-", "1.2s"),
        (2, "+", "1.2s"),
        (3, " ", ""),
    ]


def test_a_row_says_where_the_code_is_if_asked() -> None:
    """The innermost line that is the user's own."""
    library = FrameSummary(FrameSummary.__init__.__code__.co_filename, 5, "sleep", line="wait()")
    mine = FrameSummary("/home/me/train.py", 12, "fit", line="loss.backward()")
    job = FakeJob(frames=[mine, library])
    assert rows([job])[0].at == ""
    assert rows([job], where_now=True)[0].at == "train.py:12 in fit: loss.backward()"
    cell = FrameSummary("<ipython-input-1>", 3, "<module>", line="x = f()")
    assert frame_line(innermost([cell])) == "line 3: x = f()"
    assert innermost([library]) is library
    assert frame_line(innermost([])) == ""


def test_a_table_is_aligned() -> None:
    """Columns by what a terminal shows, wide characters included."""
    table = text_table(
        rows(
            [
                printing("hi\n", number=3, name="日本"),
                finished(7, number=12, name="train(model)", where="thread", elapsed=185),
                FakeJob(13, name="g", state="queued", started=None),
            ]
        ),
        80,
    )
    assert table.splitlines() == [
        "[3]    ● running   loop    日本           1.2s  hi",
        "[12]   ✓ finished  thread  train(model)  3m05s  → 7",
        "[13]   ○ queued    loop    g",
    ]


@pytest.mark.parametrize("width", [120, 80, 60, 50])
def test_a_table_fits_its_width(width: int) -> None:
    """Long names lose their middle, long last columns their end."""
    jobs = [
        printing("output " * 100, name="begin" + "x" * 200 + "end"),
        FakeJob(2, name="日本語" * 60, progress=Progress(1, 3, "much to say " * 30)),
    ]
    lines = text_table(rows(jobs), width).splitlines()
    assert len(lines) == 2
    assert all(wcwidth.width(line) <= width for line in lines)
    assert "begin" in lines[0] if width > 50 else "be" in lines[0]
    assert "end" in lines[0] if width > 50 else "…" in lines[0]


def test_a_narrow_table_still_names_the_jobs() -> None:
    """Whatever the width."""
    assert "f(x)" in text_table(rows([printing("hello\n")]), 10)


def test_no_jobs_is_said() -> None:
    """In both forms."""
    assert text_table([], 80) == "no jobs"
    assert "no jobs" in html_table([])


NASTY = "<script>alert(1)</script></table>\"'&\x1b[31m\x1b]0;title\x07\n\r\u202e\ud800\x00"


class Nasty:
    """A value that attacks whoever shows it."""

    def __repr__(self) -> str:
        return NASTY


def nasty_jobs() -> list[FakeJob]:
    """Jobs that put NASTY everywhere."""
    frame = FrameSummary(NASTY, 1, NASTY, line=NASTY)
    named: dict[str, Any] = {"name": NASTY, "code": NASTY + "2", "where": NASTY}
    return [
        printing(NASTY, frames=[frame], **named),
        FakeJob(2, progress=Progress(1, 2, NASTY), **named),
        finished(Nasty(), number=3, **named),
        failed(ValueError(NASTY), number=4, **named),
        failed(ValueError(NASTY), "cancelled", number=5, **named),
    ]


class Tags(HTMLParser):
    """The names of all tags, and whether they are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It ends what was opened last."""
        assert self.open.pop() == tag


@pytest.mark.parametrize("form", ["table", "detail"])
def test_nothing_of_a_job_gets_into_the_html(form: str) -> None:
    """Names, code, results, errors, output and places."""
    jobs = nasty_jobs()
    table = html_table(rows(jobs, where_now=True))
    for text in [table] if form == "table" else [detail(job)["text/html"] for job in jobs]:
        text.encode()
        tags = Tags(text)
        assert "script" not in tags.seen
        assert tags.open == []
        assert not set(text) & set("\x1b\x00\r\x07\u202e\ud800")
        assert "&lt;script&gt;" in text


def test_nothing_of_a_job_acts_on_a_terminal() -> None:
    """One line a job, nothing but visible text."""
    jobs = nasty_jobs()
    table = text_table(rows(jobs, where_now=True), 100)
    assert len(table.splitlines()) == len(jobs) + 1
    for text in [table, *(detail(job)["text/plain"] for job in jobs)]:
        text.encode()
        assert not set(text) & set("\x1b\x00\r\x07\u202e\ud800")


def test_rows_made_by_hand_are_as_safe() -> None:
    """Each view makes its texts safe itself."""
    row = Row(1, NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, 0.5, NASTY, NASTY)
    assert "<script>" not in html_table([row])
    assert "\x1b" not in text_table([row], 200)
    assert len(text_table([row], 200).splitlines()) == 2


def test_a_job_in_full() -> None:
    """Code, times, outcome, and the last lines of its output."""
    job = failed(ValueError("bad"), code="for i in x:\n    f(i)", name="for i in x: …")
    for n in range(30):
        job.log.write("stdout", f"line {n}\n")
    job.log.display({"text/plain": "<Figure>"})
    text = detail(job)["text/plain"]
    lines = text.splitlines()
    assert "name     for i in x: …" in lines
    assert "code     for i in x:" in lines
    assert "             f(i)" in lines
    assert "elapsed  1.2s" in lines
    assert "error    ValueError: bad" in lines
    assert "[… earlier output left out …]" in lines
    assert lines[-4:] == ["line 29", "<Figure>", "", "ValueError: bad"]  # raised nowhere
    assert "line 5" not in lines
    page = detail(job)["text/html"]
    assert "line 29\n&lt;Figure&gt;" in page
    assert "ValueError: bad" in page


def test_a_running_job_in_full() -> None:
    """Progress and place; code that is the name is not said twice."""
    frame = FrameSummary("train.py", 12, "fit", line="step()")
    job = FakeJob(progress=Progress(1, 4), frames=[frame])
    text = detail(job)["text/plain"]
    assert "progress   25% ██▌        1/4" in text
    assert "at        train.py:12 in fit: step()" in text
    assert "code" not in text
    queued = detail(FakeJob(state="queued", started=None))["text/plain"]
    assert "started" not in queued
    assert "result    None" not in queued
    assert "result   None" in detail(finished())["text/plain"]


def test_a_long_log_is_not_read_in_full() -> None:
    """Only its end is shown, and that something is missing is said."""
    job = printing("x" * 20_000)
    assert detail(job)["text/plain"].endswith("x" * 100)
    assert len(detail(job)["text/plain"]) < 9000
    assert "earlier output" in detail(job)["text/plain"]
