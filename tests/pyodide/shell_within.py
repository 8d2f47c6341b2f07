"""Runs within Pyodide, before the first cell: makes the shell, and what answers a cell."""

import io
import json
import sys
import types

sys.path += folders.to_py()  # type: ignore[name-defined]  # noqa: F821 - page.mjs sets it
sys.modules["psutil"] = types.ModuleType("psutil")  # has no wheel there, and is hardly used

from IPython.core.interactiveshell import InteractiveShell  # noqa: E402
from traitlets.config import Config  # noqa: E402

config = Config()
config.HistoryManager.enabled = False
config.InteractiveShell.colors = "nocolor"
shell = InteractiveShell.instance(config=config)
shown = sys.stdout = sys.stderr = io.StringIO()


async def run(line: str) -> str:
    """Run one cell, given and answered as JSON."""
    code = json.loads(line)
    shown.seek(0)
    shown.truncate()
    result = await shell.run_cell_async(
        code, store_history=True, transformed_cell=shell.transform_cell(code)
    )
    error = result.error_before_exec or result.error_in_exec
    answer = {
        "shown": shown.getvalue(),
        "value": repr(result.result),
        "error": error and type(error).__name__,
    }
    return json.dumps(answer)
