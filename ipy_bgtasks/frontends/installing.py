"""What of IPython, ipykernel, prompt_toolkit and Python is used beyond their documented API.

`TOUCHES` names all of it. Each is installed by a step of an `Installation`; one that does not find
what it needs is skipped, with one line when the extension is loaded, or before the first job for
what concerns only jobs. Everything else works.

What differs between versions is here, too: each function checks for the newer way itself, never
for a version number, and nothing else in the package knows of the older ways. IPython before 8
has no `get_asyncio_loop` and keeps no table of cells, before 8.6 no contexts for matchers, before
8.18 another clean-up; ipykernel before 6.29 knows one parent of all output, not one for each
context; ipywidgets before 8 keeps its widgets in their class.
"""

from __future__ import annotations

import asyncio
import builtins
import linecache
import sys
import threading
from collections import Counter
from contextvars import ContextVar
from dis import opmap
from itertools import dropwhile
from traceback import walk_stack
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from ipy_bgtasks.context import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.patching import Installation

    #: Gives, for a line up to the cursor and the word there, texts with a description of each.
    Candidates = Callable[[str, str], list[tuple[str, str]]]


#: The packages whose frames stand between a magic and the cell that called it; before IPython 8
#: each magic is wrapped with `decorator`.
BETWEEN = ("IPython", "ipy_bgtasks", "functools", "decorator")
#: Instructions: the room that others keep for what they remember, and the first of an `await`.
_CACHE, _AWAIT = opmap["CACHE"], opmap["GET_AWAITABLE"]


def kernel_of(shell: Any) -> Any:
    """Return the shell's ipykernel; None if it has none, or another's, as JupyterLite has."""
    kernel = getattr(shell, "kernel", None)
    made_by = (each.__module__.partition(".")[0] for each in type(kernel).__mro__)
    return kernel if "ipykernel" in made_by else None


def loop_of(shell: Any) -> asyncio.AbstractEventLoop:
    """Return the loop on which the shell's cells run, which may not run yet.

    Raises `ImportError` if IPython has none. Any thread may call.
    """
    kernel = kernel_of(shell)
    if kernel is not None:
        io_loop: Any = getattr(kernel, "io_loop", None)
        if io_loop is None:  # loaded by configuration: the kernel has not started yet
            from tornado.ioloop import IOLoop

            io_loop = IOLoop.current()
        loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop
        return loop
    from IPython.core import async_helpers

    get: Any = getattr(async_helpers, "get_asyncio_loop", None)
    if get is not None:
        loop = get()
        return loop
    runner: Any = async_helpers._asyncio_runner
    return asyncio._get_running_loop() or runner.loop


def complete_with(changes: Installation, completer: Any, candidates: Candidates) -> None:
    """Let Tab offer *candidates*, and nothing else if there are any.

    Raises `AttributeError` if *completer* takes no custom matchers.
    """
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        changes.append(completer.magic_arg_matchers, _line_matcher(completer, candidates))
        return

    @context_matcher()  # type: ignore[untyped-decorator, unused-ignore]
    def ipy_bgtasks_matcher(context: Any) -> Any:
        found = [
            SimpleCompletion(text, type=kind)
            for text, kind in candidates(context.text_until_cursor, context.token)
        ]
        return {"completions": found, "suppress": bool(found), "ordered": True}

    changes.append(completer.custom_matchers, ipy_bgtasks_matcher)


def _line_matcher(completer: Any, candidates: Candidates) -> Callable[[str], list[str]]:
    def ipy_bgtasks_matcher(_line: str) -> list[str]:
        line = completer.text_until_cursor
        token = completer.splitter.split_line(line, len(line))
        return [text for text, _kind in candidates(line, token)]

    return ipy_bgtasks_matcher


def before_clean_up(changes: Installation, shell: Any, finish: Callable[[], None]) -> None:
    """Call *finish* before IPython clears the user's namespace at its end.

    Older versions do that in an `atexit` handler, before which ours run anyway.
    """
    if not hasattr(shell, "_atexit_once"):
        shell.atexit_operations  # noqa: B018 - not there, either: an AttributeError says so
        return

    def finish_first(original: Callable[[], None]) -> None:
        finish()
        original()

    changes.wrap(shell, "_atexit_once", finish_first)


