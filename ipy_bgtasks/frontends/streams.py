"""What a job prints on its way to the screen: whose it is, its label, and the traceback at its end.

All code that prints, job or foreground, calls ``sys.stdout.write``. Ours checks the current job
first. During a plain cell IPython replaces that attribute by a function of its own, to keep
everything printed in its output history; here that function serves the foreground only, so that
what a job prints is kept once, and bounded, in its log.

Where several jobs show their output at the same time, labels say whose line it is. Only what is
shown is labelled; what is recorded is not.
"""

from __future__ import annotations

import copy
import io
import re
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.context import DELETED, UNSET, ByContext, caller, cells_away, current
from ipy_bgtasks.foreign import attribute, contexts, is_a, trace_of, type_name, with_trace
from ipy_bgtasks.sigint import ShieldedThroughout
from ipy_bgtasks.stacks import hide_all
from ipy_bgtasks.text import encodable, error_line, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ipy_bgtasks.frontends.base import FrontEnd
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

    Write = Callable[[str], Any]
    #: Returns what is shown in place of an exception: itself, or another.
    Translate = Callable[[BaseException], BaseException]


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
        if is_tee(write):
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


def is_tee(write: Any) -> bool:
    """Return whether *write* is, or routes to, what IPython's capturing of cells puts there."""
    name = str(getattr(getattr(write, "routed", write), "__qualname__", ""))
    return name.startswith("InteractiveShell._tee")


def route_in_place(
    changes: Installation,
    stream: Any,
    name: str,
    front_end: FrontEnd,
    foreground: Write,
) -> None:
    """Route a stream without replacing the object.

    For streams whose class is written in Python, such as ipykernel's: a logging handler that
    has held the stream for long is routed, too. What does not come from a job goes
    to *foreground*.
    """
    cls = type(stream)
    route = _Route(name, front_end, cls.write.__get__(stream))
    route.innermost = foreground
    route_write = route.writer(route.innermost)

    def write(self: Any, text: str) -> Any:
        return route_write(text)

    def set_attribute(self: Any, attribute: str, value: Any) -> None:
        object.__setattr__(self, attribute, route.routed(value) if attribute == "write" else value)

    def flush(self: Any) -> None:
        route.flush()
        # ipykernel's thread for output takes the lock of an event on which this waits. Left held
        # by an interrupt, nothing would be shown any more.
        with ShieldedThroughout():
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


#: Where a new line begins, if anything follows.
_NEW_LINE = r"\r?\n|\r(?!\n)"


class _Line(NamedTuple):
    """The partial line of a place: whose it is, and whether it will be overwritten."""

    number: int
    bar: bool
    #: Whether its label is still to be written, before the next text.
    bare: bool


class _Place:
    """Whose output is shown in one place now."""

    __slots__ = ("bare", "labelled", "present")

    def __init__(self) -> None:
        self.present: dict[int, Record] = {}
        #: Of those, the ones without a label: so that a launch looks at no others.
        self.bare: list[Record] = []
        self.labelled: set[int] = set()


