"""A page that has the panel of `%jobs -w` open, without a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels import Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


class Page:
    """Plays the browser: opens the panel that a cell displayed."""

    def __init__(self, kernel: Kernel, model_id: str) -> None:
        self.kernel = kernel
        self.model_id = model_id
        self.rows: dict[int, dict[str, Any]] = {}
        self.said: list[str] = []
        self.log = ""
        self.cell: dict[str, Any] | None = None
        self._taken = 0
        self.send("open")

    def send(self, kind: str, **fields: Any) -> None:
        """Send what a page would."""
        content = {"kind": kind, "client": "page", **fields}
        message = self.kernel.session.msg(
            "comm_msg", {"comm_id": self.model_id, "data": {"method": "custom", "content": content}}
        )
        self.kernel.send(message)

    def until(self, predicate: Any) -> None:
        """Take in what the kernel sends until something is so."""

        def look() -> bool:
            self.take()
            return bool(predicate())

        self.kernel.until(look)

    def take(self) -> list[dict[str, Any]]:
        """Take in what has arrived; returns it."""
        messages = self.kernel.messages[self._taken :]
        self._taken += len(messages)
        ours = [
            m["content"]["data"]["content"]
            for m in messages
            if m["msg_type"] == "comm_msg"
            and m["content"]["comm_id"] == self.model_id
            and m["content"]["data"]["method"] == "custom"
        ]
        for content in ours:
            self._apply(content)
        return ours

    def _apply(self, content: dict[str, Any]) -> None:
        if content["kind"] == "said":
            self.said.append(content["text"])
        elif content["kind"] == "news":
            if content["reset"]:
                self.rows.clear()
            self.rows.update({row["n"]: row for row in content["rows"]})
            self.cell = content["cell"]
            for number in content["gone"]:
                self.rows.pop(number, None)
            for log in content["logs"]:
                text = "".join(part for _, part in log["segments"])
                self.log = text if log["replace"] else self.log + text


def open_panel(kernel: Kernel, line: str = "%jobs -w") -> Page:
    """Show the panel, and a page that has it open."""
    (shown,) = kernel.ok(line).displays
    assert "text/html" in shown
    return Page(kernel, shown[WIDGET]["model_id"])
