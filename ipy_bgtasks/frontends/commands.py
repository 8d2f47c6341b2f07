"""What commands, pagers and progress bars do in a job: installed with the first job.

IPython runs `!command`, `%sx`, `%%bash` and the like in its own process group, with its terminal as
their input. In a job they run as `%bg !command` does. What a job would show in a pager, which takes
the terminal or a place beside the notebook, is printed.

tqdm and rich keep the bars of the whole process together, and have no public way to tell some
callers from others. rich draws all live displays of a console by the first of them: the second
job's bar would appear under the first job's cell. So each job has its own state of the shared
console. tqdm gives each open bar a line of its own, one below the other: the second job's bar would
write empty lines and move the cursor up, in its own place, where nothing stands above it. So each
job sees only its own bars among the open ones, and begins with the first line.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import weakref
from contextvars import Context, copy_context
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import caller, cells_away, current
from ipy_bgtasks.patching import static
from ipy_bgtasks.stacks import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipy_bgtasks.patching import Installation

    #: Runs a `Command` in the calling job's code, gives what it prints to a function, with the name
    #: of the stream, and returns its exit code; the last argument is its input.
    RunWithin = Callable[..., int]


def run_commands_of_jobs(changes: Installation, shell: Any, run: RunWithin) -> None:
    """Have *run* execute the commands of jobs from now on."""
    cls = type(shell)
    changes.attribute(cls, "system", _InJobs(cls, "system", partial(_system, run)))
    changes.attribute(cls, "getoutput", _InJobs(cls, "getoutput", partial(_getoutput, run)))

    def replace_scripts() -> None:
        from IPython.core.magics.script import ScriptMagics

        shebang = _InJobs(ScriptMagics, "shebang", partial(_shebang, run))
        changes.attribute(ScriptMagics, "shebang", shebang)
        cell_magics = shell.magics_manager.magics["cell"]
        script = cell_magics.get("script")
        if not isinstance(script, MethodType) or not isinstance(script.__self__, ScriptMagics):
            return
        owner = script.__self__

        # Its caller looked it up earlier, and would bypass ours.
        def of_now(line: str, cell: str) -> Any:
            return owner.shebang(line, cell)

        of_now.__doc__ = script.__doc__
        changes.entry(cell_magics, "script", of_now)

    # IPython imports the script magics when the first is used, and so do we.
    announced = _Announced(cls, "run_cell_magic", replace_scripts)
    changes.attribute(cls, "run_cell_magic", announced)


class _Hiding:
    """A descriptor that hides a method of *owner*: its own, or what it inherits at the moment."""

    def __init__(self, owner: type, name: str) -> None:
        self._name = name
        self._own = vars(owner).get(name)
        self._bases = owner.__mro__[1:]
        _ = self.hidden

    @property
    def hidden(self) -> Any:
        """The method as the class holds it; raises `AttributeError` if there is none."""
        return static(self._bases, self._name) if self._own is None else self._own


class _Announced(_Hiding):
    """An unchanged method; *first* is called before a job first looks it up."""

    def __init__(self, owner: type, name: str, first: Callable[[], object]) -> None:
        super().__init__(owner, name)
        self._first: Callable[[], object] | None = first

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if self._first is not None and instance is not None and current.get() is not None:
            first, self._first = self._first, None
            first()
        return self.hidden.__get__(instance, owner)


class _InJobs(_Hiding):
    """A method that is replaced in jobs, and untouched in the foreground.

    There not even a frame is added: IPython finds a caller's variables by counting frames.
    """

    def __init__(self, owner: type, name: str, ours: Callable[..., Any]) -> None:
        super().__init__(owner, name)
        self._ours = ours

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None:
            if current.get() is not None:
                return MethodType(self._call, instance)
            if self._name in vars(instance):  # the user's own choice
                return vars(instance)[self._name]
        return self.hidden.__get__(instance, owner)

    def _call(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._ours(instance, *args, **kwargs)
        except BaseException as error:
            hide(error)
            raise

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value

    def __delete__(self, instance: Any) -> None:
        if self._name not in vars(instance):
            raise AttributeError(self._name)
        del vars(instance)[self._name]


def _system(run: RunWithin, shell: Any, cmd: str) -> None:
    """Run ``!command``."""
    from ipy_bgtasks.work.reading import Command

    code = run(Command(shell.var_expand(cmd, depth=2)), _put)
    _note_exit(shell, cmd, code)


def _getoutput(run: RunWithin, shell: Any, cmd: str, split: bool = True, depth: int = 0) -> Any:
    """Run ``x = !command``, ``!!command``, `%sx` and `%system`."""
    from IPython.utils.text import LSString, SList

    from ipy_bgtasks.work.reading import Command

    pieces: list[str] = []
    command = Command(shell.var_expand(cmd, depth=depth + 2), merged=True)
    code = run(command, lambda _, text: pieces.append(text))
    if getattr(shell, "system_raise_on_error", False):
        _note_exit(shell, cmd, code)
    text = "".join(pieces).replace("\r\n", "\n")
    return SList(text.splitlines()) if split else LSString(text)


def _shebang(run: RunWithin, magics: Any, line: str, cell: str) -> None:
    """Run `%%script`, `%%bash` and the like."""
    from IPython.utils.process import arg_split  # type: ignore[attr-defined, unused-ignore]

    from ipy_bgtasks.work.reading import Command

    theirs = inspect.getattr_static(type(magics), "shebang").hidden
    args, argv = theirs.parser.parse_known_args(arg_split(line, posix=os.name != "nt"))
    if args.bg:  # it is not waited for, and so not part of the job
        theirs(magics, line, cell)
        return
    names = {"stdout": args.out, "stderr": args.err}
    namespace = magics.shell.user_ns
    namespace.update((name, "") for name in names.values() if name)

    def take(stream: str, text: str) -> None:
        if name := names[stream]:
            namespace[name] += text
        else:
            _put(stream, text)

    text = cell if cell.endswith("\n") else cell + "\n"
    try:
        command = Command(line, argv=tuple(argv), has_input=True)
        code = run(command, take, text.encode("utf-8", "replace"))
    except FileNotFoundError:
        print(f"Couldn't find program: {argv[0]!r}")
        return
    if args.raise_error and code:
        raise subprocess.CalledProcessError(code, text.encode("utf-8", "replace"))


def _put(stream: str, text: str) -> None:
    """Write *text* as the job's own code would."""
    getattr(sys, stream).write(text)


