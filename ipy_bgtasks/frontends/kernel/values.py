"""The value of a job, shown below its card as a cell would show it.

A display is made by the user's objects: it may raise, print, block or be enormous. So it is made
in a thread of its own, in the job's context, when the job has ended: only the display can be lost.
Plain text that the card shows already is not repeated.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

_PATIENCE = 5.0  # seconds
_IN_CARD = 100  # characters of a plain value that the card shows


class Values:
    """Shows values; any thread may call. *show* sends a display to the job's place."""

    def __init__(
        self,
        shell: Any,
        show: Callable[[Record, dict[str, Any], dict[str, Any]], None],
        later: Callable[..., object],
    ) -> None:
        self._shell = shell
        self._show = show
        self._later = later

    def show(self, job: Record, limit: int) -> None:
        """Show the value with which a job has finished; returns immediately.

        *limit* is the most characters that a display may have.
        """
        value = None if job.outcome is None else job.outcome.value
        if value is None or _fits_in_card(value):
            return
        from ipy_bgtasks.views.value import run_as

        undecided = [True]  # the one that pops it decides

        def say(text: str) -> None:
            self._show(job, {"text/plain": f"{text}: %fg {job.number} returns the value"}, {})

        def make() -> None:
            data, metadata = bundle_of(self._shell, value)
            size = sum(len(part) for part in data.values() if isinstance(part, str | bytes))
            if not undecided or not undecided.pop():
                return
            if size > limit:
                say(f"its display of {size:,} characters is longer than BgTasks.log_limit")
            elif data and not _is_in_card(job, data):
                self._show(job, data, metadata)

        def give_up() -> None:
            if undecided and undecided.pop():
                say(f"its display takes longer than {_PATIENCE:g} s")

        if run_as(job, make, f"bg-value-{job.number}") is not None:
            self._later(_PATIENCE, give_up)


def _fits_in_card(value: Any) -> bool:
    from ipy_bgtasks.views.value import is_plain

    if not is_plain(value):
        return False
    return (not hasattr(value, "__len__") or len(value) <= _IN_CARD) and len(
        repr(value)
    ) <= _IN_CARD


def bundle_of(shell: Any, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a cell would show of a value: data and metadata by MIME type.

    A formatter that raises is skipped silently: IPython would print a traceback, under an
    unrelated cell.
    """
    formatter = shell.display_formatter
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if _made_by(formatter.ipython_display_formatter, value) is not _NOTHING:
        return data, metadata  # it has displayed itself
    whole = _made_by(formatter.mimebundle_formatter, value, include=None, exclude=None)
    if isinstance(whole, tuple) and len(whole) == 2:
        metadata.update(whole[1] or {})
        whole = whole[0]
    if isinstance(whole, dict):
        data.update(whole)
    for kind, one in formatter.formatters.items():
        if kind in data:
            continue
        made = _text_of(one, value) if kind == "text/plain" else _made_by(one, value)
        if isinstance(made, tuple) and len(made) == 2:
            made, metadata[kind] = made
        if made is not _NOTHING and made is not None:
            data[kind] = made
    return data, metadata


_NOTHING = object()


def _made_by(formatter: Any, value: Any, **options: Any) -> Any:
    """Return what a formatter makes of a value, by its printer or its method; else `_NOTHING`."""
    from IPython.utils.dir2 import get_real_method

    if not formatter.enabled:
        return _NOTHING
    try:
        try:
            printer = formatter.lookup(value)
        except KeyError:
            method = get_real_method(value, formatter.print_method)
            return _NOTHING if method is None else method(**options)
        return printer(value)
    except BaseException:
        return _NOTHING


def _text_of(formatter: Any, value: Any) -> Any:
    """Return the plain text as IPython's own formatter makes it."""
    from IPython.lib.pretty import RepresentationPrinter

    text = StringIO()
    make: Any = RepresentationPrinter
    try:
        printer = make(
            text,
            formatter.verbose,
            formatter.max_width,
            formatter.newline,
            max_seq_length=formatter.max_seq_length,
            singleton_pprinters=formatter.singleton_printers,
            type_pprinters=formatter.type_printers,
            deferred_pprinters=formatter.deferred_printers,
        )
        printer.pretty(value)
        printer.flush()
    except BaseException:
        return _NOTHING
    return text.getvalue()


def _is_in_card(job: Record, data: dict[str, Any]) -> bool:
    from ipy_bgtasks.views.describe import summary

    return data.keys() == {"text/plain"} and data["text/plain"] == summary(job, _IN_CARD)
