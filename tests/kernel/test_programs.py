"""A program drives the kernel: it launches, looks, reads on, and takes the result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jupyter_client.manager
import pytest
from kernels import Kernel, kernel_environment, kernel_manager
from reference import GUIDE

SETUP = """
import threading
gate, second = threading.Event(), threading.Event()

def train(n=3):
    for i in range(n):
        print("epoch", i)
    gate.wait()
    print("\\x1b[31mlast\\x1b[0m")
    second.wait()
    return {"epochs": n}

def diverge():
    print("before")
    raise ValueError("diverged")
"""


def _data(kernel: Kernel, options: str) -> dict[str, Any]:
    reply = kernel.ok(f"%jobs --json {options}")
    assert reply.stdout.count("\n") == 1
    assert not reply.contents("display_data")
    found: dict[str, Any] = json.loads(reply.stdout)
    return found


def test_a_program_follows_a_long_cell_to_its_result(shared: Kernel) -> None:
    """Within its limit at each call; what was printed is read once; the answers are data."""
    shared.ok(SETUP)
    launched = shared.ok("%%fg --budget 0.2 --name long\nresult = train()\nresult\n")
    assert "epoch 2" in launched.stdout
    assert "goes on: %fg" in launched.stderr + launched.stdout
    behind = shared.ok("'the cell behind runs'")
    assert behind.result == "'the cell behind runs'"
    (job,) = _data(shared, "%long")["jobs"]
    assert job["state"], job["where"] == ("running", "thread")
    assert "gate.wait()" in job["at"]
    assert (job["error"], job["result"], job["traceback"]) == (None, None, None)
    assert job["output"] == {
        "from": 0,
        "to": 24,
        "text": "epoch 0\nepoch 1\nepoch 2\n",
        "dropped": 0,
    }
    shared.ok("gate.set()")
    shared.until(lambda: "last" in launched.stdout or None)
    (job,) = _data(shared, "--since 24 %long")["jobs"]
    assert job["output"]["text"] == "last\n"
    (job,) = _data(shared, f"--since {job['output']['to']} %long")["jobs"]
    assert job["output"]["text"] == ""
    shared.ok("second.set()")
    assert shared.ok("%fg --budget 30 %long").result == "{'epochs': 3}"
    found = _data(shared, "")
    assert found["active"] == 0
    (job,) = found["jobs"]
    assert (job["state"], job["result"]) == ("finished", "{'epochs': 3}")
    assert "output" not in job


def test_a_budget_returns_the_job_and_the_cell_goes_on(shared: Kernel) -> None:
    """Where %fg --timeout raises, and so aborts the cells behind."""
    shared.ok(SETUP)
    reply = shared.ok("job = %bg -q train()\nsame = %fg --budget 0.1 job\nprint(same is job)")
    assert "True" in reply.stdout
    assert "goes on: %fg" in reply.stderr + reply.stdout
    shared.ok("gate.set(); second.set()")
    assert shared.ok("%fg --budget 30 job").result == "{'epochs': 3}"


def test_a_failure_is_data_with_its_traceback(shared: Kernel) -> None:
    """Plain text, with the user's own lines."""
    shared.ok(SETUP)
    shared.ok("job = %bg -q diverge()\nimport concurrent.futures as cf\ncf.wait([job])")
    (job,) = _data(shared, "job")["jobs"]
    assert job["state"] == "failed"
    assert job["error"] == {"type": "ValueError", "message": "diverged"}
    assert 'raise ValueError("diverged")' in job["traceback"]
    assert "ipy_bgtasks" not in job["traceback"]
    assert "\x1b" not in json.dumps(job)
    assert shared.ok("job.describe()['error']['type']").result == "'ValueError'"


