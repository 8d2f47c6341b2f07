"""What a value is, in one line: never long, and never blocking.

For a value with a shape the line gives type and shape. Anything else is shown by its repr; if that
is the user's own code, or may call it, it runs once, in a thread, without a wait for its end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.foreign import type_name
from ipy_bgtasks.service import in_thread
from ipy_bgtasks.text import one_line, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipy_bgtasks.job.record import Record

_PATIENCE = 0.1  # seconds for a repr
_LIMIT = 500  # characters of it that are kept
_FEW = 20  # items of a collection that are examined

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...))
#: Types whose shape is known at no cost.
_SHAPED = frozenset(
    [
        "cupy",
        "geopandas",
        "jax",
        "jaxlib",
        "numpy",
        "pandas",
        "polars",
        "pyarrow",
        "scipy",
        "tensorflow",
        "torch",
        "xarray",
    ]
)


def value_line(job: Record, limit: int) -> str:
    """Return the value with which a job has finished as one line; never raises.

    Any thread may call, including a loop's: it waits for a tenth of a second at most, and only
    once for each job.
    """
    assert job.outcome is not None
    value = job.outcome.value
    text = kind_line(value) if job.value_text is None else job.value_text
    if text is None and is_plain(value):
        return short_repr(value, limit)
    # gradio hides what `launch` returns by an empty repr.
    return one_line(_guarded(job, value) if text is None else text, limit) or type_name(value)


def keep_kind(job: Record) -> None:
    """Read type and size of its value before it is shown: a figure that is drawn has another."""
    if job.outcome is not None and (kind := kind_line(job.outcome.value)) is not None:
        job.value_text = kind


def kind_line(value: object) -> str | None:
    """Return type and size of a value that has a shape or is a picture: `DataFrame 3 × 2`."""
    kind = type(value)
    try:
        tops = {str(each.__module__).partition(".")[0] for each in kind.__mro__}
        if tops & _SHAPED:
            return _shape_line(value)
        if "matplotlib" in tops and kind.__name__ == "Figure":
            width, height = value.bbox.width, value.bbox.height  # type: ignore[attr-defined]
            return f"Figure {width:.0f} × {height:.0f}"
        if "PIL" in tops and hasattr(value, "size"):
            return f"{kind.__name__} {value.size[0]} × {value.size[1]}"
        modules = {str(each.__module__) for each in kind.__mro__}
        if "IPython.core.display" in modules or tops & {"plotly", "bokeh", "altair"}:
            return kind.__name__
    except BaseException:  # a class that only resembles one of them, or refuses to be looked at
        pass
    return None


def _shape_line(value: Any) -> str | None:
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    if not isinstance(shape, tuple) or not shape or not all(isinstance(n, int) for n in shape):
        return None
    size = " × ".join(f"{n:,}" for n in shape)
    dtype = getattr(value, "dtype", None)
    kind = "" if dtype is None else f" {str(dtype).rpartition('.')[2]}"
    return f"{name} of {size}{kind}" if len(shape) == 1 else f"{name} {size}{kind}"


def is_plain(value: object, depth: int = 2) -> bool:
    """Return whether the repr of a value runs no user code, and there is no richer display."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if depth and kind in (list, tuple, set, frozenset):
        few = len(value) <= _FEW  # type: ignore[arg-type]
        return few and all(is_plain(item, depth - 1) for item in list(value))  # type: ignore[call-overload]
    if depth and kind is dict:
        items = list(value.items()) if len(value) <= _FEW else None  # type: ignore[attr-defined, arg-type]
        return items is not None and all(
            is_plain(key, 0) and is_plain(item, depth - 1) for key, item in items
        )
    return False


def run_as(job: Record, call: Callable[[], object], name: str) -> threading.Thread | None:
    """Run *call* in a daemon thread; None where there are no threads.

    What it prints is the job's; print options, as of NumPy and decimal, are those of the session.
    """

    def run() -> None:
        job.enter()
        call()

    try:
        return in_thread(name, job.host.context().run, run)
    except RuntimeError:
        return None


def _guarded(job: Record, value: object) -> str:
    """Return the repr if it is made in time; keep it once it is made, even if late."""
    job.value_text = f"<{type_name(value)} object>"

    def make() -> None:
        job.value_text = short_repr(value, _LIMIT)

    thread = run_as(job, make, f"bg-repr-{job.number}")
    if thread is None:
        make()
    else:
        thread.join(_PATIENCE)
    return job.value_text
