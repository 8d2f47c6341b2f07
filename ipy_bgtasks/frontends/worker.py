"""The front end of a worker process: what a job displays there is sent to its session.

`display`, `clear_output`, pyplot and pandas ask for the one `InteractiveShell` of their process,
and without one print a repr. So there is one here, made the moment somebody asks for it: most jobs
never do, and it takes a tenth of a second. It formats as the session's shell would, and publishes
messages in place of text. Nothing runs in it.

What was tried first, and did not do: an object of our own with a formatter and a publisher.
matplotlib's inline backend, plotly and ipywidgets each want more of a shell (events, configurables,
`run_line_magic`).
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.patching import Installation

    #: Sends a display, or the wish to clear: its kind, and what the publisher was given.
    SendDisplay = Callable[..., None]

_INLINE = "matplotlib_inline.backend_inline"


def send_displays(changes: Installation, send: SendDisplay) -> None:
    """Send what this process displays from now on by *send*; once, before the first job."""

    def answer_with_ours(module: Any) -> None:
        cls = module.InteractiveShell

        def initialized() -> bool:
            if getattr(cls, "_instance", None) is None:
                _new_shell(cls, send)
            return True

        changes.attribute(cls, "initialized", staticmethod(initialized))

    changes.when_imported("IPython.core.interactiveshell", answer_with_ours)
    changes.when_imported("tqdm.notebook", _use_text_bars)
    if not hasattr(builtins, "display"):
        changes.attribute(builtins, "display", _display)


def redraw_displays(changes: Installation) -> None:
    """Let rich draw as in a notebook, where it redraws what an `Output` of ipywidgets holds.

    As in a terminal it would move the cursor up, which pages do not do.
    """
    changes.when_imported("rich.console", lambda m: setattr(m, "_is_jupyter", lambda: True))
    changes.when_imported("ipywidgets", lambda m: setattr(m, "Output", _Output))


class _Output:
    """An `ipywidgets.Output` as a display: what a thread displays within replaces what it shows."""

    def __init__(self, *_: Any, **__: Any) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        InteractiveShell.initialized()
        self._publisher: Any = InteractiveShell.instance().display_pub
        self._display_id = {"display_id": os.urandom(16).hex()}

    def _ipython_display_(self) -> None:
        self._publisher.publish({"text/plain": ""}, transient=self._display_id)

    def clear_output(self, wait: bool = False) -> None:
        """Clear it, when it is entered again: those that redraw do so at once."""

    def __enter__(self) -> None:
        self._publisher.within[threading.get_ident()] = []

    def __exit__(self, *_: object) -> None:
        from html import escape

        texts, pages = [], []
        for data in self._publisher.within.pop(threading.get_ident()):
            texts.append(str(data.get("text/plain", "")))
            pages.append(data.get("text/html") or f"<pre>{escape(texts[-1])}</pre>")
        data = {"text/plain": "\n".join(texts), "text/html": "".join(pages)}
        self._publisher.publish(data, transient=self._display_id, update=True)


def show_open_figures() -> None:
    """Display and close the figures that a job leaves open, as the end of a cell does."""
    if inline := sys.modules.get(_INLINE):
        inline.show(close=True)


def _display(*objects: Any, **options: Any) -> Any:
    """Display as IPython's `display` does, which every notebook has among its builtins."""
    from IPython.display import display

    return display(*objects, **options)  # type: ignore[no-untyped-call, unused-ignore]


def _new_shell(cls: Any, send: SendDisplay) -> None:
    from IPython.core.displaypub import DisplayPublisher
    from traitlets import Type
    from traitlets.config import Config

    from ipy_bgtasks.service import DISPLAYS, Pace

    displays = Pace(DISPLAYS)

    class Publisher(DisplayPublisher):
        #: What threads display within an `_Output`.
        within: ClassVar[dict[int, list[Any]]] = {}

        def publish(self, data: Any, metadata: Any = None, *_: Any, **options: Any) -> None:
            if (within := self.within.get(threading.get_ident())) is not None:
                within.append(data)
                return
            transient, update = options.get("transient"), bool(options.get("update"))
            displays.wait()
            send("publish", *_plain((data, metadata or {}, transient or {})), update)

        def clear_output(self, wait: bool = False) -> None:
            displays.wait()
            send("clear", bool(wait))

    class WorkerShell(cls):  # type: ignore[misc]
        display_pub_class = Type(Publisher)

        def init_sys_modules(self) -> None:
            """Leave `__main__` as it is: what the session sent may refer to it."""

        def init_virtualenv(self) -> None:
            """Leave `sys.path`, which is the session's."""

    config = Config()
    config.HistoryManager.enabled = False
    WorkerShell.instance(config=config)


def _plain(value: Any) -> Any:
    """Return *value* as the session can read it, whatever classes are unknown there."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    return str(value)


def _use_text_bars(module: Any) -> None:
    """Let tqdm's notebook bars be text: a widget's other half would be in no page."""
    from tqdm.std import tqdm, trange  # type: ignore[import-untyped, unused-ignore]

    module.tqdm = module.tqdm_notebook = tqdm
    module.trange = module.tnrange = trange
