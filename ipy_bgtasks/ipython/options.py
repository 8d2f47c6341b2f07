"""The options of the magics: one table for each, used to parse and to complete them.

The docstrings of the magics say what they do. Options are read up to the first word that is not
one, because what follows is the user's code, which must reach us as typed; ``--`` ends them.
`argparse` cannot be used: it has no way to leave the rest of the line as it is.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.frontends import installing
from ipy_bgtasks.job.handle import Job
from ipy_bgtasks.registry.collection import LaunchOptions
from ipy_bgtasks.registry.queueing import GroupName
from ipy_bgtasks.text import cut_middle, error_line
from ipy_bgtasks.views.describe import GLYPHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One option of a magic; *takes* names its value, None for a flag."""

    name: str
    short: str | None = None
    takes: str | None = None
    read: Callable[[str], Any] = str
    is_code: bool = False
    """Whether its value is an expression, in which braces are Python's own."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words that stand for it."""
        long = f"--{self.name}"
        return (long,) if self.short is None else (f"-{self.short}", long)


def seconds(text: str, option: str = "--timeout") -> float:
    """Return a time as a number of seconds: ``2.5``, ``90s``, ``1h30m``.

    Raises `BadInput` unless it is more than 0.
    """
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d*\.?\d+)s?)?", text)
    hours, minutes, rest = parts.groups("0") if parts else ("0", "0", "0")
    value = 3600 * int(hours) + 60 * int(minutes) + float(rest)
    if not value > 0:
        raise BadInput(f"{option} takes a number of seconds, such as 2.5 or 1h30m, not {text!r}")
    return value


def size(text: str) -> int:
    """Return an amount of memory in bytes: ``500M``, ``4G``, ``1.5GB``; raises `BadInput`."""
    found = re.fullmatch(r"(\d*\.?\d+)\s*([kMGT])B?", text, re.IGNORECASE)
    if found is None or not (value := float(found[1])):
        raise BadInput(f"--memory takes an amount, such as 500M or 4G, not {text!r}")
    return int(value * 1000 ** ("KMGT".index(found[2].upper()) + 1))


def count(text: str) -> int:
    """Return *text* as a number of times; raises `BadInput` unless it is 0 or more."""
    if not (text.isascii() and text.isdecimal()):
        raise BadInput(f"--retries takes a number of times, such as 3, not {text!r}")
    return int(text)


def after(text: str) -> list[str]:
    """Return the job specs in *text*; raises `BadInput` if there are none."""
    if not (found := split_specs(text)):
        raise BadInput(f"--after takes job specs, such as 3,%load, not {text!r}")
    return found


_PLACES = (Option("loop", "l"), Option("thread", "t"), Option("process", "p"))
_ON = Option("on", None, "EXPR", is_code=True)
_NOTIFY = Option("notify")
_LAUNCH = (
    *_PLACES,
    _ON,
    Option("name", "n", "NAME"),
    Option("quiet", "q"),
    Option("timeout", None, "S", seconds),
    Option("memory", None, "SIZE", size),
    Option("after", None, "JOB,…", after),
    Option("log", None, "FILE"),
    Option("group", "g", "NAME[:N[+]]", GroupName.read),
    Option("halt"),
    Option("retries", None, "N", count),
    _NOTIFY,
    Option("keep"),
)

BG = _LAUNCH
_BUDGET = Option("budget", None, "S", partial(seconds, option="--budget"))
FG = (
    Option("all", "a"),
    Option("timeout", None, "S", seconds),
    _BUDGET,
    Option("any"),
    Option("settled"),
    _NOTIFY,
)
FG_CELL = (*_LAUNCH, _BUDGET, Option("all", "a"))
JOBS = (
    Option("all", "a"),
    Option("verbose", "v"),
    Option("watch", "w"),
    Option("json"),
    Option("since", None, "N", count),
    Option("show", None, "EXPR"),
    Option("profile", None, "S", partial(seconds, option="--profile")),
    Option("prune"),
)
CANCEL = (Option("force", "f"), Option("pause"))


@dataclass(slots=True, kw_only=True)
class Options(LaunchOptions):
    """The options given to one of the magics; one that was not is None, empty or False."""

    all: bool = False
    any: bool = False
    settled: bool = False
    verbose: bool = False
    watch: bool = False
    json: bool = False
    since: int = 0
    show: str | None = None
    profile: float | None = None
    budget: float | None = None
    prune: bool = False
    force: bool = False
    pause: bool = False


