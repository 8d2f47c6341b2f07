"""Work as bytes, to be run in another process, and the end of a job from what came back.

What a job needs is copied at launch. Functions and classes of the notebook are pickled by
value, those of modules by name.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import linecache
import marshal
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput, CannotSend, RemoteTraceback
from ipy_bgtasks.foreign import with_cause, with_trace
from ipy_bgtasks.runners import remote
from ipy_bgtasks.text import error_line
from ipy_bgtasks.work import names as code_names
from ipy_bgtasks.work import plan, reading
from ipy_bgtasks.work.names import SEES_LOCALS, TOP, bound_first, touched
from ipy_bgtasks.work.reading import Cell

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.runners.remote import Answer
    from ipy_bgtasks.work import Work

#: How far to follow what functions use when looking for what cannot be sent.
_DEEP = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A work's call, ready to be sent."""

    data: bytes

    def __call__(self) -> Any:
        """Refuse to run here."""
        raise TypeError("packed work runs in another process")


def pack(work: Work, option: str, *, complete: bool = False) -> Work:
    """Return the work with its call `Packed`, for `remote.answer`. Any thread may call.

    With *complete* it also runs where this package is not installed. Raises `BadInput`, which
    names what cannot be sent, or what the user's *option* needs. Packed work stays as it is.
    """
    if isinstance(work.call, Packed):
        return work
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        hint = 'pip install "ipy_bgtasks[process]"'
        raise BadInput(f"{option} needs cloudpickle: {hint}") from None
    call: Any = movable(work.call)
    try:
        with _complete() if complete else contextlib.nullcontext():
            value = call if complete else _marshalled(call)
            files = [] if value is call else [call.func.__code__.co_filename]
            data, sources = _dump(value, files)
    except Exception as error:  # anything that a user's `__reduce__` raises
        raise BadInput(_blame(call, error)) from None
    everything = (sources, work.is_async, data)
    packed = Packed(pickle.dumps(everything, pickle.HIGHEST_PROTOCOL))
    return dataclasses.replace(work, call=packed)


class Calling:
    """A call that is made where this is unpickled; its value is what unpickling gives.

    So an engine only has to carry bytes and call `pickle.loads`.
    """

    def __init__(self, function: Complete, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Complete, tuple[Any, ...]]:
        return self._call


class Complete:
    """A stand-in for a function of this package, pickled by value in full."""

    def __init__(self, function: Callable[..., Any]) -> None:
        import cloudpickle

        with _complete():
            self._data = cloudpickle.dumps(function)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import cloudpickle

        return cloudpickle.loads, (self._data,)

    def __call__(self, *args: Any) -> Any:
        """Refuse to run here; engines only require a callable."""
        raise TypeError("this runs in another process")


@contextlib.contextmanager
def _complete() -> Iterator[None]:
    """Have what work needs of this package pickled by value, as the notebook's functions are."""
    import cloudpickle

    modules = [sys.modules[__name__], code_names, plan, reading, remote]
    with _registering():
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


@functools.cache
def _registering() -> threading.Lock:
    return threading.Lock()


