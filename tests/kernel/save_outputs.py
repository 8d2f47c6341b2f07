"""Run notebooks and save them with their outputs.

``python tests/kernel/save_outputs.py FILE…``, with the package installed.

Output that arrives when its cell is over is kept under it, as JupyterLab keeps it; nbconvert
drops that. A cell tagged ``after-some-ticks`` is run when both tickers have ticked for a while.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from kernels import Kernel, Reply

WIDGET = "application/vnd.jupyter.widget-view+json"
OUTPUTS = {"stream", "display_data", "execute_result", "error"}


def main(path: Path) -> None:
    """Run the notebook at *path* in a fresh kernel of this interpreter and save it."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tempfile.TemporaryDirectory() as home:
        kernel = Kernel(Path(home))
        try:
            replies = _run(kernel, cells)
        finally:
            kernel.close()
        for cell, reply in zip(cells, replies, strict=True):
            cell.execution_count = reply.content["execution_count"]
            cell.outputs = _outputs(reply)
    nbformat.write(notebook, path)


def _run(kernel: Kernel, cells: list[Any]) -> list[Reply]:
    replies: list[Reply] = []
    for cell in cells:
        if "after-some-ticks" in cell.metadata.get("tags", []):
            kernel.until(lambda: _shown(replies) >= {"tick 3", "tock 3"})
        replies.append(kernel.ok(cell.source, timeout=60))
    return replies


def _shown(replies: list[Reply]) -> set[str]:
    return {line for reply in replies for line in reply.stdout.splitlines()}


def _outputs(reply: Reply) -> list[Any]:
    """What the cell shows in the end, with updates applied and the pieces of a stream joined."""
    outputs: list[Any] = []
    displays: dict[str, Any] = {}
    for message in reply.messages:
        kind, content = message["msg_type"], message["content"]
        display = content.get("transient", {}).get("display_id")
        if kind == "update_display_data" and display in displays:
            displays[display].update(data=content["data"], metadata=content["metadata"])
        elif kind == "stream" and outputs and outputs[-1].get("name") == content["name"]:
            outputs[-1]["text"] += content["text"]
        elif kind in OUTPUTS:
            content.get("data", {}).pop(WIDGET, None)  # no kernel stands behind it any more
            outputs.append(nbformat.v4.output_from_msg(message))
            if display:
                displays[display] = outputs[-1]
    return outputs


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
