"""Wakes an event loop at every signal, for as long as the extension is loaded."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def wake_on_signals(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Let every signal end the loop's select, so that any `await` cell is interrupted at once.

    ipykernel's own handler for SIGINT does not wake the loop. Main thread only; does nothing
    where a wake-up descriptor is set already. Returns what undoes it.
    """
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)

    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
    try:
        loop.add_reader(receiver, _drain, receiver)
    except NotImplementedError:  # the Proactor loop of Windows has a descriptor already
        signal.set_wakeup_fd(before)
        receiver.close()
        sender.close()
        return lambda: None

    def undo() -> None:
        now = signal.set_wakeup_fd(-1)
        if now not in (-1, sender.fileno()):
            signal.set_wakeup_fd(now)
        if not loop.is_closed():
            loop.remove_reader(receiver)
        receiver.close()
        sender.close()

    return undo


def _drain(receiver: socket.socket) -> None:
    with suppress(BlockingIOError, InterruptedError):
        receiver.recv(4096)
