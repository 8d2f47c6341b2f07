"""Waiting on an event loop for what happens on some thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


def until_called(
    add: Callable[[Callable[[object], object]], object],
    remove: Callable[[Callable[[object], object]], object],
) -> Generator[Any, None, None]:
    """Wait on the running loop until the callback given to *add* is called, by any thread.

    However the wait ends, *remove* is told.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[None] = loop.create_future()

    def come_true() -> None:
        if not called.done():
            called.set_result(None)

    def wake(_: object) -> None:
        # The loop may have closed since; then nobody waits any more.
        if not loop.is_closed():
            loop.call_soon_threadsafe(come_true)

    add(wake)
    try:
        yield from called
    finally:
        remove(wake)


def in_asyncios_own_task() -> bool:
    """Whether asyncio made the running task of a bare awaitable, as `gather` does of a job."""
    task = asyncio.current_task()
    return getattr(task and task.get_coro(), "__name__", "") == "_wrap_awaitable"
