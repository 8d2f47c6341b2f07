"""How programs of this package are started: all but the user's own shell commands.

Imported by the watcher of kept jobs as well, so nearly nothing is imported here.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that calls `main(*arguments)` of a module of ours, in such a Python.

    It has the path of this one, and the options that change how code runs: -O, -W and -X.
    """
    end = len(arguments) + 1
    code = (
        f"import sys; given, sys.path = sys.argv[1:{end}], sys.argv[{end}:]; "
        f"from ipy_bgtasks.runners.{module} import main; main(*given)"
    )
    options = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    options += [f"-W{each}" for each in sys.warnoptions]
    for name, value in getattr(sys, "_xoptions", {}).items():
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, *options, "-c", code, *arguments, *path]


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, out of reach of the foreground's interrupts.

    Unless *options*, which are those of `Popen`, say otherwise, it has no input and no output.
    Raises `OSError`. While JupyterLab's debugger is on, pydevd starts each Python program under
    itself, where it waits for a client; ours are started past that.
    """
    import subprocess

    monkey = sys.modules.get("_pydev_bundle.pydev_monkey")
    with getattr(monkey, "skip_subprocess_arg_patch", nullcontext)():
        return subprocess.Popen(
            command,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
                "start_new_session": True,
                "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                **options,
            },
        )
