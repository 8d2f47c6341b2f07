"""What comes above a waiting prompt: texts, in order, the ends of jobs, and the bell.

prompt_toolkit's own stream for texts (``patch_stdout``) hands each to a thread and from there to
the event loop, which may stop with the prompt: such text appears when the loop runs again, after
lines that were written later. And Enter waits for that thread, up to 0.2 s.

Ends of jobs are shown at once while the prompt waits, else with the next one. The jobs of a group
have one notice together, when the last of them has ended. Of the many that a loop has launched
without one, those that finished last are named, and the others counted.

For `--notify` the terminal rings and shows a notification of the desktop. There are three
sequences for that: OSC 9 came with iTerm2, OSC 777 with rxvt, OSC 99 with kitty. A terminal
ignores those it does not know, but one that knows two would show two notifications.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from ipy_bgtasks.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipy_bgtasks.job.record import Record
    from ipy_bgtasks.notify import Notice


#: Seconds between two paintings of the prompt: text is batched meanwhile.
_APART = 0.1


class AbovePrompt:
    """Shows text above the prompts of prompt_toolkit.

    *write* writes to the terminal. Any thread may call `put`; the rest is for the main thread.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._app: Any = None
        self._write = write
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._due = False
        self._open = False
        self._shown = 0.0

    def put(self, text: str) -> None:
        """Show *text* soon, at the latest when the prompt ends; without a prompt, now."""
        with self._lock:
            self._texts.append(text)
            if not self._open:
                self._write_out()
            elif not self._due:
                self._schedule()

    def open(self, app: Any) -> None:
        """Hold text from now on: the ``Application`` *app*, a prompt, is about to begin."""
        with self._lock:
            self._app = app
            self._open = True
            self._due = False

    def begun(self) -> None:
        """Show what was held: the prompt has begun. Call this on its loop."""
        with self._lock:
            if self._texts:
                self._schedule()

    def close(self) -> None:
        """Write out what is left: the prompt has ended."""
        with self._lock:
            self._open = False
            self._write_out()

    def _schedule(self) -> None:
        # Without a loop the prompt has not begun, or has ended: `begun` or `close` follows.
        if (loop := self._app.loop) is not None:
            with suppress(RuntimeError):  # closed at this very moment
                loop.call_soon_threadsafe(self._bundle)
                self._due = True

    def _bundle(self) -> None:
        wait = self._shown + _APART - time.monotonic()
        if wait > 0 and self._app.loop is not None:
            self._app.loop.call_later(wait, self._show)
        else:
            self._show()

    def _show(self) -> None:
        from prompt_toolkit.application import run_in_terminal

        # A call that is left on a loop of an earlier prompt may come while one waits elsewhere.
        if self._open and self._app.loop is asyncio.get_running_loop():
            run_in_terminal(self._write_above)

    def _write_above(self) -> None:
        with self._lock:
            self._due = False
            self._shown = time.monotonic()
            self._write_out()

    def _write_out(self) -> None:
        texts, self._texts = self._texts, []
        if texts:
            self._write("".join(texts))