def keep_get_ipython(changes: Installation, shell: Any) -> None:
    """Leave `get_ipython` among the builtins also between cells, when jobs run.

    IPython has it there only while a cell runs. By it rich, fastprogress and others tell a notebook
    from a terminal, some of them once for the whole session.
    """
    from IPython.core.builtin_trap import BuiltinUndefined

    trap = shell.builtin_trap
    name, ours = "get_ipython", trap.auto_builtins["get_ipython"]
    originals = trap._orig_builtins
    before = originals.get(name, vars(builtins).get(name, BuiltinUndefined))

    def leave(value: Any) -> None:
        if name in originals:  # a cell runs
            originals[name] = value
        elif value is BuiltinUndefined:
            vars(builtins).pop(name, None)
        else:
            vars(builtins)[name] = value

    leave(ours)
    changes.add(lambda: leave(before))


def pin_parent(shell: Any, header: Any, streams: Iterable[Any] = ()) -> None:
    """Bind the output of the calling context to the request with *header*, if that is supported.

    Otherwise there is no context to bind. Most jobs inherit that of the cell that launched them,
    which is bound already; a thread that a cell started before it became a job has none. For that
    ipykernel 7.0 and 7.1 have no function, but each of their *streams* has a variable.
    """
    if not header:
        return
    pin = getattr(shell, "set_thread_parent", None)
    if pin is None:
        for stream in streams:
            if isinstance(parent := getattr(stream, "_parent_header", None), ContextVar):
                parent.set(header)
        return
    bound = getattr(shell, "_parent_header", None)
    if not isinstance(bound, ContextVar) or _id(bound.get(None)) != header.get("msg_id"):
        pin({"header": header})


def _id(request: Any) -> Any:
    return ((request or {}).get("header") or {}).get("msg_id")


def knows_contexts(stream: Any) -> bool:
    """Return whether a kernel's stream finds the request of a text in the writer's context."""
    return isinstance(getattr(type(stream), "parent_header", None), property)


def answer_requests_of_jobs(changes: Installation, kernel: Any) -> None:
    """Let the kernel name to a job the request that launched it.

    For kernels that know one request, the last: what asks it from within a job, as widgets do,
    would send its messages to another cell.
    """

    def get_parent(original: Any, channel: str = "shell") -> Any:
        job = current.get()
        return {"header": job.origin} if job is not None and job.origin else original(channel)

    changes.wrap(kernel, "get_parent", get_parent)


def open_widgets() -> list[Any]:
    """Return the widgets of ipywidgets that are open."""
    module: Any = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return []
    widgets = getattr(module, "_instances", None)
    if widgets is None:
        widgets = getattr(module.Widget, "widgets", {})
    return list(widgets.values())


_SHELL = "IPython.core.interactiveshell"


class Sources:
    """Names for the source text of jobs, under which tracebacks find it.

    They are IPython's own, so that a traceback says "Cell In[7], line 2". What was added only
    for jobs is removed when the last job compiled from it is discarded. A cell may have defined
    functions that live on: its text stays, like that of every cell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._own: set[str] = set()

    def name(self, text: str, caller: str) -> str:
        """Return the file name for *text*, which is in the cell with the file name *caller*.

        Where that is no cell, it is taken to be in the newest one.
        """
        shell = self._shell
        number = cell_numbers(shell).get(caller)
        if number is None:
            number = max(shell.execution_count - 1, 0)
        # The empty lines before the code count: the same call on another line is another text.
        name = shell.compile.get_code_name(text, text, number)
        if name not in linecache.cache:
            with self._lock:
                self._own.add(name)
        return str(shell.compile.cache(text, number, raw_code=text))

    def cell(self, name: str) -> int | None:
        """Return the number of the cell with the file name *name*, or None."""
        number = cell_numbers(self._shell).get(name)
        return None if number is None else int(number)

    def hold(self, name: str) -> None:
        """Note that one more job was compiled under *name*."""
        with self._lock:
            self._held[name] += 1

    def release(self, job: Record) -> None:
        """Note that a job was discarded."""
        name = job.source
        if name is None:
            return
        with self._lock:
            self._held[name] -= 1
            if self._held[name] > 0:
                return
            del self._held[name]
            if name not in self._own or "def " in job.code or "lambda" in job.code:
                return
            self._own.discard(name)
        linecache.cache.pop(name, None)
        cell_numbers(self._shell).pop(name, None)


def expanded(text: str, variables: Mapping[str, Any]) -> str:
    """Return *text* with `{expressions}` and `$names` replaced, as IPython does after `!`.

    Raises whatever an expression raises.
    """
    from IPython.utils.text import DollarFormatter

    return str(DollarFormatter().vformat(text, [], dict(variables)))


def transforms_a_cell() -> bool:
    """Return whether the text being transformed now will run where its top level may `await`.

    It may be part of a cell whose top level cannot: `%time`, `%prun` and other magics have a line
    or body transformed, and then compile it as they please; `%%capture` and `%run` run a cell
    inside the cell. IPython does not tell a transformer, so we inspect the call stack. Call this
    from a transformer, in the thread that transforms.
    """
    outwards = walk_stack(sys._getframe(1))
    within = next((frame for frame, _ in outwards if _is_shells(frame, "transform_cell")), None)
    asks = None if within is None else within.f_back
    if asks is None or not runs_in_a_cell(asks):
        return True
    # A cell inside a cell may await where it can run the loop itself; a magic's text may not.
    return asks.f_globals.get("__name__") == _SHELL and asyncio._get_running_loop() is None


def runs_in_a_cell(frame: FrameType | None = None) -> bool:
    """Return whether *frame*, or the caller, is called by the code of a cell or a magic."""
    calls = ("run_code", "run_line_magic", "run_cell_magic")
    return any(_is_shells(each, *calls) for each, _ in walk_stack(frame or sys._getframe(1)))


def is_awaited() -> bool:
    """Return whether what the magic that runs returns is awaited by the code that called it.

    IPython does not tell a magic; but the instruction behind the call is there to be read. In the
    thread of the magic.
    """
    calls = ("run_line_magic", "run_cell_magic")
    outwards = (frame for frame, _ in walk_stack(sys._getframe(1)))
    called = dropwhile(lambda frame: not _is_shells(frame, *calls), outwards)
    asks = next((frame for frame in called if frame.f_code.co_name not in calls), None)
    if asks is None:
        return False
    behind = asks.f_code.co_code[asks.f_lasti + 2 :: 2]
    return next((op for op in behind if op != _CACHE), None) == _AWAIT


def _is_shells(frame: FrameType, *names: str) -> bool:
    return frame.f_code.co_name in names and frame.f_globals.get("__name__") == _SHELL


def code_that_runs_cells() -> CodeType | None:
    """Return the code of the IPython function that calls the user's code."""
    shell = getattr(sys.modules.get("IPython.core.interactiveshell"), "InteractiveShell", None)
    function = getattr(shell, "run_code", None)
    return getattr(function, "__code__", None)


