"""The numbers of kept jobs: `k1`, `k2`, …, one series for all sessions of a user."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record

_FORM = re.compile(r"k([1-9]\d{0,8})")
#: What is added: such a number is no other job's, and kept jobs come first.
_BELOW = -1_000_000_000


class KeptNumber(int):
    """A job number that reads `k3`; as an integer it is negative, and no other job's."""

    __slots__ = ()

    @classmethod
    def of(cls, serial: int) -> KeptNumber:
        """Return the number of the kept job with that serial number, from 1 on."""
        return cls(_BELOW + serial)

    @classmethod
    def read(cls, text: str) -> KeptNumber | None:
        """Return the number that a text such as `k3` or `%k3` names; None if it names none."""
        match = _FORM.fullmatch(text.strip().removeprefix("%"))
        return None if match is None else cls.of(int(match[1]))

    @property
    def serial(self) -> int:
        """The number without its letter."""
        return int(self) - _BELOW

    def __str__(self) -> str:
        return f"k{self.serial}"

    __repr__ = __str__


def goes_on(job: Record) -> bool:
    """Return whether a job goes on when this session ends."""
    return job.runner is not None and not job.done() and job.runner.goes_on(job)
