"""A look into running code: the frame of an expression, and what samples add up to."""

from __future__ import annotations

import gc
import linecache
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from ipy_bgtasks import stacks
from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.stacks import NO_ANSWER, evaluate, sample, thread_frames
from ipy_bgtasks.views.pictures import flame_graph, lines

SECRET = "global"


class Held:
    """A thread that stands still in a function until it is let go."""

    def __init__(self, body: Callable[[Held], object]) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=body, args=[self])
        self.thread.start()
        assert self.reached.wait(30)

    def wait(self) -> None:
        """Stand still."""
        self.reached.set()
        assert self.go.wait(30)
        self.go.clear()

    def proceed(self) -> None:
        """Let it go on to where it stands still again."""
        self.reached.clear()
        self.go.set()
        assert self.reached.wait(30)

    def frames(self) -> list[FrameType]:
        """Its frames that are a user's."""
        frames = thread_frames(self.thread.ident or 0)
        return [one for one in frames if one.f_code.co_name != "wait"]

    def show(self, expression: str) -> str:
        """What an expression gives there."""
        return evaluate(self.frames, expression)[0]


@pytest.fixture
def held() -> Iterator[Callable[[Callable[[Held], object]], Held]]:
    """Starts such threads, and ends them."""
    made: list[Held] = []

    def start(body: Callable[[Held], object]) -> Held:
        made.append(Held(body))
        return made[-1]

    yield start
    for each in made:
        each.go.set()
        each.thread.join(30)


def test_the_innermost_function_that_knows_the_names(held: Any) -> None:
    """A helper's own variables come first; those of its caller are found, too."""

    def helper(one: Held, value: int) -> None:
        one.wait()

    def outer(one: Held) -> None:
        value, epoch, SECRET = 1, 7, "local"
        helper(one, value + epoch * bool(SECRET))

    one = held(outer)
    assert one.show("value") == "8"
    assert one.show("value, epoch") == "(1, 7)"
    assert one.show("SECRET") == "'local'"
    assert one.show("[value for _ in range(epoch)][:2]") == "[1, 1]"
    assert one.show("threading.__name__") == "'threading'"
    assert one.show("__name__") == repr(__name__)


def test_variables_of_a_closure(held: Any) -> None:
    """They are its, as well."""
    outside = "seen"

    def body(one: Held) -> str:
        one.wait()
        return outside

    assert held(body).show("outside") == "'seen'"


class Big:
    """Something that takes memory."""


def test_what_was_shown_is_not_kept_alive(held: Any) -> None:
    """The frame would keep what it showed until the function ends, before Python 3.13."""
    seen: list[weakref.ref[Big]] = []

    def body(one: Held) -> None:
        big = Big()
        seen.append(weakref.ref(big))
        one.wait()
        del big
        one.wait()

    one = held(body)
    assert "Big object" in one.show("big")
    one.proceed()
    gc.collect()
    assert seen[0]() is None


def test_the_dict_that_the_code_itself_has_is_left_alone(held: Any) -> None:
    """What `locals()` gave it."""
    kept: list[dict[str, Any]] = []

    def body(one: Held) -> None:
        value = 3
        mine = locals()
        kept.append(mine)
        one.wait()
        kept.append(dict(mine))
        assert value == 3

    one = held(body)
    assert one.show("value") == "3"
    one.go.set()
    one.thread.join(30)
    assert kept[1]["value"] == 3


