"""How a terminal is asked to ring, and to show a notification of the desktop.

There are three sequences, and a terminal that knows two would show two notifications: OSC 9 came
with iTerm2, OSC 777 with rxvt, OSC 99 with kitty. A terminal ignores those it does not know.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ipy_bgtasks.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipy_bgtasks.notices import Notice

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
    asked = "".join(
        _NOTIFICATIONS[kind](notice) for kind in _known_by(term, tmux=tmux, environment=environment)
    )
    if tmux:  # which passes it on where it is told to
        inner = asked.replace("\x1b", "\x1b\x1b")
        asked = f"\x1bPtmux;{inner}\x1b\\"
    return asked + _BELL


def _known_by(term: str, *, tmux: bool, environment: Mapping[str, str]) -> tuple[int, ...]:
    if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environment:
        return (99,)
    if not tmux and environment.get("TERM_PROGRAM") in _NINE_ONLY:
        return (9,)
    if "VTE_VERSION" in environment or term.startswith(("foot", "rxvt")):
        return (777,)
    return 9, 777


def _osc_9(notice: Notice) -> str:
    return f"\x1b]9;{notice.line}\a"


def _osc_777(notice: Notice) -> str:
    title = notice.title.replace(";", ",")  # which ends the title
    return f"\x1b]777;notify;{title};{_flat(notice.body)}\a"


def _osc_99(notice: Notice) -> str:
    # In two parts of one notification; none if the user looks at the window.
    first = f"\x1b]99;i=bg:d=0:o=unfocused;{notice.title}\x1b\\"
    return f"{first}\x1b]99;i=bg:p=body;{_flat(notice.body)}\x1b\\"


def _flat(body: str) -> str:
    return one_line(body.replace("\n", "; "), 500)


_NOTIFICATIONS = {9: _osc_9, 777: _osc_777, 99: _osc_99}
