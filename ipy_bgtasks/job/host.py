"""Who is told about a job while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipy_bgtasks.job.job import Job
    from ipy_bgtasks.job.log import Log


class Host:
    """What a job tells those who show it; by default nothing comes of it.

    Each method is called on the thread where it happens, must return at once and not raise.
    """

    def new_log(self, job: Job) -> Log:
        """Make the log; called when it is first needed."""
        from ipy_bgtasks.job.log import Log

        return Log()

    def changed(self, job: Job) -> None:
        """The job began, was asked to stop, or reported progress."""

    def closing(self, job: Job) -> None:
        """The job's code has ended; the job is about to. Called in the job's own context."""


#: Tells nobody.
SILENT = Host()
