"""A real kernel, driven message by message.

Everything here waits for messages and never for time; a timeout only bounds a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session

import ipy_bgtasks

T = TypeVar("T")
Message = dict[str, Any]

NAME = "under-test"

_SOCKETS = {"shell": zmq.DEALER, "control": zmq.DEALER, "iopub": zmq.SUB, "stdin": zmq.DEALER}


EVENT = """
import pathlib, threading, time
{name} = threading.Event()
def _set_{name}():
    while not pathlib.Path({path!r}).exists(): time.sleep(0.01)
    {name}.set()
threading.Thread(target=_set_{name}, daemon=True).start()
"""


class Reply:
    """One execute request and all that came of it, so far.

    Nothing is copied: messages that arrive later, from a job the request launched, show up in
    the properties as they come.
    """

    def __init__(self, kernel: Kernel, msg_id: str, code: str) -> None:
        self._kernel = kernel
        self.msg_id = msg_id
        self.code = code

    def __repr__(self) -> str:
        return f"<Reply to {self.code!r}: {self.status or 'not yet'}>"

    @property
    def messages(self) -> list[Message]:
        """All messages of this request, whatever their channel."""
        return self._kernel.messages_of(self.msg_id)

    def contents(self, *kinds: str) -> list[dict[str, Any]]:
        """The contents of its messages of these types."""
        return [m["content"] for m in self.messages if m["msg_type"] in kinds]

    @property
    def content(self) -> dict[str, Any]:
        """The content of the shell reply, empty before it came."""
        replies = self.contents("execute_reply")
        return replies[0] if replies else {}

    @property
    def idle(self) -> bool:
        """Whether the kernel said that it is done with the request."""
        return any(c["execution_state"] == "idle" for c in self.contents("status"))

    @property
    def done(self) -> bool:
        """Whether both the reply and `idle` came."""
        return bool(self.content) and self.idle

    @property
    def status(self) -> str | None:
        """`ok`, `error` or `aborted`; None before the reply came."""
        return self.content.get("status")

    @property
    def ename(self) -> str | None:
        """The name of the exception that ended the cell."""
        return self.content.get("ename")

    @property
    def evalue(self) -> str | None:
        """The text of the exception that ended the cell."""
        return self.content.get("evalue")

    @property
    def traceback(self) -> str:
        """What was shown of errors, its colours included."""
        return "\n".join(line for c in self.contents("error") for line in c["traceback"])

    @property
    def result(self) -> str | None:
        """The text of the cell's value (`Out[n]`)."""
        shown = self.contents("execute_result")
        return shown[0]["data"].get("text/plain") if shown else None

    @property
    def stdout(self) -> str:
        """All that was printed under this cell so far."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """All that was written to stderr under this cell so far."""
        return self._stream("stderr")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The bundles displayed under this cell, updates included.

        An update of what another cell displays is none of them, though it may come with this one.
        """
        shown = self.contents("display_data", "update_display_data")
        own = {_display_id(c) for c in self.contents("display_data")}
        return [c["data"] for c in shown if _display_id(c) in own]

    def _stream(self, name: str) -> str:
        return "".join(c["text"] for c in self.contents("stream") if c["name"] == name)


def _display_id(content: dict[str, Any]) -> str | None:
    return content.get("transient", {}).get("display_id")


class Pending:
    """A request that was sent; its reply may not have come yet."""

    def __init__(self, kernel: Kernel, reply: Reply) -> None:
        self._kernel = kernel
        self.reply = reply

    def wait(self, timeout: float = 30) -> Reply:
        """Wait for the reply and for `idle`."""
        return self._kernel.until(lambda: self.reply if self.reply.done else None, timeout)


