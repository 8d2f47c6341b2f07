"""What the panel sends, and what it takes: without a browser, a widget or a shell."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes import FakeClock, FakeRunner, work

from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.live.feed import Feed
from ipy_bgtasks.live.panel import Panel
from ipy_bgtasks.live.tail import Tail
from ipy_bgtasks.log.output import Log
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.registry.specs import JobId


class FakeScreen(Host):
    """Notes changes as a screen does."""

    watcher: Callable[[Record], object] | None = None

    def changed(self, job: Record) -> None:
        """Something about the job is new."""
        if self.watcher is not None:
            self.watcher(job)

    ended = changed


class House:
    """A registry, a panel, and the page that shows it."""

    def __init__(self, only: list[int] | None = None) -> None:
        self.clock = FakeClock()
        self.runner = FakeRunner()
        self.screen = FakeScreen()
        self.registry = Registry({"thread": self.runner}, self.clock)  # type: ignore[arg-type]
        self.registry.host.exchange(self.screen)
        self.sent: list[dict[str, Any]] = []
        self.done: list[tuple[object, ...]] = []
        feed = Feed(self.registry, self.screen, self.clock.later)  # type: ignore[arg-type]
        self.panel = Panel(self.registry, feed, self, self.sent.append, only)

    def cancel(self, job: Record, force: bool, say: Callable[[str], None]) -> None:
        """What the button does."""
        self.done.append(("cancel", job.number, force))
        say("asked")

    def cancel_all(self, jobs: Sequence[Record], say: Callable[[str], None]) -> None:
        """What the button of a group does."""
        self.done.append(("cancel all", [job.number for job in jobs]))

    def discard(self, job: Record, say: Callable[[str], None]) -> None:
        """What the button does."""
        self.done.append(("forget", job.number))

    def launch(self, name: str = "f()") -> Record:
        """One more job."""
        return self.registry.launch(work(label=name))

    def print(self, job: Record, text: str) -> None:
        """The job prints."""
        job.log.write("stdout", text)
        self.screen.changed(job)

    def receive(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The page sends something; returns what was sent because of it."""
        self.sent.clear()
        self.panel.receive({"kind": kind, "client": "page", **fields})
        return list(self.sent)

    def later(self, seconds: float = 1) -> list[dict[str, Any]]:
        """Time passes; returns what was sent."""
        self.sent.clear()
        self.clock.advance(seconds)
        return list(self.sent)


@pytest.fixture
def house() -> House:
    """One with a page open."""
    house = House()
    house.receive("open")
    return house


def test_a_page_that_opens_gets_everything_newest_first() -> None:
    """Also one that comes back after a reload."""
    house = House()
    jobs = [house.launch(f"f{i}()") for i in range(3)]
    house.runner.finish(jobs[0], 42)
    for _ in range(2):
        (message,) = house.receive("open")
        assert message["reset"]
        assert [row["n"] for row in message["rows"]] == [3, 2, 1]
        assert message["rows"][2]["state"] == "finished"
        assert message["rows"][2]["last"] == "42"
        assert message["rows"][2]["ended"] >= message["rows"][2]["started"]
        assert (message["current"], message["previous"]) == (3, 2)


def test_a_kept_job_is_called_as_users_know_it() -> None:
    """In the rows, the marks and the bars of the timeline; and so it is stopped."""
    house = House()
    house.registry.launch(work(), number=JobId.kept(2))
    house.launch()
    (message,) = json.loads(json.dumps(house.receive("open")))
    assert [row["n"] for row in message["rows"]] == [1, "k2"]
    assert message["previous"] == "k2"
    house.receive("cancel", job="k2", force=False)
    assert house.done == [("cancel", "k2", False)]


def test_many_rows_come_in_several_messages() -> None:
    """None is so long that it holds up others."""
    house = House()
    for _ in range(2500):
        house.launch()
    messages = house.receive("open")
    assert [len(m["rows"]) for m in messages] == [1000, 1000, 500]
    assert [m["reset"] for m in messages] == [True, False, False]


