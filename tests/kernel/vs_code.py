"""What VS Code shows of a kernel's messages, by the rules in its extension for Jupyter.

Read in `cellExecutionMessageHandler.ts` of microsoft/vscode-jupyter: each cell that was run listens
on for outputs that answer its own request, or a widget message sent by a widget that its request
opened, until it is run again; of the latter streams are dropped. An update is shown where a display
of that id was shown before. All else is dropped. What changes the outputs of a cell while none runs
is done by an execution of that cell for the moment, which a reader sees as a flash beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels import Kernel, Message, Reply

_OUTPUTS = (
    "stream",
    "display_data",
    "execute_result",
    "error",
    "update_display_data",
    "clear_output",
)


class Screen:
    """The outputs below each cell, after all messages that a kernel has sent so far."""

    def __init__(self, kernel: Kernel) -> None:
        #: What no cell shows: of another's request, or an update of what was never displayed.
        self.dropped: list[Message] = []
        #: How often each cell was executed for the moment, by its request.
        self.flashes: Counter[str] = Counter()
        self._running: set[str] = set()
        self._below: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._to_clear: set[str] = set()
        # From a message's id to the request of the cell that shows what answers it.
        self._owners = {
            (sent := m["header"]["msg_id"]): sent
            for m in kernel.sent
            if m["msg_type"] == "execute_request"
        }
        cells = {
            m["header"]["msg_id"]: m["metadata"]["cellId"]
            for m in kernel.sent
            if "cellId" in m["metadata"]
        }
        said = [m for m in kernel.sent if m["msg_type"] == "comm_msg"]
        comms = {m["header"]["msg_id"] for m in said}
        for message in kernel.messages:
            parent = message["parent_header"].get("msg_id", "")
            if parent in cells and message["msg_type"] == "execute_input":
                for earlier in [e for e in cells if e != parent and cells[e] == cells[parent]]:
                    self._below.pop(earlier, None)
                    gone = [sent for sent, at in self._owners.items() if at == earlier]
                    for sent in gone:
                        del self._owners[sent]
                    del cells[earlier]
            owner = self._owners.get(parent)
            if message["msg_type"] == "stream" and parent in comms:
                owner = None
            content = message["content"]
            if owner == parent and (state := content.get("execution_state")):
                (self._running.add if state == "busy" else self._running.discard)(parent)
            if message["msg_type"] == "comm_open" and owner is not None:
                self._owners |= {
                    m["header"]["msg_id"]: owner
                    for m in said
                    if m["content"]["comm_id"] == content["comm_id"]
                }
            elif message["msg_type"] in _OUTPUTS and (
                owner is None or not self._take(owner, message["msg_type"], content)
            ):
                self.dropped.append(message)

    def text(self, cell: Reply) -> str:
        """All text below a cell: streams, errors, and the plain form of displays."""
        return "\n".join(_text(content) for content in self._below[cell.msg_id])

    def _take(self, owner: str, kind: str, content: dict[str, Any]) -> bool:
        if kind == "clear_output":
            self._to_clear.add(owner)
            if not content["wait"]:
                self._flash(owner)
                self._clear(owner)
            return True
        if kind == "update_display_data":
            name = content["transient"]["display_id"]
            shown = [old for below in self._below.values() for old in below if _name(old) == name]
            if any(old["data"] != content["data"] for old in shown):
                self._flash(owner)
            for old in shown:
                old["data"] = content["data"]
            return bool(shown)
        self._flash(owner)
        self._clear(owner)
        below = self._below[owner]
        if kind == "stream" and below and below[-1].get("name") == content["name"]:
            below[-1]["text"] += content["text"]
        else:
            below.append(dict(content))
        return True

    def _flash(self, owner: str) -> None:
        if not self._running:
            self.flashes[owner] += 1

    def _clear(self, owner: str) -> None:
        if owner in self._to_clear:
            self._to_clear.discard(owner)
            self._below[owner].clear()


def _name(content: dict[str, Any]) -> str | None:
    return content.get("transient", {}).get("display_id")


def _text(content: dict[str, Any]) -> str:
    if "traceback" in content:
        return f"{content['ename']}: {content['evalue']}"
    return str(content["text"] if "text" in content else content["data"].get("text/plain", ""))
