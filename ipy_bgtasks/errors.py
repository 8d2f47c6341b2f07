"""What can go wrong, in one small hierarchy.

    Exception
    └── BgTasksError          anything this package refuses or reports
        ├── BadInput          what was typed cannot be done; nothing was launched or changed
        │   │   (also ValueError)
        │   └── NoSuchJob     a job spec names no job, or more than one (also LookupError)
        ├── CannotAsk         a job asked for input (also RuntimeError)
        ├── WouldBlock        waiting here would stop the very loop that is waited for
        │   (also RuntimeError)
        ├── ProcessDied       what ran the job is gone (also RuntimeError)
        └── CannotSend        a result or an exception does not fit through to here
            (also TypeError)
    KeyboardInterrupt
    └── Detached              an interrupt sent a foreground job to the background

Every message is one line that names the value and the alternatives. A job's own exceptions
are never wrapped in one of these.
"""

from __future__ import annotations

from ipy_bgtasks.text import numbered


class BgTasksError(Exception):
    """Base of the errors that this package raises itself."""


class BadInput(BgTasksError, ValueError):
    """Raised when an option, a job spec or CODE cannot be used; nothing was launched or changed."""


class NoSuchJob(BadInput, LookupError):
    """Raised when a job spec names no job, or more than one."""


class CannotAsk(BgTasksError, RuntimeError):
    """Raised in a job that asks for input: the question would not be seen."""


class WouldBlock(BgTasksError, RuntimeError):
    """Raised when waiting here would block the event loop that has to run for the wait to end."""


class _OneLine(BgTasksError):
    """Base of the errors shown as one line: the relevant stack is in another process."""

    def _render_traceback_(self) -> list[str]:
        """Return the cause, where there is one, and the line."""
        cause = [] if self.__cause__ is None else str(self.__cause__).splitlines()
        return [*cause, f"{type(self).__name__}: {self}"]


class ProcessDied(_OneLine, RuntimeError):
    """Raised when what ran the job has ended without a result: killed, crashed, disconnected."""


class CannotSend(_OneLine, TypeError):
    """Raised when what a job returned or raised cannot be sent from where it ran."""


class RemoteTraceback(Exception):
    """The cause of an exception from elsewhere: the traceback there, as text."""

    def __str__(self) -> str:
        """Return it as it reads at the end of a traceback here."""
        return f'\n"""\n{self.args[0]}"""'


class ExitInTask(BgTasksError):
    """Raised in a task where a job's, or its own, `SystemExit` or `KeyboardInterrupt` would be.

    asyncio lets these two propagate out of the running loop, whichever task raises them, which
    would end the whole session. The original is ``__cause__``.
    """


class Detached(KeyboardInterrupt):
    """Raised when an interrupt ends the wait for a job while the job goes on.

    It is a ``KeyboardInterrupt`` so that the rest of the cell does not run and so that
    ``except Exception`` does not swallow the interrupt.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        line = "what was waited for goes on in the background"
        if len(numbers) == 1:
            n = numbers[0]
            line = f"job {n} goes on: %fg {n} returns to it, %cancel {n} stops it"
        elif numbers:
            who = numbered(numbers, "goes", "go")
            line = f"{who} on: %fg all returns to them, %cancel all stops them"
        super().__init__(line)

    def _render_traceback_(self) -> list[str]:
        """Return one line instead of a traceback, in every IPython front end."""
        return [f"Detached: {self}"]


# Users see, and import, these by the package's name.
for _each in list(vars().values()):
    if isinstance(_each, type) and _each.__module__ == __name__:
        _each.__module__ = __name__.partition(".")[0]