def test_the_bound_on_time(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the expression does."""
    monkeypatch.setattr(stacks, "PATIENCE", 0.05)
    one = held(lambda held: held.wait())
    assert one.show("__import__('time').sleep(1)") == NO_ANSWER


@pytest.mark.parametrize("text", ["x = 1", "(x := 1)", "[y := 1]", "await x", "import os", "", "("])
def test_only_expressions(text: str) -> None:
    """Anything else is refused before anything is looked at."""
    with pytest.raises(BadInput, match="--show takes an expression, such as"):
        evaluate(list, text)


def test_code_that_cannot_be_seen() -> None:
    """It may be between two jobs, or its thread may just have ended."""
    assert evaluate(list, "1") == ("nothing of its code can be seen right now", None)


FIT, FORWARD, NUMPY = (
    ("<fit>", 2, "fit"),
    ("<fit>", 5, "forward"),
    (linecache.__file__, 20, "lazycache"),
)


@pytest.fixture
def source() -> Iterator[None]:
    """The source of `<fit>`."""
    text = ["def fit():\n", "    forward()\n", "\n", "def forward():\n", "    np.dot(a, '<&>')\n"]
    linecache.cache["<fit>"] = (1, None, text, "<fit>")
    yield
    del linecache.cache["<fit>"]


def cell(name: str) -> int | None:
    """Which cell that is."""
    return 7 if name == "<fit>" else None


@pytest.mark.usefixtures("source")
def test_time_is_added_up_by_line_of_the_users() -> None:
    """What libraries take is the line's that calls them."""
    times = {(FIT, FORWARD, NUMPY): 3.0, (FIT, FORWARD): 3.0, (FIT,): 2.0, (): 2.0}
    assert lines(times, cell) == [
        ("60%", "cell 7, line 5", "forward", "np.dot(a, '<&>')"),
        ("20%", "cell 7, line 2", "fit", "forward()"),
        ("20%", "its code could not be seen", "", ""),
    ]
    assert lines({}) == []


def test_of_many_lines_the_rest_is_one() -> None:
    """The twenty that took most are shown."""
    found = lines({(("<fit>", n, "fit"),): 1.0 + (n == 50) * 79 for n in range(100)})
    assert len(found) == 21
    assert found[0][:2] == ("45%", "line 50")
    assert found[-1][:2] == ("45%", "80 more")


@pytest.mark.usefixtures("source")
def test_the_graph_is_as_wide_as_the_time() -> None:
    """Everything in it is escaped; what is alike is one box."""
    svg = flame_graph({(FIT, FORWARD, NUMPY): 3.0, (FIT, FORWARD): 1.0, (FIT,): 4.0}, cell)
    assert svg.count("<rect") == 3
    assert 'x="0.0" y="0" width="799.5"' in svg
    assert 'x="0.0" y="17" width="399.5"' in svg
    assert 'x="0.0" y="34" width="299.5"' in svg
    assert "100% cell 7, line 2 in fit: forward()" in svg
    assert "np.dot(a, &#x27;&lt;&amp;&gt;&#x27;)" in svg
    assert "<rect" not in flame_graph({})


def test_a_deep_recursion_is_cut() -> None:
    """The graph stays small."""
    deep = tuple(("<fit>", n, "fit") for n in range(5000))
    assert flame_graph({deep: 1.0}).count("<rect") == 60


class Sampled:
    """A job that ends after some looks."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    def done(self) -> bool:
        """Whether it has ended."""
        self.looks -= 1
        return self.looks < 0

    def stack(self) -> list[Any]:
        """Fail, as that of a thread that ends may."""
        raise RuntimeError


def taken(job: Any, seconds: float, over: threading.Event | None = None) -> float:
    """How many seconds the samples stand for."""
    times: stacks.Times = {}
    sample(job, seconds, times, over or threading.Event())
    return sum(times.values())


def test_sampling_ends_with_the_code() -> None:
    """Each sample stands for the time since the one before."""
    assert 0.03 < taken(Sampled(5), 60) < 30


def test_sampling_takes_its_time() -> None:
    """No longer than it may."""
    assert 0.04 < taken(Sampled(float("inf")), 0.05) < 30


def test_sampling_can_be_ended() -> None:
    """At once."""
    over = threading.Event()
    over.set()
    assert taken(Sampled(float("inf")), 600, over) == 0.0
