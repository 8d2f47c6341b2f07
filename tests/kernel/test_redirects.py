"""Redirections come and go while jobs print."""

from __future__ import annotations

from kernels import Kernel

SETUP = """
import contextlib, io, threading, time
stop = threading.Event()
def lines():
    i = 0
    while not stop.is_set():
        print(f'<{i}>'); i += 1
    return i
"""


def test_a_job_that_closes_its_stream_closes_no_other(kernel: Kernel) -> None:
    """Neither the cell's own prints nor those of other jobs fail."""
    kernel.ok(
        "import sys\ndef closes():\n    print('before')\n    sys.stdout.close()\n    print(1)"
    )
    assert kernel.ok("job = %bg -q closes();\ntype(job.exception(30)).__name__").result == (
        "'ValueError'"
    )
    assert kernel.ok("print('here')").stdout == "here\n"
    assert kernel.ok("x = %fg print('job')").stdout == "job\n"


def test_the_kernel_survives_redirections_while_threads_print(kernel: Kernel) -> None:
    """`print` holds no reference to the stream it found in `sys` before Python 3.14."""
    kernel.ok(SETUP)
    for _ in range(3):
        kernel.ok("%bg -q lines();")
    kernel.ok(
        "for i in range(200):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as ours:\n"
        "        print('mine'); time.sleep(0.0001)\n"
        "    assert ours.getvalue() == 'mine\\n'",
        timeout=120,
    )
    assert (
        kernel.ok("%%capture ours\nprint('mine')\ntime.sleep(0.1)").stdout == ""
    )  # jobs print meanwhile
    assert kernel.ok("ours.stdout").result == r"'mine\n'"
    kernel.ok("stop.set()\nr = %fg all")
    same = "j.log.text.endswith(f'<{j.result() - 1}>\\n')"
    assert (
        kernel.ok(f"import ipy_bgtasks\nall({same} for j in ipy_bgtasks.jobs())").result == "True"
    )
