"""Every notebook runs from top to bottom, and shows what its text says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.utils import ensure_async
from kernels import kernel_environment, kernel_manager

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class Executed:
    """A notebook after its run; cells are found by their id."""

    def __init__(self, name: str, home: Path) -> None:
        import nbformat  # which takes seconds: too long where none of this is run
        from nbclient import NotebookClient

        self._notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        for cell in self._notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        self._manager = kernel_manager(home)
        self._client = NotebookClient(
            self._notebook, km=self._manager, timeout=60, on_cell_execute=self._look
        )
        try:
            self._client.execute(env=kernel_environment(home), cwd=str(home))
        finally:
            self._client.kc.stop_channels()
            if self._manager.has_kernel:
                self._manager.shutdown_kernel(now=True)
            self._manager.cleanup_resources()

    async def _look(self, cell: dict[str, Any], cell_index: int) -> None:
        """Do what the text asks of the reader: watch until both have ticked for a while."""
        if "after-some-ticks" not in cell["metadata"].get("tags", []):
            return
        shown = ""
        while not {"tick 2", "tock 2"} <= set(shown.splitlines()):
            message = await ensure_async(self._client.kc.get_iopub_msg(timeout=60))
            if message["msg_type"] == "stream":
                shown += message["content"]["text"]

    @property
    def code(self) -> list[Any]:
        """The code cells."""
        return [cell for cell in self._notebook.cells if cell.cell_type == "code"]

    def outputs(self, cell_id: str) -> list[dict[str, Any]]:
        """All outputs of one cell."""
        (cell,) = (c for c in self._notebook.cells if c.id == cell_id)
        return cell.outputs

    def text(self, cell_id: str) -> str:
        """What was printed under one cell while it ran."""
        return "".join(o["text"] for o in self.outputs(cell_id) if o["output_type"] == "stream")

    def value(self, cell_id: str) -> Any:
        """The value of one cell, a literal."""
        (result,) = (o for o in self.outputs(cell_id) if o["output_type"] == "execute_result")
        return ast.literal_eval(result["data"]["text/plain"])

    def shown(self, cell_id: str) -> str:
        """Everything under one cell as plain text."""
        rich = [o["data"]["text/plain"] for o in self.outputs(cell_id) if "data" in o]
        return "\n".join([self.text(cell_id), *rich])


def test_the_notebook_of_background_tasks(tmp_path: Path) -> None:
    """The story of the tickers, as the text between the cells tells it."""
    run = Executed("background_tasks.ipynb", tmp_path)

    assert all(n >= 2 for n in run.value("idle").values())
    for column in ("tick", "tock", "running"):
        assert column in run.shown("jobs")
    assert run.value("blocking") == {"tick": 0, "tock": 0}
    assert all(4 <= n <= 6 for n in run.value("foreground-5").values())
    assert all(2 <= n <= 4 for n in run.value("foreground-3").values())
    assert run.value("step") == {"tick": 1, "tock": 1}

    assert "cancelled" in run.shown("cancel-tick")
    alone = run.value("tock-alone")
    assert alone["tick"] == 0
    assert 1 <= alone["tock"] <= 3
    assert "cancelled" in run.shown("cancel-tock")
    assert run.value("silence") == {"tick": 0, "tock": 0}

    # Two threads print at once: a line end may come late, but the thread was first.
    assert re.match(r"0\n?launched\n", run.text("thread"))
    assert "the answer is 42" in run.text("result")
    assert "finished" in run.shown("all-jobs")


def test_the_tour(tmp_path: Path) -> None:
    """Each claim between the cells can be seen under one of them."""
    run = Executed("tour.ipynb", tmp_path)

    assert run.shown("jobs").count("running") == 4
    requests, waited = map(float, re.findall(r"[\d.]+(?= s)", run.text("await")))
    assert waited < requests  # one after the other they would take as long
    assert run.text("fg").endswith("epoch 100: loss 0.133\nthe loss is 0.133\n")
    assert "about 3.14" in run.text("process")
    assert "40 jobs  40 finished" in run.shown("sweep")
    assert run.text("sweep-fg").count("attempt 1 of 3 failed: ") == 2
    assert "0.450" in run.shown("sweep-fg")
    assert any("image/png" in o.get("data", {}) for o in run.outputs("sweep-fg"))
    assert "linking\ndone" in run.text("shell-fg")
    assert [place["city"] for place in run.value("all")] == ["Tromso", "Ushuaia", "Ushuaia"]
    assert "failed because of ValueError" in run.text("fail-state")
    assert "still in hashlib.pbkdf2_hmac" in run.text("cancel")
    assert re.search(r"job \d+ \(hashlib.pbkdf2_hmac.*\) cancelled\n", run.text("cancel-process"))
    (panel,) = run.outputs("panel")
    assert {"text/html", "text/plain"} <= set(panel["data"])
    assert "cancelling" in run.shown("panel")
    (picture,) = run.outputs("plot")
    assert "<svg" in picture["data"]["image/svg+xml"]


def test_the_notebook_of_places(tmp_path: Path) -> None:
    """One function in every place, one table, one sweep in three of them, and on each engine."""
    pytest.importorskip("distributed", reason="the notebook uses Dask")
    run = Executed("places.ipynb", tmp_path)

    for place in ("thread", "loop", "process", "executor", "dask", "shell"):
        assert re.search(rf"finished +{place}\b", run.shown("table")), run.shown("table")
    assert run.value("same") == (1, 4)
    assert run.value("sweep-same") is True
    assert run.value("engines-same") == [True, True]
    assert "cancelled" in run.shown("stop")


def test_the_guide(tmp_path: Path) -> None:
    """Each example does what the text beside it says."""
    run = Executed("guide.ipynb", tmp_path)

    shown = {cell.id: run.shown(cell.id) for cell in run.code}
    everything = "\n".join(shown.values())
    for text in ("499500 True finished thread", "cancelled", "from a shell", "[19, 21]"):
        assert text in everything


def test_every_notebook_is_tested_and_clean() -> None:
    """Each has a test of its own here, and none was saved with an error in it."""
    import nbformat

    tested = {"background_tasks.ipynb", "guide.ipynb", "places.ipynb", "tour.ipynb"}
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == tested
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        meant = [c for c in notebook.cells if "shows-an-error" in c.metadata.get("tags", [])]
        cells = [cell for cell in notebook.cells if cell not in meant]
        outputs = [o for cell in cells for o in cell.get("outputs", [])]
        assert not [o for o in outputs if o.output_type == "error"], path
