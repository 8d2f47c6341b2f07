"""IPython in Pyodide under Node, as in a page of JupyterLite; skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import IPython
import pytest

import ipy_bgtasks

_HERE = Path(__file__).parent


class Page:
    """One Python in Node: answers cells."""

    def __init__(self, node: str, pyodide: Path) -> None:
        folders = [Path(ipy_bgtasks.__file__).parents[1], Path(IPython.__file__).parents[1]]
        script, shell = _HERE / "page.mjs", _HERE / "shell_within.py"
        self._process = subprocess.Popen(
            [node, str(script), str(pyodide), str(shell), *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == {"ready": True}

    def run(self, code: str) -> dict[str, Any]:
        """Run a cell; what it showed, the repr of its value, the name of its exception."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def ok(self, code: str) -> str:
        """Run a cell that must not fail; what it showed."""
        answer = self.run(code)
        assert answer["error"] is None, answer["shown"]
        return str(answer["shown"])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "Node has ended"
        return json.loads(line)


def _pyodide() -> Path | None:
    """Where npm has put it: PYODIDE, or a folder `node_modules` here or above."""
    named = [Path(found)] if (found := os.environ.get("PYODIDE")) else []
    usual = [folder / "node_modules" / "pyodide" for folder in (_HERE, *_HERE.parents)]
    return next((path for path in named + usual if (path / "pyodide.mjs").is_file()), None)


@pytest.fixture(scope="session")
def _page() -> Iterator[Page]:
    node, pyodide = shutil.which("node"), _pyodide()
    if node is None or pyodide is None:
        pytest.skip("needs node, and pyodide from npm in node_modules or where PYODIDE says")
    page = Page(node, pyodide)
    yield page
    page.close()


@pytest.fixture
def page(_page: Page) -> Iterator[Page]:
    """A page with the extension loaded, and unloaded afterwards."""
    _page.ok("%load_ext ipy_bgtasks")
    _page.ok(
        "import asyncio\nasync def double(x):\n"
        "    print('in', x)\n    await asyncio.sleep(0.01)\n    return 2 * x"
    )
    yield _page
    _page.ok("%cancel all\n%jobs --prune\n%unload_ext ipy_bgtasks")