def read_options(
    line: str, table: tuple[Option, ...], magic: str, variables: Mapping[str, Any] | None = None
) -> tuple[Options, str]:
    """Return the options at the start of *line* and the rest, untouched.

    Values are expanded with *variables*, where those are given, as IPython expands after ``!``.
    Raises `BadInput` for an unknown or malformed option.
    """
    reader, rest = _Reader(table, magic, variables), line.strip()
    while re.match(r"-\S", rest):
        if re.match(r"--(\s|$)", rest):
            return reader.options, rest[2:].strip()
        rest = reader.word(rest)
    return reader.options, rest


def read_all(line: str, table: tuple[Option, ...], magic: str) -> tuple[Options, list[str]]:
    """Return options and other words, in any order, for magics that take no code."""
    reader, words = _Reader(table, magic), list[str]()
    rest = line.strip().rstrip(";").strip()
    while rest:
        if re.match(r"-(?!\d+(\s|$)|-?(\s|$))", rest):  # -1 and - are words
            rest = reader.word(rest)
        else:
            quoted = rest[0] in "\"'"
            value, rest = _value(rest)
            words += [value] if quoted else split_specs(value)
    return reader.options, words


class _Reader:
    """Reads the words of one magic's options."""

    def __init__(
        self, table: tuple[Option, ...], magic: str, variables: Mapping[str, Any] | None = None
    ) -> None:
        self.options = Options()
        self._table = table
        self._magic = magic
        self._variables = variables

    def word(self, line: str) -> str:
        """Read the first word of *line*; returns what is left behind it and its value."""
        word = line.split(None, 1)[0]
        rest = line[len(word) :]
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            option = self._find(name, word)
            if equals and option.takes is None:
                raise BadInput(f"{self._magic} {name} takes no value, not {value!r}")
            if equals and not value:
                raise BadInput(f"{self._magic} {name} needs a value: {name} {option.takes}")
            return self._set(option, name, value + rest)
        for i, letter in enumerate(word[1:], 2):
            option = self._find(f"-{letter}", word)
            if option.takes:
                return self._set(option, f"-{letter}", word[i:] + rest)
            self._set(option, f"-{letter}", "")
        return rest.lstrip()

    def _find(self, name: str, word: str) -> Option:
        for option in self._table:
            if name in option.words:
                return option
        known = ", ".join(o.words[0] for o in self._table)
        magic = self._magic
        hint = f"; `--` ends them: {magic} -- {word} …" if magic in ("%bg", "%fg") else ""
        raise BadInput(f"{magic} has no option {word}; it has {known}{hint}")

    def _set(self, option: Option, word: str, rest: str) -> str:
        """Set the option; returns the rest behind its value."""
        given: Any = True
        if option.takes is not None:
            given, rest = _value(rest.lstrip())
            if not given:
                raise BadInput(f"{self._magic} {word} needs a value: {word} {option.takes}")
            if self._variables is not None and not option.is_code:
                given = expanded(given, self._variables, f"{self._magic} {word}")
            given = option.read(given)
        if option in (*_PLACES, _ON):
            before = self.options.place if self.options.on is None else "on"
            if before not in (None, option.name):
                raise BadInput(
                    f"a job runs in one place: give one of --{before} and --{option.name}"
                )
        if option in _PLACES:
            self.options.place = option.name
        else:
            setattr(self.options, option.name, given)
        return rest.lstrip()


def misplaced(code: str, options: Options) -> str | None:
    """Return what is wrong with CODE that cannot be read, if an option is in the wrong place."""
    words = [re.escape(word) for option in BG for word in option.words]
    if found := re.match(rf"(.*\))\s+((?:{'|'.join(words)})(?:[\s=].*)?)$", code, re.DOTALL):
        return f"options stand before CODE: %bg {found[2]} {found[1]}"
    if options.after and (found := re.match(r"([\w%@?+-]+)\s+\S", code)):
        together = ",".join([*options.after, found[1]])
        return f"the jobs of --after stand without spaces: --after {together}"
    return None


def split_specs(text: str) -> list[str]:
    """Split *text* into job specs at its commas, except at those within brackets."""
    found = []
    while text:
        end = _end(text, ",".__eq__)
        found.append(text[:end].strip())
        text = text[end + 1 :]
    return [spec for spec in found if spec]