def test_nothing_is_sent_while_nothing_changes(house: House) -> None:
    """Not even a clock."""
    house.launch()
    assert house.later()
    assert house.later(1000) == []
    assert house.clock.pending == 0


def test_nothing_is_connected_while_nobody_looks(house: House) -> None:
    """The last page that closes leaves nothing behind."""
    job = house.launch()
    house.later()
    house.receive("close")
    house.print(job, "a line\n")
    house.runner.finish(job)
    assert house.later() == []
    assert house.screen.watcher is None
    assert house.clock.pending == 0


def test_changes_come_in_batches_twice_a_second_at_most(house: House) -> None:
    """However much happens."""
    jobs = [house.launch() for _ in range(100)]
    messages = house.later(0.1)
    for step in range(100):
        for job in jobs:
            job.progress = step / 100
        messages += house.later(0.05)
    assert 1 <= len(messages) <= 1 + 2 * 5.1


def test_last_lines_are_sent_for_rows_in_sight_only(house: House) -> None:
    """And for others when they come into sight; a state that changed is sent at any rate."""
    seen, unseen = house.launch(), house.launch()
    house.later()
    house.receive("look", jobs=[seen.number])
    house.print(seen, "one\n")
    house.print(unseen, "two\n")
    (message,) = house.later()
    assert [(row["n"], row["last"]) for row in message["rows"]] == [(1, "one")]

    (message,) = house.receive("look", jobs=[unseen.number])
    assert [(row["n"], row["last"]) for row in message["rows"]] == [(2, "two")]
    assert house.receive("look", jobs=[seen.number, unseen.number]) == []

    house.receive("look", jobs=[])
    house.runner.finish(seen)
    (message,) = house.later()
    assert [row["state"] for row in message["rows"]] == ["finished"]


def test_a_row_that_looks_the_same_is_not_sent_again(house: House) -> None:
    """A job that prints the same line again changes nothing."""
    job = house.launch()
    house.later()
    house.receive("look", jobs=[job.number])
    house.print(job, "same\n")
    assert house.later()
    house.print(job, "same\n")
    assert house.later() == []


def test_what_is_forgotten_goes(house: House) -> None:
    """The page is told the number."""
    job = house.launch()
    house.runner.finish(job)
    house.later()
    house.registry.discard(job)
    (message,) = house.later()
    assert message["gone"] == [job.number]
    assert message["rows"] == []


def test_a_page_that_is_silent_for_long_gets_no_more(house: House) -> None:
    """Until it is heard of again: then it gets everything anew."""
    job = house.launch()
    house.receive("look", jobs=[job.number])
    sent = 0
    for i in range(1000):
        house.print(job, f"{i}\n")
        sent += len(house.later())
    assert 500 < sent < 700
    (message,) = house.receive("ack")
    assert message["reset"]
    house.print(job, "news\n")
    assert house.receive("ack") == []


def test_a_log_streams_while_it_is_open(house: House) -> None:
    """First what there is, then what is new."""
    job = house.launch()
    house.later()
    house.print(job, "one\n")
    house.later()
    (message,) = house.receive("log", job=job.number, open=True)
    assert message["logs"] == [
        {"job": job.number, "replace": True, "segments": [("stdout", "one\n")]}
    ]
    house.print(job, "two\n")
    (message,) = house.later()
    assert message["logs"] == [
        {"job": job.number, "replace": False, "segments": [("stdout", "two\n")]}
    ]
    house.receive("log", job=job.number, open=False)
    house.print(job, "three\n")
    assert house.later() == []


