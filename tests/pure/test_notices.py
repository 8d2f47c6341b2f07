"""What a notice says, how a terminal is asked to show one, and how it is sent elsewhere."""

from __future__ import annotations

import copy
import logging
import pprint
import sys
import time

import pytest
from receivers import receiver, silence

from ipy_bgtasks.frontends.terminal.above import sequences
from ipy_bgtasks.notify import (
    Address,
    Ended,
    Notice,
    deliver,
    invalid_addresses,
    joined,
    notice_of,
    notice_of_all,
)

#: What Apprise's plugins import warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ONE = Notice("job 3 finished: fetch(u)", "1.2s  'text'", "finished")


def test_a_notice_says_state_name_time_and_value() -> None:
    """In that order; what is not there is left out."""
    assert notice_of(Ended(3, "fetch(u)", "finished", 1.23, "'text'")) == ONE
    failed = notice_of(Ended("k3", "load()", "failed", 75, "ValueError: no"))
    assert failed == Notice("job k3 failed: load()", "1m15s  ValueError: no", "failed")
    assert notice_of(Ended(1, "f()", "cancelled", None)) == Notice(
        "job 1 cancelled: f()", "", "cancelled"
    )


def test_names_and_values_are_one_line_of_plain_text() -> None:
    """Whatever they hold, no channel takes it for a command of its own."""
    notice = notice_of(Ended(1, "f('\x1b]0;x\x07\n')", "finished", 0.1, "'\x07\n\x9b3J'"))
    assert "\n" not in notice.title + notice.body
    assert all(char.isprintable() for char in notice.title + notice.body)


def test_of_several_jobs_those_that_failed_are_named() -> None:
    """With their errors, up to a number of them."""
    jobs = [
        Ended(n, f"f({n})", "failed" if n % 2 else "finished", 1.0, "E" * (n % 2))
        for n in range(14)
    ]
    notice = notice_of_all([*jobs, Ended(14, "g()", "cancelled", None)], "group crawl", 3.0)
    assert notice.title == "group crawl: 7 finished, 1 cancelled, 7 failed"
    assert notice.state == "failed"
    assert notice.body.splitlines()[:2] == ["3.0s", "[1] f(1): E"]
    assert notice.body.splitlines()[-1] == "… and 2 more failed"


def test_notices_that_wait_go_out_as_one() -> None:
    """One alone stays what it is."""
    assert joined([ONE]) is ONE
    other = Notice("job 4 failed: g()", "2.0s  ValueError", "failed")
    both = joined([ONE, other])
    assert both.state == "failed"
    assert both.body == f"{ONE.line}\n{other.line}"


BELL, NINE = "\a", "\x1b]9;job 3 finished: fetch(u) 1.2s 'text'\a"
SEVEN = "\x1b]777;notify;job 3 finished: fetch(u);1.2s 'text'\a"
KITTY = (
    "\x1b]99;i=bg:d=0:o=unfocused;job 3 finished: fetch(u)\x1b\\"
    "\x1b]99;i=bg:p=body;1.2s 'text'\x1b\\"
)


@pytest.mark.skipif(sys.platform == "win32", reason="there the bell is all")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"TERM": "dumb"}, ""),
        ({"TERM": "linux"}, BELL),
        ({"TERM": "screen-256color"}, BELL),
        ({"TERM": "xterm-256color"}, NINE + SEVEN + BELL),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, NINE + BELL),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7600"}, SEVEN + BELL),
        ({"TERM": "foot"}, SEVEN + BELL),
        ({"TERM": "xterm-kitty"}, KITTY + BELL),
        (
            {"TERM": "tmux-256color", "TMUX": "/tmp/x,1,0", "TERM_PROGRAM": "tmux"},
            "\x1bPtmux;" + (NINE + SEVEN).replace("\x1b", "\x1b\x1b") + "\x1b\\" + BELL,
        ),
    ],
)
def test_a_terminal_is_sent_what_it_knows(environment: dict[str, str], expected: str) -> None:
    """A notification once, and nothing where that would be shown as text."""
    assert sequences(ONE, environment) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="there the bell is all")
def test_a_title_does_not_end_at_its_own_semicolon() -> None:
    """Which separates the parts of OSC 777."""
    notice = Notice("job 1 finished: a; b", "x\ny", "finished")
    assert "notify;job 1 finished: a, b;x; y\a" in sequences(notice, {"TERM": "foot"})


SECRET = "slack://tokenA/tokenB/secret"


def test_an_address_never_shows_more_than_its_scheme() -> None:
    """However it is printed."""
    address = Address(SECRET)
    shown = [repr(address), str(address), f"{address} {address!r}", pprint.pformat([address])]
    shown += [f"{address:}", "%s" % address, repr({"notify": [address]})]  # noqa: UP031
    assert all("slack://…" in text for text in shown)
    assert not any("token" in text or "secret" in text for text in shown)
    assert repr(Address("nothing-but-a-secret")) == "…"
    assert copy.deepcopy(address) == address != Address("slack://other")


def test_it_is_sent_as_apprise_sends() -> None:
    """Title, body and kind, to all at once; then there is nothing to say."""
    pytest.importorskip("apprise")
    with receiver() as one, receiver() as other:
        assert deliver(ONE, [Address(one.url), Address(other.url)]) == ""
        for got in (one.next(), other.next()):
            assert (got["title"], got["message"]) == (ONE.title, ONE.body)
            assert got["type"] == "success"


def test_what_is_not_delivered_is_one_line_without_secrets(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor do the libraries' logs hold any, at whatever level."""
    pytest.importorskip("apprise")
    with receiver() as good, receiver(status=500) as bad, caplog.at_level(logging.NOTSET):
        gone = "json://127.0.0.1:9/path-secret"
        line = deliver(ONE, [Address(url) for url in (good.url, bad.url, gone, "slak://secret")])
        assert line == (
            "notice not delivered: json://… could not be reached, or refused it; "
            "json://… could not be reached, or refused it; slak://… is not a URL that Apprise knows"
        )
        assert invalid_addresses([Address(good.url), Address("secret")]) == (
            "BgTasks.notify: entry 2, …, is not a URL that Apprise knows"
        )
        logging.getLogger("urllib3.connectionpool").debug("of the user's own")
    logged = caplog.text + "".join(capfd.readouterr())
    assert "secret" not in logged
    assert "127.0.0.1" not in logged
    assert "of the user's own" in logged


def test_a_server_that_never_answers_costs_the_limit_and_no_more() -> None:
    """The others have the notice long before."""
    pytest.importorskip("apprise")
    with receiver() as good, silence() as (url, came):
        began = time.monotonic()
        line = deliver(ONE, [Address(url), Address(good.url)], seconds=2)
        assert line == "notice not delivered: json://… gave no answer in 2 s"
        assert time.monotonic() - began < 4
        assert came.is_set()
        assert good.next()["title"] == ONE.title