def expanded(text: str, variables: Mapping[str, Any], what: str) -> str:
    """Return *text* with ``{expressions}`` and ``$names`` replaced, as IPython does after ``!``.

    A ``$NAME`` that is not a variable of the user's is looked up in the environment, as in a
    shell. Raises `BadInput`, which begins with *what*, where something cannot be replaced.
    """
    if not any(char in text for char in "{}$"):
        return text
    try:
        return installing.expanded(text, {**(os.environ if "$" in text else {}), **variables})
    except Exception as error:
        doubled = "" if "$" in text else "; braces that are meant as such are doubled"
        raise BadInput(f"{what} {text}: {error_line(error)}{doubled}") from None


def _value(text: str) -> tuple[str, str]:
    """Return the first word of *text*, which may be quoted or hold brackets with blanks in them."""
    end = _end(text, str.isspace)
    value = text[:end]
    if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]:
        value = value[1:-1]
    return value, text[end:].strip()


def _end(text: str, stops: Callable[[str], bool]) -> int:
    """Return the index of the first character that *stops*, outside quotes and brackets."""
    depth, quote = 0, ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif depth <= 0 and stops(char):
            return i
    return len(text)


# Completion

_WIDE = 50  # columns of a description
_LINE = re.compile(r"^\s*(?:[\w., ]+=\s*)?(%{0,2})(bg|fg|jobs|cancel)\s(.*)$", re.DOTALL)
_TABLES = {"bg": BG, "fg": FG, "jobs": JOBS, "cancel": CANCEL}


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
    if (match := _LINE.match(line)) is None:
        return []
    percents, magic, rest = match.groups()
    *_, before, word = ["", *re.split(r"[\s,]", rest)]
    found: list[tuple[str, str]] = []
    if before == "--log":
        found = [(path, "file") for path in _files(word)]
    elif before in ("-g", "--group"):
        names = (group.name for group in registry.groups())
        found = [(name, "group") for name in names if name.startswith(word)]
    elif before not in ("--on", "--show"):  # else an expression: IPython knows better
        found = _options(percents, magic, word) if word.startswith("-") else []
        if not found and (magic in ("fg", "jobs", "cancel") or "--after" in rest):
            found = [*_specs(registry, magic, word), *_holders(variables or {}, word)]
    kept = len(word) - len(token) if word.endswith(token) else 0
    # A popup breaks a description at its blanks, over the rows below.
    return [(text[kept:], kind.replace(" ", "\xa0")) for text, kind in found]


def _options(percents: str, magic: str, word: str) -> list[tuple[str, str]]:
    table = FG_CELL if (percents, magic) == ("%%", "fg") else _TABLES[magic]
    return [
        (text, f"option {option.takes or ''}".strip())
        for option in table
        for text in option.words
        if text.startswith(word) and (word.startswith("--") or not text.startswith("--"))
    ]


def _files(word: str) -> list[str]:
    from glob import escape, glob

    return sorted(path + "/" * os.path.isdir(path) for path in glob(escape(word) + "*"))[:50]


def _holders(variables: Mapping[str, Any], word: str) -> list[tuple[str, str]]:
    """Return the variables that hold jobs and begin with *word*; none if that is empty."""
    return [
        (name, _description(value, value.name))
        for name, value in variables.items()
        if word and name.startswith(word) and name[:1] != "_" and isinstance(value, Job)
    ]


def _description(job: Job | Record, words: str) -> str:
    """Describe a job: JupyterLab makes an icon of the first character."""
    return f"{GLYPHS.get(job.state, '○')} {job.state}: {cut_middle(words, _WIDE)}"


def _specs(registry: Registry, magic: str, word: str) -> list[tuple[str, str]]:
    if word.startswith("?"):
        text = word[1:]
        return [
            (f"?{j.name}", _description(j, f"job {j.number}")) for j in registry if text in j.name
        ]
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
        (f"{percent}{job.number}", _description(job, job.name))
        for job in jobs
        if str(job.number).startswith(bare)
    ]
    if percent:
        # A name with a blank or a comma would be read as several specs.
        names = Counter(job.name for job in jobs if not re.search(r"[\s,]", job.name))
        found += [
            (f"%{job.name}", _description(job, f"job {job.number}"))
            for job in jobs
            if job.name.startswith(bare) and names[job.name] == 1
        ]
    elif "all".startswith(word) and magic in ("fg", "cancel") and jobs:
        found.append(("all", f"{len(jobs)} jobs"))
    return found + groups * (not word)
