"""A driver for the real terminal IPython.

    def test_something(terminal):
        shown = terminal.run("print('he' 'llo')")
        assert "hello" in shown

`run` types the code, as a paste, and returns what the screen was sent up to the next prompt,
without colours and cursor movements. prompt_toolkit repaints the prompt with the input when
anything is printed above it, so the text holds the input too, perhaps several times: a marker
to wait for should be spelled differently in the code (``'he' 'llo'``) than in the output.

    terminal.start("await asyncio.Event().wait()")   # does not wait for the next prompt
    terminal.expect("marker")                        # waits for a pattern in what is new
    terminal.interrupt()                             # SIGINT, as Ctrl-C in a running cell
    shown = terminal.prompt()                        # waits for the next prompt

Nothing sleeps: every wait ends with what it waits for, or fails after `timeout` seconds and
shows the end of the screen's text. `spawn_terminal("--simple-prompt")` starts one with other
arguments, and several in one test; `term="dumb"` has no cursor movements at all, and with
`script` it is that script that starts IPython.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
import termios
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pexpect
import ptyprocess
from forks import AVAILABLE, Forked, ForkServer

import ipy_bgtasks

PROMPT = r"In \[(\d+)\]:(?: |\Z)"
CTRL_C, CTRL_D, CTRL_U = "\x03", "\x04", "\x15"
ENTER, EXECUTE = "\r", "\x1b\r"  # EXECUTE (escape, enter) runs also where enter adds a line

# Colours and cursor movements, window titles, the keypad's modes; and one not yet all there.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()].|[=>78DEHM])")
_OPEN_ESCAPE = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[()])?|\r+)$")


class Spare:
    """One terminal that starts while the test before still runs, in a directory of its own."""

    def __init__(self, new_directory: Callable[[], Path]) -> None:
        self._new_directory = new_directory
        self._server: ForkServer | None = None
        if AVAILABLE:
            self._own, theirs = pty.openpty()
            environment = terminal_environment(new_directory())
            self._server = ForkServer(["IPython.terminal.ipapp"], environment, [theirs] * 3)
            os.close(theirs)
        self._begin()

    def _begin(self) -> None:
        self.directory = self._new_directory()
        self._terminal = Terminal(self.directory, server=self._server, wait=False)

    def take(self) -> Terminal:
        """Return a terminal at its first prompt; the next one begins to start."""
        terminal = self._terminal
        self._begin()
        try:
            terminal.prompt()
        except BaseException:
            terminal.close()
            raise
        return terminal

    def close(self) -> None:
        """End the one that nobody took."""
        self._terminal.close()
        if self._server is not None:
            self._server.close()
            os.close(self._own)


def terminal_environment(directory: Path, term: str = "xterm") -> dict[str, str]:
    """The environment of an IPython with *directory* for its own files."""
    source = str(Path(ipy_bgtasks.__file__).parents[1])
    return {
        **os.environ,
        # With it Python's own streams let two threads overtake each other.
        "PYTHONUNBUFFERED": "",
        "IPYTHONDIR": str(directory),
        "XDG_STATE_HOME": str(directory / "state"),  # its kept jobs are nobody else's
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "TERM": term,
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "PYTHONWARNINGS": "default",
    }


class _ForkedChild(pexpect.spawn):  # type: ignore[misc, unused-ignore]
    """A fork in a terminal of its own, as pexpect starts it."""

    def __init__(self, server: ForkServer, *args: Any, **options: Any) -> None:
        self._server = server
        super().__init__(*args, **options)

    def _spawnpty(self, args: list[bytes], **options: Any) -> ptyprocess.PtyProcess:
        own, theirs = pty.openpty()
        termios.tcsetwinsize(own, options["dimensions"])
        _, _, module, *arguments = (each.decode() for each in args)
        forked = self._server.fork(
            module,
            *arguments,
            env=options["env"],
            cwd=options["cwd"],
            streams=[theirs] * 3,
            terminal=True,
        )
        os.close(theirs)
        return _ForkedPty(forked, own)


class _ForkedPty(ptyprocess.PtyProcess):  # type: ignore[misc, unused-ignore]
    def __init__(self, forked: Forked, fd: int) -> None:
        super().__init__(forked.pid, fd)
        self._forked = forked

    def isalive(self) -> bool:
        if (code := self._forked.poll()) is None:
            return True
        self.terminated = True
        self.exitstatus, self.signalstatus = (code, None) if code >= 0 else (None, -code)
        return False

    def wait(self) -> int | None:
        self._forked.wait()
        self.isalive()
        return self.exitstatus


class Terminal:
    """One ``ipython`` in a terminal of 40 lines of 200 columns, waiting at its first prompt.

    Without *wait*, call `prompt` before anything else; with *server* it is a fork if it can be.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        term: str = "xterm",
        script: Path | None = None,
        server: ForkServer | None = None,
        wait: bool = True,
    ) -> None:
        environment = terminal_environment(directory, term)
        ipython = ["-m", "IPython", "--no-banner", "--no-confirm-exit", *arguments]
        command = ipython if script is None else [str(script)]
        spawn: Callable[..., Any] = pexpect.spawn
        if server is not None and server.can_be(environment):
            spawn = partial(_ForkedChild, server)
        with warnings.catch_warnings():
            # The child execs at once; that some test left threads here does not matter.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = spawn(
                sys.executable,
                command,
                env=environment,
                cwd=str(directory),
                dimensions=(40, 200),
                encoding="utf-8",
                codec_errors="replace",
            )
        self._child.delaybeforesend = None
        self._raw = ""
        self._dumb = term == "dumb" or "--simple-prompt" in arguments
        self.timeout = 30.0
        """Seconds after which a wait fails."""
        self.sent = ""
        """All that the terminal was sent so far, escape sequences included."""
        self.text = ""
        """All that was shown so far."""
        self.seen = 0
        """How much of `text` the waits have gone past."""
        self.number = 0
        """The number in the last prompt that was waited for."""
        if wait:
            self.prompt()

    @property
    def pid(self) -> int:
        """The process id of IPython."""
        return int(self._child.pid)

    def run(self, code: str) -> str:
        """Execute `code` as the next cell; return what was shown up to the prompt after it."""
        self.start(code)
        return self.prompt()

    def start(self, code: str) -> None:
        """Type `code` at the prompt and execute it; do not wait."""
        if self._dumb:
            self.send(code + ENTER)
        else:
            self.send(f"\x1b[200~{code}\x1b[201~" + (EXECUTE if "\n" in code else ENTER))

    def send(self, keys: str) -> None:
        """Type `keys`."""
        self._child.send(keys)

    def interrupt(self) -> None:
        """Send SIGINT to IPython, and to nothing else."""
        try:
            os.kill(self.pid, signal.SIGINT)
        except ProcessLookupError:
            raise AssertionError(f"IPython has ended; it showed:\n{self.text[-3000:]}") from None

    def prompt(self) -> str:
        """Wait for a prompt with a higher number; return what was shown before it.

        An interrupted prompt comes back with the same number, and so it does after no input.
        """
        start = self.seen
        while True:
            found = self._wait_for(re.compile(PROMPT))
            if int(found[1]) > self.number:
                self.number = int(found[1])
                return self.text[start : found.start()]

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until `pattern` has come after what was waited for last; go past it."""
        return self._wait_for(re.compile(pattern))

    def wait(self, predicate: Callable[[], bool]) -> None:
        """Read until something is so."""
        deadline = time.monotonic() + self.timeout
        while not predicate():
            if not self._read(deadline):
                raise AssertionError(f"it never was so in:\n{self.text[self.seen :][-3000:]}")

    def sync(self) -> None:
        """Get an answer out of IPython when it is unknown whether a prompt is there."""
        for attempt in range(10):
            self.send(CTRL_U)
            self.start(f"print('in', 'sync', {attempt})")
            with suppress(AssertionError):
                self._wait_for(re.compile(f"in sync {attempt}"), timeout=5)
                self.prompt()
                return
        raise AssertionError(f"IPython does not answer; it showed:\n{self.text[-3000:]}")

    def read_for(self, seconds: float) -> None:
        """Let `seconds` pass, reading: for a stimulus at random times, not to wait for anything.

        IPython blocks in the middle of a write when nobody reads.
        """
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass

    def leave(self) -> int:
        """Wait for the end of the process, read what it still shows; return its exit status.

        A negative status is the signal that ended it.
        """
        deadline = time.monotonic() + self.timeout
        while self._read(deadline):
            pass
        if not self._ended:
            raise AssertionError(f"IPython goes on; it showed:\n{self.text[-3000:]}")
        self._child.wait()
        if self._child.signalstatus is not None:
            return -int(self._child.signalstatus)
        return int(self._child.exitstatus or 0)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._child.isalive():
            self._child.kill(signal.SIGKILL)  # pexpect tries three kinder signals, each for a while
            self._child.wait()
        self._child.ptyproc.delayafterclose = 0
        self._child.close()

    def _wait_for(self, pattern: re.Pattern[str], timeout: float | None = None) -> re.Match[str]:
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while not (found := pattern.search(self.text, self.seen)):
            if not self._read(deadline):
                reason = "IPython has ended" if self._ended else f"none in {limit} s"
                raise AssertionError(
                    f"no {pattern.pattern!r} ({reason}) in:\n{self.text[self.seen :][-3000:]}"
                )
        self.seen = found.end()
        return found

    _ended = False

    def _read(self, deadline: float) -> bool:
        """Take in more text; False when there is no more, or not in time."""
        try:
            # Reading at all matters more than the deadline: an unread terminal blocks IPython.
            remaining = max(deadline - time.monotonic(), 0)
            chunk = self._child.read_nonblocking(65536, timeout=remaining)
        except pexpect.TIMEOUT:
            return False
        except pexpect.EOF:
            self._ended = True
            return False
        self.sent += chunk
        self._raw += chunk
        open_escape = _OPEN_ESCAPE.search(self._raw)
        end = open_escape.start() if open_escape else len(self._raw)
        self.text += re.sub("\r+\n", "\n", _ESCAPE.sub("", self._raw[:end]))
        self._raw = self._raw[end:]
        return time.monotonic() < deadline