class Labels:
    """The labels of all places. Any thread may call; a place is anything hashable."""

    def __init__(self) -> None:
        #: Whether there are any.
        self.on = True
        #: Held while the result of `put` is shown, where nothing else keeps that in order.
        self.order = threading.RLock()
        self._lock = threading.Lock()
        self._places: dict[Any, _Place] = {}
        self._lines: dict[tuple[Any, str], _Line] = {}

    def enter(self, job: Record, place: Any, *, among: bool = False) -> None:
        """Note that the job's output is shown in *place*; with *among* others are about to be."""
        with self._lock:
            here = self._places.get(place)
            if here is None:
                here = self._places[place] = _Place()
            elif job.number in here.present:
                return
            for other in reversed(here.present.values()):  # the newest most likely runs still
                if among := among or not other.done():
                    break
            here.present[job.number] = job
            if not among:
                here.bare.append(job)
                return
            here.labelled.add(job.number)
            if here.bare:
                here.labelled.update(other.number for other in here.bare if not other.done())
                here.bare.clear()

    def leave(self, job: Record, place: Any) -> None:
        """Note that the job's output is no longer shown in *place*."""
        with self._lock:
            here = self._places.get(place)
            if here is None or here.present.pop(job.number, None) is None:
                return
            here.labelled.discard(job.number)
            if job in here.bare:
                here.bare.remove(job)
            if not here.present:
                del self._places[place]
                for key in [key for key in self._lines if key[0] == place]:
                    del self._lines[key]

    def wanted(self, job: Record, place: Any) -> bool:
        """Return whether its lines are labelled there: until its end, once it was not alone."""
        here = self._places.get(place)
        return self.on and here is not None and job.number in here.labelled

    def put(self, job: Record, place: Any, stream: str, text: str) -> str:
        """Return *text*, which the job is about to show there, with its labels.

        After another job's partial line this begins a new one, unless both are bars, which share
        it. Call this in the order in which the texts are shown.
        """
        if not text or not self.wanted(job, place):
            return text
        label = f"[{job.number}] "
        line = self._lines.pop((place, stream), None)
        bare = line is None or line.bare
        before = ""
        if line is not None and line.number != job.number:
            bare = True
            before = "" if line.bar and text[0] == "\r" else "\n"
        ends = list(re.finditer(_NEW_LINE, text))
        bar = any(end[0] == "\r" for end in ends)
        if not text.endswith("\n"):
            # Of a bar that comes with each `\r` before or after it, the label comes before it.
            self._lines[place, stream] = _Line(job.number, bar=bar, bare=text[-1] == "\r")
        at = 0
        out = [before]
        for end in ends:
            if bare and end.start() > at:
                out.append(label)
            out.append(text[at : end.end()])
            at, bare = end.end(), True
        if at < len(text):
            out += [label, text[at:]] if bare else [text[at:]]
        return "".join(out)


def formatted(shell: Any, error: BaseException, trace: TracebackType | None) -> list[str]:
    """Return the traceback's lines, whatever *error* does when it is looked at.

    Any thread may call.
    """
    kind = type(error)
    try:
        if (render := attribute(error, "_render_traceback_")) is not None:
            return list(render())
        if is_a(error, SyntaxError):
            return list(copy.copy(shell.SyntaxTB).structured_traceback(kind, error, []))
        # IPython's own formatter does not know exception groups.
        if not any(is_a(one, BaseExceptionGroup) for one in contexts(error)):
            # A copy, because the shell's own remembers the last traceback for %debug.
            lines = copy.copy(shell.InteractiveTB).structured_traceback(
                kind, error, trace, tb_offset=0
            )
            notes = attribute(error, "__notes__", ())
            shown = "\n".join(lines)
            return [*lines, *(note for note in notes if note not in shown)]
    except Exception:  # a broken repr in a user's exception: the plain form still works
        pass
    try:
        return [line.rstrip("\n") for line in traceback.format_exception(kind, error, trace)]
    except Exception:  # it does not even let itself be looked at, or is nested too deeply
        head = ["Traceback (most recent call last):", *traceback.format_tb(trace)]
        return [line.rstrip("\n") for line in (*head, error_line(error))]


def translate_errors(
    changes: Installation, shell: Any, translators: Sequence[Translate] = ()
) -> None:
    """Show the exceptions of cells as *translators* return them, without our frames.

    Most frames are taken out where an exception leaves this package. This is for the rest, such as
    an interrupt that lands in the first line of a magic; ``%xmode Verbose`` shows them.

    One that does not let itself be looked at is shown too, and IPython goes on with a plain one of
    that name. With the exception itself ipykernel would send no reply; and for a cell that awaits,
    asyncio would report what it raises, `logging` would fail at that, and the kernel would end.
    """

    def showtraceback(original: Any, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        raised = error = (exc_tuple or sys.exc_info())[1]
        if error is None or not is_a(error, BaseException):
            original(exc_tuple, *args, **kwargs)
            return
        for translate in translators:
            error = translate(error)
        if shell.InteractiveTB.mode != "Verbose":
            hide_all(error)
        kind, trace = type(error), trace_of(error)
        try:
            original((kind, error, trace), *args, **kwargs)
        except Exception:
            if not callable(original):
                raise  # it was set to None, and is heard as without us
            lines = formatted(shell, error, trace and trace.tb_next)  # without IPython's own frame
            shell._showtraceback(kind, message_of(error), lines)
        else:
            with suppress(Exception):
                bool(error), str(error)
                traceback.TracebackException(kind, error, None, limit=0)
                return
        result = shell.displayhook.exec_result
        if result is not None and result.error_in_exec is raised:
            plain = type(type_name(error), (Exception,), {})(message_of(error))
            result.error_in_exec = with_trace(plain, trace)

    changes.wrap(shell, "showtraceback", showtraceback)
