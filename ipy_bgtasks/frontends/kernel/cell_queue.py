"""Hands the kernel its cells one at a time, so that one can be sent to the background.

Messages for the shell arrive on a thread of their own, also while the main thread runs a cell: that
is ipykernel 7's, or a `ShellChannel`. Stock ipykernel puts them into the main thread's queue at
once, out of reach. Here a cell waits until the one before it is over; when that one is sent to the
background, it counts as over: it gets its reply, and the cells that wait run in a subshell, the
kernel's own second thread for cells, until the main thread is free again. A cell that is one of our
magics alone runs in a subshell at once, beside the one that runs.

All methods are for the shell channel's thread unless said otherwise.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import zmq

from ipy_bgtasks.context import runs_subtask
from ipy_bgtasks.frontends.running_cells import RunningCell
from ipy_bgtasks.sigint import Interrupted
from ipy_bgtasks.stacks import await_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ipy_bgtasks.frontends.kernel.background_cells import KernelCells
    from ipy_bgtasks.patching import Installation


class _ReplyOnce:
    """A stand-in for the socket of a cell's reply, which may have been sent already.

    *failed* is called if the cell failed.
    """

    def __init__(self, stream: Any, run: CellRun, failed: Callable[[CellRun], None]) -> None:
        self._stream = stream
        self._run = run
        self._failed = failed

    def send_multipart(self, *args: Any, **kwargs: Any) -> Any:
        """Send the reply, unless it was sent already."""
        if not self._run.is_first_reply():
            return None
        if self._run.result is not None and not self._run.result.success:
            self._failed(self._run)
        return self._stream.send_multipart(*args, **kwargs)


def let_page_choose_shell(widget: Any) -> None:
    """Leave it to the page on which subshell it speaks to the widget.

    JupyterLab uses one for all widgets, so that they work while a cell runs; but ipykernel 7.4
    hands what arrives to whoever last spoke to the page instead, which is a busy cell's shell.
    """
    vars(widget.comm or widget).pop("_reply_subshell_id", None)


#: Seconds: cells that are sent in quicker succession are meant to run in that order.
_TOGETHER = 0.25
#: Seconds after which nobody is taken to ask something beside a cell any more.
_QUIET = 0.5
#: Seconds in which the channel's thread does what another one asks it to do.
_PATIENCE = 5.0
#: `%bg` without CODE, as the text of a cell.
_ALONE = r"\s*(%bg(?:\s+--notify)?)\s*;?\s*(?:#.*)?\s*"


class CellRun(RunningCell):
    """One request to execute a cell."""

    def __init__(self, idents: Any, frames: list[Any], message: dict[str, Any]) -> None:
        super().__init__(str(message["content"].get("code", "")), message["header"])
        self.idents = idents
        self.raw = frames
        self.message = message
        #: The subshell it was handed to; None for the main shell.
        self.subshell: str | None = None
        #: Its task, if it is a cell that awaits.
        self.task: Any = None
        #: Its number among all requests, and among those that wait: `q1` is 1.
        self.arrival = self.place = 0
        #: Whether it runs beside the cells that were there first, or will once those have begun.
        self.beside = False
        #: Whether those behind it are not to run if it fails.
        self.stops = bool(message["content"].get("stop_on_error", True))
        #: Whether it goes on in the background, and counts as over for the front end, while `over`
        #: is for the kernel.
        self.backgrounded = False
        self.over = False
        self.failed = False
        #: Whether an interrupt has cancelled its task.
        self.interrupted = False
        self._lock = threading.Lock()
        self._replied = False

    @property
    def id(self) -> str:
        """The identifier of the request."""
        return str(self.message["header"]["msg_id"])

    @property
    def sent(self) -> float:
        """When the front end made the request, by its own clock, in seconds since the epoch."""
        with suppress(ValueError, TypeError, OverflowError):
            return datetime.fromisoformat(self.origin["date"]).timestamp()
        return time.time()

    def asks(self) -> bool:
        """Return whether the cell is `%bg` without CODE, and reduce it to that.

        IPython knows no magic `bg;`.
        """
        if (found := re.fullmatch(_ALONE, self.code)) is not None:
            self.code = self.message["content"]["code"] = found[1]
        return found is not None

    @property
    def can_go(self) -> bool:
        """Whether its code runs in the foreground, and does not itself ask for `%bg` alone."""
        runs = self.began is not None and not self.over and not self.backgrounded
        return runs and not self.asks()

    def interrupt_await(self) -> type[KeyboardInterrupt] | None:
        if self.task is None or asyncio.current_task(self.task.get_loop()) is self.task:
            return KeyboardInterrupt
        self.interrupted = True
        self.task.get_loop().call_soon_threadsafe(self.task.cancel)
        return Interrupted if runs_subtask(self.task) else None

    def frames(self) -> list[FrameType]:
        """Return where its code is, at an await too. Any thread may call."""
        if self.task is None:
            return super().frames()
        return await_frames(self.task, self.thread, self.task.get_loop())

    def is_first_reply(self) -> bool:
        """Return whether the caller is the first to reply. Any thread may call."""
        with self._lock:
            first, self._replied = not self._replied, True
            return first


class CellQueue:
    """The cells of one kernel's main shell: running, in the background, or waiting."""

    def __init__(self, cells: KernelCells) -> None:
        self._cells = cells
        self._kernel = self.receiver = kernel = cells.kernel
        if not hasattr(kernel, "shell_channel_thread"):
            from ipy_bgtasks.frontends.kernel.shell_channel import ShellChannel

            self.receiver = ShellChannel(kernel, self._release_all, cells.apart)
        self._channel = self.receiver.shell_channel_thread
        self._arrived = self.receiver.shell_channel_thread_main
        self._waiting: deque[CellRun] = deque()
        self._by_id: dict[str, CellRun] = {}
        #: The waiting cell, `%bg` alone, that wants the running one sent to the background.
        self._asking: CellRun | None = None
        self._subshells: list[str] = []
        #: The cell of the foreground; None while there is none.
        self.running: CellRun | None = None
        #: The cells in the background, by the shell that they keep busy.
        self.in_background: dict[str | None, CellRun] = {}
        #: Those that run beside the foreground's, likewise; the newest comes last.
        self._beside: dict[str | None, CellRun] = {}
        self._sent = 0.0  # when the newest of the foreground's cells was
        self._arrivals = self._places = 0
        self._aborts_until = 0.0  # on the monotonic clock
        self._interval = cells.front_end.switch_interval
        self._restoring: Any = None  # what restores it soon
        #: The comms whose messages wait for no cell: those of widgets of our own.
        self.urgent_comms: set[str] = set()

    def install(self, changes: Installation) -> None:
        """Stand between the channel and the kernel. Any thread may call.

        Raises `AttributeError` where the kernel is not built like ipykernel 6 or 7.
        """
        kernel, loop, manager = self._kernel, self._channel.io_loop, self._channel.manager
        receiver, handlers = self.receiver, kernel.shell_handlers
        _ = manager._create_subshell
        if receiver is not kernel:
            main: Any = kernel.shell_stream.io_loop
            changes.step_on_loop("background cells", main.asyncio_loop, receiver.install)
            if changes.missing:
                raise NotImplementedError
        execute = self._executing(handlers["execute_request"])
        changes.entry(handlers, "execute_request", execute)
        changes.wrap(kernel, "_publish_status", self._publish_status)
        if hasattr(manager, "_shell_socket"):
            # Before 7.4 replies bypass the stream that reads the same socket. A reply sent at the
            # moment in which a request came made the stream miss that request for ever.
            changes.attribute(manager, "_shell_socket", kernel.shell_stream)
        changes.add(lambda: loop.add_callback(self._release_all))

        def give_to(receive: Callable[[list[Any]], Any]) -> None:
            loop.add_callback(lambda: receiver.shell_stream.on_recv(receive, copy=False))

        give_to(self._on_message)
        changes.add(lambda: self._interval.short("cells", False))
        changes.add(lambda: give_to(self._arrived))

    def _executing(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands for the kernel's handler of cells: each replies once."""

        async def execute_once(stream: Any, ident: Any, parent: Any) -> None:
            run = self._by_id.get(parent["header"]["msg_id"])
            if run is not None:
                run.number = self._kernel.execution_count  # as the front end knows it
                stream = _ReplyOnce(stream, run, self._on_failure)
                # We abort those behind it. The kernel would refuse cells for other shells, too (6),
                # or those which came before a message that it sends to itself.
                parent["content"]["stop_on_error"] = False
            try:
                await execute(stream, ident, parent)
            except KeyboardInterrupt:  # in the code around the user's: the front end would wait
                if run is None:
                    raise
                self._reply_interrupted(run, stream)

        return execute_once

    def _reply_interrupted(self, run: CellRun, stream: Any) -> None:
        """Reply to a cell, whose *stream* replies once. On the thread that ran it."""
        if run.result is not None and run.result.success:  # it came too late
            self._send_ok(run, stream)
            return
        error = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt"]}
        self._kernel.send_response(self._kernel.iopub_socket, "error", error)
        self._on_failure(run)
        self._send(run, stream, "error", execution_count=run.number, **error)

    def _publish_status(self, original: Any, status: str, channel: str, parent: Any = None) -> None:
        """Publish the kernel's status.

        Idle is the last word on each request, also on one that is aborted.
        """
        if status == "idle" and channel == "shell" and self._by_id:
            header = (parent or self._kernel.get_parent(channel) or {}).get("header", {})
            run = self._by_id.get(header.get("msg_id"))
            if run is not None:
                self._on_idle(run)
                if run.backgrounded:
                    return  # the front end got that when the cell was backgrounded
        original(status, channel, parent)

    def run_of(self, message_id: str) -> CellRun | None:
        """Return the request with that identifier, while it is known. Any thread may call."""
        return self._by_id.get(message_id)

    @property
    def newest(self) -> CellRun | None:
        """The foreground's newest cell, which an interrupt is meant for; it may have ended."""
        front = self.front
        return front[-1] if front else self.running

    @property
    def front(self) -> list[CellRun]:
        """The foreground's cells that have not ended: one, and those beside it, the newest last."""
        runs = [self.running, *list(self._beside.values())]
        return [run for run in runs if run is not None and not run.over]

    @property
    def waiting(self) -> list[CellRun]:
        """The cells that wait, in order. Any thread may call."""
        return list(self._waiting)

    def on_begin(self, run: CellRun) -> None:
        """Run what has waited for a cell to begin. On its thread."""
        if run.beside and any(each.began is None for each in self.front):
            self._cells.set_apart(run)
        if self._asking is not None or self._waiting:
            self._channel.io_loop.add_callback(self._answer_asking)

    def take_out(self, runs: list[CellRun]) -> list[CellRun]:
        """Take cells out that wait: they never run; returns those that still waited.

        Any thread but the channel's may call.
        """
        taken: Future[list[CellRun]] = Future()

        def take() -> None:
            still = [run for run in runs if run in self._waiting]
            for run in still:
                self._waiting.remove(run)
                self._abort(run)
            self._cells.watch(True)
            taken.set_result(still)

        self._channel.io_loop.add_callback(take)
        return taken.result(_PATIENCE)

    # From the front end

    async def _on_message(self, frames: list[Any]) -> None:
        """Take in whatever arrives on the shell channel."""
        session = self._kernel.session
        try:
            idents, rest = session.feed_identities(frames, copy=False)
            header = session.unpack(rest[1].bytes)
            kind, shell = header.get("msg_type"), header.get("subshell_id")
            is_cell = kind == "execute_request"
            may_be_ours = kind == "comm_msg" and bool(self.urgent_comms) and self._is_busy()
            if is_cell or (shell is None and (None in self.in_background or may_be_ours)):
                message = self._unpacked(header, rest)
                run = CellRun(idents, frames, message)
                if is_cell and shell is None:
                    await self._queue(run)
                    return
                if is_cell:  # it waits for no cell of the main shell
                    if run.asks() and self.running is not None:
                        await self.background(self.running)
                elif may_be_ours and message["content"].get("comm_id") in self.urgent_comms:
                    shell = self._idle_shell()
                else:
                    shell = self._foreground_shell()
                frames = self._addressed(idents, message, shell)
        except Exception:  # the kernel's own handler says what is wrong with it
            self._kernel.log.debug("not for the cell queue", exc_info=True)
        await self._arrived(frames)

    def _unpacked(self, header: dict[str, Any], frames: list[Any]) -> dict[str, Any]:
        """Return a message as the kernel will read it, or raise if that will refuse it.

        Its signature is not used up. `Session.deserialize` takes five times as long, most of it
        for the dates.
        """
        session = self._kernel.session
        signature, *parts = [frame.bytes for frame in frames[:5]]
        if session.auth is not None and (
            signature in session.digest_history
            or not compare_digest(signature, session.sign(parts))
        ):
            raise ValueError("its signature is wrong, or was used before")
        names = ("parent_header", "metadata", "content")
        contents = dict(zip(names, map(session.unpack, parts[1:]), strict=True))
        return {"header": header, **contents, "buffers": [frame.buffer for frame in frames[5:]]}

    async def _queue(self, run: CellRun) -> None:
        self._cells.signals.settle("SIGINT")  # one that came earlier is not meant for this cell
        if time.monotonic() < self._aborts_until:
            self._abort(run)
            return
        self._arrivals += 1
        run.arrival = self._arrivals
        run.beside = self._may_run_ahead(run)
        if run.beside:  # the cell that runs may compute
            self._interval.short("cells", True)
        # A number is not given to another cell while any waits: `%cancel q2` may come late.
        self._places = (self._places if self._waiting else 0) + (not run.beside)
        run.place = self._places
        self._waiting.append(run)
        if run.asks():
            run.raw = []
            self._asking = run
        await self._answer_asking()
        if run in self._waiting:
            self._cells.watch(True)

    def _may_run_ahead(self, run: CellRun) -> bool:
        """Return whether a cell need not wait for those before it.

        Many that are sent at once, as by Run All, build on each other, whatever they are.
        """
        before, self._sent = self._sent, run.sent
        cells = self._cells
        there = [each.code for each in (*self.front, *self._waiting)]
        together = run.sent - before < _TOGETHER
        if not there or together or "%" not in run.code or not cells.front_end.settings.jump_queue:
            return False
        from ipy_bgtasks.work.names import may_run_ahead

        return may_run_ahead(run.code, there, self._kernel.shell.user_ns) and cells.prepare()

    async def _answer_asking(self) -> None:
        """Send the cell that runs to the background if one asks for it, and run what can run."""
        self._background_for_asking()
        await self._run_beside()
        await self._run_next()

    async def _run_beside(self) -> None:
        """Run the cells that need not wait, each in a shell of its own."""
        for run in [each for each in self._waiting if each.beside]:
            if not self._set_apart():
                return
            self._waiting.remove(run)
            run.subshell = shell = self._idle_shell()
            self._beside[shell] = self._by_id[run.id] = run
            self._cells.signals.take("SIGINT")
            await self._arrived(self._addressed(run.idents, run.message, shell))

    def _set_apart(self) -> bool:
        """Give each cell that runs a number of its own, so that another one may begin.

        IPython has one counter. Returns whether it is free: a cell that was handed over takes its
        number when it begins. That may be never, where a job blocks the loop.
        """
        for run in self.front:
            if run.began is not None and not run.apart:
                self._cells.set_apart(run)
        stuck = self.running if self._cells.front_end.blocking is not None else None
        return all(run.apart or run is stuck for run in self.front)

    def _background_for_asking(self) -> None:
        """Send the cell that runs to the background: the cell that asks for it comes next.

        It can only be sent once its code has begun, since before that it has no number.
        """
        run, asking = self.running, self._asking
        if asking is None or asking not in self._waiting:
            self._asking = None
            return
        if run is None or not run.can_go:
            return
        self._asking = None
        self._waiting.remove(asking)
        self._waiting.appendleft(asking)
        self._detach(run)

    async def background(self, run: CellRun) -> None:
        """Send a cell that runs to the background, without one of this shell that asks for it."""
        if self.running is run and run.can_go:
            self._detach(run)
            await self._run_next()

    def _detach(self, run: CellRun) -> None:
        if not self._cells.prepare() or not run.is_first_reply():
            return
        run.backgrounded = True
        self.in_background[run.subshell] = run
        self.running = None
        self._cells.detach(run)
        self._send_ok(run, self._kernel.shell_stream)
        self._publish_idle(run)

    async def _run_next(self) -> None:
        """Give the next cell that waits to a shell that is free."""
        while self._waiting and not self._is_busy():
            run = self._waiting[0]
            first = not run.asks() and any(each.arrival < run.arrival for each in self.front)
            if first or (self._beside and not self._set_apart()):
                return
            self.running = self._waiting.popleft()
            run.beside = False
            run.subshell = self._free_shell()
            self._by_id[run.id] = run
            frames = run.raw
            if run.subshell is not None:
                self._cells.signals.take("SIGINT")
            if run.subshell is not None or not frames:
                frames = self._addressed(run.idents, run.message, run.subshell)
            await self._arrived(frames)

    def _foreground_shell(self) -> str | None:
        """Return the shell to which the foreground's other messages go, while the main is busy."""
        run = self.running
        return self._free_shell() if run is None or run.over else run.subshell

    def _is_busy(self) -> bool:
        return self.running is not None and not self.running.over

    def _idle_shell(self) -> str | None:
        """Return a shell in which nothing runs at all, not even the foreground's cell."""
        run = self.running
        return self._free_shell(but=[run.subshell] if run is not None and not run.over else [])

    def _free_shell(self, but: list[str | None] = []) -> str | None:  # noqa: B006
        """Return a shell that nothing keeps busy: the main one (None), if that is free."""
        taken = {*self.in_background, *self._beside, *but}
        if self._cells.front_end.blocking is not None:
            taken.add(None)
        for shell in (None, *self._subshells):
            if shell not in taken:
                return shell
        self._subshells.append(str(self._channel.manager._create_subshell()))
        return self._subshells[-1]

    def _addressed(self, idents: Any, message: dict[str, Any], subshell: str | None) -> list[Any]:
        """Return a message for a shell as frames, signed anew: each signature counts once."""
        session = self._kernel.session
        header = {**message["header"], "subshell_id": subshell}
        if subshell is None:
            header.pop("subshell_id")
        frames = session.serialize({**message, "header": header}, ident=idents)
        return [zmq.Frame(frame) for frame in [*frames, *message.get("buffers", ())]]

    # From the kernel

    def _on_idle(self, run: CellRun) -> None:
        """Note that the kernel is done with a cell. On the thread that ran it."""
        self._by_id.pop(run.id, None)
        # After a failure those behind it are aborted first, on the channel's thread.
        run.over = not run.failed
        self._cells.on_over(run)
        if run.failed or run.backgrounded or run.subshell is not None or self._waiting:
            self._channel.io_loop.add_callback(self._over, run)

    async def _over(self, run: CellRun) -> None:
        run.over = True
        for busy in (self.in_background, self._beside):
            if busy.get(run.subshell) is run:
                del busy[run.subshell]
        self._end_beside(run)
        await self._answer_asking()
        self.look_at_main()

    def look_at_main(self) -> None:
        """Leave the main thread its signals, unless it is busy. On the channel's thread."""
        front = self.running
        others = self.in_background or self._beside
        if not others and (front is None or front.over or front.subshell is None):
            self._cells.on_main_free()

    def _end_beside(self, run: CellRun) -> None:
        def restore() -> None:
            if not self._beside and not any(each.beside for each in self._waiting):
                self._interval.short("cells", False)

        if run.beside:  # others may follow at once
            if self._restoring is not None:
                self._channel.io_loop.remove_timeout(self._restoring)
            self._restoring = self._channel.io_loop.call_later(_QUIET, restore)

    def _on_failure(self, run: CellRun) -> None:
        """Note that a cell failed, which stops those that wait. On the thread that ran it."""
        if run.stops:
            run.failed = not run.beside
            self._channel.io_loop.add_callback(self._abort_behind, run)

    def _abort_behind(self, failed: CellRun) -> None:
        """Answer the cells that wait behind a failed one, or come soon, as the kernel does."""
        self._aborts_until = time.monotonic() + self._kernel.stop_on_error_timeout
        for run in list(self._waiting):
            if run.arrival > failed.arrival:
                self._waiting.remove(run)
                self._abort(run)

    def _abort(self, run: CellRun) -> None:
        self._end_beside(run)
        type(self._kernel)._publish_status(self._kernel, "busy", "shell", run.message)
        self._send(run, self._kernel.shell_stream, "aborted")
        self._publish_idle(run)

    def _send_ok(self, run: CellRun, stream: Any) -> None:
        number = run.number
        self._send(run, stream, "ok", execution_count=number, user_expressions={}, payload=[])

    def _send(self, run: CellRun, stream: Any, status: str, **content: Any) -> None:
        """Reply in place of the kernel."""
        metadata = {"started": run.origin.get("date"), "dependencies_met": True, "status": status}
        self._kernel.session.send(
            stream,
            "execute_reply",
            {"status": status, **content},
            run.message,
            ident=run.idents,
            metadata=metadata,
        )

    def _publish_idle(self, run: CellRun) -> None:
        """Say in place of the kernel that it is done with a cell."""
        type(self._kernel)._publish_status(self._kernel, "idle", "shell", run.message)

    async def _release_all(self) -> None:
        """Hand the kernel all that waits: nothing stands in between any more."""
        while self._waiting:
            run = self._waiting.popleft()
            await self._arrived(self._addressed(run.idents, run.message, None))
