"""The picture of when jobs ran."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from fakes import FakeClock, FakeRunner, work

from ipy_bgtasks.ipython.programs import Jobs
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.views.pictures import Span, timeline_svg, timeline_text

_SVG = "{http://www.w3.org/2000/svg}"
_FAILED = "#d9413a"
START = 1_700_000_000.0


def rects(svg: str) -> list[dict[str, str]]:
    """The bars of a picture, in order."""
    return [dict(rect.attrib) for rect in ElementTree.fromstring(svg).iter(f"{_SVG}rect")]


def words(svg: str) -> str:
    """All text of a picture."""
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_a_job_that_waited_and_ran_has_two_spans() -> None:
    """The first ends where the second begins, and their lengths are as the times."""
    span = Span(1, "f()", "failed", START, START + 1, START + 4)
    waited, ran = rects(timeline_svg([span], START + 100))
    assert ran["fill"] == _FAILED
    assert float(ran["x"]) == pytest.approx(float(waited["x"]) + float(waited["width"]), abs=0.2)
    assert float(ran["width"]) == pytest.approx(3 * float(waited["width"]), abs=0.5)
    assert "failed 3.0s" in words(timeline_svg([span], START + 100))


def test_a_job_that_runs_is_drawn_up_to_now() -> None:
    """It is as long as the picture."""
    old = Span(1, "f()", "finished", START, START, START + 5)
    running = Span(2, "g()", "running", START, START, None)
    first, second = rects(timeline_svg([old, running], START + 10))
    assert float(second["width"]) == pytest.approx(2 * float(first["width"]), abs=0.2)


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "a & b ]]> \"quoted\" 'single'",
        "\x00\x1b[31mred\x1b[0m \ud800 \ufffe \u202e",
        "x" * 10_000,
        "مهمة 🚀 日本語",
        "",
    ],
)
def test_names_are_text(name: str) -> None:
    """Whatever they hold, the picture is well-formed, and bounded."""
    svg = timeline_svg([Span(1, name, "running", START, START, None)], START + 1)
    ElementTree.fromstring(svg.encode())
    assert "<script" not in svg
    assert len(svg) < 4000
    assert len(timeline_text([Span(1, name, "queued", START, None, None)], START + 1)) < 200


@pytest.mark.parametrize("length", [0.0, 0.001, 3, 59, 3600, 86_400, 86_400 * 400])
def test_any_length_has_a_few_marks(length: float) -> None:
    """From nothing at all to a year."""
    svg = timeline_svg([Span(1, "f()", "finished", START, START, START + length)], START + length)
    marks = len(list(ElementTree.fromstring(svg).iter(f"{_SVG}path")))
    assert 1 <= marks <= 7


def test_no_jobs_have_a_picture_too() -> None:
    """An empty one."""
    assert "Timeline of 0 jobs" in timeline_svg([], START)
    assert timeline_text([], START) == "no jobs"


def test_jobs_plot_the_last_of_them() -> None:
    """As an SVG with a text for terminals, made when it was asked for."""
    runner = FakeRunner()
    registry = Registry({"thread": runner}, FakeClock())  # type: ignore[arg-type]
    jobs = [registry.launch(work(label=f"f{i}()")) for i in range(5)]
    picture = Jobs(registry).plot(2)
    runner.finish(jobs[4])
    assert [span.number for span in picture.spans] == [4, 5]
    bundle = picture._repr_mimebundle_()
    assert "running" in words(bundle["image/svg+xml"])
    assert "f4()" in bundle["text/plain"]
    assert [span.number for span in jobs[0].job.plot().spans] == [1]
    assert "finished" in repr(jobs[4].job.plot())
