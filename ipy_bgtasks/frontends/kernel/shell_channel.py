"""What ipykernel 7 has and version 6 has not: a thread for the shell channel, and second shells.

The kernel's main thread reads its shell socket, so a cell that runs there keeps all messages
waiting. `ShellChannel` moves the socket to a thread of its own, and runs cells in further threads,
under the names by which ipykernel 7 has both: `CellQueue` knows no difference. A socket must not
be used by two threads at a time. Sharing it, with one owner while a cell runs and another between
cells, means a lock around each use, libraries' included; so it stays with that thread, and the
kernel's own stream passes on what is to be sent.

The loop of a GUI waits for the socket on the main thread: with `%gui` it goes back there for good.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq
from tornado.ioloop import IOLoop
from zmq.eventloop.zmqstream import ZMQStream

from ipy_bgtasks.frontends.running_cells import thread_property
from ipy_bgtasks.hooks import at_exit
from ipy_bgtasks.patching import Installation
from ipy_bgtasks.service import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Seconds that the thread is given to send what is to be sent, when the socket goes back.
_PATIENCE = 5.0


class _SharedStream(ZMQStream):
    """The kernel's own stream, as long as another has its socket. Any thread may call.

    It stays one when the socket is back, if a second shell may still reply by it.
    """

    #: The stream that has the socket, or this one again; and what arrived for the main thread.
    owner: ZMQStream
    arrived: deque[list[Any]]

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Send a message, by the thread of the owner."""
        send = partial(ZMQStream.send_multipart, self.owner, *args, **kwargs)
        self.owner.io_loop.add_callback(send)

    def flush(self, flag: int = zmq.POLLIN | zmq.POLLOUT, limit: int | None = None) -> int:
        """Give the kernel what arrived for it. For the main thread, if *flag* has `POLLIN`."""
        count = 0
        while flag & zmq.POLLIN and self.arrived:
            assert self._recv_callback is not None
            self._recv_callback(self.arrived.popleft())
            count += 1
        return count

    def _handle_events(self, fd: Any, events: Any) -> None:
        if self.owner is self:
            super()._handle_events(fd, events)  # type: ignore[no-untyped-call]

    def _update_handler(self, state: int) -> None:
        if self.owner is self:
            super()._update_handler(state)  # type: ignore[no-untyped-call]


class _Thread:
    """A thread with an event loop."""

    def __init__(self, name: str) -> None:
        self.io_loop = IOLoop(make_current=False)
        self.lock = asyncio.Lock()
        self._name = name

    def start(self) -> None:
        self.thread = in_thread(self._name, self._run)
        # A debugger that stops all threads does not stop this one, as with the kernel's own.
        vars(self.thread).update(pydev_do_not_trace=True, is_pydev_daemon_thread=True)

    def _run(self) -> None:
        try:
            self.io_loop.start()
        finally:
            self.io_loop.close()


