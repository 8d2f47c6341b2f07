"""Output in a Jupyter kernel: under the cell that launched the job, not the one that runs.

Each message names the request it belongs to, its parent. For text ipykernel finds the parent in
the context, which a job inherits from its cell; for all else, where versions differ, we send
the message ourselves.

A Jupyter kernel as a front end: its screen, its interrupts, its exits.
"""

from __future__ import annotations

import inspect
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.foreign import type_name
from ipy_bgtasks.frontends.cells import code_that_runs_cells
from ipy_bgtasks.frontends.front_end import Screen
from ipy_bgtasks.frontends.installing import answer_requests_of_jobs, knows_contexts, pin_parent
from ipy_bgtasks.frontends.kernel.cards import Cards
from ipy_bgtasks.frontends.kernel.figures import Figures
from ipy_bgtasks.frontends.kernel.interrupts import show_interrupts, spare_the_kernel
from ipy_bgtasks.frontends.kernel.output import WholeLines, route_displays
from ipy_bgtasks.frontends.kernel.widgets import WidgetBars, WidgetOutputs
from ipy_bgtasks.frontends.streams import part_publishers, route_in_place
from ipy_bgtasks.frontends.tracebacks import formatted, without_our_frames
from ipy_bgtasks.patching import Attribute
from ipy_bgtasks.sigint import wake_on_signals
from ipy_bgtasks.streams_by_context import give_each_job_its_own, take_along
from ipy_bgtasks.text import sendable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ipy_bgtasks.frontends.exits import Leaving
    from ipy_bgtasks.frontends.front_end import ForegroundCells
    from ipy_bgtasks.frontends.installing import Installation
    from ipy_bgtasks.frontends.kernel.away import CellsAway
    from ipy_bgtasks.frontends.kernel.cards import MakeWidget
    from ipy_bgtasks.frontends.kernel.cell_queue import CellRun
    from ipy_bgtasks.frontends.kernel.output import Texts
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Piece
    from ipy_bgtasks.streams_by_context import ByContext


#: Tracebacks of a group's jobs that are shown, the first.
_GROUP_FAILURES = 3
#: Characters of text after which a sender waits until the kernel has sent the earlier text.
_FLOOD = 500_000