def movable(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return the call in a form that can be pickled: a cell carries the names that it uses."""
    cell = getattr(call, "__self__", None)
    if not isinstance(cell, Cell):
        return call
    own = bound_first(cell.body)  # `lock = Lock()` needs no lock of the session's
    loads = touched(cell.body, cell.last)[0]
    names = [name for name in loads if name in cell.namespace and name not in own]
    if "get_ipython" in names:
        raise BadInput(
            "magics and ! lines need the session and cannot run in a process: "
            "run this cell in a thread, %%bg -t"
        )
    # Pickling a function includes the globals that its code names, and functions that shared
    # their globals get one dictionary again.
    text = "def anchor():\n " + ";".join(names or ["None"])
    code = next(c for c in compile(text, "<names>", "exec").co_consts if isinstance(c, CodeType))
    anchor = FunctionType(code, cell.namespace)
    return partial(_run_cell, anchor, cell.is_async, cell.body, cell.last, cell.settle)


def _run_cell(
    anchor: FunctionType,
    is_async: bool,
    body: CodeType | None,
    last: CodeType | None,
    settle: bool,
) -> Any:
    cell = Cell(body, last, anchor.__globals__, settle)
    return cell.run_async() if is_async else cell.run()


def _marshalled(call: Any) -> Any:
    """Return marshalled code and its arguments, if a call needs no more; else the call itself.

    That takes a fraction of the time that pickling a function does.
    """
    if not isinstance(call, partial) or call.args or not isinstance(call.func, FunctionType):
        return call
    code = call.func.__code__
    if (
        code.co_name != TOP
        or code.co_names
        or any(isinstance(each, CodeType) for each in code.co_consts)
        or not SEES_LOCALS.isdisjoint(call.keywords)
    ):
        return call
    return marshal.dumps(code), call.keywords


def _dump(value: Any, files: Iterable[str] = ()) -> tuple[bytes, dict[str, str]]:
    """Return the pickle, and the source text of *files* and its functions if it is in no file."""
    file = io.BytesIO()
    pickler = _pickler()(file, pickle.HIGHEST_PROTOCOL)
    pickler.files = set(files)
    pickler.dump(value)
    sources = {}
    for name in pickler.files:
        # (size, time, lines, full name); without a time there is no file to read it from again.
        entry = linecache.cache.get(name, ())
        if len(entry) == 4 and entry[1] is None:
            sources[name] = "".join(entry[2])
    return file.getvalue(), sources


@functools.cache
def _pickler() -> Any:
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        """A pickler that notes the source files of the functions it pickles."""

        files: set[str]

        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, FunctionType):
                self.files.add(item.__code__.co_filename)
            elif isinstance(item, CodeType):
                self.files.add(item.co_filename)
                # By cloudpickle, from 3.1.2 on, it would come without its file's name.
                return marshal.loads, (marshal.dumps(item),)
            return super().reducer_override(item)

    return Pickler


def _blame(call: Any, error: Exception) -> str:
    found = next(_culprits(_bound(call), 0, set()), None)
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if found is None:
        return f"this cannot be sent to a process: {reason}"
    name, value, user = found
    if _is_sessions(value):  # the reason would be something inside it that nobody knows
        reason = "it belongs to this session"
    used = f", which {user} uses," if user else ""
    return f"{name}{used} is of type {_type(value)} and cannot be sent to a process: {reason}"


def _culprits(
    names: dict[str, Any], level: int, seen: set[int], user: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Yield the named values that cannot be pickled, and the functions that use them."""
    for name, value in names.items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        try:
            _dump(value)
        except Exception:
            if level < _DEEP and not _is_sessions(value):
                if isinstance(value, FunctionType):
                    uses = inspect.getclosurevars(value)
                    defaults = value.__defaults__ or ()
                    given = value.__code__.co_varnames[: value.__code__.co_argcount]
                    inner = dict(zip(given[::-1], defaults[::-1], strict=False))
                    inner |= {**uses.nonlocals, **uses.globals}
                    yield from _culprits(inner, level + 1, seen, f"{name}()")
                elif type(value).__module__ == "__main__":  # of others only the whole is known
                    held = getattr(value, "__dict__", {})
                    inner = {f"{name}.{each}": held[each] for each in held}
                    yield from _culprits(inner, level + 1, seen, user)
            yield name, value, user


def _is_sessions(value: Any) -> bool:
    """Return whether it is a part of IPython, its kernel or this package, or a method of one."""
    owner = type(getattr(value, "__self__", value))
    return owner.__module__.partition(".")[0] in ("IPython", "ipykernel", "ipy_bgtasks")


def _bound(call: Any) -> dict[str, Any]:
    """Return the names of CODE with their bound values, and those that a cell or call looks up."""
    if not isinstance(call, partial):
        return {}
    names: dict[str, Any] = {}
    for each in call.args:
        names |= _bound(each)
    functions = [each for each in (call.func, *call.args) if isinstance(each, FunctionType)]
    for each in functions:
        if each.__module__ != __name__ and each.__code__.co_filename != __file__:
            names |= inspect.getclosurevars(each).globals
    return {**names, **call.keywords}


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def ending(job: Record, answer: Answer) -> partial[None]:
    """Return what ends the job as the answer says. Reading the result may run its type's code."""
    kind, data, trace = answer
    if kind == "unsendable":
        return partial(job.fail, caused(CannotSend(data), trace))
    try:
        value = pickle.loads(data)
    except BaseException as error:
        unreadable = CannotSend(
            f"what came back from the process cannot be read: {error_line(error)}"
        )
        return partial(job.fail, caused(unreadable, trace))
    if kind == "value":
        return partial(job.finish, value)
    return partial(job.fail, caused(value, trace))


def caused(error: BaseException, trace: str) -> BaseException:
    """Return the error with the traceback that it had elsewhere, given as text.

    It becomes its own, of frames that hold nothing; if it has several parts, as that of an error
    with a cause, or is another's than *error*'s, it becomes its cause.
    """
    trace = _OURS.sub("", trace)
    if trace.count(_HEAD) == 1 and trace.startswith(_HEAD) and type(error) is not CannotSend:
        with_trace(error, _rebuilt(trace))
    elif trace:
        with_cause(error, RemoteTraceback(trace))
    return error


_HEAD = "Traceback (most recent call last):\n"
_PACKAGE = re.escape(__file__.rpartition("runners")[0])
_OURS = re.compile(rf'^  File "{_PACKAGE}.*\n(?:    .*\n)*', re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


def _rebuilt(trace: str) -> TracebackType | None:
    last: TracebackType | None = None
    for file, line, name in reversed(_FRAME.findall(trace)):
        frame = _frame(file, int(line), name)
        last = TracebackType(last, frame, frame.f_lasti, int(line))
    return last


def _frame(file: str, line: int, name: str) -> FrameType:
    """Return a frame of a function of that name which is in that line, and in no columns of it.

    Of the columns of code that is not the user's Python would mark those in the user's line.
    """
    tree = ast.parse("def f(): return sys._getframe()")
    first = 1 if name == "<module>" else line
    begins = re.compile(rf"\s*(async )?(def|class) {re.escape(name)}\b")
    while first > 1 and name.isidentifier() and not begins.match(linecache.getline(file, first)):
        first -= 1
    for node in ast.walk(tree.body[0]):
        node.__dict__.update(lineno=line, end_lineno=line, col_offset=-1, end_col_offset=-1)
    tree.body[0].lineno = first
    code = compile(tree, file, "exec").co_consts[0].replace(co_name=name, co_qualname=name)
    frame: FrameType = FunctionType(code, {"sys": sys, "__name__": "__main__"})()
    return frame
