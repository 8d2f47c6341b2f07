"""Shells to measure in: one in this process, or real kernels."""

from __future__ import annotations

import ast
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.ipython.extension import session_of
from ipy_bgtasks.ipython.options import BG, read_options
from ipy_bgtasks.session import launching
from ipy_bgtasks.work.reading import command_in, command_work

if TYPE_CHECKING:
    from ipy_bgtasks.job.record import Record
    from tests.kernel.kernels import Kernel

EXTENSION = "ipy_bgtasks"


@contextlib.contextmanager
def kernel(env: dict[str, str] | None = None) -> Iterator[Kernel]:
    """A fresh kernel without the extension; *env* is added to its environment."""
    from tests.kernel.kernels import Kernel

    with tempfile.TemporaryDirectory() as home:
        # As users have it, and not the tests.
        kernel = Kernel(Path(home), config="c.BgTasks.watchdog = 1.0", env=env)
        try:
            yield kernel
        finally:
            kernel.close()


def ask(kernel: Kernel, expression: str, timeout: float = 300) -> Any:
    """The value of an expression in the kernel; it may `await`, and must be a literal."""
    kernel.ok(f"from tests.benchmarks import {expression.removeprefix('await ').partition('.')[0]}")
    value = kernel.ok(expression, timeout).result
    assert value is not None, f"{expression} has no value"
    return ast.literal_eval(value)


@contextlib.contextmanager
def plain_shell() -> Iterator[Any]:
    """A shell of this process that keeps no history; it loads the extension by `loaded`."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    InteractiveShell.clear_instance()
    try:
        yield InteractiveShell.instance(config=config)
    finally:
        InteractiveShell.clear_instance()


@contextlib.contextmanager
def loaded(shell: Any) -> Iterator[Any]:
    """The extension, loaded for as long as that; its session."""
    shell.extension_manager.load_extension(EXTENSION)
    try:
        yield session_of(shell)
    finally:
        shell.extension_manager.unload_extension(EXTENSION)


def launch_of(session: Any, line: str) -> Callable[[], Record]:
    """What `%bg LINE` calls once LINE is read, which happens here."""
    options, code = read_options(line, BG, "%bg")
    if (command := command_in(code)) is not None:
        return partial(
            launching.start, session, command_work(command, code, str), options, where="shell"
        )
    work = launching._read(session, code, None, False, frozenset())
    where = launching.where_to_run(session, options, {}, is_command=False)
    return partial(launching.start, session, work, options, where=where)