def test_the_buttons_act(house: House) -> None:
    """Cancel, with or without force, and forget; what came of it is said."""
    house.launch()
    assert house.receive("cancel", job=1, force=False) == [{"kind": "said", "text": "asked"}]
    house.receive("cancel", job=1, force=True)
    house.receive("forget", job=1)
    assert house.done == [("cancel", 1, False), ("cancel", 1, True), ("forget", 1)]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "cancel",
        [],
        {},
        {"kind": "eval", "code": "1/0"},
        {"kind": "cancel"},
        {"kind": "cancel", "job": 7, "force": False},
        {"kind": "cancel", "job": "1", "force": False},
        {"kind": "cancel", "job": True, "force": False},
        {"kind": "cancel", "job": 1.0, "force": False},
        {"kind": "cancel", "job": [1], "force": False},
        {"kind": "cancel", "job": 1, "force": "yes"},
        {"kind": "forget", "job": None},
        {"kind": "forget", "job": {"__class__": 1}},
        {"kind": "open"},
        {"kind": "open", "client": ""},
        {"kind": "open", "client": "x" * 1000},
        {"kind": "open", "client": 3},
        {"kind": "look", "client": "page", "jobs": "123"},
        {"kind": "look", "client": "page", "jobs": [1, "2"]},
        {"kind": "look", "client": "page", "jobs": list(range(10_000))},
        {"kind": "look", "client": "stranger", "jobs": [1]},
        {"kind": "log", "client": "page", "job": 1, "open": 1},
        {"kind": "log", "client": "stranger", "job": 1, "open": True},
        {"kind": ["open"], "client": "page"},
    ],
)
def test_what_is_not_a_message_is_ignored_and_logged(
    house: House, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing happens, and nothing is sent."""
    house.launch()
    house.later()
    with caplog.at_level(logging.WARNING):
        house.sent.clear()
        house.panel.receive(content)
    assert house.sent == []
    assert house.done == []
    assert "panel: ignored" in caplog.text


def test_a_panel_of_some_jobs_knows_no_others() -> None:
    """Neither shows nor stops them."""
    house = House(only=[2])
    for _ in range(3):
        house.launch()
    (message,) = house.receive("open")
    assert [row["n"] for row in message["rows"]] == [2]
    house.receive("cancel", job=1, force=False)
    assert house.done == []


def test_a_closed_panel_says_so_and_is_silent(house: House) -> None:
    """As when the extension is unloaded."""
    job = house.launch()
    house.sent.clear()
    house.panel.close()
    assert [message["kind"] for message in house.sent] == ["over"]
    house.runner.finish(job)
    assert house.later() == []


def test_the_tail_of_a_log_is_told_by_its_changes() -> None:
    """Whoever applies them always has the end of the log, whatever is dropped or folded."""
    job = House().launch()
    job._log = Log(5_000)
    tail, shown = Tail(job), ""
    texts = [f"line {i}\n" * (i % 7) for i in range(300)] + ["a bar 1%", "\rb", "\x1b[31mred\n"]
    for text in texts:
        job.log.write("stderr" if text.startswith("a") else "stdout", text)
        if news := tail.news():
            new = "".join(part for _, part in news["segments"])
            shown = new if news["replace"] else shown + new
        assert job.log.text.endswith("red\n") or shown.endswith(
            "".join(e.text for e in job.log.tail(20_000))
        )
    assert shown.endswith("red\n")
    assert "\x1b" not in shown
    assert tail.news() is None


def test_a_group_is_told_of_with_the_time_it_will_take_and_cancelled_as_one(house: House) -> None:
    """The page folds its rows by its name."""
    limit = GroupName("crawl", 1)
    first, *others = (house.registry.launch(work(), group=limit) for _ in range(3))
    rows = house.receive("open")[0]["rows"]
    assert [row["group"] for row in rows] == ["crawl"] * 3
    house.runner.finish(first)
    (news,) = house.later()
    assert news["left"] == {"crawl": ""}  # too early to tell
    house.receive("cancel all", group="crawl")
    assert house.done == [("cancel all", [job.number for job in reversed(others)])]
    house.receive("cancel all", group="nobody")
    assert len(house.done) == 1
