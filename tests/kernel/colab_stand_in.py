"""A kernel and a shell that override what Google Colab's do, for `test_colab`.

Colab's are `google/colab/_kernel.py`, `_shell.py`, `_shell_customizations.py` and
`_system_commands.py` of github.com/googlecolab/colabtools (its state of April 2026, which was also
run itself with Colab's versions). They replace the event manager, the inspector, the history, `!`
and its relatives, `%shell`, how errors are rendered and sent, completion and inspection, and cell
magics without a body. As there, a command writes to a pseudo-terminal.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core import events
from IPython.core.history import HistoryManager
from IPython.core.oinspect import Inspector
from IPython.utils.text import LSString, SList
from IPython.utils.tokenutil import token_at_cursor


class RenderedError(Exception):
    """Renders itself as something that is no list of lines."""

    def __init__(self, message: object, lines: list[str] | None = None) -> None:
        super().__init__(str(message))
        self._lines = lines or [f"rendered: {message}"]

    def _render_traceback_(self) -> Any:
        return _Traceback(self._lines)


class _Inspector(Inspector):
    """Shows no values."""

    def info(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().info(*args, **kwargs), "string_form": None}


class _Traceback:
    def __init__(self, lines: list[str]) -> None:
        self.stb = lines


class _History(HistoryManager):
    """Keeps the cells' ids beside the inputs."""

    cell_ids: list[Any] = []  # noqa: RUF012 - as there

    def store_inputs(self, line_num: int, source: str, source_raw: str | None = None) -> None:
        super().store_inputs(line_num, source, source_raw)
        parent = self.shell.parent_header
        self.cell_ids.append(parent.get("metadata", {}).get("colab", {}).get("cell_id"))


class Shell(ZMQInteractiveShell):
    """The shell."""

    def init_events(self) -> None:
        self.events = events.EventManager(self, events.available_events)
        self.events.register("pre_execute", self._clear_warning_registry)

    def init_inspector(self, *_: Any) -> None:
        super().init_inspector(*_)
        self.inspector.__class__ = _Inspector

    def init_history(self) -> None:
        self.history_manager = _History(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_magics(self) -> None:
        super().init_magics()
        self.register_magic_function(_shell, magic_kind="line_cell", magic_name="shell")
        self.set_custom_exc((ImportError,), _import_error)

    def system(self, command: str, **_: Any) -> None:
        """Run it, and write what it prints to `sys.stdout`, piece by piece."""
        self.user_ns["_exit_code"], _ = _run(self.var_expand(command, depth=1))

    def getoutput(self, command: str, split: bool = True, depth: int = 0) -> Any:
        """Run it; what it prints is shown as well, for as long as it runs."""
        _, output = _run(self.var_expand(command, depth=depth + 1))
        return SList(output.splitlines()) if split else LSString(output)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        lines = stb.stb if isinstance(stb, _Traceback) else stb
        content = {"traceback": lines, "ename": etype.__name__, "evalue": str(evalue)}
        hook = self.displayhook
        hook.session.send(hook.pub_socket, "error", content, hook.parent_header)
        self._last_traceback = lines

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> Any:
        return super().run_cell_magic(magic_name, line, cell or (" " if line else cell))


class Kernel(IPythonKernel):
    """The kernel."""

    def _shell_class_default(self) -> type[Shell]:
        return Shell

    shell_class = Shell

    async def complete_request(self, stream: Any, ident: Any, parent: Any) -> None:
        content = parent["content"]
        matches = self.do_complete(content["code"], content["cursor_pos"])
        matches["metadata"] = {"colab_types_experimental": []}
        self.session.send(stream, "complete_reply", matches, parent, ident)

    def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, *_: Any, **__: Any
    ) -> Any:
        info = self.shell.object_inspect(token_at_cursor(code, cursor_pos))
        data = {"application/json": {"docstring": info["docstring"]}} if info["found"] else {}
        return {"status": "ok", "data": data, "metadata": {}, "found": info["found"]}


def _run(command: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.ONLCR
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    written = ""
    with subprocess.Popen(
        command, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, executable="/bin/bash"
    ) as process:
        os.close(theirs)
        while piece := _read(ours):
            sys.stdout.write(piece)
            written += piece
    os.close(ours)
    return process.returncode, written


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode()
    except OSError:  # nobody writes to it any more
        return ""


def _shell(line: str, cell: str | None = None) -> None:
    command = line if cell is None else cell
    code, output = _run(command)
    if code:
        raise subprocess.CalledProcessError(code, command, output)


def _import_error(shell: Any, etype: Any, evalue: Any, tb: Any, tb_offset: Any = None) -> None:
    lines = shell.InteractiveTB.structured_traceback(etype, evalue, tb, tb_offset=tb_offset)
    shell.showtraceback(exc_tuple=(etype, RenderedError(evalue, [*lines, "how to install it"]), tb))
