"""The kernel's queue of cells: our magics run at once, and what waits can be seen and taken out."""

from __future__ import annotations

import json
from datetime import timedelta

import ipykernel
import pytest
from kernels import Kernel, Pending

#: A cell that runs until it is let go.
LONG = "print('begins')\ngo.wait()\n6 * 7"


@pytest.fixture
def k(kernel: Kernel) -> Kernel:
    """A kernel with what the cells here use."""
    kernel.ok("order = []\ndef other(n=1): return 2 * n")
    return kernel


class Typed:
    """A user who needs a second to type each cell, as the requests say."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.seconds = 0
        #: What sets the events of the kernel, by their names.
        self.set = {name: kernel.event(name) for name in ("go", "later")}

    def __call__(self, code: str, **options: object) -> Pending:
        """Send a cell, one second after the one before, and do not wait for it."""
        self.seconds += 1
        make = self.kernel.session.msg

        def later(*args: object, **kwargs: object) -> object:
            message = make(*args, **kwargs)
            message["header"]["date"] += timedelta(seconds=self.seconds)
            return message

        self.kernel.session.msg = later  # type: ignore[method-assign, assignment]
        try:
            return self.kernel.start(code, queue=True, **options)
        finally:
            self.kernel.session.msg = make  # type: ignore[method-assign]


@pytest.fixture
def typed(k: Kernel) -> Typed:
    """Cells typed one after the other."""
    return Typed(k)


def running(typed: Typed, code: str = LONG, **options: object) -> Pending:
    """Start a cell and wait until its code runs."""
    cell = typed(code, **options)
    typed.kernel.until(lambda: "begins" in cell.reply.stdout)
    return cell


def release(typed: Typed, name: str = "go") -> None:
    """Let the long cell go on, or what waits for another event."""
    typed.set[name]()


def table(pending: Pending) -> str:
    """What `%jobs` displayed as text."""
    return str(pending.wait().displays[0]["text/plain"])


def test_the_story(k: Kernel, typed: Typed) -> None:
    """See what runs and what waits, take one out, ask something; the rest runs as ever."""
    train = running(typed)
    plot, upload = typed("order.append('plot')"), typed("order.append('upload')")
    shown = table(typed("%jobs")).splitlines()
    assert shown[0].startswith("[*]")
    assert "print('begins')" in shown[0]
    assert shown[0].endswith("line 2: go.wait()")
    assert [line.split()[:4] for line in shown[1:]] == [
        ["[q1]", "○", "queued", "cell"],
        ["[q2]", "○", "queued", "cell"],
    ]
    out = typed("%cancel q2").wait()
    assert (out.status, out.stdout) == ("ok", "q2 (order.append('upload')) will not run\n")
    assert upload.wait().status == "aborted"
    job = typed("job = %bg other(21)").wait()
    assert job.status == "ok"
    assert typed("%fg job").wait().result == "42"
    assert not plot.reply.content
    assert not train.reply.content
    release(typed)
    assert train.wait().result == "42"
    assert plot.wait().status == "ok"
    assert k.ok("order").result == "['plot']"


def test_each_has_its_number_input_and_value(k: Kernel, typed: Typed) -> None:
    """A cell beside another counts as any; the one that was there first keeps its own."""
    first = running(typed)
    behind = typed("'behind'")
    beside = typed("%bg other(4)").wait()
    again = typed("%fg").wait()
    release(typed)
    numbers = [each.wait().content["execution_count"] for each in (first, behind)]
    numbers += [beside.content["execution_count"], again.content["execution_count"]]
    start = numbers[0]
    assert [*numbers[2:], numbers[1]] == [start + 1, start + 2, start + 3]
    assert k.ok(f"In[{start}], Out[{start}], Out[{start + 2}], Out[{start + 3}]").result == repr(
        (LONG, 42, 8, "behind")
    )
    assert k.ok("1").content["execution_count"] == start + 5


def test_cells_sent_together_keep_their_order(k: Kernel) -> None:
    """Run All: each may need what the one before has made."""
    k.ok("import time")
    cells = [
        k.start(code, queue=True)
        # The first is still running when the last one has come, which no event can say there.
        for code in ("time.sleep(0.3); job = %bg other(3)", "order.append(1)", "%jobs", "%fg job")
    ]
    shown = [cell.wait() for cell in cells]
    assert "other(3)" in shown[2].displays[0]["text/plain"]
    assert shown[3].result == "6"
    assert [c.content["execution_count"] for c in shown] == sorted(
        c.content["execution_count"] for c in shown
    )


def test_what_depends_on_a_waiting_cell_waits_for_it(k: Kernel, typed: Typed) -> None:
    """`%bg` looks names up when its turn has come."""
    first = running(typed)
    typed("n = 20")
    launched = typed("job = %bg other(n)")
    last = typed("order.append('last')")
    table(typed("%jobs"))  # which ran, though it came later
    assert not launched.reply.content
    release(typed)
    first.wait()
    launched.wait()
    last.wait()
    assert k.ok("%fg job").result == "40"


def test_what_comes_after_a_wait_comes_after_it(k: Kernel, typed: Typed) -> None:
    """`r = %fg job` waits beside the first cell, and the cell behind it uses `r`."""
    k.ok("job = %bg later.wait() and 'done'")
    first = running(typed)
    between = typed("order.append('between')")
    waits = typed("r = %fg job")
    uses = typed("order.append(r)")
    table(typed("%jobs"))  # so all have come
    release(typed)
    first.wait()
    between.wait()
    shown = table(typed("%jobs")).splitlines()
    assert shown[0].startswith("[*]    ● running  cell    r = %fg job")
    assert shown[-1] == "[q2]   ○ queued   cell    order.append(r)"
    assert not uses.reply.content
    assert not waits.reply.content
    release(typed, "later")
    waits.wait()
    uses.wait()
    assert k.ok("order").result == "['between', 'done']"


@pytest.mark.parametrize("code", ["await gate.wait()", "%fg gate.wait()"], ids=["await", "%fg"])
def test_where_a_cell_waits_is_its_own_line(k: Kernel, typed: Typed, code: str) -> None:
    """In front and in the background; not that of the loop below it."""
    k.ok("import asyncio\ngate = asyncio.Event()")
    cell = running(typed, f"print('begins')\n{code}")
    number = cell.reply.contents("execute_input")[0]["execution_count"]
    assert f"cell {number}, line 2" in table(typed("%jobs")).splitlines()[0]
    typed("%bg").wait()
    assert f"at cell {number}, line 2" in table(typed("%jobs -v"))
    k.ok("%cancel all")


def test_the_stop_button_means_the_newest(k: Kernel, typed: Typed) -> None:
    """First the wait beside the cell, then the cell."""
    k.ok("job = %bg later.wait()")
    first = running(typed, "print('begins')\nwhile True: pass")
    waits = typed("%fg job")
    k.until(lambda: any(c["execution_state"] == "busy" for c in waits.reply.contents("status")))
    table(typed("%jobs"))
    k.interrupt()
    assert waits.wait().ename == "Detached"
    assert not first.reply.content
    k.interrupt()
    assert first.wait().ename == "KeyboardInterrupt"
    assert k.ok("job.running()").result == "True"
    again = running(typed, "print('begins')\nwhile True: pass")
    k.interrupt()
    assert again.wait().ename == "KeyboardInterrupt"


def test_a_slip_in_it_stops_only_what_comes_after(k: Kernel, typed: Typed) -> None:
    """As any cell that fails; what was there first does not depend on it."""
    first = running(typed)
    before = typed("order.append('before')", stop_on_error=True)
    slip = typed("%cancel 99", stop_on_error=True)
    slip.wait()
    after = typed("order.append('after')", stop_on_error=True)
    release(typed)
    for cell in (first, before, after):
        cell.wait()
    assert slip.reply.status == "error"
    assert before.reply.status == "ok"
    assert k.ok("order").result == "['before', 'after']"  # which came when the slip was over


def test_a_failure_stops_all_that_wait(k: Kernel, typed: Typed) -> None:
    """As ever; what comes later runs."""
    first = running(typed, "print('begins')\ngo.wait()\n1 / 0", stop_on_error=True)
    cells = [typed(f"order.append({n})") for n in range(3)]
    table(typed("%jobs"))
    release(typed)
    assert first.wait().status == "error"
    assert [cell.wait().status for cell in cells] == ["aborted"] * 3
    assert k.ok("order").result == "[]"


def test_all_can_be_taken_out(k: Kernel, typed: Typed) -> None:
    """`%cancel queue`, with jobs beside it in one line."""
    k.ok("job = %bg later.wait()")
    first = running(typed)
    cells = [typed(f"order.append({n})") for n in range(3)]
    said = typed("%cancel queue job").wait().stdout
    assert [line.partition(" (")[0] for line in said.splitlines()[:3]] == ["q1", "q2", "q3"]
    assert "job 1" in said
    assert [cell.wait().status for cell in cells] == ["aborted"] * 3
    assert typed("%cancel queue").wait().stdout == "no cell waits\n"
    assert typed("%cancel q7").wait().evalue == "no cell q7 waits: there is none"
    release(typed)
    first.wait()
    assert k.ok("order").result == "[]"


def test_programs_see_the_queue(k: Kernel, typed: Typed) -> None:
    """`%jobs --json` has the cell that runs and those that wait."""
    first = running(typed)
    behind = typed("order.append(1)")
    data = json.loads(typed("%jobs --json").wait().stdout)
    assert data["cell"]["name"] == "print('begins')"
    assert "go.wait()" in data["cell"]["at"]
    assert data["queue"] == [{"number": "q1", "name": "order.append(1)"}]
    release(typed)
    first.wait()
    behind.wait()
    data = json.loads(k.ok("%jobs --json").stdout)
    assert (data["cell"], data["queue"]) == (None, [])


def test_it_gets_its_turn_beside_a_cell_that_computes(k: Kernel, typed: Typed) -> None:
    """Python lets threads take turns more often, until nothing runs beside a cell any more."""
    before = k.ok("import sys\nsys.getswitchinterval()").result
    first = running(typed, "print('begins')\nwhile not go.is_set(): pass")
    typed("job = %bg sys.getswitchinterval()").wait()
    release(typed)
    first.wait()
    assert float(k.ok("job.result()").result or 0) < float(before or 0)
    k.until(lambda: k.ok("sys.getswitchinterval()").result == before)


def test_it_can_be_turned_off(k: Kernel, typed: Typed) -> None:
    """Then all cells wait for their turn."""
    k.ok("%config BgTasks.jump_queue = False")
    first = running(typed)
    asked = typed("%jobs")
    if ipykernel.version_info[0] >= 7:  # before that a kernel has no subshells
        shown = k.run("%jobs", subshell=k.subshell()).displays[0]["text/plain"]
        assert "[*]" in shown
        assert "[q1]   ○ queued   cell  %jobs" in shown
    assert not asked.reply.content
    release(typed)
    first.wait()
    assert "[*]" not in table(asked)


def test_bg_alone_still_sends_the_first_away(k: Kernel, typed: Typed) -> None:
    """After others ran beside it."""
    first = running(typed)
    table(typed("%jobs"))
    waits = typed("order.append(1)")
    asked = typed("%bg")
    assert first.wait().status == "ok"
    assert asked.wait().status == "ok"
    assert waits.wait().status == "ok"
    number = first.reply.content["execution_count"]
    assert waits.reply.content["execution_count"] == number + 3
    release(typed)
    assert k.ok("%fg 1").result == "42"
    assert k.ok(f"Out[{number}], In[{number}]").result == repr((42, LONG))


GUI = """
import select, zmq
def loop(kernel):
    select.select([kernel.shell_stream.getsockopt(zmq.FD)], [], [], 0.1)
    kernel.shell_stream.flush(limit=1)
get_ipython().kernel.eventloop = loop
"""


@pytest.mark.skipif(ipykernel.version_info[0] >= 7, reason="its loops for GUIs read no socket")
def test_a_gui_gets_the_socket_back(k: Kernel) -> None:
    """Its loop waits for the kernel's socket on the main thread, and lets cells run then."""
    k.ok(f"import threading\n{GUI}")
    threads = "[t.name for t in threading.enumerate() if 'shell-channel' in t.name]"
    assert [k.ok(code).result for code in ("0", "1", threads)] == ["0", "1", "[]"]
    assert k.ok("job = %bg other(4)\n%fg job").result == "8"
