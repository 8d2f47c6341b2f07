"""CODE that is a shell command."""

from __future__ import annotations

import os
import re
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.platforms import current_directory, encoded, environment
from ipy_bgtasks.work.model import Work
from ipy_bgtasks.work.text import label_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping


#: ``x = !ls``, as IPython reads it: names, perhaps indexed, before the sign.
_ASSIGNED = re.compile(r"(?P<target>[\w\s.,*]+(\[[^\]]*\])*)\s*=\s*!(?!=)(?P<command>.*)")


def command_in(code: str) -> str | None:
    """Return the command in CODE of the form ``!command``, or None for any other CODE.

    Raises `BadInput` if the command is empty, or if its output is to be assigned.
    """
    if not code.startswith("!"):
        if (match := _ASSIGNED.match(code)) is not None:
            command = match["command"].strip()
            raise BadInput(
                f"a background command cannot fill {match['target'].strip()}: write "
                f"job = %bg !{command}, then job.log.stdout is its output"
            )
        return None
    command = code[1:].strip()
    if command.startswith("!"):
        raise BadInput(f"!! is for the foreground: write %bg !{command[1:].strip()}")
    # A semicolon at the end is IPython's, unless the shell needs it.
    if command.endswith(";") and not command.endswith((";;", "\\;")):
        command = command[:-1].rstrip()
    if not command:
        raise BadInput("no command after the !: write %bg !command")
    return command


def command_work(command: str, code: str, expand: Callable[[str], str] = str) -> Work:
    """Return work that runs *command*, with the user's variables filled in by *expand* now.

    It runs in the directory in which it was launched.
    """
    command = expand(command)
    return Work(
        call=Command(command),
        label=label_of("!" + command),
        code=code,
        is_async=False,
    )


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command with the settings fixed at launch. Calling it starts it."""

    text: str
    directory: str | None = field(default_factory=current_directory)
    context: Context = field(default_factory=copy_context, repr=False)
    argv: tuple[str, ...] = ()
    """A program and its arguments, to be run without a shell."""
    has_input: bool = False
    """Whether something will be written to its input."""
    merged: bool = False
    """Whether what it writes to stderr comes out of stdout."""

    def __call__(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own; raises `OSError` if that fails.

        The shell is the user's, as for ``!``. A Python process in it does not buffer its output.
        *environment* is added to the existing variables.
        """
        import subprocess

        windows = os.name == "nt"
        shell = os.environ.get("SHELL", "")
        return subprocess.Popen(
            self.argv or self.text,
            shell=not self.argv,
            executable=shell
            if not self.argv and not windows and os.access(shell, os.X_OK)
            else None,
            cwd=self.directory,
            env=_environment(environment or {}),
            stdin=subprocess.PIPE if self.has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if self.merged else subprocess.PIPE,
            bufsize=0,
            start_new_session=not windows,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def _environment(added: Mapping[str, str]) -> dict[Any, Any]:
    variables = environment()
    variables.setdefault(encoded("PYTHONUNBUFFERED"), encoded("1"))
    return variables | {encoded(name): encoded(value) for name, value in added.items()}