def _note_exit(shell: Any, cmd: str, code: int) -> None:
    shell.user_ns["_exit_code"] = code
    if code and getattr(shell, "system_raise_on_error", False):
        raise subprocess.CalledProcessError(code, cmd)


def print_pages_of_jobs(changes: Installation, shell: Any) -> None:
    """Print what jobs show in a pager, as `%prun`, ``f?`` and `help` do."""
    from IPython.core.error import TryNext

    def show_in_pager(_shell: Any, data: Any, start: int = 0, screen_lines: int = 0) -> None:
        if current.get() is None:
            raise TryNext
        text = data.get("text/plain", "") if isinstance(data, dict) else data
        print("\n".join(str(text).rstrip().split("\n")[start:]))

    shell.set_hook("show_in_pager", show_in_pager, 0)
    chain = shell.hooks.show_in_pager.chain
    entry = next(each for each in chain if getattr(each[1], "__func__", None) is show_in_pager)
    changes.add(lambda: chain.remove(entry) if entry in chain else None)
    changes.when_imported(
        "pydoc", lambda pydoc: changes.attribute(pydoc.Helper, "_output", _HelpOutput())
    )


def give_children_no_input(changes: Installation) -> None:
    """Start what jobs start without input where that would be the terminal's, shared with them.

    A child that reads there takes keys from the prompt, and a program that asks waits for ever.
    """
    handles = subprocess.Popen._get_handles  # type: ignore[attr-defined]
    system = os.system

    def get_handles(process: Any, stdin: Any, *others: Any) -> Any:
        if stdin is None and current.get() is not None:
            stdin = subprocess.DEVNULL
        return handles(process, stdin, *others)

    def system_of_caller(command: Any) -> int:
        if current.get() is None:
            return system(command)
        code = subprocess.call(command, shell=True)
        return -code if code < 0 else code << 8

    changes.attribute(subprocess.Popen, "_get_handles", get_handles)
    changes.attribute(os, "system", system_of_caller)


