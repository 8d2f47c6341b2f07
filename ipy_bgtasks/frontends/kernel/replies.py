"""What a kernel answers: each reply is sent once, none loses a request, widgets answer at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable


class ReplyOnce:
    """A stand-in for the socket of a cell's reply, which may have been sent already.

    *take* returns whether it is still to be sent, and *failed* is called if the cell failed.
    """

    def __init__(
        self,
        stream: Any,
        unpack: Callable[[bytes], Any],
        take: Callable[[], bool],
        failed: Callable[[], object],
    ) -> None:
        self._stream = stream
        self._unpack = unpack
        self._take = take
        self._failed = failed

    def send_multipart(self, frames: list[Any], *args: Any, **kwargs: Any) -> Any:
        """Send the reply, unless it was sent already."""
        if not self._take():
            return None
        # The content follows the delimiter, the signature and three headers.
        at = [bytes(frame) for frame in frames].index(b"<IDS|MSG>")
        if self._unpack(bytes(frames[at + 5])).get("status") == "error":
            self._failed()
        return self._stream.send_multipart(frames, *args, **kwargs)


def send_replies_by_stream(manager: Any, stream: Any) -> Callable[[], object]:
    """Send replies as ipykernel 7.4 does, in older versions; returns what undoes it.

    Those bypass the stream that reads the same socket. A reply sent at the moment in which a
    request came made the stream miss that request for ever.
    """
    if not hasattr(manager, "_shell_socket"):
        return lambda: None
    return Attribute(manager, "_shell_socket", stream).restore


def let_page_choose_shell(widget: Any) -> None:
    """Leave it to the page on which subshell it speaks to the widget.

    JupyterLab uses one for all widgets, so that they work while a cell runs; but ipykernel 7.4
    hands what arrives to whoever last spoke to the page instead, which is a busy cell's shell.
    """
    vars(widget.comm or widget).pop("_reply_subshell_id", None)
