"""Bringing a job to the foreground: attach, wait, and what an interrupt does meanwhile."""

from ipy_bgtasks.foreground.foreground import Foreground

__all__ = ["Foreground"]
