"""Job specs, as in bash: the words that name a job.

`3` `%3` by number · `+` `%+` `%%` or nothing: the current job · `-`: the one before ·
`%name`: its name starts with · `?text`: its name contains · a variable that holds a job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.registry import Registry

_CURRENT = ("", "+", "%", "%+", "%%")
_PREVIOUS = ("-", "%-")


def find(registry: Registry, spec: str, variables: Mapping[str, Any] | None = None) -> Job:
    """The one job that *spec* names; `BadInput` when there is none, or more than one.

    *variables* are those of the user, where a spec may be the name of one that holds a job.
    """
    spec = spec.strip()
    if spec in _CURRENT or spec in _PREVIOUS:
        return _recent(registry, spec)
    bare = spec.removeprefix("%")
    if bare.isdecimal():
        return _by_number(registry, int(bare))
    if variables is not None and isinstance(job := variables.get(spec), Job):
        return job
    if spec.startswith("?") or spec.startswith("%?"):
        text = bare.removeprefix("?")
        return _only(registry, spec, [j for j in registry if text in j.name], "contains")
    if spec.startswith("%"):
        return _only(registry, spec, [j for j in registry if j.name.startswith(bare)], "starts")
    raise BadInput(f"{spec!r} is no job: {_there_are(registry)}; specs are 3, -, %name or ?text")


def is_spec(text: str, variables: Mapping[str, Any] | None = None) -> bool:
    """Whether *text* has the form of a job spec, or is a variable that holds a job."""
    text = text.strip()
    bare = text.removeprefix("%")
    return (
        text in (*_CURRENT, *_PREVIOUS)
        or bare.isdecimal()
        or text.startswith(("%", "?"))
        or (variables is not None and isinstance(variables.get(text), Job))
    )


def _recent(registry: Registry, spec: str) -> Job:
    job = registry.previous if spec in _PREVIOUS else registry.current
    if job is None:
        which = "previous" if spec in _PREVIOUS else "current"
        raise BadInput(f"no {which} job: {_there_are(registry)}")
    return job


def _by_number(registry: Registry, number: int) -> Job:
    job = registry.get(number)
    if job is None:
        raise BadInput(f"no job {number}: {_there_are(registry)}")
    return job


def _only(registry: Registry, spec: str, found: list[Job], verb: str) -> Job:
    if len(found) == 1:
        return found[0]
    if not found:
        how = "contains" if verb == "contains" else "starts with"
        raise BadInput(f"no job whose name {how} {spec.lstrip('%?')!r}: {_there_are(registry)}")
    listed = ", ".join(f"{job.number} ({job.name})" for job in found[-5:])
    more = f" and {len(found) - 5} older" if len(found) > 5 else ""
    raise BadInput(f"{spec!r} fits more than one job: {listed}{more}")


def _there_are(registry: Registry) -> str:
    numbers = [str(job.number) for job in registry]
    if not numbers:
        return "there are none yet"
    if len(numbers) == 1:
        return f"there is only {numbers[0]}"
    if len(numbers) > 8:
        numbers = [*numbers[:2], "…", *numbers[-5:]]
    return f"there are {', '.join(numbers[:-1])} and {numbers[-1]}"
