"""A file to which a job's output goes as it comes."""

from __future__ import annotations

import contextlib
import os
import threading

from ipy_bgtasks.errors import BadInput


class FileSink:
    """A file to which output is appended as it comes; it survives a SIGKILL of this process.

    Raises `BadInput` if the file cannot be opened. A later failure, such as a full disk, never
    reaches the job: it is kept in `error`, and nothing more is written. Any thread may write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.expanduser(os.fspath(path))
        self.error: OSError | None = None
        self._lock = threading.RLock()  # a signal handler may write in the middle of a write
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open while the job runs)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise BadInput(f"cannot write to the log file {self.path!r}: {reason}") from None

    def write(self, text: str) -> None:
        """Append `text` and return when the system has it."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with self._lock:
            try:
                while data and self.error is None and not self._file.closed:
                    data = data[self._file.write(data) :]
            except OSError as exc:
                self.error = exc

    def close(self) -> None:
        """Close the file; what is written afterwards is left out."""
        with self._lock, contextlib.suppress(OSError):
            self._file.close()
