"""The four magics as IPython and its help see them. What they do is in `ipython.calls`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipy_bgtasks.job.handle import Job
    from ipy_bgtasks.session.control import Session

P = ParamSpec("P")
T = TypeVar("T")


def usage_errors(magic: Callable[P, T]) -> Callable[P, T]:
    """Turn our one-line errors into the one that IPython shows as one line.

    A syntax error is shown as IPython shows those: the user's text and where, no stack.
    """

    @functools.wraps(magic)
    def with_usage_errors(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return magic(*args, **kwargs)
        except BaseException as error:
            from ipy_bgtasks.ipython.calls import shown

            raised = shown(error)
            if raised is error:
                raise
            raise raised from None

    return with_usage_errors


@magics_class
class JobMagics(Magics):
    """`%bg`, `%fg`, `%jobs`, `%cancel`."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    @usage_errors
    def bg(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Job:
        """Launch CODE in the background and return its Job.

        %bg  [options] CODE            a call, a coroutine, a name, an assignment, a statement
        %bg  [options] !COMMAND        a shell command; its input is empty, its result the status
        %%bg [options]                 the whole cell
        %bg                            alone, while a cell runs: that cell goes on in the background

          -l, --loop      run on the kernel's event loop (default for what can be awaited)
          -t, --thread    run in a thread (default for all else); a coroutine gets an event loop
                          of its own there, which goes on while a cell is busy
          -p, --process   run a copy in a worker process, which can always be killed
          --on EXPR       run on an executor of your own: a pool, a Dask Client, an ipyparallel
                          view, a submitit executor (Slurm), ray, or what else has submit()
          -n, --name NAME the job's name; default: the code
          -q, --quiet     record output, do not show it
          --timeout S     stop it after S seconds: it ends failed, with TimeoutError
          --memory SIZE   (-p, --keep, !COMMAND) stop it when its processes use more, as 4G: it
                          ends failed, with MemoryError
          --after JOB,…   start when those have finished
          --log FILE      append output to FILE as well, as it comes
          -g, --group NAME[:N[+]]
                          the job belongs to the group NAME, of which at most N run at a time
                          (N+: besides those that are paused); @NAME stands for all its jobs:
                          %fg @NAME, %cancel @NAME, %jobs @NAME
          --halt          (with -g) the first of the group that fails stops all others: they are
                          cancelled, or never start
          --retries N     if it fails, run it again, N times at the most, after 1, 2, 4 … 60 s
          --notify        tell me when it has ended, or all of several, wherever I am: the
                          terminal rings, a page that is hidden shows a notification, and
                          BgTasks.notify is told
          --keep          in a process that outlives this session: later ones find it as k1, k2
                          …
          --              ends the options

        Examples:
          job = %bg train(model)       a thread; names are looked up now, not later
          %bg fetch(url)               async def fetch: a task on the event loop
          %bg model = train(data)      binds `model` when it is done
          %bg -n nightly --timeout 60 load()
          %bg !make -j{n}              a shell command, with variables as after any !
          %bg fetch(url);              no card under the cell
          for url in urls:
              %bg -g crawl:8 --retries 3 fetch(url)

        %jobs lists jobs, %fg waits for one, %cancel stops one.

        """
        from ipy_bgtasks.ipython import calls

        return calls.bg(self._session, line, cell, local_ns)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    @usage_errors
    def fg(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Any:
        """Bring a job to the foreground: show its output, wait, return its result.

        %fg [-a] [--timeout S|--budget S] [JOB|CODE]
        %fg [--any|--settled] JOB JOB… several: the results as a list, in the order given
        %%fg [options of %%bg]         run the cell as a job, attached

          JOB             3, k1 (a kept job), its name, %start or ?part of that, - (the previous
                          one), a variable that holds a job, or many[0] of a list in one; @NAME,
                          all jobs of a group: the results as a list, in order of number; nothing:
                          the current one; all: every job of this session that you have not
                          fetched yet
          CODE            is launched, as by %bg, and brought to the foreground
          -a, --all       show all of the recorded output, not only the end
          --timeout S     wait S seconds at most, then raise TimeoutError; the job goes on
          --budget S      wait S seconds at most, then return the Job, which goes on, without an
                          error: the rest of the cell runs
          --any           wait for the first of several to end, and return its Job
          --settled       return exceptions, in the place of results, and raise none
          --notify        tell me when it has ended, or all of several, wherever I am: the
                          terminal rings, a page that is hidden shows a notification, and
                          BgTasks.notify is told

        Other jobs go on meanwhile. An interrupt (stop button, Ctrl-C) sends the job back to the
        background. A failed job raises its exception here.

        Examples:
          %fg                          the current job
          x = %fg 3                    the result of job 3
          results = %fg all
          %fg asyncio.sleep(5)

        """
        from ipy_bgtasks.ipython import calls

        return calls.fg(self._session, line, cell, local_ns)

    @no_var_expand
    @needs_local_scope
    @line_magic
    @usage_errors
    def jobs(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """List the jobs that have not ended and the ten that ended last.

        %jobs [JOB…|STATE…|all] [-a] [-v] [-w] [--json [--since N]] [--prune]
        %jobs [JOB] --show EXPR | --profile S

          JOB…            only these; a single one is shown in full, @NAME as a group
          -a, --all       all that are kept
          -v, --verbose   also where each running job is right now
          -w, --watch     live: a panel with buttons in a notebook (with anywidget installed),
                          in a terminal a table until Ctrl-C
          --json          one line of JSON for programs; of chosen jobs with output and traceback
          --since N       (--json) only the output from position N on, which is `to` of the last
          --prune         forget the jobs that have ended, or only those that are named
          --show EXPR     the value of an expression in the job's code, where that is right now:
                          %jobs 3 --show "epoch, loss"
          --profile S     look where the job is 100 times a second, for S seconds or until an
                          interrupt, and show where its time goes, by line
        """
        from ipy_bgtasks.ipython import calls

        return calls.jobs(self._session, line, local_ns)

    @no_var_expand
    @needs_local_scope
    @line_magic
    @usage_errors
    def cancel(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Stop jobs, and say what really became of them.

        %cancel JOB… | all [-f] [--pause]
        %cancel q2 | queue             a cell that waits for the one that runs, or all of them

          -f, --force     insist: no grace period, and again if the code refuses
          --pause         do not end them: stop their processes where they are, until %bg 3 or
                          %fg 3; of a group (@NAME) no more jobs start until %bg @NAME

        A queued job never starts. A coroutine gets CancelledError at its await. A thread gets an
        exception at its next step in Python; while it is inside C code it stays `cancelling`.
        """
        from ipy_bgtasks.ipython import calls

        return calls.cancel(self._session, line, local_ns)