class ShellChannel:
    """The shell channel of a kernel of version 6, with the names of ipykernel 7.

    *release* hands over all that was kept from the main thread. *apart* takes what gives the second
    shells a request of their own; it is to be undone, after this, while no two cells run.
    """

    def __init__(
        self, kernel: Any, release: Callable[[], Awaitable[None]], apart: Installation
    ) -> None:
        self._kernel = kernel
        self._theirs: Any = kernel.shell_stream
        self._release = release
        self._apart = apart
        #: What the kernel keeps for the request that it serves, to be kept for each thread: its
        #: values by thread, and what makes the first.
        self._kept: list[tuple[dict[int, Any], Callable[[], Any]]] = []
        #: The requests that the second shells serve, by thread.
        self.requests: dict[int, Any] = {}
        self._channel = _Thread("bg-shell-channel")
        self._shells: dict[str, _Thread] = {}
        self.shell_channel_thread = self.manager = self
        self.io_loop = self._channel.io_loop
        #: The stream that has the socket.
        self.shell_stream: ZMQStream

    def install(self, changes: Installation) -> None:
        """Move the socket to the thread of the channel. On the main thread."""
        kernel, theirs = self._kernel, self._theirs
        if type(theirs) not in (ZMQStream, _SharedStream) or kernel.eventloop is not None:
            raise NotImplementedError
        theirs.flush(zmq.POLLOUT)
        theirs.io_loop.remove_handler(theirs.socket)
        self.shell_stream = ZMQStream(theirs.socket, self.io_loop)
        theirs.owner, theirs.arrived = self.shell_stream, deque()
        theirs.__class__ = _SharedStream
        back = Installation()
        back.add(self._give_back)
        at_exit(back, self._stop)  # the kernel closes its sockets

        def end(_change: object = None) -> None:
            if threading.current_thread() is threading.main_thread():
                back.undo()
            else:  # `%gui` in a second shell
                theirs.io_loop.add_callback(back.undo)

        kernel.observe(end, "eventloop")
        back.add(lambda: kernel.unobserve(end, "eventloop"))
        changes.add(end)
        self._channel.start()

    async def shell_channel_thread_main(self, frames: list[Any]) -> None:
        """Hand a message to the shell that its header names. On the thread of the channel."""
        if self._shells:
            session = self._kernel.session
            _, rest = session.feed_identities(frames, copy=False)
            shell = self._shells.get(session.unpack(rest[1].bytes).get("subshell_id"))
            if shell is not None:
                shell.io_loop.add_callback(self._dispatch, shell, frames)
                return
        self._theirs.arrived.append(frames)
        self._theirs.io_loop.add_callback(self._theirs.flush)

    def _create_subshell(self) -> str:
        """Start a thread that runs cells; returns its name. On the thread of the channel."""
        if not self._kept:
            self._keep_requests()
        name = f"bg-shell-{len(self._shells) + 1}"
        self._shells[name] = shell = _Thread(name)
        shell.io_loop.add_callback(self._serve_own_requests)
        shell.start()
        return name

    def _keep_requests(self) -> None:
        """Let threads have requests of their own: ipykernel before 7 knows one."""
        kernel, shell = self._kernel, self._kernel.shell
        cancel = type(kernel)._cancel_on_sigint

        def cancel_on_sigint(kernel: Any, future: Any) -> Any:
            if threading.get_ident() not in self.requests:
                return cancel(kernel, future)
            return nullcontext()  # no other thread may set a handler: `KernelCells` does without

        def keep(owner: Any, first: dict[str, Callable[[], Any]], **members: Any) -> None:
            for name, make in first.items():
                own = self.requests if owner is shell else {}
                members[name] = thread_property(getattr(type(owner), name), own, own_only=True)
                self._kept.append((own, make))
            self._apart.subclass(owner, members)

        by_channel = {
            "_parents": lambda: {"shell": {}, "control": {}},
            "_parent_ident": lambda: {"shell": b"", "control": b""},
            "_allow_stdin": bool,
        }
        keep(kernel, by_channel, _cancel_on_sigint=cancel_on_sigint)
        for owner in (shell, shell.displayhook, shell.display_pub):
            keep(owner, {"parent_header": dict})

    def _serve_own_requests(self) -> None:
        for own, first in self._kept:
            own[threading.get_ident()] = first()

    async def _dispatch(self, shell: _Thread, frames: list[Any]) -> None:
        async with shell.lock:  # as in the main thread: one after the other, also if they await
            await self._kernel.dispatch_shell(frames)

    def _stop(self) -> None:
        """End the thread; then the socket can be used, or closed. Not on that thread."""
        if self._channel.thread.is_alive():
            self.io_loop.add_callback(self._let_go)
            self._channel.thread.join(_PATIENCE)

    async def _let_go(self) -> None:
        await self._release()
        self.shell_stream.stop_on_recv()
        self.shell_stream.flush(zmq.POLLOUT)
        self.io_loop.remove_handler(self.shell_stream.socket)
        self.io_loop.stop()

    def _give_back(self) -> None:
        """Let the main thread read the socket again, on which this is called."""
        self._stop()
        theirs = self._theirs
        theirs.owner = theirs
        if not self._shells:
            theirs.__class__ = ZMQStream
        theirs.io_loop.add_handler(theirs.socket, theirs._handle_events, IOLoop.READ)
        theirs._rebuild_io_state()
        for shell in self._shells.values():
            shell.io_loop.add_callback(_end, shell)


async def _end(shell: _Thread) -> None:
    async with shell.lock:
        shell.io_loop.stop()
