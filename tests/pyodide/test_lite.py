"""A page of JupyterLite in a browser; skipped unless JUPYTERLITE names a site of `lite_site.py`."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator

import pytest

#: Runs a cell on the page's kernel; its status, and all that it showed.
RUN = """async code => {
  const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const shown = [];
  const request = kernel.requestExecute({code});
  request.onIOPub = ({content}) =>
    shown.push(content.text ?? content.data?.["text/plain"] ?? content.evalue ?? "");
  const reply = await request.done;
  return [reply.content.status, shown.join("")];
}"""
IDLE = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[str], str]]:
    """Run a cell that must not fail on a page with a new notebook; what it showed."""
    folder, chromium = os.environ.get("JUPYTERLITE"), shutil.which("chromium")
    if not folder or not chromium:
        pytest.skip("needs Chromium, and a site of JupyterLite where JUPYTERLITE says")
    playwright = pytest.importorskip("playwright.sync_api")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/lab/index.html")
        page.wait_for_function("window.jupyterapp?.commands?.hasCommand('notebook:create-new')")
        page.evaluate("jupyterapp.commands.execute('notebook:create-new', {kernelName: 'python'})")
        page.wait_for_function(IDLE, timeout=120_000)

        def run(code: str) -> str:
            status, shown = page.evaluate(RUN, code)
            assert status == "ok", shown
            return str(shown)

        run("%pip install ipy_bgtasks")
        yield run
        browser.close()
    server.shutdown()
    server.server_close()


def test_jobs_of_the_loop_run_in_a_page(run: Callable[[str], str]) -> None:
    """Load, launch, wait, list, cancel and unload; what needs a thread is one line."""
    assert run("%load_ext ipy_bgtasks") == ""
    run("import asyncio\nasync def double(x):\n    print('in', x)\n    return 2 * x")
    run("job = %bg double(3)")
    assert run("x = %fg job\nx").endswith("6")
    assert run("print(job.log.stdout, job.where)") == "in 3\n loop\n"
    assert "finished  loop  double(3)" in run("%jobs")
    run("job = %bg asyncio.sleep(1000)")
    assert "(asyncio.sleep(1000)) cancelled" in run("%cancel job")
    assert "a browser has none" in run("%bg sum([1])")
    run("%unload_ext ipy_bgtasks")
    assert "not found" in run("%jobs")
