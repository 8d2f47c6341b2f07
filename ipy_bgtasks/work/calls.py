"""What a work's call does around the compiled code, when and where it runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from ipy_bgtasks.work.static import is_a, is_awaitable, is_pending


def called(get: Callable[[], Any]) -> Any:
    """Evaluate, and call the value if it turns out to be a function."""
    return _call_if_function(get())


async def settled(get: Callable[[], Awaitable[Any]], *, call: bool = False) -> Any:
    """Evaluate on the running loop, then await the value if it is awaitable."""
    value = await get()
    return await _settle(_call_if_function(value) if call else value)


@dataclass(frozen=True, slots=True)
class Cell:
    """Statements that run in the live namespace, and the expression they end with."""

    body: CodeType | None
    last: CodeType | None
    namespace: dict[str, Any] = field(repr=False)
    settle: bool = False
    """Whether the last value, if awaitable, is awaited too."""

    @property
    def is_async(self) -> bool:
        """Whether there is a top-level await in it."""
        return _awaits(self.body) or _awaits(self.last)

    def run(self) -> Any:
        """Run the cell and return the value of its last expression, if there is one."""
        if self.body is not None:
            exec(self.body, self.namespace)
        return None if self.last is None else eval(self.last, self.namespace)

    async def run_async(self) -> Any:
        """Run the cell on the running loop; otherwise as ``run``."""
        if self.body is not None:
            await _evaluated(self.body, self.namespace)
        if self.last is None:
            return None
        value = await _evaluated(self.last, self.namespace)
        return await _settle(value) if self.settle else value


def _awaits(code: CodeType | None) -> bool:
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)


async def _evaluated(code: CodeType, namespace: dict[str, Any]) -> Any:
    value = eval(code, namespace)
    return await value if _awaits(code) else value


def _call_if_function(value: Any) -> Any:
    return value() if callable(value) and not is_pending(value) else value


async def _settle(value: Any) -> Any:
    if is_a(value, concurrent.futures.Future):
        value = asyncio.wrap_future(value)
    return await value if is_awaitable(value) else value