def cell_numbers(shell: Any) -> MutableMapping[str, int]:
    """Return the table of the numbers of cells by the file names under which they were compiled.

    It is IPython's own if there is one, else the one that `keep_cell_numbers` fills.
    """
    compiler = shell.compile
    own: MutableMapping[str, int] | None = getattr(compiler, "_filename_map", None)
    if own is None:
        own = vars(compiler).setdefault("_ipy_bgtasks_cells", {})
    return own


def keep_cell_numbers(changes: Installation, shell: Any) -> None:
    """Keep the table of cells if IPython keeps none.

    Raises `AttributeError` if the shell's compiler names no cells at all.
    """
    compiler = shell.compile
    if hasattr(compiler, "_filename_map"):
        return
    numbers = cell_numbers(shell)

    def cache(
        original: Any, transformed_code: str, number: int = 0, raw_code: str | None = None
    ) -> str:
        name = str(original(transformed_code, number, raw_code))
        numbers[name] = number
        return name

    changes.wrap(compiler, "cache", cache)


class Touch(NamedTuple):
    """One private or patched attribute of another package."""

    owner: str
    names: str
    #: The versions in which it was found.
    seen: str
    why: str
    without: str
    #: Whether most versions lack it: it is mentioned only when the user asks for it.
    optional: bool = False


_IPYTHON = "IPython 7.34 to 9.18"
_IPYKERNEL = "ipykernel 6.17 to 7.4"
_PYTHON = "Python 3.11 to 3.15"

