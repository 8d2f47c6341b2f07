"""What jobs need is made with the first of them, whoever launches it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from IPython.core.interactiveshell import InteractiveShell


def test_first_launches_at_the_same_time_share_one_registry(shell: InteractiveShell) -> None:
    """From eight threads at once: eight numbers."""
    shell.extension_manager.load_extension("ipy_bgtasks")
    shell.user_ns["f"] = lambda: 42
    together = threading.Barrier(8)

    def launch(_: int) -> int:
        together.wait(10)
        job = shell.run_line_magic("bg", "-q f()")
        assert job.result(10) == 42
        return int(job.number)

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(launch, range(8)))
    assert sorted(numbers) == list(range(1, 9))
    shell.extension_manager.unload_extension("ipy_bgtasks")


def test_a_job_at_first_use_may_launch_the_second(shell: InteractiveShell) -> None:
    """The hooks are in place before the first job's code runs."""
    shell.extension_manager.load_extension("ipy_bgtasks")
    shell.user_ns["sh"] = shell
    job = shell.run_line_magic("bg", "sh.run_line_magic('bg', '-q 6 * 7').result(10)")
    assert job.result(10) == 42
    shell.extension_manager.unload_extension("ipy_bgtasks")
