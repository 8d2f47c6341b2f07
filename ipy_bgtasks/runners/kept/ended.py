"""How a kept job ended, from what its watcher has written; values are loaded when asked for."""

from __future__ import annotations

import builtins
import os
import pickle
import stat
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.errors import CannotSend, ProcessDied, RemoteTraceback
from ipy_bgtasks.job.outcome import RETURNED_NONE, Elsewhere, ErrorElsewhere, JobState, Outcome
from ipy_bgtasks.runners.kept import files

if TYPE_CHECKING:
    from ipy_bgtasks.runners.kept.places import Place

_os: Any = os


def outcome_of(place: Place, state: dict[str, Any]) -> Outcome:
    """Return the outcome that the state of an ended job stands for."""
    kind = str(state.get("kind"))
    match kind:
        case "none":
            return RETURNED_NONE
        case "value":
            loaded = _Loaded(place, "its value")
            return Outcome(JobState.FINISHED, Elsewhere(loaded, str(state.get("shown", ""))))
        case "status" if not state.get("code"):
            return Outcome(JobState.FINISHED, 0)
        case "cancelled" | "never":
            reason = f"job {place.number} was cancelled"
            if kind == "never":
                reason = f"job {place.number} never started: {state.get('why')}"
            return Outcome(JobState.CANCELLED, error=CancelledError(reason))
    return Outcome(JobState.FAILED, error=_error(place, kind, state))


def _error(place: Place, kind: str, state: dict[str, Any]) -> BaseException:
    told = state.get("error") or {}
    match kind:
        case "error":
            trace = _trace(place)
            loaded = _Loaded(place, f"its exception ({told.get('type')})", trace)
            name = str(told.get("type"))
            return ErrorElsewhere.of(name, str(told.get("message", "")), trace, loaded)
        case "unsendable":
            return _caused(CannotSend(str(state.get("message"))), _trace(place))
        case "status":
            from subprocess import CalledProcessError

            command = str((place.job() or {}).get("command"))
            return CalledProcessError(int(state["code"]), command)
        case "timeout":
            return TimeoutError(f"job {place.number} took longer than {state['seconds']:g} s")
        case "died":
            return ProcessDied(_how(int(state["code"])))
        case "start":
            kinds = getattr(builtins, str(told.get("type")), None)
            if kinds is not None and "errno" in told and told["errno"] is not None:
                return OSError(told["errno"], told["strerror"], told["filename"])
            return ProcessDied(f"it could not be started: {told.get('message')}")
    return ProcessDied(str(state.get("why") or f"its end is unknown: {kind}"))


def _how(code: int) -> str:
    from ipy_bgtasks.runners.processes.pool import how_it_died

    return how_it_died(code, True)


class _Loaded:
    """Loads what a job has left, once; any thread may call."""

    def __init__(self, place: Place, what: str, trace: str = "") -> None:
        self._place = place
        self._what = what
        self._trace = trace
        self._lock = threading.Lock()
        self._got: list[Any] = []

    def __call__(self) -> Any:
        """Return it; raises `CannotSend`, which names the file, if it cannot be loaded."""
        with self._lock:
            if not self._got:
                self._got.append(self._load())
            return self._got[0]

    def _load(self) -> Any:
        path = os.path.join(self._place.path, files.VALUE)
        try:
            data = _trusted(self._place.path, path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotSend(f"{self._what} cannot be read from {path}: {reason}") from None
        try:
            value = pickle.loads(data)
        except BaseException as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            unreadable = CannotSend(f"{self._what} cannot be loaded: {line}; it is kept in {path}")
            raise _caused(unreadable, self._trace) from unreadable.__cause__
        return _caused(value, self._trace) if isinstance(value, BaseException) else value


def _trusted(directory: str, path: str) -> bytes:
    """Return the content of a file that nobody else can have written; raises `OSError`."""
    if not files.is_ours(directory):
        raise OSError(1, "others can write to its directory")
    with open(os.open(path, os.O_RDONLY | _os.O_NOFOLLOW | _os.O_CLOEXEC), "rb") as file:
        seen = os.fstat(file.fileno())
        others = stat.S_IWGRP | stat.S_IWOTH
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != _os.geteuid() or seen.st_mode & others:
            raise OSError(1, "others can write to it")
        return file.read()


def _trace(place: Place) -> str:
    try:
        with open(os.path.join(place.path, files.TRACE), encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _caused(error: BaseException, trace: str) -> BaseException:
    if trace:
        error.__cause__ = RemoteTraceback(trace)
    return error
