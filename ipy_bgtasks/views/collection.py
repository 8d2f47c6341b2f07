"""``jobs()``: this shell's jobs, for Python code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, BgTasksError, NoSuchJob
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.registry.specs import is_group
from ipy_bgtasks.text import printable

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.views.timeline import Timeline


class Jobs(Collection[Job]):
    """A read-only view of the jobs a shell keeps: `len`, iteration, ``jobs()[3]``.

    A string is a job spec: ``jobs()["?load"]``. Displays as the table of `%jobs`. With the name
    of a *group* it is a view of the jobs of that one.
    """

    def __init__(self, registry: Registry, group: str | None = None) -> None:
        self._registry = registry
        self._group = group

    def _records(self) -> list[Record]:
        if self._group is None:
            return list(self._registry)
        return [job for job in self._registry if job.group == self._group]

    def __len__(self) -> int:
        return len(self._registry if self._group is None else self._records())

    def __iter__(self) -> Iterator[Job]:
        return (record.job for record in self._records())

    def __contains__(self, job: object) -> bool:
        """Return whether a job, or the job with a number, is kept."""
        number: Any = job.number if isinstance(job, Job) else job
        kept = self._registry.get(number) if isinstance(job, Job | int | str) else None
        if kept is None or self._group not in (None, kept.group):
            return False
        return job is kept.job or not isinstance(job, Job)

    def __getitem__(self, spec: int | str) -> Job:
        """Return the job with that number, or that a spec names.

        Raises `NoSuchJob`, which is a `LookupError`, if there is none.
        """
        found = self._registry.find(str(spec))
        if self._group not in (None, found.group):
            raise NoSuchJob(f"job {found.number} is not in the group {self._group}")
        return found.job

    def plot(self, last: int = 30) -> Timeline:
        """Return a timeline for a notebook: when the *last* launched jobs were queued and ran."""
        from ipy_bgtasks.views.timeline import Timeline

        return Timeline(self._records()[-max(last, 1) :])

    def __repr__(self) -> str:
        return printable(self._bundle()["text/plain"])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._bundle()

    def _bundle(self) -> dict[str, str]:
        from ipy_bgtasks.views.show import table

        return table(self._registry, self._records())


Jobs.__module__ = "ipy_bgtasks"


def jobs(spec: str | None = None) -> Jobs:
    """Return the jobs of the IPython shell this runs in. Any thread may call.

    With ``"@NAME"`` they are those of a group. Raises `NoSuchJob` if there is none of that name,
    `BgTasksError` where the extension is not loaded.
    """
    from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    core = getattr(shell, "_ipy_bgtasks_core", None)
    if core is None:
        raise BgTasksError("no jobs here: `%load_ext ipy_bgtasks` in IPython or Jupyter first")
    return Jobs(core.registry) if spec is None else group_of(core.registry, spec)


def group_of(registry: Registry, spec: str) -> Jobs:
    """Return the jobs of the group that ``@NAME`` names."""
    if not is_group(spec):
        raise BadInput(f"jobs() takes a group, such as '@crawl', not {spec!r}: jobs()[{spec!r}]")
    return Jobs(registry, registry.group(spec).name)
