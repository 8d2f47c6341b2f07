"""`track`: iteration that reports its progress."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TypeVar, overload

from ipy_bgtasks.context import current
from ipy_bgtasks.job.progress import Progress, check_total, shown
from ipy_bgtasks.own_frames import hide

_T = TypeVar("_T")

# The most reports that a loop makes, roughly: finer steps are not visible in any bar, and a loop
# over millions of items must not pay for each.
_STEPS = 1000


@overload
def track(iterable: Iterable[_T], total: float | None = None) -> Iterator[_T]: ...
@overload
def track(iterable: AsyncIterable[_T], total: float | None = None) -> AsyncIterator[_T]: ...
def track(
    iterable: Iterable[_T] | AsyncIterable[_T], total: float | None = None
) -> Iterator[_T] | AsyncIterator[_T]:
    """Iterate, and report progress to the current job; outside a job, only iterate.

    `total` is how many items there will be; by default what `len` gives, if it is defined.
    An asynchronous iterable gives an asynchronous iterator. Raises `ValueError` for a total that
    is not a number of 0 or more, `TypeError` for what cannot be iterated.
    """
    check_total(total)
    if total is None:
        total = _length(iterable)
    if isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable):
        return _track_async(iterable, total)
    try:
        items = iter(iterable)  # also for what has only __getitem__
    except TypeError:
        message = f"track needs something to iterate over, not {shown(iterable)}"
        raise TypeError(message) from None
    return _track(items, total)


def _track(items: Iterator[_T], total: float | None) -> Iterator[_T]:
    report = _reporter(total)
    done = due = 0
    try:
        for item in items:
            if done >= due:
                due = report(done)
            yield item
            done += 1
    except BaseException as error:
        hide(error)
        raise
    report(done)


async def _track_async(items: AsyncIterable[_T], total: float | None) -> AsyncIterator[_T]:
    report = _reporter(total)
    done = due = 0
    try:
        async for item in items:
            if done >= due:
                due = report(done)
            yield item
            done += 1
    except BaseException as error:
        hide(error)
        raise
    report(done)


def _reporter(total: float | None) -> Callable[[int], int]:
    """Return a function that reports how many are done and returns at how many to call it next."""
    job = current.get()

    def report(done: int) -> int:
        if job is not None:
            job.progress = Progress(done, total)
        return done + max(1, int(total or done) // _STEPS)

    return report


def _length(iterable: object) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except Exception:  # no `len`, or one that refuses: a data loader over a stream does
        return None
