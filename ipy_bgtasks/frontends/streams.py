"""Routing of Python's output streams: a job's text goes to the job, the rest is unchanged.

All code that prints, job or foreground, calls ``sys.stdout.write``. Ours checks the current job
first. During a plain cell IPython replaces that attribute by a function of its own, to keep
everything printed in its output history; here that function serves the foreground only, so that
what a job prints is kept once, and bounded, in its log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.streams_by_context import DELETED, UNSET, ByContext, give_class
from ipy_bgtasks.text import encodable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

    Write = Callable[[str], Any]


class JobOutput(Protocol):
    """A receiver of what jobs write."""

    def take(self, job: Record, name: str, text: str, write: Write) -> None:
        """Take *text*, which a job wrote to the stream *name* with the function *write*."""

    def overhear(self, job: Record, name: str, text: str) -> None:
        """Record *text* of a cell that was sent away; it is shown like that of any cell."""

    def flush(self, job: Record) -> None:
        """Take note that a job flushed a stream."""


class _Route:
    """A factory of the `write` of a routed stream."""

    def __init__(self, name: str, output: JobOutput, own_write: Write) -> None:
        self.name = name
        self.output = output
        self.own_write = own_write

    def writer(self, foreground: Write) -> Write:
        """Return a `write` that takes jobs' text and leaves the rest to *foreground*."""
        # Of nested writers, as IPython's capturing makes them, only the innermost.
        overhear = self.output.overhear if foreground == self.own_write else None
        name, take, own, current_job = self.name, self.output.take, self.own_write, current.get

        def write(text: str) -> Any:
            job = current_job()
            if job is None:
                if overhear is not None and cells_away and (away := caller()) is not None:
                    overhear(away, name, text)
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


class RoutedStream:
    """A stand-in for a text stream that routes what is written and delegates everything else.

    Attributes can be set, as IPython and others do with `write`. What does not come from a
    job goes to *foreground*, by default the stream's own `write`.
    """

    def __init__(
        self, stream: Any, name: str, output: JobOutput, foreground: Write | None = None
    ) -> None:
        route = _Route(name, output, stream.write)
        write = route.writer(foreground or stream.write)
        self.__dict__.update(_stream=stream, _route=route, write=write)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "write":
            self.__dict__["write"] = _routed(self.__dict__["_route"], value)
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
        if (job := current.get()) is not None:
            self.__dict__["_route"].output.flush(job)
        self.__dict__["_stream"].flush()


def route_in_place(stream: Any, name: str, output: JobOutput) -> Callable[[], None]:
    """Route a stream without replacing the object; returns what undoes it.

    For streams whose class is written in Python, such as ipykernel's: a logging handler that
    has held the stream for long is routed, too.
    """
    cls = type(stream)
    route = _Route(name, output, cls.write.__get__(stream))
    route_write = route.writer(route.own_write)

    def write(self: Any, text: str) -> Any:
        return route_write(text)

    def set_attribute(self: Any, attribute: str, value: Any) -> None:
        if attribute == "write":
            value = _routed(route, value)
        object.__setattr__(self, attribute, value)

    def flush(self: Any) -> None:
        if (job := current.get()) is not None:
            output.flush(job)
        cls.flush(self)

    members = {
        "write": write,
        "flush": flush,
        "__setattr__": set_attribute,
        "__module__": cls.__module__,
    }
    pinned = vars(stream).get("write")
    stream.__class__ = type(cls.__name__, (cls,), members)
    if pinned is not None:
        stream.write = pinned

    def undo() -> None:
        stream.__class__ = cls
        pinned = vars(stream).pop("write", None)
        unrouted = getattr(pinned, "routed", pinned)
        if unrouted is not None and _is_foreign(unrouted):
            stream.write = unrouted

    return undo


def part_publishers(shell: Any, publisher: Any) -> tuple[ByContext, Callable[[], None]]:
    """Confine replacements of the shell's display publisher, as by `%%capture`, to their context.

    All other code gets *publisher*. Returns the attribute, and what undoes it.
    """
    parted = ByContext("display_pub", publisher)
    parted.put(vars(shell)["display_pub"])
    take_class_back = give_class(shell, [parted])

    def undo() -> None:
        if take_class_back() and parted.foreground not in (UNSET, DELETED):
            shell.display_pub = parted.foreground

    return parted, undo


def _routed(route: _Route, write: Write) -> Write:
    return write if hasattr(write, "routed") else route.writer(write)


def _is_foreign(write: Any) -> bool:
    """Return whether *write* is a function set by other code, not the stream's own method."""
    return not hasattr(write, "__self__")