#: By the word under which a step is installed.
TOUCHES = {
    "cells": Touch(
        "IPython",
        "shell.compile._filename_map; before IPython 8 shell.compile.cache",
        _IPYTHON,
        "tell which cell a traceback's file name stands for",
        "places are named by file and line, not by cell",
    ),
    "rewriting": Touch(
        "IPython",
        "input_transformers_post; "
        "the frames of transform_cell, run_code and run_*_magic, and of the code that calls these",
        _IPYTHON,
        "%fg is awaited, and only where it can be",
        "%fg works in plain functions and from Python only: use `await job`",
    ),
    "commands": Touch(
        "IPython",
        "shell.system, getoutput, run_cell_magic, ScriptMagics.shebang, all on their classes",
        _IPYTHON,
        "!command, %sx and %%bash in a job are stopped with it, and write into its log",
        "!command, %sx and %%bash in a job are IPython's own: use %bg !command",
    ),
    "get_ipython": Touch(
        "IPython",
        "shell.builtin_trap.auto_builtins, _orig_builtins, BuiltinUndefined",
        _IPYTHON,
        "code of jobs finds get_ipython also between cells",
        "rich and others take a job that runs between cells for one in a terminal",
    ),
    "pagers": Touch(
        "IPython",
        "shell.hooks.show_in_pager.chain; pydoc.Helper._output",
        _IPYTHON,
        "what a job shows in a pager, as %prun, f? and help do, is printed in its place",
        "a job's pager opens over the prompt, or with the next cell",
    ),
    "input of children": Touch(
        "Python",
        "subprocess.Popen._get_handles, os.system",
        _PYTHON,
        "in a terminal, what a job's code starts takes no keys from the prompt",
        "in a terminal, what a job's code starts reads the keys meant for the prompt",
    ),
    "completion": Touch(
        "IPython",
        "Completer.custom_matchers, context_matcher, SimpleCompletion; before 8.6 "
        "Completer.magic_arg_matchers, splitter",
        _IPYTHON,
        "Tab knows options and jobs",
        "Tab does not complete options and jobs",
    ),
    "display": Touch(
        "IPython",
        "display_formatter.ipython_display_formatter.for_type_by_name; "
        "what the decorator of the formatters' __call__ wraps",
        _IPYTHON,
        "a job is displayed as a card",
        "a job is displayed as its repr",
    ),
    "streams": Touch(
        "ipykernel",
        "the class of its streams, OutStream.pub_thread; display_pub._hooks, pub_socket, topic; "
        "shell._parent_header; in 7.0 and 7.1 OutStream._parent_header; "
        "before 6.29 OutStream.set_parent, parent_header, kernel.get_parent",
        _IPYKERNEL,
        "what a job writes and displays goes under its own cell",
        "output of jobs appears under the cell that runs at the moment",
    ),
    "tracebacks": Touch(
        "IPython",
        "shell.showtraceback, _showtraceback, displayhook.exec_result, InteractiveTB.mode",
        _IPYTHON,
        "a traceback shows the user's frames, not those of this package, whatever the exception is",
        "an interrupt may show a frame of this package, and a hostile exception may end the kernel",
    ),
    "captures": Touch(
        "IPython",
        "the class of the shell, for shell.display_pub",
        _IPYTHON,
        "%%capture captures what its own cell or job displays, and nothing else",
        "%%capture captures what all display meanwhile",
    ),
    "rich": Touch(
        "rich",
        "Console._live_stack, _live, _render_hooks",
        "rich 13.9 to 15.0",
        "bars of two jobs on rich's one console are drawn each in its place",
        "rich draws the bars of all jobs in the place of the first",
    ),
    "tqdm": Touch(
        "tqdm",
        "tqdm._instances, refresh",
        "tqdm 4.66 to 4.70",
        "bars of two jobs begin each at the first line of its place",
        "a job's bar leaves lines free for the bars of other jobs",
    ),
    "widgets": Touch(
        "ipywidgets",
        "widgets.widget._instances, before 8 Widget.widgets; Widget._model_name",
        "ipywidgets 7.7 and 8.1",
        "clear_output within an Output widget clears that widget's part of the log",
        "clear_output within an Output widget clears the job's log",
    ),
    "questions": Touch(
        "ipykernel",
        "kernel.raw_input, getpass, _sys_raw_input, _save_getpass",
        _IPYKERNEL,
        "a job cannot ask for input",
        "a job that asks for input waits forever",
    ),
    "wake-up": Touch(
        "Python",
        "signal.set_wakeup_fd",
        _PYTHON,
        "an interrupt of an await cell lands at once",
        "an interrupt of an await cell lands when the event loop is next woken",
    ),
    "background cells": Touch(
        "ipykernel",
        "shell_channel_thread, its manager._create_subshell; shell_channel_thread_main; "
        "shell_stream.on_recv; shell_handlers; _publish_status; before 7.4 the manager's "
        "_shell_socket; the classes of the shell and of its display hook; shell.display_trap, "
        "builtin_trap; before 7 the class of shell_stream, its socket, _recv_callback, "
        "_handle_events, _update_handler, _rebuild_io_state; kernel.dispatch_shell, eventloop, "
        "_parents, _parent_ident, _allow_stdin, _cancel_on_sigint; parent_header of the shell, its "
        "display hook and publisher",
        _IPYKERNEL,
        "`%bg` alone sends the cell that runs to the background",
        "`%bg` alone does nothing: start a cell with %%fg",
        optional=True,
    ),
    "buttons": Touch(
        "ipykernel",
        "BaseComm._reply_subshell_id",
        "ipykernel 7.4",
        "buttons of cards and panels work while a cell runs",
        "a button that is pressed while a cell runs works when that has ended",
        optional=True,
    ),
    "stop button": Touch(
        "ipykernel",
        "kernel.pre_handler_hook, post_handler_hook, saved_sigint_handler, get_parent",
        _IPYKERNEL,
        "an interrupt hits the cell's code, never the kernel's own",
        "an interrupt that comes between two cells may cost a reply",
    ),
    "interrupted cells": Touch(
        "ipykernel",
        "the name of its handler of SIGINT in await cells, handle_sigint",
        _IPYKERNEL,
        "an interrupted await cell ends at once with KeyboardInterrupt, as in a terminal",
        "an interrupted await cell ends at its next await, with asyncio's CancelledError",
    ),
    "shutdown": Touch(
        "ipykernel",
        "kernel.do_shutdown, control_thread.io_loop, iopub_thread.schedule; shell.ask_exit",
        _IPYKERNEL,
        "jobs may clean up before the kernel ends",
        "jobs are not told when the kernel shuts down",
    ),
    "prompt": Touch(
        "IPython",
        "shell.prompt_for_code, pt_app, _inputhook, _extra_prompt_options, loop_runner_map",
        _IPYTHON,
        "coroutine jobs run while the prompt waits, and Ctrl-C never hits one",
        "coroutine jobs run only during %fg and await cells",
    ),
    "ctrl-z": Touch(
        "IPython",
        "shell.interact, prompt_for_code, keep_running, separate_in, _atexit_once, "
        "_showtraceback; the classes of the shell and of its display hook; display_trap, "
        "builtin_trap; displayhook.write_output_prompt, write_format_data; builtins.input; "
        "signal.signal; prompt_toolkit's application on another thread than the main one, its "
        "_running_in_terminal_f",
        _IPYTHON,
        "Ctrl-Z sends the cell that runs to the background",
        "Ctrl-Z suspends IPython also while a cell runs",
        optional=True,
    ),
    "partial lines": Touch(
        "IPython",
        "shell.displayhook.write_output_prompt",
        _IPYTHON,
        "no job's line tears `Out[3]: ` from its value",
        "a job's line may come between `Out[3]: ` and its value",
    ),
    "exit": Touch(
        "IPython",
        "shell._atexit_once, ask_exit",
        _IPYTHON,
        "jobs may clean up, and the first exit with jobs running says so",
        "an exit with jobs running asks nothing, and their clean-up may find names gone",
    ),
    "threads": Touch(
        "Python",
        "Thread.start, ThreadPoolExecutor.submit, loop.run_in_executor, "
        "concurrent.futures.thread._threads_queues, threading._register_atexit",
        _PYTHON,
        "a thread that a job starts is the job's, and does not hold up the exit",
        "output of a job's own threads appears under the cell that runs at the moment",
    ),
    "streams by context": Touch(
        "Python",
        "the class of the module sys, for sys.stdout and sys.stderr",
        _PYTHON,
        "a stream that a job puts into sys.stdout is that job's alone",
        "a stream that a job puts into sys.stdout is everybody's",
    ),
    "stopping threads": Touch(
        "Python",
        "PyThreadState_SetAsyncExc, sys.unraisablehook; asyncio.Runner._loop, "
        "base_events.Server, uvloop.loop.Server",
        _PYTHON,
        "%cancel stops a thread, also one that runs an event loop or a server of its own",
        "a thread goes on until its code ends",
    ),
    "waits": Touch(
        "Python",
        "time.sleep; the variables of the frames of threading.Condition.wait and of subprocess; "
        "on Linux /proc/self/task/*/syscall",
        _PYTHON,
        "%cancel and the stop button end the wait that a thread is in",
        "a thread that sleeps stops when it wakes up",
    ),
    "trio": Touch(
        "trio",
        "the variable runner of trio.run, its current_trio_token, deliver_ki",
        "trio 0.35",
        "%cancel stops trio.run in a thread between two steps of its tasks",
        "%cancel raises KeyboardInterrupt wherever trio is",
        optional=True,
    ),
    "exits of tasks": Touch(
        "asyncio",
        "loop.set_task_factory",
        _PYTHON,
        "sys.exit() in a task of a job ends that job, not the session",
        "sys.exit() in a task that a job starts ends the session",
    ),
}


def missing_line(changes: Installation) -> str:
    """Return one line that says what does not work here; empty if there is no news."""
    missing = [word for word in changes.missing if not TOUCHES[word].optional]
    changes.missing.clear()
    if not missing:
        return ""
    lacks = "; ".join(TOUCHES[word].without for word in missing)
    return f"ipy_bgtasks: not everything works in this version of IPython or ipykernel: {lacks}"