class _HelpOutput:
    """Where `help` writes: in jobs to their stdout, else as before, which is mostly to a pager."""

    def __get__(self, helper: Any, _: Any = None) -> Any:
        if helper is None:
            return self
        return vars(helper).get("_output") if current.get() is None else sys.stdout

    def __set__(self, helper: Any, value: Any) -> None:
        vars(helper)["_output"] = value


#: The attributes in which a `Console` keeps its live displays, by version, with initial values.
_STATE: dict[str, Callable[[], Any]] = {
    "_live_stack": list,  # from rich 14.1 on
    "_live": lambda: None,
    "_render_hooks": list,
}


def isolate_consoles(changes: Installation) -> None:
    """Keep the displays of jobs on rich's consoles apart, now or once rich is imported."""

    def isolate(module: Any) -> None:
        console = module.Console
        for name, initial in _STATE.items():
            if name not in vars(console) and name in console.__init__.__code__.co_names:
                changes.attribute(console, name, _OfJob(name, initial))

    changes.when_imported("rich.console", isolate)


class _OfJob:
    """An attribute with a value for each job; the foreground's stays where it was."""

    def __init__(self, name: str, begin: Callable[[], Any]) -> None:
        self._name = name
        self._begin = begin
        self._of_jobs: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, Any]] = (
            weakref.WeakKeyDictionary()
        )

    def __get__(self, console: Any, _: Any = None) -> Any:
        if console is None:
            return self
        values, key = self._values(console)
        if key not in values:
            values[key] = self._begin()
        return values[key]

    def __set__(self, console: Any, value: Any) -> None:
        values, key = self._values(console)
        values[key] = value

    def _values(self, console: Any) -> tuple[Any, Any]:
        job = current.get()
        if job is not None:
            # The foreground needs a value, too, when this ends.
            vars(console).setdefault(self._name, self._begin())
            return self._of_jobs.setdefault(job, weakref.WeakKeyDictionary()), console
        return vars(console), self._name


def isolate_bars(changes: Installation) -> None:
    """Keep the bars of jobs apart among those of tqdm, now or once tqdm is imported."""

    def isolate(module: Any) -> None:
        cls = module.tqdm
        bars = _OpenBars(cls._instances)
        draw = cls.refresh

        def refresh(bar: Any, *args: Any, **kwargs: Any) -> Any:
            # tqdm's monitor draws all bars, and is a thread of whichever job opened the first.
            if (place := bars.opened.get(bar)) is None or place.job is caller():
                return draw(bar, *args, **kwargs)
            return place.context.copy().run(draw, bar, *args, **kwargs)

        changes.attribute(cls, "_instances", bars)
        changes.attribute(cls, "refresh", refresh)

    changes.when_imported("tqdm.std", isolate)


class _Place:
    """Where a bar was opened."""

    def __init__(self) -> None:
        self.context: Context = copy_context()
        self._thread = threading.get_ident()

    @property
    def job(self) -> Any:
        """The record of its job; the cell around it may have become one since."""
        return self.context.get(current) or cells_away.get(self._thread)


class _OpenBars:
    """What tqdm has for the set of open bars: those of its caller, who holds its lock."""

    def __init__(self, opened_before: Any) -> None:
        self.opened: weakref.WeakKeyDictionary[Any, _Place] = weakref.WeakKeyDictionary()
        for bar in opened_before:
            self.add(bar)

    def add(self, bar: Any) -> None:
        self.opened[bar] = _Place()

    def remove(self, bar: Any) -> None:
        del self.opened[bar]

    def copy(self) -> set[Any]:
        """Return those of all, for the monitor."""
        return set(self.opened)

    def __iter__(self) -> Iterator[Any]:
        own = caller()
        return iter([bar for bar, place in list(self.opened.items()) if place.job is own])
