"""The attempts of a job that is run again when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipy_bgtasks.text import error_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record


class Attempts:
    """Which attempt a job is in, or waits for, of how many; and how the earlier ones failed.

    *again* has the job run once more; it is called with the number of the attempt that failed,
    and with what to write in the log.
    """

    __slots__ = ("_again", "_errors", "most", "number")

    def __init__(self, most: int, again: Callable[[int, str], None]) -> None:
        self.most = most
        self.number = 1
        self._again = again
        self._errors: list[str] = []

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.most}"

    def takes(self, job: Record, error: BaseException) -> bool:
        """Return whether another attempt follows the one that has failed with *error*.

        An exit is no failure; and whoever was asked to stop is not run again.
        """
        if self.number >= self.most or not isinstance(error, Exception):
            return False
        if job.asked or job.done():
            return False
        failed, line = self.number, error_line(error)
        before = str(self)
        self._errors.append(f"{before}: {line}")
        self.number += 1
        self._again(failed, f"{before} failed: {line}")
        return True

    @property
    def has_failed(self) -> bool:
        """Whether an attempt has failed that another followed, or will follow."""
        return self.number > 1

    def annotate(self, error: BaseException) -> None:
        """Note on the last error how the earlier attempts failed."""
        for line in self._errors:
            error.add_note(line)


def note_in_log(job: Record, line: str) -> None:
    """Record one line between those of two attempts."""
    last = job.log.tail(1)
    begun = bool(last) and not last[-1].text.endswith("\n")
    job.log.write("stderr", "\n" * begun + line + "\n")
