"""Job specs, as in bash: the words that name a job.

`3` `%3` by number, `k3` by that of a kept job, of which all sessions of a user have one series ·
`+` `%+` `%%` or nothing: the current job · `-`: the one before ·
`%name`: its name starts with (`%make` finds `!make`, too) · `?text`: its name contains ·
a variable that holds a job · `@name`: all the jobs of a group, where several may stand.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import NoSuchJob
from ipy_bgtasks.job.handle import Job, record_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry

_FORM = re.compile(r"k[1-9]\d{0,8}")


class JobId(str):
    """The name of a job whose number is not of this session: its prefix and a serial number, `k3`.

    It is text, so that it is sent and shown as what users see. It comes before all numbers, and
    among its like by its serial.
    """

    __slots__ = ()
    __repr__ = str.__str__

    @classmethod
    def kept(cls, serial: int) -> JobId:
        """Return the name of the kept job with that serial number, from 1 on."""
        return cls(f"k{serial}")

    @classmethod
    def read(cls, text: str) -> JobId | None:
        """Return what a text such as `k3` or `%k3` names; None if it names no such job."""
        match = _FORM.fullmatch(text.strip().removeprefix("%"))
        return None if match is None else cls(match[0])

    @property
    def serial(self) -> int:
        """The number without its prefix."""
        return int(self[1:])

    def __lt__(self, other: Any) -> bool:
        return isinstance(other, int) or self.serial < other.serial

    def __gt__(self, other: Any) -> bool:
        return not isinstance(other, int) and self.serial > other.serial


def goes_on(job: Record) -> bool:
    """Return whether a job goes on when this session ends."""
    return job.run is not None and job.run.goes_on


_CURRENT = ("", "+", "%", "%+", "%%")
_PREVIOUS = ("-", "%-")


def find(jobs: Registry, spec: str, variables: Mapping[str, Any] | None = None) -> Record:
    """Return the one job that *spec* names; raises `NoSuchJob` unless there is exactly one.

    *variables* are the user's; a spec may be the name of one that holds a job, or ``name[0]``.
    """
    spec = spec.strip()
    if is_group(spec):
        raise NoSuchJob(f"{spec} names a group, and this takes one job: %jobs {spec} lists them")
    if spec in _CURRENT or spec in _PREVIOUS:
        return _recent(jobs, spec)
    bare = spec.removeprefix("%")
    if bare.isdecimal():
        return _by_number(jobs, int(bare))
    if (number := JobId.read(bare)) is not None and _held(variables, spec) is None:
        return _by_number(jobs, number)
    if (job := _held(variables, spec)) is not None:
        return record_of(job)
    if spec.startswith("?") or spec.startswith("%?"):
        text = bare.removeprefix("?")
        return _only(jobs, spec, [j for j in jobs if text in j.name], "contains")
    if spec.startswith("%"):
        return _only(jobs, spec, [j for j in jobs if _starts(j.name, bare)], "starts")
    if named := [job for job in jobs if job.name == spec]:  # what people type who gave it a name
        return _only(jobs, spec, named, "is")
    raise NoSuchJob(f"{spec!r} is not a job: {_there_are(jobs)}; specs are 3, -, %name or ?text")


def is_spec(text: str, variables: Mapping[str, Any] | None = None) -> bool:
    """Return whether *text* has the form of a job spec, or is a variable that holds a job."""
    text = text.strip()
    bare = text.removeprefix("%")
    return (
        text in (*_CURRENT, *_PREVIOUS)
        or bare.isdecimal()
        or text.startswith(("%", "?"))
        or is_group(text)
        or _held(variables, text) is not None
        # Not where a variable of that name holds anything else.
        or (JobId.read(bare) is not None and text not in (variables or ()))
    )


def is_group(text: str) -> bool:
    """Return whether *text* has the form of a spec for all the jobs of a group."""
    word = text.strip()
    return len(word) > 1 and word[0] == "@" and not re.search(r"[\s,]", word)


def _held(variables: Mapping[str, Any] | None, text: str) -> Job | None:
    """Return the job that a variable holds, or an item of a list, tuple or dict in one.

    None if *text* is anything else; none of it is run.
    """
    name, bracket, keys = text.partition("[")
    if variables is None or (bracket and not keys.endswith("]")):
        return None
    value: Any = variables.get(name)
    for key in keys[:-1].split("][") if bracket else ():
        if type(value) not in (list, tuple, dict):
            return None
        try:
            value = value[variables[key] if key.isidentifier() else ast.literal_eval(key)]
        except Exception:  # no such item, or an expression
            return None
    return value if isinstance(value, Job) else None


def _starts(name: str, text: str) -> bool:
    """Return whether a name starts with *text*; the ``!`` of a command may be left out."""
    return name.startswith(text) or (name[:1] == "!" and name[1:].startswith(text))


def _recent(jobs: Registry, spec: str) -> Record:
    which = "previous" if spec in _PREVIOUS else "current"
    job: Record | None = getattr(jobs, which)
    if job is None:
        raise NoSuchJob(f"no {which} job: {_there_are(jobs)}")
    return job


def _by_number(jobs: Registry, number: int | JobId) -> Record:
    if (job := jobs.get(number)) is None:
        raise NoSuchJob(f"no job {number}: {_there_are(jobs)}")
    return job


def _only(jobs: Registry, spec: str, found: list[Record], verb: str) -> Record:
    if len(found) == 1:
        return found[0]
    if not found:
        how = "contains" if verb == "contains" else "starts with"
        raise NoSuchJob(f"no job whose name {how} {spec.lstrip('%?')!r}: {_there_are(jobs)}")
    listed = ", ".join(f"{job.number} ({job.name})" for job in found[-5:])
    more = f" and {len(found) - 5} older" if len(found) > 5 else ""
    raise NoSuchJob(f"{spec!r} fits more than one job: {listed}{more}")


def _there_are(jobs: Registry) -> str:
    numbers = [str(job.number) for job in jobs]
    if not numbers:
        return "there are none yet"
    if len(numbers) == 1:
        return f"there is only {numbers[0]}"
    if len(numbers) > 8:
        numbers = [*numbers[:2], "…", *numbers[-5:]]
    return f"there are {', '.join(numbers[:-1])} and {numbers[-1]}"
