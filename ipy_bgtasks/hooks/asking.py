"""Makes `input`, `getpass` and `breakpoint` raise at once in a background job, which cannot ask."""

from __future__ import annotations

import builtins
import getpass
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller
from ipy_bgtasks.errors import CannotAsk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def refuse_questions(kernel: Any = None) -> Callable[[], None]:
    """Make questions raise in jobs from now on; returns what ends that.

    *kernel* is ipykernel's, which installs its own `input` for each cell and removes it
    afterwards, so both it and what it restores must be covered.
    """
    guarded: list[tuple[object, object]] = []
    for holder, name, what in _places(kernel):
        original = getattr(holder, name)
        ask = _guarded(original, what)
        guarded.append((ask, original))
        setattr(holder, name, ask)

    def undo() -> None:
        # The kernel moves functions about: one of ours may be elsewhere than where it was put.
        for holder, name, _ in _places(kernel):
            found = getattr(holder, name)
            originals = [original for ask, original in guarded if ask is found]
            if not originals:
                continue
            setattr(holder, name, originals[0])
            if holder is kernel and not name.startswith("_"):
                delattr(holder, name)  # there it hid the class's method

    return undo


def _places(kernel: Any) -> Iterator[tuple[Any, str, str]]:
    yield builtins, "input", "input"
    yield getpass, "getpass", "getpass"
    yield sys, "breakpointhook", "breakpoint"
    if kernel is not None:
        yield kernel, "raw_input", "input"
        yield kernel, "getpass", "getpass"
        if hasattr(kernel, "_sys_raw_input"):
            yield kernel, "_sys_raw_input", "input"
        if hasattr(kernel, "_save_getpass"):
            yield kernel, "_save_getpass", "getpass"


def _guarded(original: Callable[..., Any], what: str) -> Callable[..., Any]:
    @wraps(original)
    def ask(*args: Any, **kwargs: Any) -> Any:
        job = caller()
        if job is None:
            return original(*args, **kwargs)
        raise CannotAsk(
            f"{what}() in job {job.number}: a background job cannot ask; "
            "hand it what it needs as an argument"
        )

    return ask
