"""What a user asks for when launching: the options of `%bg`, parsed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipy_bgtasks.registry.groups import GroupName


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How to launch CODE; what was not given is None, or empty.

    Made from the words of a magic by `ipython.options`, and by hand in tests.
    """

    #: The place that was asked for: "loop", "thread" or "process"; None for the default …
    place: str | None = None
    #: … or the expression that names an executor, in place of that.
    on: str | None = None
    #: The job's name; None for the code, shortened.
    name: str | None = None
    #: Whether output is recorded only, and not shown.
    quiet: bool = False
    #: The specs of the jobs that must finish first.
    after: tuple[str, ...] = ()
    #: The file to which output is appended as well.
    log: str | None = None
    #: The group that the job joins, and the limit that it gives it.
    group: GroupName | None = None
    #: How many times it is run again if it fails.
    retries: int = 0
    #: Whether the user is to be told, wherever that is, when it has ended.
    notify: bool = False
    #: Whether the job outlives the session.
    keep: bool = False
