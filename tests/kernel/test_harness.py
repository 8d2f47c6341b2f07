"""The harness itself, on kernels without the extension."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from forks import AVAILABLE, FACTS, differences
from ipykernel.iostream import OutStream
from kernels import Kernel, MakeKernel
from patience import until


def test_a_reply_holds_all_that_came_of_a_request(bare_kernel: Kernel) -> None:
    """Streams, displays, the value, and an error's name, text and traceback."""
    reply = bare_kernel.run(
        "import sys; print('out'); print('err', file=sys.stderr); display('shown'); 6 * 7"
    )
    assert reply.status == "ok"
    assert (reply.stdout, reply.stderr, reply.result) == ("out\n", "err\n", "42")
    assert [bundle["text/plain"] for bundle in reply.displays] == ["'shown'"]
    failed = bare_kernel.run("1 / 0")
    assert (failed.status, failed.ename) == ("error", "ZeroDivisionError")
    assert failed.evalue in failed.traceback


@pytest.mark.skipif(
    not isinstance(getattr(OutStream, "parent_header", None), property),
    reason="this ipykernel shows what a task prints under the latest cell",
)
def test_late_messages_are_filed_under_their_request(bare_kernel: Kernel) -> None:
    """What a task prints after its cell went idle belongs to that cell."""
    first = bare_kernel.run(
        "import asyncio\n"
        "gate = asyncio.Event()\n"
        "async def late():\n"
        "    await gate.wait(); print('late')\n"
        "task = asyncio.create_task(late())"
    )
    assert first.stdout == ""
    second = bare_kernel.run("gate.set()")
    bare_kernel.until(lambda: first.stdout == "late\n")
    assert second.stdout == ""


def test_a_request_may_be_left_running_and_interrupted(bare_kernel: Kernel) -> None:
    """And another is refused before its reply was read, unless it is meant to queue."""
    pending = bare_kernel.start("print('in it'); import time\nwhile True: time.sleep(0.01)")
    bare_kernel.until(lambda: pending.reply.stdout)
    with pytest.raises(AssertionError, match="unanswered"):
        bare_kernel.start("1")
    bare_kernel.interrupt()
    assert pending.wait().ename == "KeyboardInterrupt"


def test_what_never_comes_is_reported_with_all_messages(bare_kernel: Kernel) -> None:
    """The failure shows what did come."""
    bare_kernel.run("print('here I am')")
    with pytest.raises(AssertionError, match="here I am"):
        bare_kernel.until(lambda: False, timeout=0.01)


def test_a_kernel_has_a_configuration_and_environment_of_its_own(
    make_kernel: MakeKernel, tmp_path: Path
) -> None:
    """Lines of configuration and variables reach it; the user's own files do not."""
    kernel = make_kernel(
        config="c.InteractiveShellApp.exec_lines = ['configured = 1']", env={"GIVEN": "yes"}
    )
    assert kernel.ok("import os; configured, os.environ['GIVEN']").result == "(1, 'yes')"
    assert kernel.ok("get_ipython().ipython_dir").result == repr(str(tmp_path / "kernel-0/ipython"))
    assert kernel.ok("os.getpid()").result == str(kernel.pid)
    assert "configured" in kernel.complete("configu")


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_a_kernel_can_be_ended(bare_kernel: Kernel, how: str) -> None:
    """Afterwards its process is gone."""
    pid = bare_kernel.pid
    getattr(bare_kernel, how)()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(not AVAILABLE, reason="nothing is forked here")
def test_a_forked_kernel_is_as_a_started_one(bare_kernel: Kernel, tmp_path: Path) -> None:
    """Nothing else is imported, open, handled, or running in it."""
    started, found = Kernel(tmp_path), set()

    def are_alike() -> bool:
        homes = []
        for kernel in (bare_kernel, started):
            kernel.ok(FACTS)
            homes.append(Path(kernel.ok("print(here)").stdout.strip()))
        found.clear()
        found.update(differences(*homes))
        return not found

    try:
        with suppress(AssertionError):  # a connection that is being made is one descriptor more
            until(are_alike)
        assert found == set()
    finally:
        started.close()


@pytest.mark.started
def test_a_test_can_have_its_kernel_started(bare_kernel: Kernel) -> None:
    """As those of leaving do: it is then a child of the tests' own process."""
    assert bare_kernel.ok("import os; os.getppid()").result == str(os.getpid())