class PromptStream:
    """A stand-in for *stream* while the prompt waits: what is written goes above the prompt.

    As with prompt_toolkit's, a partial line, which the prompt would paint over, waits for its
    end or for a flush. After `end` all is written as it comes, until `begin`.
    """

    def __init__(self, stream: TextIO, above: AbovePrompt) -> None:
        self._stream = stream
        self._above = above
        self._lock = threading.Lock()
        self._begun = ""
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Show the complete lines."""
        with self._lock:
            if self._ended:
                self._above.put(text)
                return len(text)
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
            if newline:
                self._above.put(lines + newline)
        return len(text)

    def begin(self) -> None:
        """Hold partial lines from now on: a prompt is about to begin."""
        with self._lock:
            self._ended = False

    def end(self) -> None:
        """Show a partial line, and hold none: the prompt has ended."""
        with self._lock:
            self._ended = True
        self.flush()

    def flush(self) -> None:
        """Show a partial line, too."""
        with self._lock:
            begun, self._begun = self._begun, ""
            if begun:
                self._above.put(begun)


#: Tracebacks, and failed attempts, of a group's jobs that are shown, the first; its notice names
#: the other jobs.
_GROUP_FAILURES = 3
#: Of many jobs that have finished between two prompts, or at once, those that are named.
_NAMED = 50
#: Seconds in which more than those are a flood, which waits for as long.
_FLOOD = 0.5
#: Seconds after which no further job of a group that has ended is expected from the same loop.
_SURELY = 0.1


class _News(NamedTuple):
    """The end of a job: its traceback, if that is to be shown, and whether a notice follows."""

    job: Record
    failure: str
    notice: bool


class EndNotices:
    """The ends of jobs, on their way to the screen. Any thread may call.

    *put* shows a text, *of_job* returns the notice of a job, *of_group* that of a group, which
    is empty as long as one of its jobs goes on.
    """

    def __init__(
        self,
        put: Callable[[str], None],
        later: Callable[..., object],
        of_job: Callable[[Record], str],
        of_group: Callable[[str], str],
    ) -> None:
        self._put = put
        self._later = later
        self._of_job = of_job
        self._of_group = of_group
        self._lock = threading.RLock()
        #: What waits for the next prompt; None while one waits.
        self._held: list[_News] | None = []
        #: How many jobs have finished before those, and are not named.
        self._unnamed = 0
        self._room = 2 * _NAMED
        #: Whether a prompt waits; and since when how many were shown at once.
        self._prompts = False
        self._since, self._recent = 0.0, 0
        #: How many failures of a group have come since its last notice.
        self._failures: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        #: Groups that may have ended, which is not certain before a moment later.
        self._ending: set[str] = set()

    def add(self, job: Record, failure: Callable[[], str] | None, *, notice: bool) -> None:
        """Show the end of a job: with its traceback, if one is given, and with a notice."""
        if failure is not None and job.group is not None:
            self._failures[job.group] += 1
            if self._failures[job.group] > _GROUP_FAILURES:
                failure = None
        text = "" if failure is None else failure()
        if text or (notice and job.group is None):
            self._add(_News(job, text, notice and job.group is None))
        if notice and job.group is not None:
            self._add_group(job, job.group)

    def retrying(self, job: Record, line: str) -> None:
        """Show at once how an attempt has failed."""
        if job.group is not None:
            self._retries[job.group] += 1
            if self._retries[job.group] > _GROUP_FAILURES:
                return
        self._put(f"[{job.number}] {line}\n")

    def forget(self, job: Record) -> None:
        """Drop what waits of the job's end, and of its group's."""
        with self._lock:
            if self._held is not None:
                self._held = [
                    news
                    for news in self._held
                    if news.job is not job and not _is_of_group(news, job.group)
                ]

    def hold(self) -> None:
        """Let what comes from now on wait for the next prompt."""
        with self._lock:
            self._prompts = False
            self._held = self._held or []

    def release(self) -> str:
        """Return what has waited; what comes from now on is shown at once."""
        with self._lock:
            self._drop_surplus()
            self._prompts = True
            held, self._held = self._held, None
            unnamed, self._unnamed = self._unnamed, 0
        first = f"{unnamed:,} job{'s have' if unnamed > 1 else ' has'} finished before these\n"
        return first * bool(unnamed) + "".join(self._text(news) for news in held or ())

    def _drop_surplus(self) -> None:
        """Only count what would scroll away unread; it holds on to no job then."""
        held = self._held or []
        finished = [news for news in held if _is_plain(news)]
        surplus = {id(news) for news in finished[:-_NAMED]}
        if surplus:
            self._unnamed += len(surplus)
            self._held = [news for news in held if id(news) not in surplus]
        self._room = 2 * max(_NAMED, len(self._held or ()))

    def _add_group(self, job: Record, name: str) -> None:
        with self._lock:
            if self._held is not None:
                if self._held and _is_of_group(self._held[-1], name):
                    return  # it will say how all are by then
                self._held = [news for news in self._held if not _is_of_group(news, name)]
                self._held.append(_News(job, "", True))
            elif name not in self._ending and self._of_group(name):
                self._ending.add(name)

                def add() -> None:
                    self._ending.discard(name)
                    self._add(_News(job, "", True))

                self._later(_SURELY, add)

    def _add(self, news: _News) -> None:
        with self._lock:
            if self._held is None and self._is_flood():
                self._held = []
                self._later(_FLOOD, self._end_flood)
            if self._held is not None:
                self._held.append(news)
                if len(self._held) > self._room:
                    self._drop_surplus()
                return
        if text := self._text(news):
            self._put(text)

    def _is_flood(self) -> bool:
        """Return whether many have come in the last moment; counts one more."""
        now = time.monotonic()
        if now - self._since > _FLOOD:
            self._since, self._recent = now, 0
        self._recent += 1
        return self._recent > _NAMED

    def _end_flood(self) -> None:
        with self._lock:
            if not self._prompts:  # any more
                return
            text = self.release()
        self._put(text)

    def _text(self, news: _News) -> str:
        if not news.notice:
            return news.failure
        if news.job.group is None:
            return f"{news.failure}{self._of_job(news.job)}\n"
        if line := self._of_group(news.job.group):
            self._failures.pop(news.job.group, None)
            self._retries.pop(news.job.group, None)
            return f"{line}\n"
        return ""


def _is_plain(news: _News) -> bool:
    """Return whether it says no more than that a job has finished."""
    return not news.failure and news.job.group is None and news.job.state == "finished"


def _is_of_group(news: _News, name: str | None) -> bool:
    return name is not None and news.notice and news.job.group == name


_BELL = "\a"
#: Terminals that say who they are and know both OSC 9 and OSC 777, or only the one.
_NINE_ONLY = frozenset(["iTerm.app", "WezTerm", "ghostty"])
#: The first words of `TERM` where nothing but the bell is safe: a console, GNU screen.
_BELL_ONLY = ("linux", "screen", "cons25", "vt")


def sequences(notice: Notice, environment: Mapping[str, str]) -> str:
    """Return what is to be written to a terminal, which moves no cursor; empty for a dumb one.

    *environment* is that of the process: `TERM`, `TERM_PROGRAM` and such.
    """
    if sys.platform == "win32":
        return _BELL
    term = environment.get("TERM", "dumb")
    if term in ("", "dumb", "unknown"):
        return ""
    # tmux names itself as GNU screen does, or not.
    tmux = "TMUX" in environment
    if term.startswith(_BELL_ONLY) and not tmux:
        return _BELL
    kinds = _known_by(term, tmux=tmux, environment=environment)
    text = "".join(_notification(kind, notice) for kind in kinds)
    if tmux:  # which passes it on where it is told to
        inner = text.replace("\x1b", "\x1b\x1b")
        text = f"\x1bPtmux;{inner}\x1b\\"
    return text + _BELL


def _known_by(term: str, *, tmux: bool, environment: Mapping[str, str]) -> tuple[int, ...]:
    if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environment:
        return (99,)
    if not tmux and environment.get("TERM_PROGRAM") in _NINE_ONLY:
        return (9,)
    if "VTE_VERSION" in environment or term.startswith(("foot", "rxvt")):
        return (777,)
    return 9, 777


def _notification(kind: int, notice: Notice) -> str:
    body = one_line(notice.body.replace("\n", "; "), 500)
    if kind == 9:
        return f"\x1b]9;{notice.line}\a"
    if kind == 777:
        title = notice.title.replace(";", ",")  # which ends the title
        return f"\x1b]777;notify;{title};{body}\a"
    # In two parts of one notification; none if the user looks at the window.
    first = f"\x1b]99;i=bg:d=0:o=unfocused;{notice.title}\x1b\\"
    return f"{first}\x1b]99;i=bg:p=body;{body}\x1b\\"
