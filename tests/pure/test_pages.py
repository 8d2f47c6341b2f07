"""What pages are told, and what is taken from them: without a browser, a widget or a shell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes import FakeClock, FakeRunner, launch_job, work

from ipy_bgtasks.frontends.kernel.cards import Cards
from ipy_bgtasks.job.host import Host
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.live.pages import Pages, Tail
from ipy_bgtasks.live.watching import Feed
from ipy_bgtasks.log.output import Log
from ipy_bgtasks.platforms import Usage
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.registry.specs import JobId
from ipy_bgtasks.stacks import no_cells


class FakeScreen(Host):
    """Notes changes as a screen does."""

    watcher: Callable[[Record], object] | None = None
    cells = None

    def changed(self, job: Record) -> None:
        """Something about the job is new."""
        if self.watcher is not None:
            self.watcher(job)

    ended = changed


class House:
    """A registry, its cards, and a page that shows them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.runner = FakeRunner()
        self.screen = FakeScreen()
        self.registry = Registry({"thread": self.runner}, self.clock)  # type: ignore[arg-type]
        self.registry.host.exchange(self.screen)
        self.sent: list[dict[str, Any]] = []
        self.done: list[tuple[object, ...]] = []
        self.turn = 0
        self.feed = Feed(self.registry, self.screen, self.clock.later)  # type: ignore[arg-type]
        self.sources = no_cells
        self.cards = Cards(lambda *_, **__: None, lambda _seconds, _fn: None)
        self.pages = Pages(self, self.sent.append)  # type: ignore[arg-type]

    def front(self) -> None:
        """No cell runs."""

    def cancel(
        self, jobs: Sequence[Record], say: Callable[[str], None], *, force: bool = False
    ) -> None:
        """What the button does."""
        self.done.append(("cancel", [job.number for job in jobs], force))
        say("asked")

    def is_asked(self, job: Record) -> bool:
        """Whether its bell rings."""
        return ("notify", job.number, True) in self.done

    def notify(self, job: Record, wanted: bool) -> None:
        """What the bell does."""
        self.done.append(("notify", job.number, wanted))

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
        self.pages.receive({"kind": kind, "client": "page", **fields})
        return list(self.sent)

    def see(
        self, panel: bool = False, watched: bool = False, **fields: list[str]
    ) -> list[dict[str, Any]]:
        """The page says what it shows; returns what was sent because of it."""
        self.turn += 1
        shown: dict[str, list[str]] = {"jobs": [], "look": [], "many": [], "lists": [], **fields}
        return self.receive("see", turn=self.turn, panel=panel, watched=watched, **shown)

    def later(self, seconds: float = 1) -> list[dict[str, Any]]:
        """Time passes; returns what was sent."""
        self.sent.clear()
        self.clock.advance(seconds)
        return list(self.sent)


@pytest.fixture
def house() -> House:
    """One with a page that shows a panel."""
    house = House()
    house.see(panel=True)
    return house


def test_a_page_that_opens_gets_everything_newest_first() -> None:
    """Also one that comes back after a reload."""
    house = House()
    jobs = [house.launch(f"f{i}()") for i in range(3)]
    house.runner.finish(jobs[0], 42)
    for _ in range(2):
        house.receive("bye")
        (message,) = house.see(panel=True)
        assert message["reset"]
        assert [row["n"] for row in message["rows"]] == ["3", "2", "1"]
        assert message["rows"][2]["state"] == "finished"
        assert message["rows"][2]["last"] == "42"
        assert message["rows"][2]["ended"] >= message["rows"][2]["started"]
        assert (message["current"], message["previous"]) == ("3", "2")


def test_many_rows_come_in_several_messages() -> None:
    """None is so long that it holds up others."""
    house = House()
    for _ in range(2500):
        house.launch()
    messages = house.see(panel=True)
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
    house.receive("bye")
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
    house.see(panel=True, look=["1"])
    house.print(seen, "one\n")
    house.print(unseen, "two\n")
    (message,) = house.later()
    assert [(row["n"], row["last"]) for row in message["rows"]] == [("1", "one")]

    (message,) = house.see(panel=True, look=["2"])
    assert [(row["n"], row["last"]) for row in message["rows"]] == [("2", "two")]
    assert house.see(panel=True, look=["1", "2"]) == []

    house.see(panel=True)
    house.runner.finish(seen)
    (message,) = house.later()
    assert [row["state"] for row in message["rows"]] == ["finished"]


def test_a_row_that_looks_the_same_is_not_sent_again(house: House) -> None:
    """A job that prints the same line again changes nothing."""
    job = house.launch()
    house.later()
    house.see(panel=True, look=["1"])
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
    assert message["gone"] == ["1"]
    assert message["rows"] == []


def test_a_page_that_is_silent_for_long_gets_no_more(house: House) -> None:
    """Until it is heard of again: then it gets everything anew."""
    job = house.launch()
    house.see(panel=True, look=["1"])
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
    (message,) = house.receive("log", job="1", open=True)
    assert message["logs"] == [{"job": "1", "replace": True, "segments": [("stdout", "one\n")]}]
    house.print(job, "two\n")
    (message,) = house.later()
    assert message["logs"] == [{"job": "1", "replace": False, "segments": [("stdout", "two\n")]}]
    house.receive("log", job="1", open=False)
    house.print(job, "three\n")
    assert house.later() == []


