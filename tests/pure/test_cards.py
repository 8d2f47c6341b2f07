"""Cards as they are sent: how often, to which cell, and with what a page needs."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeClock, FakeRunner, work

from ipy_bgtasks.frontends.kernel.cards import Cards
from ipy_bgtasks.job.record import Record
from ipy_bgtasks.stacks import no_cells

VIEW = {"application/vnd.jupyter.widget-view+json": {}}


class Screen:
    """Cards, and what they send."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any], str, bool]] = []
        self.clock = FakeClock()
        self.flushed: list[int] = []  # how many had been sent at each flush
        self.cards = Cards(
            self._send, self.clock.later, flush=lambda: self.flushed.append(len(self.sent))
        )
        self.runner = FakeRunner()
        self.opened = 0

    def _send(self, parent: Any, bundle: Any, display_id: str, *, update: bool) -> None:
        self.sent.append((parent["msg_id"], bundle, display_id, update))

    def open_page(self) -> dict[str, Any]:
        """There is a script."""
        self.opened += 1
        return VIEW

    def request(self, message: str, cell: str | None = None) -> dict[str, str]:
        """A cell runs; returns the header of its request."""
        header = {"msg_id": message}
        metadata = {} if cell is None else {"cellId": cell}
        moved = self.cards.request_begins({"header": header, "metadata": metadata})
        self.cards.move(moved, header)
        return header

    def launch(self, number: int, header: dict[str, str]) -> Record:
        """It launches a job."""
        job = Record(number, work(), self.runner, origin=header)
        self.cards.launching(job)
        self.runner.start(job)
        return job

    def views(self) -> list[str]:
        """Where views of the script stand now."""
        shown = {i: place for place, bundle, i, _ in self.sent if VIEW.keys() <= bundle.keys()}
        gone = {i for _, bundle, i, update in self.sent if update and len(bundle) == 1}
        return [place for i, place in shown.items() if i not in gone]


def test_a_page_that_answers_is_left_the_rest() -> None:
    """No view is shown, and one script serves any number of cards."""
    screen = Screen()
    screen.cards.use(screen.open_page, no_cells)
    for n in range(50):
        screen.launch(n + 1, screen.request(f"m{n}", f"cell {n}"))
    screen.clock.advance(0.3)
    screen.cards.heard = True
    screen.clock.advance(10)
    assert screen.opened == 1
    assert screen.views() == []


def test_where_nobody_answers_a_view_is_tried() -> None:
    """Under each card from then on, if it helps; taken away, if not; never for a program."""
    helped, lost, program = Screen(), Screen(), Screen()
    for screen, cell in ((helped, "a"), (lost, "a"), (program, None)):
        screen.cards.use(screen.open_page, no_cells)
        screen.launch(1, screen.request("first", cell))
        screen.clock.advance(0.3)
        screen.clock.advance(2.5)
    assert (helped.views(), lost.views(), program.views()) == (["first"], ["first"], [])
    helped.cards.heard = True
    for screen in (helped, lost):
        screen.clock.advance(5)
        screen.launch(2, screen.request("second", "b"))
    assert (helped.views(), lost.views()) == (["first", "second"], [])


def test_a_cell_that_runs_again_shows_the_job_that_still_runs() -> None:
    """Each time; not one that has ended, nor one that it only displays."""
    screen = Screen()
    goes_on = screen.launch(1, screen.request("first", "a"))
    over = screen.launch(2, screen.request("other", "b"))
    screen.cards.show(goes_on, screen.request("third", "c"))
    screen.runner.finish(over)
    screen.cards.ended(over)
    for place, cell in (("x", "c"), ("y", "b"), ("again", "a"), ("once more", "a")):
        screen.sent.clear()
        screen.request(place, cell)
        shown = [place for place, bundle, _, update in screen.sent if not update]
        assert shown == ([place] if cell == "a" else [])
    assert "from an earlier run of this cell" in screen.sent[-1][1]["text/html"]


@pytest.mark.parametrize("heard", [True, False])
def test_progress_is_no_update_of_a_display_that_a_page_keeps_alive(heard: bool) -> None:
    """Only each change of state is; elsewhere there is nothing else to see."""
    screen = Screen()
    if heard:
        screen.cards.heard = True
    job = screen.launch(1, screen.request("first", "a"))
    screen.clock.advance(1)
    before = len(screen.sent)
    for step in range(20):
        job.progress = step / 20
        screen.cards.changed(job)
        screen.clock.advance(1)
    assert (len(screen.sent) - before > 5) is not heard
    screen.runner.finish(job, "the value")
    screen.cards.ended(job)
    assert "the value" in screen.sent[-1][1]["text/html"]


@pytest.mark.parametrize("count", [1, 3])
def test_text_is_sent_before_a_card_that_says_all_have_ended(count: int) -> None:
    """Also where the card is ahead of the news of the last end."""
    screen = Screen()
    header = screen.request("first", "a")
    *others, last = [screen.launch(n, header) for n in range(1, count + 1)]
    for job in others:
        screen.runner.finish(job)
        screen.cards.ended(job)
    screen.clock.advance(10)
    (card,) = screen.cards._cards[last.number]
    before = len(screen.sent)
    screen.runner.finish(last)
    assert before not in screen.flushed
    screen.cards._update_card(card)
    assert "finished" in screen.sent[before][1]["text/html"]
    assert before in screen.flushed


def test_a_card_of_many_says_how_many_of_them_are_kept_no_more() -> None:
    """It goes on to count them as finished; a card of one says nothing."""
    screen = Screen()
    header = screen.request("first", "a")
    jobs = [screen.launch(n, header) for n in range(1, 4)]
    alone = screen.launch(4, screen.request("second", "b"))
    for job in (*jobs, alone):
        screen.runner.finish(job)
        screen.cards.ended(job)
    screen.clock.advance(10)
    before = len(screen.sent)
    screen.cards.discarded(jobs[0])
    screen.cards.discarded(alone)
    screen.clock.advance(10)
    (shown,) = {bundle["text/plain"] for _, bundle, _, _ in screen.sent[before:]}
    assert "3 finished  1 forgotten" in shown
