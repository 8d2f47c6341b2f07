"""``jobs()``: this shell's jobs, for Python code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BgTasksError
from ipy_bgtasks.job.handle import Job

if TYPE_CHECKING:
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.views.timeline import Timeline


class Jobs(Collection[Job]):
    """A read-only view of the jobs a shell keeps: `len`, iteration, ``jobs()[3]``.

    A string is a job spec: ``jobs()["?load"]``. Displays as the table of `%jobs`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __len__(self) -> int:
        return len(self._registry)

    def __iter__(self) -> Iterator[Job]:
        return (record.job for record in self._registry)

    def __contains__(self, job: object) -> bool:
        """Return whether a job, or the job with a number, is kept."""
        if isinstance(job, int):
            return self._registry.get(job) is not None
        return (
            isinstance(job, Job)
            and (kept := self._registry.get(job.number)) is not None
            and (kept.job is job)
        )

    def __getitem__(self, spec: int | str) -> Job:
        """Return the job with that number, or that a spec names.

        Raises `NoSuchJob`, which is a `LookupError`, if there is none.
        """
        return self._registry.find(str(spec)).job

    def plot(self, last: int = 30) -> Timeline:
        """Return a timeline for a notebook: when the *last* launched jobs were queued and ran."""
        from ipy_bgtasks.views.timeline import Timeline

        return Timeline(list(self._registry)[-max(last, 1) :])

    def __repr__(self) -> str:
        return self._bundle()["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._bundle()

    def _bundle(self) -> dict[str, str]:
        from ipy_bgtasks.views.show import table

        return table(self._registry, list(self._registry))


def jobs() -> Jobs:
    """Return the jobs of the IPython shell this runs in. Any thread may call.

    Raises `BgTasksError` where the extension is not loaded.
    """
    from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    core = getattr(shell, "_ipy_bgtasks_core", None)
    if core is None:
        raise BgTasksError("no jobs here: `%load_ext ipy_bgtasks` in IPython or Jupyter first")
    return Jobs(core.registry)
