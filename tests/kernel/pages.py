"""A page that shows cards and panels, without a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels import Kernel, Reply

WIDGET = "application/vnd.jupyter.widget-view+json"


def scripts(kernel: Kernel) -> list[str]:
    """The models of the script that the pages were given, and which were not closed."""
    over = {m["content"]["comm_id"] for m in kernel.messages if m["msg_type"] == "comm_close"}
    return [
        str(m["content"]["comm_id"])
        for m in kernel.messages
        if m["msg_type"] == "comm_open"
        and "key" in m["content"]["data"].get("state", {})
        and m["content"]["comm_id"] not in over
    ]


class Page:
    """Plays the browser: the script of the page, once the kernel has sent it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.rows: dict[str, dict[str, Any]] = {}
        self.many: dict[str, dict[str, Any]] = {}
        self.said: list[str] = []
        self.notices: list[dict[str, Any]] = []
        self.log = ""
        self.cell: dict[str, Any] | None = None
        self._taken = self._turn = 0
        self._seen: dict[str, Any] | None = None
        self.model_id: str = kernel.until(lambda: scripts(kernel) and scripts(kernel)[-1])
        self.send("hello")

    def send(self, kind: str, **fields: Any) -> None:
        """Send what a page would."""
        content = {"kind": kind, "client": "page", **fields}
        message = self.kernel.session.msg(
            "comm_msg", {"comm_id": self.model_id, "data": {"method": "custom", "content": content}}
        )
        self.kernel.send(message)

    def see(self, *, panel: bool = False, watched: bool = False, **names: list[str]) -> None:
        """Say what the page shows."""
        self._turn += 1
        self._seen = {"jobs": [], "look": [], "many": [], "lists": [], **names}
        self._seen |= {"panel": panel, "watched": watched}
        self.send("see", turn=self._turn, **self._seen)

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
        if content["kind"] == "again":
            self.send("hello")
            if self._seen is not None:
                self.see(**self._seen)
        elif content["kind"] == "said":
            self.said.append(content["text"])
        elif content["kind"] == "notice":
            self.notices.append(content)
        elif content["kind"] == "news":
            if content["reset"]:
                self.rows.clear()
            self.rows.update({row["n"]: row for row in content["rows"]})
            self.many.update(content["many"])
            self.cell = content["cell"]
            for number in content["gone"]:
                self.rows.pop(number, None)
            for log in content["logs"]:
                text = "".join(part for _, part in log["segments"])
                self.log = text if log["replace"] else self.log + text


def open_panel(kernel: Kernel, line: str = "%jobs -w") -> Page:
    """Show the panel, and a page that has it open."""
    (shown,) = kernel.ok(line).displays
    assert 'data-bgt="panel"' in shown["text/html"]
    assert WIDGET not in shown
    page = Page(kernel)
    page.see(panel=True)
    return page


def open_card(kernel: Kernel, cell: Reply, name: str = "1") -> Page:
    """Show the card that a cell displayed, in a page that has it in sight."""
    assert f'data-bgt="{name}"' in cell.displays[-1]["text/html"]
    page = Page(kernel)
    page.see(**({"many": [name]} if name.startswith("m") else {"jobs": [name], "look": [name]}))
    return page
