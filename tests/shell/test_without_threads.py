"""In a kernel without threads, as in a browser, the loop works and a thread is a clear error."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ipy_bgtasks import jobs


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    for name in ("_start_new_thread", "_start_joinable_thread"):
        if hasattr(threading, name):
            monkeypatch.setattr(threading, name, refuse)


async def test_coroutines_run_and_a_call_says_what_would_do(threadless: None, loaded: Any) -> None:
    """A job on the loop finishes and times out; one in a thread fails with a hint."""
    loaded.user_ns["asyncio"] = asyncio
    job = loaded.run_line_magic("bg", "asyncio.sleep(0, 'value')")
    assert await job == "value"
    loaded.run_line_magic("bg", "--timeout 0.01 asyncio.sleep(1000)")
    with pytest.raises(TimeoutError):
        await jobs()[2]
    assert await loaded.run_line_magic("bg", "-l sum([1, 2])") == 3
    failed = loaded.run_line_magic("bg", "sum([1, 2])")
    error = failed.exception()
    assert isinstance(error, RuntimeError)
    assert "%bg -l" in error.__notes__[0]
