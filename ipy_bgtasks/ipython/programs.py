"""`launch()` and `jobs()`: for functions and libraries what the magics are for cells."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, BgTasksError, NoSuchJob
from ipy_bgtasks.ipython.options import size
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.registry.collection import LaunchOptions
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.registry.specs import is_group
from ipy_bgtasks.session.launching import find_jobs, start, variables, where_to_run
from ipy_bgtasks.text import printable, short_repr
from ipy_bgtasks.work import Work
from ipy_bgtasks.work.plan import Kind, kind_of, runs_once

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.views.pictures import Timeline


_SHORT = 20  # characters of an argument in a job's name


def launch(
    fn: Callable[..., Any] | Awaitable[Any],
    /,
    *args: Any,
    name: str | None = None,
    process: bool = False,
    loop: bool = False,
    thread: bool = False,
    on: Any = None,
    group: str | None = None,
    limit: int | str | None = None,
    halt: bool = False,
    timeout: float | None = None,
    memory: str | None = None,
    after: Job | str | Iterable[Job | str] = (),
    log: str | os.PathLike[str] | None = None,
    retries: int = 0,
    quiet: bool = False,
    notify: bool = False,
    keep: bool = False,
    **kwargs: Any,
) -> Job:
    """Call ``fn(*args, **kwargs)`` in the background, as `%bg` does, and return its `Job`.

    The options are those of `%bg`: *group* and *limit* are ``-g GROUP:LIMIT``, *on* is an executor,
    *timeout* counts in seconds, *memory* is as ``"4G"``. A coroutine or another awaitable may stand
    for *fn*. An argument that is called as an option is goes into a `functools.partial`. Raises
    `BgTasksError` where nothing is loaded, `BadInput` for what cannot run. Any thread may call.
    """
    session = _session()
    work = _work(fn, args, kwargs)
    if retries and (inspect.isawaitable(fn) or runs_once(work, {})):
        raise BadInput(f"retries cannot run {work.label} again, which ends once: give a function")
    options = LaunchOptions(
        place=_place({"process": process, "loop": loop, "thread": thread}, on),
        on=on,
        name=name,
        quiet=quiet,
        timeout=_seconds(timeout),
        memory=None if memory is None else size(memory),
        log=None if log is None else str(log),
        group=_group(group, limit),
        halt=halt,
        retries=retries,
        notify=notify,
        keep=keep,
    )
    known = variables(session, None)
    where = where_to_run(session, options, known, is_command=False)
    others = [after] if isinstance(after, Job | str) else after
    specs = [str(each.number) if isinstance(each, Job) else each for each in others]
    jobs = find_jobs(session, specs, known)
    card = None if quiet else session.front_end.launching
    return start(session, work, options, where=where, after=jobs, prepare=card).job


def _seconds(timeout: float | None) -> float | None:
    if timeout is not None and not 0 < timeout < math.inf:
        raise BadInput(f"timeout takes a number of seconds, such as 2.5, not {timeout!r}")
    return timeout


def _session() -> Any:
    from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

    from ipy_bgtasks.ipython.extension import session_of

    session = session_of(get_ipython())  # type: ignore[no-untyped-call, unused-ignore]
    if session is None:
        raise BgTasksError("launch() needs a session: `%load_ext ipy_bgtasks` in IPython first")
    _ = session.registry  # the first job replaces `input` and the like
    return session


def _work(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
    if inspect.isawaitable(fn):
        if args or kwargs:
            raise BadInput(f"{short_repr(fn)} takes no arguments: it has been called already")
        called = getattr(fn, "__name__", None)
        label = f"{called}()" if isinstance(called, str) else short_repr(fn)
        return Work(partial(_awaited, fn), label, label, is_async=True)
    if not callable(fn):
        raise BadInput(f"{short_repr(fn)} is nothing to run: give a function and its arguments")
    label = _label(fn, args, kwargs)
    kind = kind_of(fn)
    if kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise BadInput(f"{label} only makes a generator and runs nothing")
    call = partial(fn, *args, **kwargs) if args or kwargs else fn
    return Work(call, label, label, is_async=kind is Kind.AWAITABLE)


async def _awaited(target: Awaitable[Any]) -> Any:
    return await target


def _label(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    inner = fn.func if isinstance(fn, partial) else fn
    called = getattr(inner, "__name__", None) or type(inner).__name__
    shown = [short_repr(each, _SHORT) for each in args]
    shown += [f"{key}={short_repr(value, _SHORT)}" for key, value in kwargs.items()]
    return f"{called}({', '.join(shown)})"


def _place(given: dict[str, bool], on: Any) -> str | None:
    if isinstance(on, str):
        raise BadInput(f"on takes an executor itself, such as a pool or a Client, not {on!r}")
    places = [place for place in given if given[place]]
    if len(named := places + ["on"] * (on is not None)) > 1:
        raise BadInput(f"a job runs in one place: {' and '.join(named)}")
    return places[0] if places else None


def _group(name: str | None, limit: int | str | None) -> GroupName | None:
    if name is None:
        if limit is not None:
            raise BadInput("limit belongs to a group: give it a name, group='crawl'")
        return None
    return GroupName.read(name if limit is None else f"{name}:{limit}")


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
        from ipy_bgtasks.views.pictures import Timeline

        return Timeline(self._records()[-max(last, 1) :])

    def __repr__(self) -> str:
        return printable(self._repr_mimebundle_()["text/plain"])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from ipy_bgtasks.views.tables import table

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