def test_the_loop_in_the_guide_runs_and_costs_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four messages on iopub for a look; nothing between two of a quiet job."""
    manager = kernel_manager(tmp_path)
    manager.start_kernel(env=kernel_environment(tmp_path), cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    calls: list[tuple[str, list[str]]] = []
    execute = client.execute_interactive

    def counted(code: str, *, output_hook: Callable[[Any], None], **options: Any) -> Any:
        kinds: list[str] = []
        calls.append((code, kinds))
        if sum(code.startswith("%jobs") for code, _ in calls) == 2:
            (tmp_path / "looked").touch()

        def take(message: Any) -> None:
            # The kernel may send the end of a line for itself: `print` writes it for itself.
            if message["msg_type"] != "stream" or kinds[-1] != "stream":
                kinds.append(message["msg_type"])
            output_hook(message)

        return execute(code, output_hook=take, **options)

    monkeypatch.setattr(client, "execute_interactive", counted)
    monkeypatch.setattr(jupyter_client.manager, "start_new_kernel", lambda: (manager, client))
    cells = json.loads(GUIDE.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    (block,) = (
        found
        for found in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if "start_new_kernel" in found
    )
    works = "    time.sleep(0.5)\n"
    assert works in block
    waits = (
        "    import os\n    while epoch == 3 and not os.path.exists('looked'): time.sleep(0.01)\n"
    )
    try:
        exec(compile(block.replace(works, waits), "guide", "exec"), {})
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    epochs = "".join(f"epoch {n}\n" for n in range(4))
    assert capsys.readouterr().out == f"{epochs} finished 'the model' None\n"
    looks = [kinds for code, kinds in calls if code.startswith("%jobs")]
    assert len(looks) > 1
    assert looks[0] == ["status", "execute_input", "stream", "status"]
    assert {len(kinds) for kinds in looks} <= {4, 5}


def test_an_executed_notebook_holds_late_output_and_the_traceback(tmp_path: Path) -> None:
    """In the card, whose update is all that such tools take after its cell's end."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [
        "%load_ext ipy_bgtasks",
        "import threading\ngate = threading.Event()\n"
        "def fails():\n    print('early')\n    gate.wait(30)\n    print('la' 'te')\n    1 / 0",
        "job = %bg fails()\nwhile not job.log.text: pass",
        "gate.set()\njob.exception(30)\nprint('own')",
        "'the end'",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    environment = kernel_environment(tmp_path)
    manager = kernel_manager(tmp_path)
    client = nbclient.NotebookClient(notebook, km=manager, timeout=60)
    try:
        client.execute(env=environment, cwd=str(tmp_path))
    finally:
        client.kc.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    launch, own = notebook.cells[2].outputs, notebook.cells[3].outputs
    cards = [output["data"] for output in launch if "data-bgt" in str(output)]
    assert len(cards) == 1
    assert "\nlate\n" in cards[0]["text/plain"]
    assert "ZeroDivisionError" in cards[0]["text/plain"].partition("late")[2]
    assert "<details>" in cards[0]["text/html"]
    assert "early" not in cards[0]["text/plain"].partition("\n")[2]
    assert [output["text"] for output in own if "text" in output] == ["own\n"]


def test_a_card_is_one_line_for_a_program(shared: Kernel) -> None:
    """Whatever state it shows, of one job or of several: the HTML beside it is for pages."""
    shared.ok(SETUP + "\nclass Odd:\n    def __repr__(self): return 'two\\nlines'")
    fine = shared.ok("fine = %bg -n 'odd\\nname' len('abc')")
    waits = shared.ok("waits = %bg -n waits second.wait(30)")
    bad = shared.ok("bad = %bg diverge()")
    several = shared.ok("for i in range(3):\n    %bg diverge() if i else Odd()")
    shared.ok("second.set()\n%fg --settled all")
    ends = {fine: "finished", waits: "finished", bad: "failed", several: "2 failed"}
    for cell, end in ends.items():
        shared.until(lambda cell=cell, end=end: end in str(cell.displays))
        texts = [shown["text/plain"] for shown in cell.displays if "text/html" in shown]
        lines = [text.partition("\n")[0] for text in texts]
        assert all(line.startswith(("[", "2 jobs", "3 jobs")) for line in lines)
        assert not [line for line in lines if "<" in line or "&" in line]
        assert cell is bad or texts == lines
    below = bad.displays[-1]["text/plain"].partition("\n")[2]
    assert not below or below.endswith("ValueError: diverged")


def test_a_late_failure_is_text_in_a_console(shared: Kernel) -> None:
    """An `error` would end the input that runs there, whatever request it belongs to."""
    shared.ok(SETUP)
    shared.ok("gate.clear()\ndef fails():\n    gate.wait(30)\n    1 / 0")
    console = shared.start("%bg fails()", allow_stdin=True).wait()
    notebook = shared.start("%bg fails()", allow_stdin=True, cell="a").wait()
    shared.ok("gate.set()")
    shared.until(lambda: notebook.contents("error") or None)
    shared.until(lambda: "ZeroDivisionError" in console.stderr or None)
    assert not console.contents("error")
