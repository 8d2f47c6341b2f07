"""From an answer that came back from elsewhere to the end of a job."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING

from ipy_bgtasks.errors import CannotSend, RemoteTraceback

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job import Job
    from ipy_bgtasks.runners.remote import Answer


def ending(job: Job, answer: Answer) -> Callable[[], None]:
    """What ends the job as the answer says. Reading the result may run code of its type."""
    kind, data, trace = answer
    if kind == "unsendable":
        return partial(job.fail, _caused(CannotSend(data), trace))
    try:
        value = pickle.loads(data)
    except BaseException as error:
        unreadable = CannotSend(f"what came back from the process cannot be read: {error!r}")
        return partial(job.fail, _caused(unreadable, trace))
    if kind == "value":
        return partial(job.finish, value)
    return partial(job.fail, _caused(value, trace))


def _caused(error: BaseException, trace: str) -> BaseException:
    if trace:
        error.__cause__ = RemoteTraceback(trace)
    return error