class KernelScreen(Screen):
    """The screen of a kernel, shown in its front ends."""

    live = True

    def __init__(self, shell: Any, later: Callable[..., object]) -> None:
        super().__init__(shell, later)
        #: The shell's own publisher: %%capture replaces it.
        self._publisher = shell.display_pub
        self._written: dict[int, int] = {}
        self._streams: list[Any] = []
        self._captures: ByContext | None = None
        self._widgets = WidgetOutputs()
        self._own_writes: dict[str, Callable[[str], Any]] = {}
        self._lines = WholeLines(self._pin)
        self._figures = Figures(shell)
        self._cards = Cards(self._send_card, later)
        self._cleared: set[Any] = set()
        self._bars = WidgetBars()
        #: What sends text in place of the streams, where those would send it to the wrong cell.
        self._texts: Texts | None = None

    def install(self) -> Callable[[], None]:
        """Route the kernel's streams and its display publisher."""
        streams = [
            (name, stream)
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
            if hasattr(stream, "pub_thread")
        ]
        self._streams = [stream for _, stream in streams]
        self._own_writes = {name: type(stream).write.__get__(stream) for name, stream in streams}
        if not all(knows_contexts(stream) for _, stream in streams):
            from ipy_bgtasks.frontends.kernel.output import Texts

            self._texts = Texts(dict(streams), self.write_below, self._later)
        undo = [route_in_place(stream, name, self) for name, stream in streams]
        undo.append(route_displays(self._publisher, self))
        undo.append(give_each_job_its_own({}))
        if self._texts is not None:
            undo += [self._texts.install(), answer_requests_of_jobs(self.shell.kernel)]
        undo.append(self._lines.release_all)
        undo.append(self._figures.install())
        undo.append(self._cards.places.watch(self.shell.events, self._parent_here))

        def undo_all() -> None:
            while undo:
                undo.pop()()

        return undo_all

    def part_captures(self) -> Callable[[], None]:
        """Confine captures of displays to their own cell or job; returns what undoes it."""
        self._captures, undo = part_publishers(self.shell, self._publisher)
        return undo

    def here(self) -> Any:
        """Return the header of the caller's cell's request."""
        job = current.get()
        return self._parent_here() if job is None else job.origin

    def _place_here(self) -> Any:
        return _key(self.here())

    def entering(self, job: Record) -> None:
        """Pin the cell in the calling context, where this ipykernel supports it."""
        self._lines.start()
        self._pin(job)

    def _pin(self, job: Record) -> None:
        pin_parent(self.shell, job.origin)

    def show(self, mimebundle: dict[str, Any]) -> None:
        """Display under the caller's cell."""
        self.shell.display_pub.publish(mimebundle)

    def show_live(self, mimebundle: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """Display under the caller's cell; returns what updates it."""
        parent, display_id = self.here(), uuid.uuid4().hex
        self._send_card(parent, mimebundle, display_id, update=False)
        return lambda news: self._send_card(parent, news, display_id, update=True)

    def use_buttons(self, make: MakeWidget) -> Callable[[], None]:
        """Give the cards of jobs that run for a while buttons."""
        self._cards.make_widget = make
        return self._cards.close

    def launching(self, job: Record) -> None:
        """Show the card under the cell that launches the job, or add the job to it."""
        if self._cards.places.launch_card(job.origin) is None:
            self._flush()
        self._cards.launching(job)
        origin = job.origin if isinstance(job.origin, dict) else {}
        of_a_cell = origin.get("msg_type", "execute_request") == "execute_request"
        if not of_a_cell and not self._widgets.around(_key(job.origin)):
            line = f"job {job.number} ({job.name}) was launched by a widget, whose output no cell"
            line += f" shows: %jobs {job.number} shows it, %fg {job.number} brings it here\n"
            self.write_below(self._cards.places.last, "stderr", line)

    def show_job(self, job: Record) -> None:
        """Show the job's card under the caller's cell."""
        self._cards.show(job, self.here())

    def place_of(self, job: Record) -> Any:
        """Return the id of the request that launched the job."""
        return _key(job.origin)

    def changed(self, job: Record) -> None:
        """Update the job's cards soon."""
        super().changed(job)
        self._cards.changed(job)

    def closing(self, job: Record) -> None:
        """Show the figures that the job left open, under its own cell."""
        self._figures.show_left_open(job)

    def tell(self, job: Record, line: str) -> None:
        """Send one line on stderr under the job's cell."""
        self.write_below(job.origin, "stderr", line + "\n")

    def note(self, job: Record, line: str) -> None:
        """Show a line under the job's cell that is no part of its output, and no alarm."""
        self._send_display(job.origin, {"text/plain": line}, {}, {}, False)

    def write_below(self, header: Any, name: str, text: str) -> None:
        """Send text of one stream under the cell of a request. Any thread may call."""
        self._send(header, "stream", {"name": name, "text": text})

    def show_end(self, job: Record) -> None:
        """Show a failed job's traceback under its cell, unless that cell raises it itself."""
        self.flush(job)
        self._written.pop(job.number, None)
        self._bars.forget(job)
        self._clear_now(job)
        alone = self._cards.is_alone(job)
        self._cards.ended(job)
        from ipy_bgtasks.text import error_line, message_of

        outcome = job.outcome
        assert outcome is not None
        own_cell = job.where == "cell"  # it shows its end itself, like any cell
        if alone and not own_cell and not (job.quiet or self._shut_down or job.assigns):
            from ipy_bgtasks.frontends.kernel.values import Values

            Values(self.shell, self._show_value, self._later).show(job, self.log_limit)
        if outcome.state != "failed" or own_cell or self._is_followed(job, _key(job.origin)):
            return
        assert outcome.error is not None
        if job.group is not None and self._cards.failed_before(job) >= _GROUP_FAILURES:
            return  # the card that they share counts and names them
        if job.quiet or self._shut_down:  # time is short
            line = f"job {job.number} failed: {error_line(outcome.error)}\n"
            self._send(job.origin, "stream", {"name": "stderr", "text": line})
            return
        content = {
            "ename": type_name(outcome.error),
            "evalue": message_of(outcome.error),
            "traceback": formatted(self.shell, outcome),
        }
        self._flush()
        self._send(job.origin, "error", content)

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Send the job's output under the caller's cell too, from the log's tail on."""
        parent = self.here()
        place = _key(parent)
        if place == _key(job.origin) and not job.quiet and not everything:
            return self._follow(job, place)  # this cell shows it already
        if job.done() and not job.has_output:
            return self._follow(job, place)

        self.labels.enter(job, place, among=among)

        def send(pieces: list[Piece]) -> None:
            with self.labels.order:
                for piece in pieces:
                    self._send_piece(job, parent, piece)

        return self._follow_log(job, place, send, everything=everything)

    def take(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> None:
        """Record a job's text, and let the kernel send it."""
        job.log.write(name, text)
        if self.watcher is not None:
            self.watcher(job)
        if "\r" in text:
            self._cards.changed(job)  # most likely a progress bar
        if job.quiet:
            return
        if self._cleared:
            self._clear_now(job)
        if self._texts is not None:
            write = self._texts.writer(job, name, write)
        place = _key(job.origin)

        def write_labelled(text: str) -> None:  # called in the order in which texts are shown
            write(self.labels.put(job, place, name, text))

        self._lines.write(job, name, text, write_labelled)
        written = self._written.get(job.number, 0) + len(text)
        if written > _FLOOD:
            written = 0
            self._flush()
        self._written[job.number] = written

    def write(self, job: Record, name: str, text: str) -> None:
        """Take text as if the job had written it here."""
        self.take(job, name, text, self._own_writes.get(name) or getattr(sys, name).write)

    def flush(self, job: Record) -> None:
        """Write the job's partial lines."""
        self._lines.release(job)
        if self._texts is not None:
            self._texts.flush()

    def display(
        self,
        job: Record,
        data: Any,
        metadata: Any = None,
        *,
        transient: Any = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        """Record what a job displays, and show it in the job's place."""
        transient = transient or {}
        shown_as = transient.get("display_id")
        self._bars.note(job, data, self.changed)
        if update:
            job.log.display(data, metadata, update_of=shown_as)
        elif not shown_as and (widget := self._widgets.around(_key(job.origin))) is not None:
            self._widgets.display(job, widget, data, metadata)
        else:
            job.log.display(data, metadata, display_id=shown_as)
        if self.watcher is not None:
            self.watcher(job)
        if job.quiet:
            return
        self._lines.release(job)
        self._flush()
        if self._cleared and not update:
            self._clear_now(job)
        self._send_display(job.origin, data, metadata, transient, update)

    def overhear_display(self, job: Record, data: Any, metadata: Any) -> None:
        """Record what a cell that was sent away displays."""
        job.log.display(data, metadata)

    def untangle(self) -> None:
        """Remove from the streams what IPython's capturing of a cell has left there.

        It replaces `write` for each plain cell, and restores what it found; cells that end in
        another order than they began restore each other's.
        """
        for stream in self._streams:
            write = vars(stream).get("write")
            pinned = getattr(write, "routed", write)
            if getattr(pinned, "__qualname__", "").startswith("InteractiveShell._tee"):
                vars(stream).pop("write", None)

    def sent_away(self, job: Record) -> None:
        """Give what the foreground has open to *job*, which was the foreground until now."""
        self._figures.give(job)
        take_along(job)
        if self._captures is not None:
            self._captures.take_along(job)

    def clear(self, job: Record, wait: bool) -> None:
        """Clear what the job's cell shows, except its cards."""
        if (widget := self._widgets.around(_key(job.origin))) is not None:
            self._widgets.clear(job, widget)
        else:
            job.log.clear(wait=wait)
        if job.quiet:
            return
        self._lines.release(job)
        self._flush()
        if widget is not None or not self._cards.places.stand_in(job.origin):
            self._send(job.origin, "clear_output", {"wait": wait})
            return
        # With the next output in any case, to avoid flicker.
        self._send(job.origin, "clear_output", {"wait": True})
        self._cleared.add(_key(job.origin))
        if not wait:
            self._clear_now(job)

    # Inside

    def _clear_now(self, job: Record) -> None:
        """Show the cards again before the first output that follows a clearing."""
        key = _key(job.origin)
        if key in self._cleared and self._widgets.around(key) is None:
            self._cleared.discard(key)
            self._cards.places.show_again(job.origin)

    def _show_value(self, job: Record, data: Any, metadata: Any) -> None:
        self._lines.release(job)
        self._flush()
        if not self._is_followed(job, _key(job.origin)):
            self._send_display(job.origin, data, metadata, {}, False)

    def _send_piece(self, job: Record, parent: Any, piece: Piece) -> None:
        if piece.kind in ("stdout", "stderr"):
            text = self.labels.put(job, _key(parent), piece.kind, piece.text)
            self.write_below(parent, piece.kind, text)
        elif piece.kind == "clear":
            self._send(parent, "clear_output", {"wait": piece.wait})
        elif piece.kind == "display":
            self._send_display(parent, piece.bundle or {}, piece.metadata, {}, False)

    def _send_display(
        self, parent: Any, data: Any, metadata: Any, transient: Any, update: bool
    ) -> None:
        from ipykernel.jsonutil import encode_images, json_clean

        content = {"data": encode_images(data), "metadata": metadata or {}, "transient": transient}  # type: ignore[no-untyped-call]
        kind = "update_display_data" if update else "display_data"
        self._send(parent, kind, json_clean(content))  # type: ignore[no-untyped-call]

    def _send_card(
        self, parent: Any, bundle: dict[str, Any], display_id: str, *, update: bool
    ) -> None:
        content = {"data": bundle, "metadata": {}, "transient": {"display_id": display_id}}
        self._send(parent, "update_display_data" if update else "display_data", content)

    def _send(self, parent: Any, kind: str, content: dict[str, Any]) -> None:
        publisher = self._publisher
        session = publisher.session
        message = session.msg(kind, sendable(content), parent=parent)
        for hook in list(publisher._hooks):
            message = hook(message)
            if message is None:
                return
        session.send(publisher.pub_socket, message, ident=publisher.topic)

    def _flush(self) -> None:
        """Send what was written so far first; on the kernel's own sending thread it has been."""
        for stream in self._streams:
            thread = getattr(stream, "pub_thread", None)
            if thread is not None and thread.thread is not threading.current_thread():
                stream.flush()
        if self._texts is not None:
            self._texts.flush()

    def _parent_here(self) -> Any:
        return (self.shell.get_parent() or {}).get("header") or {}


def _key(header: Any) -> Any:
    return header.get("msg_id") if isinstance(header, dict) else None


class KernelFrontEnd:
    """The front ends of one kernel, from the first loading on. Any thread may load."""

    def __init__(
        self,
        shell: Any,
        loop: asyncio.AbstractEventLoop,
        later: Callable[..., object],
        *,
        launch_cell: Callable[..., Record],
    ) -> None:
        self.screen = KernelScreen(shell, later)
        self.waits: Callable[[int], bool] = lambda _thread: False
        self.sends_away: Callable[[], bool] = lambda: False
        self._shell = shell
        self._loop = loop
        self._launch_cell = launch_cell
        self._away: CellsAway | None = None

    def install(self, changes: Installation) -> None:
        """Route output, and let interrupts reach the foreground and nothing else."""
        shell = self._shell
        changes.step("streams", self.screen.install)
        changes.step("captures", self.screen.part_captures)
        changes.step("tracebacks", lambda: without_our_frames(shell))
        changes.step_on_loop("wake-up", self._loop, lambda: wake_on_signals(self._loop))
        changes.step("cells sent away", self._send_cells_away)
        changes.step(
            "interrupted cells", lambda: show_interrupts(shell, self._diverted, self.divert)
        )
        changes.step_on_loop("stop button", self._loop, lambda: spare_the_kernel(shell, self))

    def prepare_for_jobs(self, changes: Installation) -> None:
        """Keep jobs from asking, and apart on rich's one console. Any thread may call."""
        from ipy_bgtasks.frontends.consoles import part_consoles
        from ipy_bgtasks.hooks import refuse_questions

        changes.step("rich", part_consoles)
        changes.step("questions", lambda: refuse_questions(self._shell.kernel))

    @property
    def cells(self) -> ForegroundCells | None:
        """Its cells, where one that runs can be sent to the background: on ipykernel 7."""
        return self._away

    def diverts(self) -> bool:
        """Return whether interrupts are meant for a cell that may run in another thread."""
        return self._away is not None and self._away.reaches()

    def divert(self) -> bool:
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        return self._away is not None and self._away.divert()

    def first_sends_away(self) -> bool:
        """Return whether the first interrupt of a cell is to send it to the background."""
        return self._away is not None and self.sends_away()

    def _diverted(self) -> bool:
        return self._away is not None and self._away.interrupted_here()

    def reaches(self) -> bool:
        """Return whether an interrupt of the foreground reaches the calling thread."""
        main = threading.current_thread() is threading.main_thread()
        return main or self.diverts()

    def sent_away(self) -> Record:
        """Return the job of the cell that `%bg` alone has just sent to the background."""
        from ipy_bgtasks.errors import BadInput

        if self._away is None:
            raise BadInput(
                "`%bg` alone needs ipykernel 7, whose subshells run other cells meanwhile; here "
                "start the cell with %%fg, and an interrupt sends it to the background"
            )
        if self._away.unable:
            raise BadInput(
                "`%bg` alone does not work with this version of IPython; start the cell with "
                "%%fg, and an interrupt sends it to the background"
            )
        if (job := self._away.last()) is None:
            raise BadInput(
                "no cell runs that could go to the background: `%bg`, alone in a cell of its own, "
                "sends away the one that runs at that moment; %bg CODE launches CODE"
            )
        return job

    def _send_cells_away(self) -> Callable[[], None]:
        from ipy_bgtasks.frontends.kernel.away import CellsAway
        from ipy_bgtasks.frontends.kernel.interrupts import explain_other_loop

        away = CellsAway(
            self._shell,
            self._launch,
            lambda thread: self.waits(thread),
            self.screen.untangle,
            self._say_stuck,
            self.first_sends_away,
            self._say_sent_away,
        )
        undo = away.install()
        undo_lines = explain_other_loop(self._shell, away.on_main)
        self._away = away

        def undo_all() -> None:
            self._away = None
            undo_lines()
            undo()

        return undo_all

    def _launch(self, run: CellRun, interrupt: Callable[[], object]) -> Record:
        from ipy_bgtasks.stacks import thread_stack

        assert run.began is not None
        below = code_that_runs_cells()
        job = self._launch_cell(
            run.code,
            origin=run.header,
            thread=run.thread,
            began=run.began,
            awaits=run.task is not None,
            interrupt=interrupt,
            stack=lambda: thread_stack(run.thread, below),
        )
        self.screen.sent_away(job)
        return job

    def _say_sent_away(self, job: Record) -> None:
        n = job.number
        self.screen.note(job, f"job {n} goes on: %fg {n} returns to it, %cancel {n} stops it")

    def _say_stuck(self, run: CellRun) -> None:
        from ipy_bgtasks.stacks import doing, innermost, place, thread_stack

        frame = innermost(thread_stack(run.thread, code_that_runs_cells()))
        where = "" if frame is None else f" {doing(frame)} ({place(frame)})"
        self.screen.write_below(
            run.header,
            "stderr",
            f"still in{where}; it stops when that returns. `%bg` alone, in the next cell, sends "
            "it to the background\n",
        )

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        """Call *leaving* before the kernel's own shutdown."""
        changes.step("shutdown", lambda: _watch_shutdown(self._shell, leaving))


#: Seconds that the control thread is given for its last messages.
_LAST_WORDS = 1.0


def _watch_shutdown(shell: Any, leaving: Leaving) -> Callable[[], None]:
    from ipy_bgtasks.frontends.exits import at_exit

    kernel = shell.kernel
    shut_down, ask = kernel.do_shutdown, shell.ask_exit
    answering: list[threading.Thread] = []

    async def do_shutdown(restart: bool) -> Any:
        if (thread := threading.current_thread()) is kernel.control_thread:
            answering.append(thread)
        leaving.tell()
        await leaving.ended()
        reply = shut_down(restart)
        return await reply if inspect.isawaitable(reply) else reply

    def ask_exit() -> None:
        ask()
        if shell.exit_now:  # `exit` in a cell, without keeping the kernel
            leaving.tell()

    def let_it_answer() -> None:
        # ipykernel (7.4) stops the main loop before its control thread has flushed the streams and
        # published that it is idle. If the main thread ends the thread of iopub in between, the
        # flush waits ten seconds and the send for ever, since nobody takes them any more; and the
        # main thread joins the control thread. Busy threads make that likely, also without us.
        for thread in answering:
            thread.join(_LAST_WORDS)

    undo = [
        Attribute(kernel, "do_shutdown", do_shutdown).restore,
        Attribute(shell, "ask_exit", ask_exit).restore,
        at_exit(let_it_answer),
    ]

    def undo_all() -> None:
        for step in undo:
            step()

    return undo_all
