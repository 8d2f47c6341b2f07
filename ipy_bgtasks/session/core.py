"""What the shell keeps when the extension is unloaded: its jobs, and what runs them."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.frontends.cells import Sources
from ipy_bgtasks.service import ServiceLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from traceback import FrameSummary

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.registry.collection import Registry
    from ipy_bgtasks.runners.executors import Executors
    from ipy_bgtasks.session.notices import Asked
    from ipy_bgtasks.session.places import Places
    from ipy_bgtasks.session.settings import BgTasks


class Core:
    """The jobs of one shell, from the first loading on. Any thread may call."""

    def __init__(self, shell: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.service = ServiceLoop(substitute=loop)
        self.sources = Sources(shell)
        self._lock = threading.RLock()
        self._places: Places | None = None
        self._connect: Callable[[Places], object] | None = None
        #: The front end, made at the first loading: jobs that outlive a reload keep their cards.
        self.front_end: FrontEnd | None = None
        #: The notices that were asked for, once one was.
        self.asked: Asked | None = None

    @property
    def places(self) -> Places:
        """Where jobs run; imported and made when it is first needed. Any thread may call."""
        if self._places is None:
            from ipy_bgtasks.session.places import Places

            with self._lock:
                if self._places is None:
                    places = Places(self.loop, self.service, self.sources)
                    if self._connect is not None:
                        self._connect(places)
                    self._places = places  # an interrupt until here: the next one begins anew
        return self._places

    @property
    def registry(self) -> Registry:
        """All jobs of the shell."""
        return self.places.registry

    @property
    def has_places(self) -> bool:
        """Whether anything has asked for a job yet."""
        return self._places is not None

    def connect(self, connect: Callable[[Places], object] | None) -> None:
        """Call *connect* with the places, now or as soon as there are any; None calls that off."""
        with self._lock:
            self._connect = connect
            if connect is not None and self._places is not None:
                connect(self._places)

    def launch_cell(
        self,
        code: str,
        *,
        origin: object,
        thread: int,
        began: float,
        awaits: bool,
        interrupt: Callable[[], object],
        stack: Callable[[], list[FrameSummary]],
    ) -> Record:
        """Make a job of a cell that runs already; the other arguments are those of `CellRunner`."""
        from ipy_bgtasks.runners.cell import CellRunner
        from ipy_bgtasks.work import Work
        from ipy_bgtasks.work.reading import label_of_cell

        work = Work(_runs_already, label_of_cell(code), code, False)
        runner = CellRunner(
            thread=thread, began=began, awaits=awaits, interrupt=interrupt, stack=stack
        )
        return self.registry.launch(work, where=runner, origin=origin)

    @cached_property
    def kept(self) -> Kept:
        """The jobs that outlive the session."""
        return Kept(self.registry, self.service)

    @cached_property
    def executors(self) -> Executors:
        """The user's own executors as places, imported when one is first named."""
        from ipy_bgtasks.runners.executors import Executors

        return Executors()


class Kept:
    """What runs kept jobs and finds them. Any thread may call; raises `BadInput` on Windows."""

    def __init__(self, registry: Registry, service: ServiceLoop) -> None:
        # Sessions without kept jobs need neither.
        from ipy_bgtasks.runners.kept.runner import Finder, KeptRunner

        self._days = 30.0
        self.runner = KeptRunner(service, lambda job: registry.host.changed(job))
        self.finder = Finder(registry, self.runner, lambda: self._days)

    def apply(self, settings: BgTasks) -> None:
        """Use these settings from now on."""
        self._days = settings.keep_days
        self.runner.grace = settings.cancel_grace
        self.runner.log_limit = settings.keep_log_limit
        self.runner.urls = [address.reveal() for address in settings.notify]


def _runs_already() -> None:
    """Do nothing, in place of the call of a cell that was not started here."""
