"""A Jupyter kernel: output goes under the cell that launched the job, not the one that runs.

Each message names the request it belongs to, its parent. For text ipykernel finds the parent in
the context, which a job inherits from its cell; for all else, where versions differ, we send
the message ourselves.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
import uuid
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks import context as streams
from ipy_bgtasks.context import caller, current
from ipy_bgtasks.foreign import is_a, type_name
from ipy_bgtasks.frontends.base import FrontEnd
from ipy_bgtasks.frontends.installing import answer_requests_of_jobs, knows_contexts, pin_parent
from ipy_bgtasks.frontends.kernel.cards import Cards
from ipy_bgtasks.frontends.kernel.displays import Figures, route_displays, show_value
from ipy_bgtasks.frontends.kernel.interrupts import (
    guard_requests_from_sigint,
    interrupt_await_cells,
)
from ipy_bgtasks.frontends.kernel.output import Texts, WholeLines, key_of
from ipy_bgtasks.frontends.kernel.widgets import VIEW, WidgetBars, WidgetOutputs
from ipy_bgtasks.frontends.streams import formatted, is_tee, route_in_place
from ipy_bgtasks.platforms import on_main_thread
from ipy_bgtasks.service import DISPLAYS, Pace
from ipy_bgtasks.sigint import woken_by_signals
from ipy_bgtasks.text import error_line, message_of, printable, sendable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.kernel.cards import Card
    from ipy_bgtasks.frontends.running_cells import RunningCell
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.log.output import Piece
    from ipy_bgtasks.patching import Installation
    from ipy_bgtasks.session.control import Core
    from ipy_bgtasks.session.leaving import Leaving
    from ipy_bgtasks.stacks import Cells


#: Seconds between two signs of life while jobs run; who looks for idle kernels does so rarely.
_SIGN_OF_LIFE = 40.0
#: Characters of text after which a sender waits until the kernel has sent the earlier text.
_FLOOD = 500_000
#: Displays of jobs that are shown again in a second; of others the text. Servers drop messages.
_SHOWN_AGAIN = 200
#: Seconds that the control thread is given for its last messages.
_LAST_WORDS = 1.0


class KernelFrontEnd(FrontEnd):
    """The front ends of one kernel. Any thread may load."""

    live = True

    def __init__(self, shell: Any, core: Core) -> None:
        super().__init__(shell, core)
        self._streams: dict[str, Any] = {}
        self._own_writes: dict[str, Callable[[str], Any]] = {}
        self._lines = WholeLines(self.pin)
        #: What sends text in place of the streams, where those would send it to the wrong cell.
        self._texts: Texts | None = None
        self._written: dict[int, int] = {}
        self._figures = Figures()
        self._widgets = WidgetOutputs()
        self._bars = WidgetBars()
        served = _is_served(shell.kernel)
        self.cards = Cards(self._send_card, self._later, served, self._flush)
        #: The jobs whose cell was run again, and shows their output in a new place.
        self._moved: set[int] = set()
        #: What sends the text of jobs to where it is shown again, for how many jobs `%fg` does so.
        self._replays = Texts({}, self.write_below, self._later)
        self._replaying = 0
        self._displays, self._shown_again = Pace(DISPLAYS), Pace(_SHOWN_AGAIN)
        self._shows_life = False
        #: The context of the cell that ran last: print options are variables there.
        self._context = copy_context()
        #: The keys of cells that a job has cleared, and whose cards are to be shown again.
        self._cleared: set[Any] = set()

    # Installing

    def install(self, changes: Installation) -> None:
        loop = self._loop
        changes.step("streams", self._route)
        super().install(changes)
        changes.step_on_loop("wake-up", loop, lambda here: here.enter(woken_by_signals(loop)))
        changes.step("background cells", self._background_cells)
        changes.step("interrupted cells", interrupt_await_cells, self, self._later)
        changes.step_on_loop("stop button", loop, guard_requests_from_sigint, self)

    def _route(self, changes: Installation) -> None:
        """Route the kernel's streams and its display publisher."""
        self._streams = {
            name: stream
            for name in ("stdout", "stderr")
            if hasattr(stream := getattr(sys, name), "pub_thread")
        }
        self._own_writes = {
            name: type(stream).write.__get__(stream) for name, stream in self._streams.items()
        }
        if not all(map(knows_contexts, self._streams.values())):
            self._texts = Texts(self._streams, self.write_below, self._later, self._request_here)
        for name, stream in self._streams.items():
            write = self._own_writes[name]
            if self._texts is not None:
                write = self._texts.foreground(name, write)
            route_in_place(changes, stream, name, self, write)
        route_displays(changes, self._publisher, self)
        streams.give_each_job_its_own(changes, {})
        if self._texts is not None:
            self._texts.install(changes)
            answer_requests_of_jobs(changes, self.shell.kernel)
        changes.add(self._lines.release_all)
        self._figures.install(changes, self.shell.events)
        self._watch_cells(changes)

    def _background_cells(self, changes: Installation) -> None:
        from ipy_bgtasks.frontends.kernel.background_cells import KernelCells

        cells = KernelCells(self, self._later)
        cells.install(changes)
        changes.attribute(self, "cells", cells)
        changes.append(self.translators, cells.explain)

    def use_page(
        self, open_page: Callable[[], dict[str, Any] | None], cells: Cells
    ) -> Callable[[], None]:
        self.cards.use(open_page, cells)
        return self.cards.close

    def _watch_cells(self, changes: Installation) -> None:
        """Track each cell that begins and ends."""

        def begins() -> None:
            request = self.shell.get_parent() or {}  # the message of a widget is one, too
            kind = (request.get("header") or {}).get("msg_type", "execute_request")
            if kind != "execute_request" or not on_main_thread():
                return
            self._context = copy_context()
            if cards := self.cards.request_begins(request):
                self._move(cards, request["header"])

        def ends() -> None:
            if on_main_thread():
                self._context = copy_context()
                self.cards.request_ends()

        changes.event(self.shell.events, "pre_execute", begins)
        changes.event(self.shell.events, "post_execute", ends)

    def _move(self, cards: list[Card], header: Any) -> None:
        """Show jobs of an earlier run of a cell where it shows its output now, labelled."""
        for job in [job for card in cards for job in card.alive()]:
            self.labels.leave(job, self.place_of(job))
            job.origin = header
            self._moved.add(job.number)
            self.labels.enter(job, self.place_of(job), among=True)
        self.cards.move(cards, header)

    def _show_life(self) -> None:
        """Send something while jobs go on, or a server that culls idle kernels ends this one.

        It takes any message for activity. This one is an update of a display that nobody shows.
        """
        active = self.settings.counts_as_active and bool(self._core.own_jobs())
        self._shows_life = active and not self._shut_down
        if self._shows_life:
            self._send_card({}, {}, "ipy_bgtasks", update=True)
            self._later(_SIGN_OF_LIFE, self._show_life)

    def watch_exits(self, changes: Installation, leaving: Leaving) -> None:
        changes.step("shutdown", _watch_shutdown, self.shell, leaving)

    # Cells

    def routes_interrupts(self) -> bool:
        """Return whether interrupts are meant for a cell that may run in another thread."""
        return self.cells is not None and self.cells.routes

    def route_interrupt(self) -> bool:
        """Take an interrupt of the main thread; return whether it is meant for another thread."""
        return self.cells is not None and self.cells.route_interrupt()

    def on_block(self, blocked: bool) -> None:
        if self.cells is not None:
            self.cells.on_block(blocked)

    def remedy(self, job: Record) -> str:
        return "" if self.cells is None else f"%cancel {job.number} stops it"

    def reaches(self) -> bool:
        return super().reaches() or self.routes_interrupts()

    def last_backgrounded(self) -> Record:
        """Return the job of the cell that `%bg` alone has just sent to the background."""
        from ipy_bgtasks.errors import BadInput

        if self.cells is None:
            raise BadInput(
                "`%bg` alone does not work with this kernel, where no second thread can run other "
                "cells: start the cell with %%fg, and an interrupt sends it to the background"
            )
        if self.cells.unable:
            raise BadInput(
                "`%bg` alone does not work with this version of IPython; start the cell with "
                "%%fg, and an interrupt sends it to the background"
            )
        if (job := self.cells.take_last()) is None:
            raise BadInput(
                "no cell runs that could go to the background: `%bg`, alone in a cell of its own, "
                "sends away the one that runs at that moment; %bg CODE launches CODE"
            )
        return job

    def launch_cell(self, run: RunningCell, interrupt: Callable[[], object]) -> Record:
        job = super().launch_cell(run, interrupt)
        self._figures.give(job)
        return job

    def drop_leftover_tee(self) -> None:
        """Remove from the streams what IPython's capturing of a cell has left there.

        It replaces `write` for each plain cell, and restores what it found; cells that end in
        another order than they began restore each other's.
        """
        for stream in self._streams.values():
            if is_tee(vars(stream).get("write")):
                del vars(stream)["write"]

    def show_backgrounded(self, job: Record) -> None:
        """Say, under the cell, that an interrupt has sent it to the background."""
        n = job.number
        line = f"job {n} goes on: %fg {n} returns to it, %cancel {n} stops it"
        self._send_display(job.origin, {"text/plain": line})

    def show_stuck(self, run: RunningCell, line: str) -> None:
        line += ". `%bg` alone, in the next cell, sends it to the background\n"
        self.write_below(run.origin, "stderr", line)

    @property
    def attended(self) -> bool:
        return self.cards.heard or not self.cards.by_program

    def print_last(self, line: str) -> None:
        # What goes by way of ipykernel's streams finds no reader any more; where it has put a pipe
        # in the place of the process's own, the stream has a copy.
        try:
            descriptor = sys.stderr.fileno()
        except OSError:
            descriptor = 2
        with suppress(OSError):
            os.write(descriptor, f"{printable(line)}\n".encode(errors="replace"))

    # Places

    def here(self) -> Any:
        """Return the header of the caller's cell's request."""
        job = current.get()
        return (self.shell.get_parent() or {}).get("header") or {} if job is None else job.origin

    def _request_here(self) -> Any:
        return None if self.cells is None else self.cells.request_here()

    def key(self, place: Any) -> Any:
        return key_of(place)

    def context(self) -> Context:
        """Return a copy of the context in which the last cell has run."""
        return self._context.copy()

    def entering(self, job: Record) -> None:
        """Bind the calling context to the job's cell, where this ipykernel supports it."""
        self._lines.start()
        self.pin(job)

    def pin(self, job: Record) -> None:
        """Bind the calling context to the job's cell."""
        pin_parent(self.shell, job.origin, self._streams.values())

    def show(self, mimebundle: dict[str, Any]) -> None:
        self.shell.display_pub.publish(mimebundle)

    def show_live(self, mimebundle: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        parent, display_id = self.here(), uuid.uuid4().hex
        self._send_card(parent, mimebundle, display_id, update=False)
        return lambda news: self._send_card(parent, news, display_id, update=True)

    def launching(self, job: Record) -> None:
        """Show the card under the cell that launches the job, or add the job to it."""
        if self.cards.launch_card(job.origin) is None:
            self._flush()
        self.cards.launching(job)
        origin = job.origin if isinstance(job.origin, dict) else {}
        of_a_cell = origin.get("msg_type", "execute_request") == "execute_request"
        if not of_a_cell and not self._widgets.around(self.place_of(job)):
            line = f"job {job.number} ({job.name}) was launched by a widget, whose output no cell"
            line += f" shows: %jobs {job.number} shows it, %fg {job.number} brings it here\n"
            self.write_below(self.cards.last, "stderr", line)

    def show_job(self, job: Record) -> None:
        self.cards.show(job, self.here())

    def discarded(self, job: Record) -> None:
        self.cards.discarded(job)

    def changed(self, job: Record) -> None:
        super().changed(job)
        self.cards.changed(job)
        if not self._shows_life:
            self._shows_life = True
            self._later(_SIGN_OF_LIFE, self._show_life)

    def closing(self, job: Record) -> None:
        """Show the figures that the job left open, under its own cell."""
        self._figures.show_left_open(job)

    def print_at(self, job: Record, line: str) -> None:
        self.write_below(job.origin, "stderr", line + "\n")

    def write_below(self, header: Any, name: str, text: str) -> None:
        """Send text of one stream under the cell of a request. Any thread may call."""
        self._send(header, "stream", {"name": name, "text": text})

    def _show_end(self, job: Record) -> None:
        """Show a failed job's traceback under its cell, unless that cell raises it itself."""
        self.flush(job)
        written = self._written.pop(job.number, 0)
        self._moved.discard(job.number)
        self._bars.forget(job)
        self._clear_now(job)
        alone, named = self.cards.is_alone(job), self.cards.names_failure(job)
        if alone and written:
            self._flush()  # or who stops reading at the end of the job misses its last lines
        self.cards.ended(job)
        outcome = job.outcome
        assert outcome is not None
        own_cell = job.where == "cell"  # it shows its end itself, like any cell
        if alone and not own_cell and not (job.quiet or self._shut_down or job.stores):
            show_value(job, self, self._later)
        followed = self._is_followed(job, self.place_of(job))
        if outcome.state != "failed" or outcome.error is None or own_cell or named or followed:
            return
        if job.quiet or self._shut_down:  # time is short
            self.print_at(job, f"job {job.number} failed: {error_line(outcome.error)}")
            return
        content = {
            "ename": type_name(outcome.error),
            "evalue": message_of(outcome.error),
            "traceback": formatted(self.shell, outcome.error, outcome.traceback),
        }
        self._flush()
        # A console takes an error for the end of the input that runs, whatever its parent is, and
        # qtconsole closes the session's tab on the name of SystemExit.
        if self.cards.is_console(job.origin) or is_a(outcome.error, SystemExit):
            self.print_at(job, "\n".join(content["traceback"]))
        else:
            self._send(job.origin, "error", content)

    def follow(self, job: Record, *, everything: bool, among: bool = False) -> Callable[[], None]:
        """Send the job's output under the caller's cell too, from the log's tail on."""
        parent = self.here()
        place = self.key(parent)
        shown_here = place == self.place_of(job) and not job.quiet and not everything
        if shown_here or (job.done() and not job.has_output):
            return self._follow(job, place)

        def send(pieces: list[Piece]) -> None:
            for piece in pieces:
                self._send_piece(job, parent, piece)
            self._replays.flush_if_due()

        self._replaying += 1
        end_following = self._follow_log(job, place, send, everything=everything, among=among)

        def end() -> None:
            end_following()
            self._replaying -= 1
            if not self._replaying:  # of thousands that are followed the last
                self._replays.flush()

        return end

    def output(self, job: Record, name: str, text: str, write: Callable[[str], Any]) -> None:
        job.log.write(name, text)
        self._notify_watcher(job)
        if "\r" in text:
            self.cards.changed(job)  # most likely a progress bar
        if job.quiet or self.capture_text(job, name, text):
            return
        if self._cleared:
            self._clear_now(job)
        if (texts := self._replays if job.number in self._moved else self._texts) is not None:
            write = texts.writer(job, name, write)
        place = self.place_of(job)

        def write_labelled(text: str) -> None:  # called in the order in which texts are shown
            write(self.labels.put(job, place, name, text))

        self._lines.write(job, name, text, write_labelled)
        written = self._written[job.number] = self._written.get(job.number, 0) + len(text)
        if written > _FLOOD:
            self._flush()
            self._written[job.number] = 0

    def write(self, job: Record, name: str, text: str) -> None:
        """Take text as if the job had written it here."""
        self.output(job, name, text, self._own_writes.get(name) or getattr(sys, name).write)

    def flush(self, job: Record) -> None:
        self._lines.release(job)
        if self._texts is not None:
            self._texts.flush()
        if job.number in self._moved:
            self._replays.flush()

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
        self._bars.watch(job, data, self.changed)
        if update:
            job.log.display(data, metadata, update_of=shown_as)
        elif not shown_as and (widget := self._widgets.around(self.place_of(job))) is not None:
            self._widgets.display(job, widget, data, metadata)
        else:
            model = (data.get(VIEW) or {}).get("model_id")
            job.log.display(data, metadata, display_id=shown_as or model)
        self._notify_watcher(job)
        if job.quiet:
            return
        if (publisher := self.captured(job)) is not None:
            publisher.publish(data, metadata, transient=transient, update=update)
            return
        self._hold_back(job)
        self._lines.release(job)
        self._flush()
        if self._cleared and not update:
            self._clear_now(job)
        self._send_display(job.origin, data, metadata, transient, update)

    def show_value(self, job: Record, data: Any, metadata: Any) -> None:
        """Show the display of a job's value, or a line in its stead, in the job's place."""
        self._lines.release(job)
        self._flush()
        if (publisher := self.captured(job)) is not None:
            publisher.publish(data, metadata)
        elif not self._is_followed(job, self.place_of(job)):
            self._send_display(job.origin, data, metadata)

    def clear(self, job: Record, wait: bool) -> None:
        """Clear what the job's cell shows, except its cards."""
        if (widget := self._widgets.around(self.place_of(job))) is not None:
            self._widgets.clear(job, widget)
        else:
            job.log.clear(wait=wait)
        if job.quiet:
            return
        self._hold_back(job)
        self._lines.release(job)
        self._flush()
        if widget is not None or not self.cards.stand_in(job.origin):
            self._send(job.origin, "clear_output", {"wait": wait})
            return
        # With the next output in any case, to avoid flicker.
        self._send(job.origin, "clear_output", {"wait": True})
        self._cleared.add(self.place_of(job))
        if not wait:
            self._clear_now(job)

    # Inside

    def _hold_back(self, job: Record) -> None:
        """Let a thread wait that displays more often than servers pass on."""
        if caller() is job and asyncio._get_running_loop() is None:
            self._displays.wait()

    def _clear_now(self, job: Record) -> None:
        """Show the cards again before the first output that follows a clearing."""
        key = self.place_of(job)
        if key in self._cleared and self._widgets.around(key) is None:
            self._cleared.discard(key)
            self.cards.show_again(job.origin)

    def _send_piece(self, job: Record, parent: Any, piece: Piece) -> None:
        kind, text = piece.kind, piece.text
        if kind == "display" and piece.bundle and not self._shown_again.has_room():
            kind, text = "stdout", text.rstrip("\n") + "\n"
        if kind in ("stdout", "stderr"):
            self._replays.put(parent, kind, self.labels.put(job, self.key(parent), kind, text))
            return
        self._replays.flush()
        if kind == "clear":
            self._send(parent, "clear_output", {"wait": piece.wait})
        elif kind == "display" and piece.bundle:
            self._send_display(parent, piece.bundle, piece.metadata)

    def _send_display(
        self,
        parent: Any,
        data: Any,
        metadata: Any = None,
        transient: Any = None,
        update: bool = False,
    ) -> None:
        from ipykernel.jsonutil import encode_images, json_clean

        content = {"data": encode_images(data), "metadata": metadata or {}}  # type: ignore[no-untyped-call]
        content["transient"] = transient or {}
        kind = "update_display_data" if update else "display_data"
        self._send(parent, kind, json_clean(content))  # type: ignore[no-untyped-call]

    def _send_card(
        self, parent: Any, bundle: dict[str, Any], display_id: str, *, update: bool
    ) -> None:
        transient = {"display_id": display_id}
        here = on_main_thread() and caller() is None
        if here and not update and (publisher := self.capturing()) is not None:
            publisher.publish(bundle, {}, transient=transient)
            return
        self._send_display(parent, bundle, None, transient, update)

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
        for stream in self._streams.values():
            thread = getattr(stream, "pub_thread", None)
            if thread is not None and thread.thread is not threading.current_thread():
                stream.flush()
        if self._texts is not None:
            self._texts.flush()


def _watch_shutdown(changes: Installation, shell: Any, leaving: Leaving) -> None:
    from ipy_bgtasks.hooks import at_exit, exit_of_job

    kernel = shell.kernel
    answering: list[threading.Thread] = []

    async def do_shutdown(original: Any, restart: bool) -> Any:
        if (thread := threading.current_thread()) is kernel.control_thread:
            answering.append(thread)
        leaving.begin()
        await leaving.ended()
        reply = original(restart)
        return await reply if inspect.isawaitable(reply) else reply

    def ask_exit(original: Callable[[], None]) -> None:
        exit_of_job()
        original()
        if shell.exit_now:  # `exit` in a cell, without keeping the kernel
            leaving.begin()

    def let_it_answer() -> None:
        # ipykernel (7.4) stops the main loop before its control thread has flushed the streams and
        # published that it is idle. If the main thread ends the thread of iopub in between, the
        # flush waits ten seconds and the send for ever, since nobody takes them any more; and the
        # main thread joins the control thread. Busy threads make that likely, also without us.
        for thread in answering:
            thread.join(_LAST_WORDS)

    changes.wrap(kernel, "do_shutdown", do_shutdown)
    if kernel.control_thread is not None:
        # What its thread sends first is that it is busy, with the request to shut down. If no
        # descriptor is left for sockets to the thread of iopub, the request is lost.
        kernel.control_thread.io_loop.add_callback(kernel.iopub_thread.schedule, int)
    changes.wrap(shell, "ask_exit", ask_exit)
    at_exit(changes, let_it_answer)


def _is_served(kernel: Any) -> bool:
    """Return whether a server has started the kernel, and not a program for itself.

    A server names the connection file by the kernel's id; what starts one kernel, as nbclient does,
    leaves the name to `tempfile`.
    """
    return os.path.basename(getattr(kernel.parent, "connection_file", "")).startswith("kernel-")
