"""The end of a session: jobs are told and may clean up, and nothing keeps the process."""

from ipy_bgtasks.leaving.leaving import Leaving

__all__ = ["Leaving"]
