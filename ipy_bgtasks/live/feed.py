"""The news of jobs for live views: in batches, and nothing while nothing changes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.frontends.kernel.background_cells import KernelCells
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry

_INTERVAL = 0.5  # seconds between two batches, at least
_SOON = 0.03  # seconds until the first one after a while in which nothing changed
_LONG = 0.5  # seconds after which a cell in the foreground is news


@dataclass(frozen=True, slots=True)
class News:
    """The jobs that have changed, and the numbers of those that were forgotten.

    Both may be empty: the cell in the foreground may be another one.
    """

    jobs: list[Record]
    gone: list[int]


class Feed:
    """The news of one registry's jobs. Any thread may call.

    While nobody listens it is connected to nothing, and costs nothing. With *cells* it also tells
    when the one that runs for a while is another one, or none.
    """

    def __init__(
        self,
        registry: Registry,
        front_end: FrontEnd,
        later: Callable[[float, Callable[[], None]], object],
        cells: KernelCells | None = None,
    ) -> None:
        self._registry = registry
        self._cells = cells
        self._front_end = front_end
        self._later = later
        self._lock = threading.Lock()
        self._listeners: list[Callable[[News], None]] = []
        # Filled by any thread and emptied by one, item by item: no lock on the way of a print.
        self._changed: dict[int, Record] = {}
        self._gone: dict[int, None] = {}
        self._cell_changed = False
        self._armed = False
        self._sent = 0.0

    def subscribe(self, call: Callable[[News], None]) -> Callable[[], None]:
        """Have *call* get the news, on the service thread; returns what ends that."""
        with self._lock:
            self._listeners.append(call)
            if len(self._listeners) == 1:
                self._connect()

        def end() -> None:
            with self._lock:
                if call in self._listeners:
                    self._listeners.remove(call)
                    if not self._listeners:
                        self._disconnect()

        return end

    def _connect(self) -> None:
        registry = self._registry
        registry.on_discard.append(self._mark_gone)
        self._front_end.watcher = self._mark
        if self._cells is not None:
            self._cells.watcher = self._mark_cell

    def _disconnect(self) -> None:
        registry = self._registry
        registry.on_discard.remove(self._mark_gone)
        self._front_end.watcher = None
        if self._cells is not None:
            self._cells.watcher = None

    def _mark_cell(self, begins: bool) -> None:
        if begins:  # most are over before anybody could want to know
            self._later(_LONG, self._cell_changes)
        else:
            self._cell_changes()

    def _cell_changes(self) -> None:
        self._cell_changed = True
        self._arm()

    def _mark(self, job: Record) -> None:
        self._changed[job.number] = job
        self._arm()

    def _mark_gone(self, job: Record) -> None:
        self._gone[job.number] = None
        self._arm()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._later(max(_SOON, self._sent + _INTERVAL - time.monotonic()), self._deliver)

    def _deliver(self) -> None:
        self._armed = False  # first: what comes from here on arms again
        self._sent = time.monotonic()
        changed: dict[int, Record] = {}
        gone: list[int] = []
        while self._changed:
            number, job = self._changed.popitem()
            changed[number] = job
        while self._gone:
            number, _ = self._gone.popitem()
            gone.append(number)
            changed.pop(number, None)
        if not changed and not gone and not self._cell_changed:
            return
        self._cell_changed = False
        news = News([changed[number] for number in sorted(changed)], gone)
        for call in list(self._listeners):
            call(news)
