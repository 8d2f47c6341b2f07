"""A kernel and a shell that override what Google Colab's do, for `test_colab`.

Colab's are `google/colab/_kernel.py`, `_shell.py`, `_shell_customizations.py` and
`_system_commands.py` of github.com/googlecolab/colabtools (read in April 2026). They replace the
event manager, the history, `!` and its relatives, `%%shell`, how errors are sent, completion and
inspection requests, and cell magics without a body.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core import events
from IPython.core.history import HistoryManager


class RenderedError(Exception):
    """Renders itself as something that is no list of lines."""

    def _render_traceback_(self) -> Any:
        return _Traceback([f"rendered: {self}"])


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

    def init_history(self) -> None:
        self.history_manager = _History(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_magics(self) -> None:
        super().init_magics()
        self.register_magic_function(_shell_cell, magic_kind="cell", magic_name="shell")
        self.set_custom_exc((ImportError,), _import_error)

    def system(self, command: str, **_: Any) -> None:
        """Run it, and write what it prints to `sys.stdout`, piece by piece."""
        _run(command)

    def getoutput(self, command: str, *_: Any, **__: Any) -> Any:
        return subprocess.run(command, shell=True, capture_output=True, text=True).stdout.split()

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

    async def inspect_request(self, stream: Any, ident: Any, parent: Any) -> None:
        self.session.send(stream, "inspect_reply", {"status": "ok", "found": False}, parent, ident)


def _run(command: str) -> None:
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for piece in process.stdout:
            sys.stdout.write(piece)


def _shell_cell(_line: str, cell: str) -> None:
    _run(cell)


def _import_error(shell: Any, etype: Any, evalue: Any, tb: Any, tb_offset: Any = None) -> None:
    stb = shell.InteractiveTB.structured_traceback(etype, evalue, tb, tb_offset=tb_offset)
    shell._showtraceback(etype, evalue, _Traceback([*stb, "how to install it"]))
