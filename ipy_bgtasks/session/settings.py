"""The settings, as traitlets: ``%config BgTasks.…`` and ``c.BgTasks.…`` both work."""

from __future__ import annotations

import os

from traitlets import Bool, Enum, Float, Int
from traitlets.config import Configurable


class BgTasks(Configurable):
    """Settings of ipy_bgtasks."""

    max_threads = Int(64, min=1, help="Jobs beyond this many threads are queued.").tag(config=True)
    max_processes = Int(
        os.cpu_count() or 1, min=1, help="Jobs beyond this many worker processes are queued."
    ).tag(config=True)
    max_finished = Int(
        200, min=0, help="Ended jobs that are kept; the oldest are discarded first."
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
    labels = Bool(
        True,
        help="Where several jobs show output at the same time, lines begin with the job's number.",
    ).tag(config=True)
    interrupt = Enum(
        ["stop", "background"],
        "stop",
        help="What the stop button does first: stop the cell that runs, or send it to the "
        "background (in a kernel, ipykernel 7); a second press within two seconds stops it.",
    ).tag(config=True)
    watchdog = Float(
        1.0, min=0, help="Seconds for which a job may block the loop before a report; 0: never."
    ).tag(config=True)
