"""What differs between the versions of IPython and ipykernel, in one place.

Each function checks for the newer way itself, never for a version number. Nothing else in the
package knows of the older ways: IPython before 8 has no `get_asyncio_loop` and keeps no
table of cells, before 8.6 no contexts for matchers, before 8.18 another clean-up; ipykernel
before 6.29 knows one parent of all output, not one for each context; ipywidgets before 8 keeps
its widgets in their class.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.context import current
from ipy_bgtasks.hooks.attributes import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    #: Gives, for a line up to the cursor and the word there, texts with a description of each.
    Candidates = Callable[[str, str], list[tuple[str, str]]]


#: The packages whose frames stand between a magic and the cell that called it; before IPython 8
#: each magic is wrapped with `decorator`.
BETWEEN = ("IPython", "ipy_bgtasks", "functools", "decorator")


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


def cell_numbers(shell: Any) -> MutableMapping[str, int]:
    """Return the table of the numbers of cells by the file names under which they were compiled.

    It is IPython's own if there is one, else the one that `note_cells` fills.
    """
    compiler = shell.compile
    own: MutableMapping[str, int] | None = getattr(compiler, "_filename_map", None)
    if own is None:
        own = vars(compiler).setdefault("_ipy_bgtasks_cells", {})
    return own


def note_cells(shell: Any) -> Callable[[], None] | None:
    """Keep the table of cells if IPython keeps none; returns what ends that, if it began.

    Raises `AttributeError` if the shell's compiler names no cells at all.
    """
    compiler = shell.compile
    if hasattr(compiler, "_filename_map"):
        return None
    cache, numbers = compiler.cache, cell_numbers(shell)

    def cache_noted(transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        name = str(cache(transformed_code, number, raw_code))
        numbers[name] = number
        return name

    return Attribute(compiler, "cache", cache_noted).restore


def complete_with(completer: Any, candidates: Candidates) -> Callable[[], None]:
    """Let Tab offer *candidates*, and nothing else if there are any; returns what ends that.

    Raises `AttributeError` if *completer* takes no custom matchers.
    """
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        return _append(completer.magic_arg_matchers, _line_matcher(completer, candidates))

    @context_matcher()  # type: ignore[untyped-decorator, unused-ignore]
    def ipy_bgtasks_matcher(context: Any) -> Any:
        found = [
            SimpleCompletion(text, type=kind)
            for text, kind in candidates(context.text_until_cursor, context.token)
        ]
        return {"completions": found, "suppress": bool(found), "ordered": True}

    return _append(completer.custom_matchers, ipy_bgtasks_matcher)


def _line_matcher(completer: Any, candidates: Candidates) -> Callable[[str], list[str]]:
    def ipy_bgtasks_matcher(_line: str) -> list[str]:
        line = completer.text_until_cursor
        token = completer.splitter.split_line(line, len(line))
        return [text for text, _kind in candidates(line, token)]

    return ipy_bgtasks_matcher


def _append(matchers: list[Any], matcher: Any) -> Callable[[], None]:
    matchers.append(matcher)

    def remove() -> None:
        if matcher in matchers:
            matchers.remove(matcher)

    return remove


def before_clean_up(shell: Any, finish: Callable[[], None]) -> Callable[[], None] | None:
    """Call *finish* before IPython clears the user's namespace at its end; returns what undoes it.

    Returns None where IPython does that in an `atexit` handler, before which ours run anyway.
    """
    clean_up = getattr(shell, "_atexit_once", None)
    if clean_up is None:
        shell.atexit_operations  # noqa: B018 - not there, either: an AttributeError says so
        return None

    def finish_first() -> None:
        finish()
        clean_up()

    return Attribute(shell, "_atexit_once", finish_first).restore


def pin_parent(shell: Any, header: Any) -> None:
    """Bind the output of the calling context to the request with *header*, if that is supported.

    Otherwise the context that a thread inherits is enough, or there is none to bind. Most jobs
    inherit that of the cell that launched them, which is bound already.
    """
    pin = getattr(shell, "set_thread_parent", None)
    if pin is None or not header:
        return
    bound = getattr(shell, "_parent_header", None)
    if not isinstance(bound, ContextVar) or _id(bound.get(None)) != header.get("msg_id"):
        pin({"header": header})


def _id(request: Any) -> Any:
    return ((request or {}).get("header") or {}).get("msg_id")


def knows_contexts(stream: Any) -> bool:
    """Return whether a kernel's stream finds the request of a text in the writer's context."""
    return isinstance(getattr(type(stream), "parent_header", None), property)


def answer_requests_of_jobs(kernel: Any) -> Callable[[], None]:
    """Let the kernel name to a job the request that launched it; returns what ends that.

    For kernels that know one request, the last: what asks it from within a job, as widgets do,
    would send its messages to another cell.
    """
    get_parent = kernel.get_parent

    def get_parent_of_caller(channel: str = "shell") -> Any:
        job = current.get()
        if job is None or not job.origin:
            return get_parent(channel)
        return {"header": job.origin}

    return Attribute(kernel, "get_parent", get_parent_of_caller).restore


def open_widgets() -> list[Any]:
    """Return the widgets of ipywidgets that are open."""
    module: Any = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return []
    widgets = getattr(module, "_instances", None)
    if widgets is None:
        widgets = getattr(module.Widget, "widgets", {})
    return list(widgets.values())
