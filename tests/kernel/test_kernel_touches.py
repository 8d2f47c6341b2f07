"""What of ipykernel is private may go: jobs run all the same, and one line says what does not."""

from __future__ import annotations

import pytest
from kernels import Kernel

from ipy_bgtasks.frontends.installing import TOUCHES

_KERNEL = "k = get_ipython().kernel\n"
#: What is taken away before loading, by the step that needs it; None: another way is taken.
GONE = {
    "pre_handler_hook": (_KERNEL + "k.pre_handler_hook = None", None),
    "do_shutdown": (
        "import ipykernel.ipkernel as m, ipykernel.kernelbase as b\n"
        "for c in (m.IPythonKernel, b.Kernel):\n"
        "    if 'do_shutdown' in vars(c): del c.do_shutdown",
        "shutdown",
    ),
    "set_thread_parent": (
        "c = type(get_ipython())\nif hasattr(c, 'set_thread_parent'): del c.set_thread_parent",
        None,
    ),
    "_create_subshell": (
        "try:\n"
        "    from ipykernel.subshell_manager import SubshellManager\n"
        "    del SubshellManager._create_subshell\n"
        "except ImportError: pass",
        "background cells",
    ),
    "custom_matchers": (
        "import IPython.core.completer as c\n"
        "for n in ('SimpleCompletion', 'context_matcher'):\n"
        "    if hasattr(c, n): delattr(c, n)",
        None,
    ),
    "set_wakeup_fd": ("import signal\ndel signal.set_wakeup_fd", None),
    "set_task_factory": (
        _KERNEL + "l = k.io_loop.asyncio_loop\n"
        "def refuse(*_): raise NotImplementedError\n"
        "l.set_task_factory = refuse",
        "exits of tasks",
    ),
}


@pytest.mark.parametrize("name", GONE)
def test_without_it_jobs_run_all_the_same(bare_kernel: Kernel, name: str) -> None:
    """Launching, output, waiting, cancelling, listing and unloading."""
    take_away, step = GONE[name]
    bare_kernel.ok(take_away)
    said = bare_kernel.load().stdout + bare_kernel.ok("%bg -q 1 + 1;").stdout
    if step is not None and not TOUCHES[step].optional:
        assert TOUCHES[step].without in said
    else:
        assert said == ""
    bare_kernel.ok("import asyncio, time")
    cell = bare_kernel.ok("%bg print('printed');\nx = %fg\nprint('here')")
    bare_kernel.until(lambda: "printed" in cell.stdout)
    assert bare_kernel.ok("job = %bg asyncio.sleep(0.01, 5);\nx = %fg job\nx").result == "5"
    bare_kernel.ok("busy = %bg asyncio.sleep(1000);")
    assert "cancelled" in bare_kernel.ok("%cancel busy").stdout
    assert "asyncio.sleep" in bare_kernel.ok("%jobs").displays[-1]["text/plain"]
    bare_kernel.ok("%unload_ext ipy_bgtasks")
    assert bare_kernel.ok("1 + 1").result == "2"
