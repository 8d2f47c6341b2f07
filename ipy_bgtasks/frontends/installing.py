"""Installing into other packages: in steps that can each be undone and are each optional.

`TOUCHES` names whatever of IPython, ipykernel, prompt_toolkit and Python itself is used or
replaced beyond what its documentation promises. A step that does not find what it needs is
skipped, with one line when the extension is loaded, or before the first job for what concerns only
jobs; everything else works.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Touch(NamedTuple):
    """One private or patched attribute of another package."""

    owner: str
    names: str
    #: The versions in which it was found.
    seen: str
    why: str
    without: str
    #: Whether most versions lack it: the user is told only when asking for it.
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
        "input_transformers_post, ast_transformers; "
        "the frames of transform_cell, run_code and run_*_magic",
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
        "display_formatter.ipython_display_formatter.for_type_by_name",
        _IPYTHON,
        "a job is displayed as a card",
        "a job is displayed as its repr",
    ),
    "streams": Touch(
        "ipykernel",
        "the class of its streams, OutStream.pub_thread; display_pub._hooks, pub_socket, topic; "
        "shell._parent_header; "
        "before 6.29 OutStream.set_parent, parent_header, kernel.get_parent",
        _IPYKERNEL,
        "what a job writes and displays goes under its own cell",
        "output of jobs appears under the cell that runs at the moment",
    ),
    "tracebacks": Touch(
        "IPython",
        "shell.showtraceback, InteractiveTB.mode",
        _IPYTHON,
        "a traceback shows the user's frames, not those of this package",
        "an interrupt may show a frame of this package",
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
    "cells sent away": Touch(
        "ipykernel",
        "shell_channel_thread, its manager._create_subshell; shell_channel_thread_main; "
        "shell_stream.on_recv; shell_handlers; _publish_status; before 7.4 the manager's "
        "_shell_socket; the classes of the shell and of its display hook; shell.showtraceback, "
        "display_trap, builtin_trap",
        "ipykernel 7.0 to 7.4",
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
        "shell.showtraceback; the name of its handler of SIGINT in await cells, handle_sigint",
        _IPYKERNEL,
        "an interrupted await cell ends with KeyboardInterrupt, as in a terminal",
        "an interrupted await cell ends with asyncio's CancelledError",
    ),
    "shutdown": Touch(
        "ipykernel",
        "kernel.do_shutdown, shell.ask_exit",
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
        "PyThreadState_SetAsyncExc; asyncio.Runner._loop, base_events.Server, uvloop.loop.Server",
        _PYTHON,
        "%cancel stops a thread, also one that runs an event loop or a server of its own",
        "a thread goes on until its code ends",
    ),
    "exits of tasks": Touch(
        "asyncio",
        "loop.set_task_factory",
        _PYTHON,
        "sys.exit() in a task of a job ends that job, not the session",
        "sys.exit() in a task that a job starts ends the session",
    ),
}


class Installation:
    """All that one loading changed, and how to undo it. Not thread-safe."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        #: The words of the steps that were skipped.
        self.missing: list[str] = []

    def add(self, undo: Callable[[], object]) -> None:
        """Have *undo* called at the end, before what was added earlier."""
        self._undo.callback(undo)

    def step(self, word: str, install: Callable[[], Callable[[], object] | None]) -> None:
        """Do one step of `TOUCHES`; *install* returns what undoes it.

        If what it touches is missing or has changed, the step is skipped.
        """
        assert word in TOUCHES
        try:
            undo = install()
        except (AttributeError, ImportError, KeyError, NotImplementedError, OSError, TypeError):
            self.missing.append(word)
        else:
            if undo is not None:
                self.add(undo)

    def step_on_loop(
        self,
        word: str,
        loop: asyncio.AbstractEventLoop,
        install: Callable[[], Callable[[], object] | None],
    ) -> None:
        """Do a step that belongs to the main thread, from whichever thread loads and unloads."""
        inner = Installation()

        def here(call: Callable[..., None], *args: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                call(*args)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(call, *args)

        here(inner.step, word, install)
        self.missing += inner.missing
        self.add(lambda: here(inner.undo))

    def append(self, items: list[Any], item: Any) -> None:
        """Append to another package's list until `undo`."""
        items.append(item)

        def undo() -> None:
            if item in items:
                items.remove(item)

        self.add(undo)

    def undo(self) -> None:
        """Undo everything, in reverse order, even if a step raises."""
        self._undo.close()

    def report(self) -> str:
        """Return one line that says what does not work here; empty if there is no news."""
        missing = [word for word in self.missing if not TOUCHES[word].optional]
        self.missing.clear()
        if not missing:
            return ""
        lacks = "; ".join(TOUCHES[word].without for word in missing)
        return f"ipy_bgtasks: not everything works in this version of IPython or ipykernel: {lacks}"