def test_the_buttons_act(house: House) -> None:
    """Cancel, with or without force, forget and the bell; what came of it is said there."""
    house.launch()
    said = {"kind": "said", "text": "asked", "to": "panel"}
    assert house.receive("cancel", job="1", force=False, to="panel") == [said]
    house.receive("cancel", job="1", force=True, to="1")
    house.receive("forget", job="1", to="1")
    (message,) = house.receive("notify", job="1", on=True)
    assert message["rows"][0]["notify"]
    assert house.done == [
        ("cancel", [1], False),
        ("cancel", [1], True),
        ("forget", 1),
        ("notify", 1, True),
    ]


NOTHING: dict[str, Any] = {
    "watched": False,
    "turn": 1,
    "jobs": [],
    "look": [],
    "many": [],
    "lists": [],
}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "cancel",
        [],
        {},
        {"kind": "eval", "code": "1/0"},
        {"kind": "cancel"},
        {"kind": "cancel", "job": "7", "force": False, "to": "1"},
        {"kind": "cancel", "job": 1, "force": False, "to": "1"},
        {"kind": "cancel", "job": "1", "force": False},
        {"kind": "cancel", "job": "-1", "force": False, "to": "1"},
        {"kind": "cancel", "job": "1" * 10_000, "force": False, "to": "1"},
        {"kind": "cancel", "job": "1", "force": "yes", "to": "1"},
        {"kind": "cancel all", "many": "m1", "to": "m1"},
        {"kind": "cancel all", "group": "nobody", "to": "panel"},
        {"kind": "forget", "job": None, "to": "1"},
        {"kind": "forget", "job": {"__class__": 1}, "to": "1"},
        {"kind": "see"},
        {"kind": "see", "client": "page", "panel": True},
        {"kind": "see", "client": "", "panel": True, **NOTHING},
        {"kind": "see", "client": "x" * 1000, "panel": True, **NOTHING},
        {"kind": "see", "client": 3, "panel": True, **NOTHING},
        {"kind": "see", "client": "page", "panel": 1, **NOTHING},
        {"kind": "see", "client": "page", "panel": True, **NOTHING, "turn": "last"},
        {"kind": "see", "client": "page", "panel": True, **NOTHING, "look": "123"},
        {"kind": "see", "client": "page", "panel": True, **NOTHING, "look": ["1", 2]},
        {"kind": "see", "client": "page", "panel": True, **NOTHING, "many": [None]},
        {"kind": "see", "client": "page", "panel": True, **NOTHING, "jobs": ["1"] * 10_000},
        {"kind": "missed", "jobs": ["1"], "since": "now"},
        {"kind": "log", "client": "page", "job": "1", "open": 1},
        {"kind": "log", "client": "stranger", "job": "1", "open": True},
        {"kind": ["see"], "client": "page"},
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
        house.pages.receive(content)
    assert house.sent == []
    assert house.done == []
    assert "page: ignored" in caplog.text


def test_a_closed_page_is_told_so_and_no_more(house: House) -> None:
    """As when the extension is unloaded."""
    job = house.launch()
    house.sent.clear()
    house.pages.close()
    last, over = house.sent
    assert [row["state"] for row in last["rows"]] == ["running"]
    assert over["kind"] == "over"
    house.sent.clear()
    house.runner.finish(job)
    assert house.later() == []


def test_a_page_with_cards_is_told_of_their_jobs_only() -> None:
    """Whatever others do; what a job prints only while its card is in sight."""
    house = House()
    seen, other = house.launch(), house.launch()
    (message,) = house.see(jobs=["1"])
    assert [row["n"] for row in message["rows"]] == ["1"]
    house.print(seen, "a line\n")
    house.runner.finish(other)
    assert house.later() == []
    house.see(jobs=["1"], look=["1"])
    house.print(seen, "another\n")
    (message,) = house.later()
    assert [(row["n"], row["last"]) for row in message["rows"]] == [("1", "another")]


def test_a_second_page_is_told_what_the_first_knows() -> None:
    """And so is one that comes back with a card that it had not shown for a while."""
    house = House()
    house.launch()
    house.see(jobs=["1"])
    sight = {
        "kind": "see",
        "client": "another",
        "panel": False,
        "watched": False,
        **NOTHING,
        "jobs": ["1"],
    }
    for _ in range(2):
        house.sent.clear()
        house.pages.receive(sight)
        assert [row["n"] for message in house.sent for row in message["rows"]] == ["1"]
        house.pages.receive({**sight, "jobs": []})


def test_what_a_page_said_before_and_is_heard_late_does_not_count() -> None:
    """A busy main shell hears the first message after a subshell has heard the second."""
    house = House()
    job = house.launch()
    assert house.receive(
        "see", turn=2, panel=False, watched=False, jobs=["1"], look=[], many=[], lists=[]
    )
    assert not house.receive(
        "see", turn=1, panel=False, watched=False, jobs=[], look=[], many=[], lists=[]
    )
    house.runner.finish(job)
    assert [row["state"] for message in house.later() for row in message["rows"]] == ["finished"]


