"""Tab completion of options and job specs on the lines of our magics."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.ipython import options as opt
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.text import cut_middle
from ipy_bgtasks.views.rows import GLYPHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry

_WIDE = 50  # columns of a description
_LINE = re.compile(r"^\s*(?:[\w., ]+=\s*)?(%{0,2})(bg|fg|jobs|cancel)\s(.*)$", re.DOTALL)
_TABLES = {"bg": opt.BG, "fg": opt.FG, "jobs": opt.JOBS, "cancel": opt.CANCEL}


def candidates(
    registry: Registry,
    line: str,
    token: str,
    variables: Mapping[str, Any] | None = None,
) -> list[tuple[str, str]]:
    """Return the completions of the last word of *line*, each with a short description.

    *token* is the part that IPython will replace: it splits words at some characters. *variables*
    are the user's, some of which may hold jobs.
    """
    match = _LINE.match(line)
    if match is None:
        return []
    percents, magic, rest = match.groups()
    word = re.split(r"[\s,]", rest)[-1]
    before = re.split(r"[\s,]", rest)[-2:-1]
    if before == ["--log"]:
        return [(path[len(word) - len(token) :], "file") for path in _files(word)]
    if before and before[0] in ("-g", "--group"):
        names = (group.name for group in registry.groups())
        return [
            (name[len(word) - len(token) :], "group") for name in names if name.startswith(word)
        ]
    if before in (["--on"], ["--show"]):
        return []  # an expression: IPython knows better
    found = _options(percents, magic, word) if word.startswith("-") else []
    if not found and (magic in ("fg", "jobs", "cancel") or "--after" in rest):
        found = [*_specs(registry, magic, word), *_holders(variables or {}, word)]
    kept = len(word) - len(token) if word.endswith(token) else 0
    # A popup breaks a description at its blanks, over the rows below.
    return [(text[kept:], kind.replace(" ", "\xa0")) for text, kind in found]


def _options(percents: str, magic: str, word: str) -> list[tuple[str, str]]:
    table = opt.FG_CELL if (percents, magic) == ("%%", "fg") else _TABLES[magic]
    return [
        (text, f"option {option.takes or ''}".strip())
        for option in table
        if option is not opt.AWAITED
        for text in option.words
        if text.startswith(word) and (word.startswith("--") or not text.startswith("--"))
    ]


def _files(word: str) -> list[str]:
    from glob import escape, glob

    return sorted(path + "/" * os.path.isdir(path) for path in glob(escape(word) + "*"))[:50]


def _holders(variables: Mapping[str, Any], word: str) -> list[tuple[str, str]]:
    """Return the variables that hold jobs and begin with *word*; none if that is empty."""
    return [
        (name, _told(value, value.name))
        for name, value in variables.items()
        if word and name.startswith(word) and name[:1] != "_" and isinstance(value, Job)
    ]


def _told(job: Job | Record, words: str) -> str:
    """Describe a job: JupyterLab makes an icon of the first character."""
    return f"{GLYPHS.get(job.state, '○')} {job.state}: {cut_middle(words, _WIDE)}"


def _specs(registry: Registry, magic: str, word: str) -> list[tuple[str, str]]:
    if word.startswith("?"):
        text = word[1:]
        return [(f"?{j.name}", _told(j, f"job {j.number}")) for j in registry if text in j.name]
    groups = [
        (f"@{group.name}", f"group of {len(group.jobs()):,} jobs")
        for group in registry.groups()
        if f"@{group.name}".startswith(word)
    ]
    if word.startswith("@"):
        return groups
    percent = "%" if word.startswith("%") else ""
    bare = word.removeprefix("%")
    jobs = registry.alive() if magic == "cancel" else list(registry)
    found = [
        (f"{percent}{job.number}", _told(job, job.name))
        for job in jobs
        if str(job.number).startswith(bare)
    ]
    if percent:
        # A name with a blank or a comma would be read as several specs.
        names = Counter(job.name for job in jobs if not re.search(r"[\s,]", job.name))
        found += [
            (f"%{job.name}", _told(job, f"job {job.number}"))
            for job in jobs
            if job.name.startswith(bare) and names[job.name] == 1
        ]
    elif "all".startswith(word) and magic in ("fg", "cancel") and jobs:
        found.append(("all", f"{len(jobs)} jobs"))
    return found + groups * (not word)
