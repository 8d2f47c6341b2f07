"""Labels of lines, as a terminal or a notebook would show them."""

from __future__ import annotations

import gc
import itertools
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipy_bgtasks.frontends.streams import Labels


class _Job(SimpleNamespace):
    """One that can be weakly referenced."""


def a_job(number: int, *, done: bool = False) -> Any:
    """What labels need to know of a job."""
    return _Job(number=number, done=lambda: done)


def two() -> tuple[Labels, Any, Any]:
    """Two jobs in one place."""
    labels, one, other = Labels(), a_job(1), a_job(2)
    labels.enter(one, "here")
    labels.enter(other, "here")
    return labels, one, other


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([(1, "a\n")], "[1] a\n"),
        ([(1, "a\nb\n"), (2, "c\n")], "[1] a\n[1] b\n[2] c\n"),
        ([(1, "a"), (1, "b\n")], "[1] ab\n"),
        ([(1, "a"), (2, "b\n"), (1, "c\n")], "[1] a\n[2] b\n[1] c\n"),
        ([(1, "\n\n")], "\n\n"),
        ([(1, "a\r\nb\r\n")], "[1] a\r\n[1] b\r\n"),
        ([(1, "\r10%"), (1, "\r20%"), (1, "\n")], "\r[1] 10%\r[1] 20%\n"),
        ([(1, "10%\r"), (1, "20%\r"), (1, "30%\n")], "[1] 10%\r[1] 20%\r[1] 30%\n"),
        ([(1, "\r10%"), (2, "\r5%"), (1, "\r20%")], "\r[1] 10%\r[2] 5%\r[1] 20%"),
        ([(1, "\r10%"), (2, "b\n"), (1, "\r20%\n")], "\r[1] 10%\n[2] b\n\r[1] 20%\n"),
        ([(1, "a"), (2, "\r5%")], "[1] a\n\r[2] 5%"),
        ([(1, "")], ""),
    ],
)
def test_each_line_begins_with_its_job(texts: list[tuple[int, str]], shown: str) -> None:
    """Also where lines come in pieces, or are overwritten."""
    labels, one, other = two()
    jobs = {1: one, 2: other}
    assert "".join(labels.put(jobs[n], "here", "stdout", text) for n, text in texts) == shown


@given(st.lists(st.tuples(st.integers(1, 3), st.text("ab\r\n", max_size=8))))
def test_labels_change_no_text(texts: list[tuple[int, str]]) -> None:
    """What a job wrote is all there; and no line is of two jobs, but for bars."""
    labels = Labels()
    jobs = {n: a_job(n) for n in (1, 2, 3)}
    for job in jobs.values():
        labels.enter(job, "here")
    shown = [(n, labels.put(jobs[n], "here", "stdout", text)) for n, text in texts]
    for n, job_shown in itertools.groupby(sorted(shown, key=lambda each: each[0]), lambda e: e[0]):
        bare = "".join(text for _, text in job_shown).replace(f"[{n}] ", "").replace("\n", "")
        assert bare == "".join(text for m, text in texts if m == n).replace("\n", "")


def test_a_job_that_is_alone_has_no_label() -> None:
    """Nor one whose neighbours have ended, elsewhere or all."""
    labels, job = Labels(), a_job(1)
    labels.enter(job, "here")
    labels.enter(a_job(2), "there")
    before = Labels()
    before.enter(a_job(3, done=True), "here")
    before.enter(job, "here")
    assert before.put(job, "here", "stdout", "a\n") == "a\n"
    assert labels.put(job, "here", "stdout", "a\n") == "a\n"


def test_a_job_keeps_its_label() -> None:
    """Who reads its lines among others' can tell to the end."""
    labels, one, other = two()
    assert labels.put(one, "here", "stdout", "a\n") == "[1] a\n"
    labels.leave(other, "here")
    assert labels.put(one, "here", "stdout", "b\n") == "[1] b\n"
    labels.on = False
    assert labels.put(one, "here", "stdout", "c\n") == "c\n"


def test_places_are_forgotten_with_their_last_job() -> None:
    """Nothing is kept of a cell whose jobs have all ended."""

    class Cell:
        pass

    labels, one, other, cell = Labels(), a_job(1), a_job(2), Cell()
    labels.enter(one, cell)
    labels.enter(other, cell)
    labels.put(one, cell, "stdout", "a")
    labels.leave(one, cell)
    labels.leave(other, cell)
    gone = weakref.ref(cell), weakref.ref(one), weakref.ref(other)
    del cell, one, other
    gc.collect()
    assert [each() for each in gone] == [None] * 3


@given(st.lists(st.tuples(st.sampled_from(["enter", "end", "leave"]), st.integers(1, 5))))
def test_a_label_is_for_whoever_was_not_alone(steps: list[tuple[str, int]]) -> None:
    """As found by looking at all who are there, at each step."""
    labels, jobs, ended = Labels(), {}, set()
    for number in range(1, 6):
        jobs[number] = SimpleNamespace(number=number, done=partial(ended.__contains__, number))
    present, labelled = set(), set()
    for step, number in steps:
        if step == "end":
            ended.add(number)
        elif step == "leave":
            labels.leave(jobs[number], "here")
            present.discard(number)
            labelled.discard(number)
        elif number not in present and number not in ended:
            labels.enter(jobs[number], "here")
            others = present - ended
            labelled |= {number, *others} if others else set()
            present.add(number)
        assert {n for n in jobs if labels.wanted(jobs[n], "here")} == labelled


def test_a_launch_does_not_look_at_all_who_are_there() -> None:
    """A loop launches thousands of jobs in one place."""
    looked = []

    def done() -> bool:
        looked.append(1)
        return False

    labels = Labels()
    for number in range(1_000):
        labels.enter(SimpleNamespace(number=number, done=done), "here")
    assert len(looked) < 3_000