def test_the_card_of_several_is_told_in_counts_and_its_list_in_rows(house: House) -> None:
    """Those that failed first; nothing more once all have ended."""
    where = {"msg_id": "cell"}
    jobs = [
        house.registry.launch(work(), origin=where, prepare=house.cards.launching) for _ in range(3)
    ]
    (message,) = house.see(many=["m1"])
    assert message["many"]["m1"]["counts"] == {"running": 3}
    assert message["rows"] == []
    house.runner.fail(jobs[1], ValueError("no"))
    house.cards.ended(jobs[1])
    (message,) = house.see(many=["m1"], lists=["m1"])
    facts = message["many"]["m1"]
    assert facts["list"] == ["2", "1", "3"]
    assert [(f["number"], f["kind"], f["message"]) for f in facts["failed"]] == [
        ("2", "ValueError", "no")
    ]
    assert [row["n"] for row in message["rows"]] == ["1", "2", "3"]
    house.receive("cancel all", many="m1", to="m1")
    assert house.done == [("cancel", [1, 3], False)]


def test_a_page_learns_what_came_while_it_was_away(house: House) -> None:
    """Of each job how many lines; of those that printed nothing since, nothing."""
    talks, was = house.launch(), house.launch()
    was.log.write("stdout", "early\n", at=100.0)
    talks.log.write("stdout", "early\n", at=100.0)
    talks.log.write("stdout", "one\n", at=200.0)
    talks.log.write("stdout", "two\n", at=201.0)
    (message,) = house.receive("missed", jobs=["1", "2", "9"], since=150)
    assert message == {"kind": "missed", "jobs": {"1": 2}}


def test_a_log_ends_with_the_traceback(house: House) -> None:
    """It is all that is known."""
    job = house.launch()
    house.print(job, "a line")
    house.receive("log", job="1", open=True)
    house.runner.fail(job, ValueError("no"))
    (message,) = house.later()
    assert message["logs"][0]["segments"] == [("traceback", "\nValueError: no\n")]


def test_a_kept_job_is_called_as_everywhere() -> None:
    """`k1`, never the number by which it is kept."""
    house = House()
    house.registry.launch(work(), number=JobId.kept(1))
    (message,) = house.see(panel=True)
    assert [row["n"] for row in message["rows"]] == ["k1"]
    house.receive("cancel", job="k1", force=False, to="panel")
    assert house.done == [("cancel", ["k1"], False)]


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
    first, *others = (launch_job(house.registry, work(), group=limit) for _ in range(3))
    (news,) = house.later()
    assert [row["group"] for row in news["rows"]] == ["crawl"] * 3
    house.runner.finish(first)
    (news,) = house.later()
    assert news["left"] == {"crawl": ""}  # too early to tell
    house.receive("cancel all", group="crawl", to="panel")
    assert house.done == [("cancel", [job.number for job in others], False)]


def test_the_place_in_a_group_of_a_job_in_sight_is_told_anew(house: House) -> None:
    """As those before it start; of what nobody sees nothing is told."""
    jobs = [launch_job(house.registry, work(), group=GroupName("crawl", 1)) for _ in range(4)]
    first, *others = jobs
    house.later()
    house.see(panel=True, look=["3"])
    house.runner.finish(first)
    (news,) = house.later()
    told = {row["n"]: row["last"] for row in news["rows"] if row["state"] == "queued"}
    assert told == {"3": "1st of @crawl"}
    assert others[0].state == "running"


def test_what_processes_use_is_looked_at_only_while_somebody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a panel, and at the rows of such jobs; else not even once."""
    looks: list[set[int]] = []

    def usage_of(pids: set[int]) -> dict[int, Usage]:
        looks.append(pids)
        return {pid: Usage(float(len(looks)), 512_000_000, 1) for pid in pids}

    monkeypatch.setattr("ipy_bgtasks.live.pages.usage_of", usage_of)
    house = House()
    thread, process = house.launch("t()"), house.launch("p()")
    process.pid = 77
    house.see(panel=True, look=["1", "2"])
    house.later(10)
    house.see(panel=True, watched=True, look=["1"])
    house.later(10)
    assert looks == []
    house.see(panel=True, watched=True, look=["1", "2"])
    (message,) = house.later(0)
    assert [(row["n"], row["uses"]) for row in message["rows"]] == [("2", "512 MB")]
    (message,) = house.later(2)
    assert message["rows"][0]["uses"].endswith("% CPU, 512 MB")
    house.see(panel=True, watched=False, look=["1", "2"])
    house.later(10)
    assert looks == [{77}, {77}, set()]
    house.see(panel=True, watched=True, look=["1", "2"])
    house.later(0)
    house.runner.finish(process)
    house.runner.finish(thread)
    assert [row["uses"] for message in house.later(10) for row in message["rows"]][-2:] == ["", ""]
    house.later(10)
    assert house.clock.pending == 0
    assert looks[3:] == [{77}, set()]
