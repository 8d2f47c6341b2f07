"""A real JupyterLab, and a notebook in a real browser.

    def test_something(open_notebook):
        notebook = open_notebook(["%load_ext ipy_bgtasks", "%bg f()"])
        notebook.run(0, 1)
        notebook.shows(1, "finished")

`run` waits for each cell's end, `start` does not; `shows` waits until an output holds a text.
No test sleeps: every wait is for something in the page, and fails after `TIMEOUT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from playwright.sync_api import Locator, Page, expect

import ipy_bgtasks

TIMEOUT = 60_000  # milliseconds; a bound on failure

_TOKEN = secrets.token_hex()
_CURRENT = "jupyterapp.shell.currentWidget"
_KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"


def chromium() -> str | None:
    """Where Debian's Chromium, or what goes by that name, is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Lab:
    """A Jupyter server with JupyterLab and Notebook, with directories of its own under *home*."""

    def __init__(self, home: Path, *more: str) -> None:
        self.runtime = home / "runtime"
        self.root = home / "notebooks"
        self.root.mkdir()
        config = home / "config"
        config.mkdir()
        exposed = {"expose_app_in_browser": True}
        (config / "jupyter_server_config.json").write_text(
            json.dumps({"LabApp": exposed, "JupyterNotebookApp": exposed})
        )
        settings = home / "settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"fetchNews": "false", "checkForUpdates": False})
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        environment = {
            **os.environ,
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
        }
        options = [
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={self.url.rpartition(':')[2]}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={_TOKEN}",
            f"--ServerApp.root_dir={self.root}",
            *more,
        ]
        self.log = home / "server.txt"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._answers()

    def _answers(self) -> None:
        address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        while self._process.poll() is None:
            try:
                socket.create_connection(address, timeout=5).close()
            except ConnectionRefusedError:
                time.sleep(0.1)  # a server does not say when it begins to listen
                continue
            self._ask("/api")
            return
        raise AssertionError(f"the server ended\n{self.log.read_text()}")

    def write(self, name: str, cells: list[str]) -> None:
        """Make a notebook of code cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.root / name)

    def read(self, name: str) -> Any:
        """A notebook as it is saved."""
        return nbformat.read(self.root / name, as_version=4)

    def kernels(self) -> set[str]:
        """The identifiers of all that run."""
        return {kernel["id"] for kernel in self._ask("/api/kernels")}

    def start_kernel(self, code: str) -> str:
        """Start one without a page, and run *code* in it; returns its identifier."""
        name: str = self._ask("/api/kernels", "POST")["id"]

        async def run() -> None:
            client = AsyncKernelClient()
            client.load_connection_file(str(self.runtime / f"kernel-{name}.json"))
            client.start_channels()
            try:
                client.execute(code)  # what it shows is nobody's concern
                reply = await client.get_shell_msg(timeout=90)
            finally:
                client.stop_channels()
            assert reply["content"]["status"] == "ok", reply["content"]

        with ThreadPoolExecutor(1) as other:  # Playwright runs a loop in this thread
            other.submit(lambda: asyncio.run(run())).result()
        return name

    def shut_down(self) -> None:
        """End all kernels."""
        deadline = time.monotonic() + 30
        while True:
            try:
                if not (kernels := self._ask("/api/kernels")):
                    return
                for kernel in kernels:
                    self._ask(f"/api/kernels/{kernel['id']}", "DELETE")
            except urllib.error.HTTPError:
                # The server answers so when a kernel that it is to list ends at that moment.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # it ends soon: asked again until then

    def address(self, app: str, name: str) -> str:
        """Where an application shows a notebook, and nothing that was open before."""
        return f"{self.url}/{app}/{name}?reset&token={_TOKEN}"

    def _ask(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"token {_TOKEN}"}
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def close(self) -> None:
        """End the server, and with it its kernels."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            # Rarely, on a busy machine, its main thread hangs in a join at its exit: show in which.
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            print(self.log.read_text()[-8000:])


class Notebook:
    """A notebook that is open in the browser, its kernel ready."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.open()

    def open(self) -> None:
        """Go there, or reload it, and wait for the kernel."""
        self.page.goto(self.url)
        self.ready()

    def ready(self) -> None:
        """Wait until the kernel does nothing."""
        self.page.wait_for_function(f"{_KERNEL}?.status === 'idle'", timeout=TIMEOUT)

    def do(self, command: str, **arguments: Any) -> Any:
        """Execute a command of the application, and wait for its end."""
        return self.page.evaluate(
            "([command, given]) => jupyterapp.commands.execute(command, given).then(() => 0)",
            [command, arguments],
        )

    def start(self, index: int) -> None:
        """Run one cell, and come back at once."""
        self.page.evaluate(
            f"""index => {{ {_CURRENT}.content.activeCellIndex = index;
                            jupyterapp.commands.execute('notebook:run-cell'); }}""",
            index,
        )

    def run(self, *indexes: int) -> None:
        """Run cells, each to its end."""
        for index in indexes:
            self.page.evaluate(
                f"""index => {{ {_CURRENT}.content.activeCellIndex = index;
                    return jupyterapp.commands.execute('notebook:run-cell').then(() => 0); }}""",
                index,
            )

    def set_source(self, index: int, source: str) -> None:
        """Replace the text of a cell."""
        self.page.evaluate(
            f"""([index, source]) =>
                {_CURRENT}.content.widgets[index].model.sharedModel.setSource(source)""",
            [index, source],
        )

    def execute(self, code: str) -> None:
        """Run *code* in the last cell, which is kept for that."""
        last = self.page.evaluate(f"{_CURRENT}.content.widgets.length - 1")
        self.set_source(last, code)
        self.run(last)

    def interrupt(self) -> None:
        """Press the stop button."""
        self.page.evaluate(f"{_CURRENT}.sessionContext.session.kernel.interrupt()")

    def cell(self, index: int) -> Locator:
        """One cell."""
        return self.page.locator(".jp-Notebook:visible .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """The outputs of one cell."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def shows(self, index: int, text: str | re.Pattern[str]) -> None:
        """Wait until a cell's output holds *text*."""
        expect(self.output(index)).to_contain_text(text, timeout=TIMEOUT)

    def text(self, index: int) -> str:
        """What stands under a cell now."""
        return self.output(index).inner_text()

    def panel(self, index: int) -> Locator:
        """The panel under a cell, once it is there."""
        panel = self.output(index).locator(".bgt.panel")
        expect(panel).to_be_visible(timeout=TIMEOUT)
        return panel

    def row(self, index: int, job: int | str) -> Locator:
        """The row of a job, or of `@group`, in the panel under a cell."""
        return self.panel(index).locator(f'.row[data-n="{job}"]')

    def save(self) -> None:
        """Save it."""
        self.do("docmanager:save")


OpenNotebook = Callable[..., Notebook]
