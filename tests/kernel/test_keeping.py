"""Kept jobs of real kernels, which are killed, shut down and started again."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeping_ends import end_kept_jobs
from kernels import Kernel, MakeKernel

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kept jobs need POSIX"),
    pytest.mark.started,
]

#: Seconds: what ipykernel takes at the least if it finds a child that it has to kill.
PATIENCE = 8.0

TRAIN = """\
def train(path):
    print("epoch 1")
    open(path).read()
    print("epoch 2")
    return [1, 2]
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of kernels that have kept jobs of their own, which end with the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield {"XDG_STATE_HOME": str(tmp_path / "state")}
    end_kept_jobs()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What `train` waits for."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def launched(kernel: Kernel, gate: Path) -> None:
    """Load, and keep a job that runs, with its first line out."""
    assert "kept job" not in kernel.load().stdout
    kernel.ok(TRAIN)
    reply = kernel.ok(f"job = %bg --keep train({str(gate)!r})\njob")
    kernel.until(lambda: "epoch 1\n" in reply.stdout)
    assert any("train(" in shown.get("text/html", "") for shown in reply.displays)


def test_a_job_survives_the_kill_of_its_kernel(
    make_kernel: MakeKernel, state: dict[str, str], gate: Path
) -> None:
    """The next kernel says so, lists it, shows its output and gets its value."""
    first = make_kernel(env=state)
    launched(first, gate)
    first.kill()
    second = make_kernel(env=state)
    assert "1 kept job: 1 running (%jobs)" in second.load().stdout
    table = second.ok("%jobs").displays[0]["text/plain"]
    assert re.search(r"\[k1\]\+ +● running +kept \d+ +train\(", table)
    following = second.start("model = %fg k1")
    second.until(lambda: "epoch 1\n" in following.reply.stdout)
    gate.write_text("")
    reply = following.wait()
    assert reply.stdout == "epoch 1\nepoch 2\n"
    assert second.ok("model").result == "[1, 2]"
    assert second.ok("%fg k1").result == "[1, 2]"


def test_a_kernel_that_shuts_down_leaves_it_alone_at_once(
    make_kernel: MakeKernel, state: dict[str, str], gate: Path
) -> None:
    """The kernel ends its children with signals and patience; a watcher is none."""
    first = make_kernel(env=state)
    launched(first, gate)
    assert first.shutdown() < PATIENCE
    gate.write_text("")
    second = make_kernel(env=state)
    second.load()
    assert second.ok("%fg k1").result == "[1, 2]"


def test_two_kernels_see_the_same_job(
    make_kernel: MakeKernel, state: dict[str, str], gate: Path
) -> None:
    """What one cancels, the other hears of."""
    first, second = make_kernel(env=state), make_kernel(env=state)
    launched(first, gate)
    second.load()
    assert "job k1" in second.ok("%cancel k1").stdout
    assert first.run("%fg k1").ename == "CancelledError"
    assert "cancelled" in second.ok("%jobs").displays[0]["text/plain"]


def test_a_failure_shows_its_traceback_under_its_cell(
    make_kernel: MakeKernel, state: dict[str, str]
) -> None:
    """As that of any job; the exception itself is loaded only when it is asked for."""
    kernel = make_kernel(env=state)
    kernel.load()
    kernel.ok("def fails(): raise ZeroDivisionError('oh')")
    reply = kernel.ok("%bg --keep fails()")
    kernel.until(lambda: "ZeroDivisionError: oh" in reply.traceback)
    assert "in fails" in reply.traceback
    assert kernel.run("%fg k1").ename == "ZeroDivisionError"


def test_what_a_kept_job_displays_is_recorded_and_comes_with_fg(
    make_kernel: MakeKernel, state: dict[str, str]
) -> None:
    """In order with its text, here and in the next session."""
    first = make_kernel(env=state)
    first.load()
    first.ok(DISPLAYS)
    launch = first.ok("job = %bg --keep show()")
    first.ok("%fg job")
    first.until(lambda: "after" in launch.stdout or None)
    assert _shown(launch.messages) == ["before", "table", "<b>2</b>", "picture", "after"]
    second = make_kernel(env=state)
    second.load()
    reply = second.ok("%fg k1")
    assert _shown(reply.messages) == ["before", "table", "<b>2</b>", "picture", "after"]


DISPLAYS = """\
def show():
    import pandas
    import matplotlib.pyplot as plt
    from IPython.display import HTML
    print("before")
    display(pandas.DataFrame({"a": [1]}))
    handle = display(HTML("<b>1</b>"), display_id=True)
    handle.update(HTML("<b>2</b>"))
    plt.plot([1, 2])
    plt.show()
    print("after")
"""


def _shown(messages: list[Any]) -> list[str]:
    found: dict[str, str] = {}
    for message in messages:
        content, kind = message["content"], message["msg_type"]
        if kind == "stream":
            found[content["text"].strip()] = content["text"].strip()
        elif kind in ("display_data", "update_display_data") and "data-bgt" not in str(content):
            data = content["data"]
            page = data.get("text/html", "")
            text = "table" if "<table" in page else page
            name = content["transient"].get("display_id") or str(len(found))
            found[name] = "picture" if "image/png" in data else text
    return list(found.values())
