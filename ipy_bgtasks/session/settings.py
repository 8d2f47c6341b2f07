"""The settings, as traitlets: ``%config BgTasks.…`` and ``c.BgTasks.…`` both work."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Enum, Float, Int, List, TraitError, Unicode, observe, validate
from traitlets.config import Configurable

if TYPE_CHECKING:
    from ipy_bgtasks.notify import Address


class _Refused(TraitError):
    """An invalid value; shown as one line, without any of it that may be secret."""

    def _render_traceback_(self) -> list[str]:
        return [f"TraitError: {self}"]


class Addresses(List):  # type: ignore[type-arg, unused-ignore]
    """A list of `Address`, which takes their texts, too."""

    def validate(self, obj: Any, value: Any) -> list[Address]:
        """Return the addresses; raises `TraitError`, with nothing of them, for anything else."""
        if value == []:  # the default: what sends notices is imported when there is an address
            return []
        from ipy_bgtasks.notify import Address

        given = [value] if isinstance(value, str | Address) else value
        if not isinstance(given, list | tuple) or not all(
            isinstance(each, str | Address) for each in given
        ):
            raise _Refused("BgTasks.notify takes a list of Apprise URLs, such as ['ntfy://topic']")
        return [each if isinstance(each, Address) else Address(each) for each in given]


class BgTasks(Configurable):
    """Settings of ipy_bgtasks."""

    max_threads = Int(64, min=1, help="Jobs beyond this many threads are queued.").tag(config=True)
    max_processes = Int(
        os.cpu_count() or 1, min=1, help="Jobs beyond this many worker processes are queued."
    ).tag(config=True)
    max_finished = Int(
        200,
        min=0,
        help="Ended jobs that are kept, those that one cell launched, or of one group, as one; "
        "the oldest are discarded first, and those whose results somebody has before others.",
    ).tag(config=True)
    log_limit = Int(
        1_000_000, min=0, help="Characters of output kept for each job, the oldest dropped first."
    ).tag(config=True)
    cancel_wait = Float(
        1.0, min=0, help="Seconds that %cancel waits for jobs to end before it reports."
    ).tag(config=True)
    cancel_grace = Float(
        2.0, min=0, help="Seconds that a process has between SIGTERM and SIGKILL."
    ).tag(config=True)
    exit_grace = Float(
        0.5, min=0, help="Seconds that jobs have to clean up when the session ends."
    ).tag(config=True)
    confirm_exit = Bool(
        True, help="In a terminal, the first exit with jobs running only warns."
    ).tag(config=True)
    strict = Bool(
        False,
        help="Where nobody sits at the session (a script, `ipython -c`, a notebook that a program "
        "runs), jobs that failed, and whose results nobody asked for, and those that the end of "
        "the session cuts off are named on stderr, and the exit status is not 0 but 120.",
    ).tag(config=True)
    labels = Bool(
        True,
        help="Where several jobs show output at the same time, lines begin with the job's number.",
    ).tag(config=True)
    interrupt = Enum(
        ["stop", "background"],
        "stop",
        help="What the stop button does first: stop the cell that runs, or send it to the "
        "background (in a kernel); a second press within two seconds stops it.",
    ).tag(config=True)
    jump_queue = Bool(
        True,
        help="While a cell runs, another that is one of our magics alone does not wait for it (in "
        "a kernel), unless it uses what the cells before it change.",
    ).tag(config=True)
    background_after = Float(
        0.0,
        min=0,
        help="Seconds after which a cell that still runs goes to the background by itself, as "
        "`%bg` alone sends it there in a kernel and Ctrl-Z in a terminal; 0: never.",
    ).tag(config=True)
    ctrl_z = Enum(
        ["background", "suspend"],
        "background",
        help="What Ctrl-Z does in a terminal while a cell runs: send that to the background, or "
        "suspend IPython, as it does at the prompt.",
    ).tag(config=True)
    watchdog = Float(
        1.0,
        min=0,
        help="Seconds for which a job may block the loop, or the interpreter, before a report, and "
        "before a kernel's cells run in another thread than the loop; 0: never.",
    ).tag(config=True)
    counts_as_active = Bool(
        True,
        help="While jobs run the kernel counts as active, so that no server ends it as idle.",
    ).tag(config=True)
    keep_days = Float(
        30.0, min=0, help="Days after which a kept job that has ended is forgotten."
    ).tag(config=True)
    keep_log_limit = Int(
        100_000_000, min=0, help="Bytes of output kept on disk for each job launched with --keep."
    ).tag(config=True)
    notify_after = Float(
        0.0,
        min=0,
        help="Notify, as --notify does, of every job that took longer than this many seconds; "
        "0: of none.",
    ).tag(config=True)
    notify = Addresses(
        help="Apprise URLs to which notices are sent, too: a phone, mail, a chat, a webhook.",
    ).tag(config=True)
    on_end = Unicode(
        "",
        help="The function, as module.function, that is called with every job that has ended, on "
        "the thread on which it ended.",
    ).tag(config=True)

    def __init__(self, **options: Any) -> None:
        #: Whether values are checked at once. Those of a config file are checked after loading,
        #: which is not to import what they name.
        self._checks = False
        super().__init__(**options)
        self._checks = True

    @validate("notify")
    def _known(self, proposal: Any) -> list[Address]:
        addresses: list[Address] = proposal["value"]
        if self._checks and addresses:
            from ipy_bgtasks.notify import invalid_addresses

            if line := invalid_addresses(addresses):
                raise _Refused(line)
        return addresses

    @observe("notify")
    def _hide(self, _change: object) -> None:
        self._hide_in(self.config)

    def update_config(self, config: Any) -> None:
        """Apply what `%config` was given, and hide secrets in it from whoever reads it later."""
        super().update_config(config)
        self._hide_in(self.config)
        self._hide_in(config)

    def _hide_in(self, config: Any) -> None:
        if "notify" in config.get("BgTasks", {}):
            config["BgTasks"]["notify"] = self.notify

    @validate("on_end")
    def _callable(self, proposal: Any) -> str:
        path = str(proposal["value"]).strip()
        if self._checks and path:
            try:
                found = function(path)
            except Exception as error:
                from ipy_bgtasks.text import error_line

                raise _Refused(f"BgTasks.on_end, {path!r}: {error_line(error)}") from None
            if not callable(found):
                raise _Refused(
                    f"BgTasks.on_end: {path} cannot be called: it is of type {type(found).__name__}"
                )
        return path


def function(path: str) -> Any:
    """Return what ``module.function`` names; raises whatever that import does."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError("it takes module.function")
    return getattr(import_module(module), name)
