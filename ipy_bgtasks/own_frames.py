"""Keeps the frames of this package out of the tracebacks that users see.

A traceback is a list of links, one a frame, from the outermost on. Where an exception leaves this
package towards the user, `hide` takes our links out; a bare ``raise`` after that adds none:

    except BaseException as error:
        hide(error)
        raise
"""

from __future__ import annotations

from collections.abc import Coroutine
from itertools import zip_longest
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]
#: Whose frames belong to ours where they stand between two of ours, or before the first.
_MACHINERY = {"asyncio", "importlib"}


def hide(error: BaseException) -> None:
    """Take our frames out of the traceback of *error* itself, where they stand in it."""
    interrupted = isinstance(error, KeyboardInterrupt)  # where our code waits, or is imported
    error.__traceback__ = without_ours(error.__traceback__, to_the_end=interrupted)


def hide_all(error: BaseException) -> None:
    """Take our frames out of *error*, its causes and contexts, and the members of a group."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        hide(one)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


async def unseen(coro: Coroutine[Any, Any, T]) -> T:
    """Await *coro* for a user's cell, so that an interrupt shows the cell and no frame of ours."""
    try:
        return await coro
    except KeyboardInterrupt as error:
        error.__traceback__ = None
        raise
    except BaseException as error:
        hide(error)
        raise


def without_ours(trace: TracebackType | None, *, to_the_end: bool = False) -> TracebackType | None:
    """Return the traceback without our frames; the links that remain are the same objects.

    With *to_the_end* it ends before ours where only asyncio or an import follows on them.
    """
    links: list[TracebackType] = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    tops = [str(link.tb_frame.f_globals.get("__name__")).partition(".")[0] for link in links]
    if _PACKAGE not in tops:
        return links[0] if links else None
    users, waiting = _users(tops)
    kept = [links[at] for at in (users if to_the_end else users + waiting)]
    for link, following in zip_longest(kept, kept[1:]):
        if link.tb_next is not following:
            link.tb_next = following
    return kept[0] if kept else None


def _users(tops: list[str]) -> tuple[list[int], list[int]]:
    """Return the places of the user's frames, by the packages that the frames belong to.

    And those of asyncio or an import at the end, called by ours.
    """
    kept: list[int] = []
    machinery = True  # at the start, and after one of ours
    waiting: list[int] = []  # of these only what follows tells whose they are
    for at, top in enumerate(tops):
        if top == _PACKAGE:
            machinery = True
            waiting.clear()
        elif top in _MACHINERY and machinery:
            waiting.append(at)
        else:
            kept += [*waiting, at]
            waiting.clear()
            machinery = False
    return kept, waiting
