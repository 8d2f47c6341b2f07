"""The ring of real browsers: a pytest session of its own, `python -m pytest tests/browser`.

Playwright's synchronous interface keeps an event loop running in this thread, which tests of
asyncio do not stand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="needs the extra: pip install -e '.[browser]'")
pytest.importorskip("jupyterlab", reason="needs the extra: pip install -e '.[browser]'")

from labs import Lab, Notebook, OpenNotebook, chromium
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    program = chromium()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server for all tests."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def open_notebook(
    lab: Lab, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[OpenNotebook]:
    """Open notebooks of the given cells, in JupyterLab or (`app="notebooks"`) in Notebook."""
    contexts = []
    count = 0

    def open_notebook(cells: list[str], *, app: str = "lab/tree", height: int = 1000) -> Notebook:
        nonlocal count
        count += 1
        name = f"{request.node.originalname}-{count}.ipynb"
        lab.write(name, [*cells, ""])
        context = browser.new_context(viewport={"width": 1200, "height": height})
        contexts.append(context)
        return Notebook(context.new_page(), lab.address(app, name))

    yield open_notebook
    for context in contexts:
        context.close()
    lab.shut_down()
