"""Routing of Python's output streams: a job's text goes to the job, the rest is unchanged.

All code that prints, job or foreground, calls ``sys.stdout.write``. Ours checks the current job
first. During a plain cell IPython replaces that attribute by a function of its own, to keep
everything printed in its output history; here that function serves the foreground only, so that
what a job prints is kept once, and bounded, in its log.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.streams_by_context import DELETED, UNSET, ByContext
from ipy_bgtasks.text import encodable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.patching import Installation

    Write = Callable[[str], Any]


class _Route:
    """A factory of the `write` of a routed stream, and what else a job does to the stream.

    *own_write* writes to the stream itself.
    """

    def __init__(self, name: str, front_end: FrontEnd, own_write: Write) -> None:
        self.name = name
        self.front_end = front_end
        self.own_write = own_write
        #: What the foreground's text goes to in the end.
        self.innermost = own_write

    def writer(self, foreground: Write) -> Write:
        """Return a `write` that takes jobs' text and leaves the rest to *foreground*."""
        front_end = self.front_end
        # Of nested writers, as IPython's capturing makes them, only the innermost.
        record = front_end.record if foreground == self.innermost else None
        name, take, own, current_job = self.name, front_end.output, self.own_write, current.get

        def write(text: str) -> Any:
            job = current_job()
            if job is None:
                if (
                    record is not None
                    and cells_away
                    and (cell := caller()) is not None
                    and record(cell, name, text)
                ):
                    return len(text)
                return foreground(text)
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            take(job, name, encodable(text), own)
            # A thread that does little but print can hardly be stopped elsewhere. `print` writes
            # the end of its line separately, even if that is empty.
            if job.cancel_requested and text[-1:] in ("", "\n", "\r"):
                job.checkpoint()
            return len(text)

        write.routed = foreground  # type: ignore[attr-defined]
        return write

    def routed(self, write: Write) -> Write:
        """Return what stands for a `write` that other code sets."""
        return write if hasattr(write, "routed") else self.writer(write)

    def flush(self) -> None:
        """Flush the caller's job."""
        if (job := current.get()) is not None:
            self.front_end.flush(job)

    def closes_own(self) -> bool:
        """Close the stream for the job that calls, and no one else; return whether one does."""
        if current.get() is None:
            return False
        self.flush()
        closed = io.StringIO()
        closed.close()
        setattr(sys, self.name, closed)
        return True


class RoutedStream:
    """A stand-in for a text stream that routes what is written and delegates everything else.

    Attributes can be set, as IPython and others do with `write`. What does not come from a
    job goes to *foreground*, by default the stream's own `write`.
    """

    def __init__(
        self, stream: Any, name: str, front_end: FrontEnd, foreground: Write | None = None
    ) -> None:
        def own_write(text: str) -> Any:
            return stream.write(text)  # which others replace: IPython does during a cell

        route = _Route(name, front_end, own_write)
        route.innermost = foreground or own_write
        write = route.writer(route.innermost)
        self.__dict__.update(_stream=stream, _route=route, write=write)

    def drop_leftover_tee(self) -> None:
        """Remove what IPython's capturing of cells has left here, as in a kernel's streams."""
        route, write = self.__dict__["_route"], self.__dict__["write"]
        if getattr(write.routed, "__qualname__", "").startswith("InteractiveShell._tee"):
            self.__dict__["write"] = route.writer(route.innermost)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "write":
            self.__dict__["write"] = self.__dict__["_route"].routed(value)
        else:
            setattr(self.__dict__["_stream"], name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)

    def __iter__(self) -> Any:
        return iter(self.__dict__["_stream"])

    def __enter__(self) -> RoutedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, the caller's job first."""
        self.__dict__["_route"].flush()
        self.__dict__["_stream"].flush()

    def close(self) -> None:
        """Close the stream; a job closes only its own."""
        if not self.__dict__["_route"].closes_own():
            self.__dict__["_stream"].close()


def route_in_place(changes: Installation, stream: Any, name: str, front_end: FrontEnd) -> None:
    """Route a stream without replacing the object.

    For streams whose class is written in Python, such as ipykernel's: a logging handler that
    has held the stream for long is routed, too.
    """
    cls = type(stream)
    route = _Route(name, front_end, cls.write.__get__(stream))
    route_write = route.writer(route.own_write)

    def write(self: Any, text: str) -> Any:
        return route_write(text)

    def set_attribute(self: Any, attribute: str, value: Any) -> None:
        object.__setattr__(self, attribute, route.routed(value) if attribute == "write" else value)

    def flush(self: Any) -> None:
        route.flush()
        cls.flush(self)

    def close(self: Any) -> None:
        if not route.closes_own():
            cls.close(self)

    def unpin() -> None:
        pinned = vars(stream).pop("write", None)
        unrouted = getattr(pinned, "routed", pinned)
        # Only a function of other code; the stream's own method need not be pinned.
        if unrouted is not None and not hasattr(unrouted, "__self__"):
            stream.write = unrouted

    changes.add(unpin)
    changes.subclass(
        stream, {"write": write, "flush": flush, "close": close, "__setattr__": set_attribute}
    )
    if (pinned := vars(stream).get("write")) is not None:
        stream.write = pinned


def isolate_publisher(changes: Installation, shell: Any, publisher: Any) -> ByContext:
    """Confine replacements of the shell's display publisher, as by `%%capture`, to their context.

    All other code gets *publisher*. Returns the attribute.
    """
    isolated = ByContext("display_pub", publisher)
    isolated.put(vars(shell)["display_pub"])

    def keep_replacement() -> None:
        if type(shell) is not ours and isolated.foreground not in (UNSET, DELETED):
            shell.display_pub = isolated.foreground

    changes.add(keep_replacement)
    ours = changes.subclass(shell, {"display_pub": isolated.as_property()})
    return isolated
