"""A job: the handle to it, and all that it keeps of its own: outcome, progress, output."""

from ipy_bgtasks.job.job import Job, current_job

__all__ = ["Job", "current_job"]
