"""How long it will still take: one estimate for the card, the table and the panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipy_bgtasks.text import elapsed_text

if TYPE_CHECKING:
    from ipy_bgtasks.job.progress import Progress

_SOONEST = 2.0  # seconds after the start
_LEAST = 0.01  # of all that is to do


def seconds_left(fraction: float | None, elapsed: float) -> float | None:
    """Return how many seconds it will still take, at the pace so far; None if it is too early.

    *fraction* is the part that was done in *elapsed* seconds.
    """
    if fraction is None or not _LEAST <= fraction < 1 or elapsed < _SOONEST:
        return None
    return elapsed * (1 - fraction) / fraction


def left_text(seconds: float | None) -> str:
    """Return it in words, such as ``2m left``; empty if it cannot be told."""
    return "" if seconds is None else f"{rough_time(seconds)} left"


def progress_left(progress: Progress | None, elapsed: float) -> str:
    """Return in words how much longer a job will take that has run for *elapsed* seconds."""
    return left_text(None if progress is None else seconds_left(progress.fraction, elapsed))


def rough_time(seconds: float) -> str:
    """Return a time in the form of `elapsed_text`, but rounded: ``41s``, ``2m``, ``1h05m``."""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else elapsed_text(minutes * 60)
