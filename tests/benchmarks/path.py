"""The path of a launch: ``python -m tests.benchmarks.path`` prints each call of ours on the way.

That is what a reader who follows `%bg f()` must open: the functions of the package that are
called from the magic to the moment at which the job's thread wakes, for the second launch of a
session in a shell without a page. A change of file is a call in another file than the call before.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import ipy_bgtasks
from ipy_bgtasks.ipython.magics import JobMagics
from ipy_bgtasks.runners.threads import ThreadRunner

from .shells import loaded, plain_shell

ROOT = Path(ipy_bgtasks.__file__).parent


class Trace:
    """The calls between the magic and the job's own thread; used as the profiler of one thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._first = inspect.unwrap(JobMagics.bg).__code__
        self._last = ThreadRunner.start.__code__
        self._open = False
        self._generators: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Note a call; comprehensions, and what a generator yields, are none."""
        code = frame.f_code
        if event == "return" and code is self._last:
            self._open = False
        if event != "call":
            return
        self._open = self._open or code is self._first
        path = Path(code.co_filename)
        if not self._open or not path.is_relative_to(ROOT) or code.co_name.startswith("<"):
            return
        if code.co_flags & inspect.CO_GENERATOR:
            if frame in self._generators:
                return
            self._generators.add(frame)
        self.calls.append((path.relative_to(ROOT).as_posix(), code.co_qualname))

    @property
    def files(self) -> int:
        """How many files the path touches."""
        return len({file for file, _ in self.calls})

    @property
    def changes(self) -> int:
        """How often the next call is in another file."""
        return sum(a != b for (a, _), (b, _) in zip(self.calls, self.calls[1:], strict=False))


def trace_launch() -> Trace:
    """Launch a call in a thread, for the second time, and return the path it took."""
    trace = Trace()
    with plain_shell() as shell, loaded(shell):
        shell.run_cell("f = lambda: None")
        shell.run_cell("job = %bg f()\njob.result()").raise_error()
        sys.setprofile(trace)
        try:
            shell.run_cell("job = %bg f()").raise_error()
        finally:
            sys.setprofile(None)
        shell.run_cell("job.result()")
    return trace


def main() -> None:
    """Print the calls, then the figures."""
    trace = trace_launch()
    before = ""
    for file, name in trace.calls:
        print(f"{'' if file == before else file:36}{name}")
        before = file
    print(f"{trace.files} files, {trace.changes} changes of file, {len(trace.calls)} calls")


if __name__ == "__main__":
    main()
