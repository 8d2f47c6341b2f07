"""A page's answer to the widget of a card, which may come at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeRunner, work

from ipy_bgtasks.frontends.kernel.cards import Cards
from ipy_bgtasks.job.record import Record

_WHERE = {"msg_id": "cell"}
_VIEW = {"application/vnd.jupyter.widget-view+json": {}}


class _Widget:
    """Draws nothing."""

    view: dict[str, Any] = _VIEW
    is_read = False

    def refresh(self) -> None:
        """Nothing to draw."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("count", [1, 3], ids=["one job", "several"])
@pytest.mark.parametrize("early", [True, False], ids=["at once", "later"])
def test_the_button_comes_whenever_the_page_answers(count: int, early: bool) -> None:
    """Also while the widget is still being made: then it is not lost."""
    sent: list[dict[str, Any]] = []
    due: list[Callable[[], object]] = []
    answers: list[Callable[[], None]] = []

    def make(_shown: object, answered: Callable[[], None]) -> _Widget:
        answers.append(answered)
        if early:
            answered()
        return _Widget()

    def send(_parent: Any, bundle: dict[str, Any], _id: str, *, update: bool) -> None:
        sent.append(bundle)

    cards = Cards(send, lambda _seconds, fn: due.append(fn))
    cards.make_widget = make
    fake = FakeRunner()
    for number in range(1, count + 1):
        job = Record(number, work(), fake, origin=_WHERE)
        cards.launching(job)
        job.begin()
        job.launched = time.time() - 5  # it has gone on for a while
    for card in cards.places._at["cell"]:
        card._began -= 5
    for fn in due:
        fn()
    if not early:
        assert not any(_VIEW.keys() <= bundle.keys() for bundle in sent)
        answers[0]()
    assert _VIEW.keys() <= sent[-1].keys()