class Kernel:
    """A kernel of this interpreter, with directories of its own under *home*.

    *config* are lines of an `ipython_config.py`, *env* is added to the environment. Without
    *wait*, `connect` must be called before anything else.
    """

    def __init__(
        self,
        home: Path,
        *,
        config: str = "",
        env: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self._home = home
        self._by_parent: defaultdict[str, list[Message]] = defaultdict(list)
        self.messages: list[Message] = []
        self.sent: list[Message] = []
        self._env = kernel_environment(home, config) | (env or {})
        self.manager = kernel_manager(home)
        self._output = (home / "kernel-output.txt").open("wb")
        self.manager.start_kernel(
            env=self._env, cwd=str(home), stdout=self._output, stderr=self._output
        )
        self.session: Session = self.manager.session
        # Sockets of our own: those of jupyter_client's clients are asyncio's before version 8.
        self._context = zmq.Context()
        self._channels = {name: self._connected(name) for name in _SOCKETS}
        self._poller = zmq.Poller()
        for each in self._channels.values():
            self._poller.register(each, zmq.POLLIN)
        self._requests: list[Reply] = []
        if wait:
            try:
                self.connect()
            except BaseException:  # a context that nobody closed would hang when it is collected
                self.close()
                raise

    # Requests

    def start(
        self,
        code: str,
        *,
        queue: bool = False,
        subshell: str | None = None,
        cell: str | None = None,
        **content: Any,
    ) -> Pending:
        """Send *code*, from a *cell* of that name if it has one, and come back at once.

        Some kernels lose a request that is sent before the reply to the one before was read; a
        test that means to queue says so.
        """
        if not queue:
            waiting = [r for r in self._requests if not r.content]
            assert not waiting or subshell, f"{waiting} unanswered; pass queue=True to queue"
        request = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        request["stop_on_error"] = False  # else some kernels drop what comes soon after an error
        message = self.session.msg("execute_request", request | content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        if cell is not None:
            message["metadata"]["cellId"] = cell
        self.send(message)
        reply = Reply(self, message["header"]["msg_id"], code)
        self._requests.append(reply)
        return Pending(self, reply)

    def run(self, code: str, timeout: float = 30, **options: Any) -> Reply:
        """Execute *code*; wait for its reply and for `idle`."""
        return self.start(code, **options).wait(timeout)

    def ok(self, code: str, timeout: float = 30, **options: Any) -> Reply:
        """As `run`, for code that must not fail."""
        reply = self.run(code, timeout, **options)
        assert reply.status == "ok", f"{code}\n{reply.traceback}\n{self.dump()}"
        return reply

    def ask(
        self, kind: str, content: dict[str, Any], channel: str = "shell", timeout: float = 30
    ) -> dict[str, Any]:
        """Send any other request and return the content of its reply."""
        message = self.session.msg(kind, content)
        self.send(message, channel)
        wanted = kind.replace("_request", "_reply")

        def reply() -> dict[str, Any] | None:
            of_it = self.messages_of(message["header"]["msg_id"])
            return next((m["content"] for m in of_it if m["msg_type"] == wanted), None)

        return self.until(reply, timeout)

    def complete(self, code: str, cursor: int | None = None) -> list[str]:
        """What Tab offers at *cursor*, by default at the end of *code*."""
        at = len(code) if cursor is None else cursor
        return self.ask("complete_request", {"code": code, "cursor_pos": at})["matches"]

    def subshell(self) -> str:
        """Open a subshell (ipykernel 7) and return its id, for `start(..., subshell=)`."""
        return self.ask("create_subshell_request", {}, "control")["subshell_id"]

    def event(self, name: str) -> Callable[[], None]:
        """Make an event of that name in the kernel; returns what sets it, whatever runs there."""
        path = self._home / f"set-{name}"
        self.ok(EVENT.format(name=name, path=str(path)))
        return path.touch

    def load(self) -> Reply:
        """Load the extension."""
        return self.ok("%load_ext ipy_bgtasks")

    def send(self, message: Message, channel: str = "shell") -> None:
        """Send a message that `session` has made."""
        self.sent.append(message)
        self.session.send(self._channels[channel], message)

    # Messages

    def until(self, predicate: Callable[[], T | None], timeout: float = 30) -> T:
        """Take in messages until *predicate* holds; returns what it returned."""
        deadline = time.monotonic() + timeout
        while not (found := predicate()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"nothing like it within {timeout} s\n{self.dump()}")
            if not self._pump(left):
                assert self.manager.is_alive(), f"the kernel is dead\n{self.dump()}"
        return found

    def wait_a_moment(self, timeout: float) -> None:
        """Take in what comes, for *timeout* seconds (a second at the most) or until it does."""
        self._pump(timeout)

    def abandon(self, reply: Reply) -> bool:
        """Whether an idle kernel never answered; the request then no longer counts as waiting.

        A request after it is answered on the same channel, so that a late reply would be there.
        """
        self.ask("kernel_info_request", {})
        if not (lost := not reply.content):
            return False
        self._requests.remove(reply)
        return lost

    def messages_of(self, msg_id: str) -> list[Message]:
        """All messages whose parent is that request, those that just arrived included."""
        while self._pump(0):
            pass
        return self._by_parent[msg_id]

    def dump(self) -> str:
        """All messages so far and what the kernel wrote to its own stderr, for a failure."""
        codes = {r.msg_id: r.code for r in self._requests}
        lines = [
            f"{m['channel']:7} {m['msg_type']:20} "
            f"[{codes.get(m['parent_header'].get('msg_id'), '')!r:.40}] {m['content']!r:.400}"
            for m in self.messages
        ]
        return "\n".join([*lines, "-- output of the kernel's process --", self.output])

    def _pump(self, timeout: float) -> bool:
        """File what is there, waiting for it *timeout* seconds (a second at the most)."""
        ready = dict(self._poller.poll(int(min(timeout, 1) * 1000)))
        for name, socket in self._channels.items():
            if socket in ready:
                _, frames = self.session.feed_identities(socket.recv_multipart())
                message = self.session.deserialize(frames) | {"channel": name}
                self.messages.append(message)
                self._by_parent[message["parent_header"].get("msg_id", "")].append(message)
        return bool(ready)

    def _connected(self, name: str) -> zmq.Socket[bytes]:
        channel = self._context.socket(_SOCKETS[name])
        channel.linger = 1000
        if name == "iopub":
            channel.subscribe(b"")
        else:  # the same for all, by which the kernel knows who asked
            channel.identity = self.session.bsession
        info = self.manager.get_connection_info()
        between = ":" if info["transport"] == "tcp" else "-"
        channel.connect(f"{info['transport']}://{info['ip']}{between}{info[f'{name}_port']}")
        return channel

    def connect(self) -> None:
        """Wait until requests are answered and iopub is subscribed, which takes its time."""
        for _ in range(100):
            self.ask("kernel_info_request", {}, timeout=60)
            with contextlib.suppress(AssertionError):
                self.until(
                    lambda: any("execution_state" in m["content"] for m in self.messages), 0.1
                )
                return
        raise AssertionError(f"nothing on iopub\n{self.dump()}")

    # The process

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return int(self.manager.provisioner.pid)

    @property
    def output(self) -> str:
        """What the kernel's process wrote to its own stdout and stderr."""
        return (self._home / "kernel-output.txt").read_text()

    def interrupt(self) -> None:
        """What the stop button does."""
        self.manager.interrupt_kernel()

    def shutdown(self, timeout: float = 30) -> float:
        """Shut the kernel down as a front end does; returns how many seconds it took to be gone."""
        began = time.monotonic()
        self.send(self.session.msg("shutdown_request", {"restart": False}), "control")
        self._gone(timeout)
        return time.monotonic() - began

    def status(self, timeout: float = 30) -> int:
        """Wait for the end of the process; its exit status, negative for a signal."""
        self._gone(timeout)
        return int(self.manager.provisioner.process.returncode)

    def kill(self) -> None:
        """SIGKILL, to the kernel alone."""
        os.kill(self.pid, 9)
        self._gone(30)

    def close(self) -> None:
        """End whatever is left of it; what came so far can still be looked at."""
        for socket in self._channels.values():
            self._poller.unregister(socket)
        self._context.destroy(linger=0)
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)
        self._output.close()

    def _gone(self, timeout: float) -> None:
        process = self.manager.provisioner.process
        process.wait(timeout)


class MakeKernel(Protocol):
    """Starts a kernel that is closed when the test is over."""

    def __call__(self, *, config: str = "", env: dict[str, str] | None = None) -> Kernel: ...


def kernel_environment(home: Path, config: str = "") -> dict[str, str]:
    """The environment of a kernel that neither sees nor touches the user's own files."""
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    # On a busy machine any job may block the loop for a second, and the test is about another.
    quiet = "c = get_config()\nc.BgTasks.watchdog = 0"
    (profile / "ipython_config.py").write_text(f"{quiet}\n{config}\n")
    return {
        **os.environ,
        "IPYTHONDIR": str(home / "ipython"),
        **{f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA")},
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "XDG_STATE_HOME": str(home / "state"),  # its kept jobs are nobody else's
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONPATH": str(Path(ipy_bgtasks.__file__).parents[1]),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def kernel_manager(home: Path) -> KernelManager:
    """A manager of kernels of this very interpreter, whatever is installed on the machine."""
    spec = home / "specs" / NAME
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": NAME, "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(described))
    # A free port may be taken by a kernel of another test process before this one binds it; a
    # name in a directory of its own may not. Such names are at most 103 characters long.
    named = zmq.has("ipc") and len(str(home)) < 90
    return KernelManager(
        kernel_name=NAME,
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)]),
        connection_file=str(home / "connection.json"),
        **({"transport": "ipc", "ip": str(home / "s")} if named else {}),
    )
