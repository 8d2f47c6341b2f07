"""Asking for notices, and the settings that do: in a shell on the test's loop."""

from __future__ import annotations

import asyncio
import logging
import sys
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from receivers import receiver
from traitlets import TraitError

from ipy_bgtasks.ipython.extension import session_of
from ipy_bgtasks.notify import Notice

BOUND = 20.0
#: What Apprise's plugins import warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SETUP = """
import asyncio
gate, other = asyncio.Event(), asyncio.Event()
async def waits(value=None, gate=gate):
    await gate.wait()
    if isinstance(value, Exception): raise value
    return value
"""


class Told:
    """What the front end was told, in place of bells."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.notices: SimpleQueue[Notice] = SimpleQueue()
        session = session_of(shell)
        assert session is not None
        session.front_end.alert = self.notices.put  # type: ignore[method-assign]
        self.session = session

    async def run(self, code: str) -> Any:
        """Run a cell."""
        shell = self.shell
        text = shell.transform_cell(code)
        ran = await asyncio.wait_for(shell.run_cell_async(code, transformed_cell=text), BOUND)
        if error := ran.error_before_exec or ran.error_in_exec:
            raise error
        return ran.result

    async def next(self) -> Notice:
        """What it is told next."""
        return await asyncio.to_thread(self.notices.get, timeout=BOUND)

    def nothing_more(self) -> bool:
        """Whether it was told nothing else so far."""
        try:
            self.notices.get_nowait()
        except Empty:
            return True
        return False


@pytest.fixture
async def told(loaded: InteractiveShell) -> Told:
    """A loaded shell whose bells are heard."""
    told = Told(loaded)
    await told.run(SETUP)
    return told


@pytest.mark.parametrize("asks", ["%bg --notify waits(3)", "%%bg --notify\nawait waits(3)"])
async def test_the_end_of_such_a_job_is_told(told: Told, asks: str) -> None:
    """And of no other."""
    await told.run("%bg waits(4)")
    await told.run(asks)
    await told.run("gate.set()\n%fg all")
    notice = await told.next()
    assert notice.title.startswith("job 2 finished: ")
    assert notice.body.endswith("s  3")
    assert told.nothing_more()


async def test_a_failure_is_told_with_its_error(told: Told) -> None:
    """Not with its traceback."""
    await told.run("job = %bg --notify -q waits(ValueError('no such file'))\ngate.set()")
    notice = await told.next()
    assert notice.title == "job 1 failed: waits(ValueError('no such file'))"
    assert notice.body.endswith("s  ValueError: no such file")
    assert notice.state == "failed"


async def test_fg_asks_for_one_notice_when_all_have_ended(told: Told) -> None:
    """Of those that had not ended when it was asked."""
    await told.run("%bg asyncio.sleep(0)\n%bg waits(1)\n%bg -q waits(KeyError('x'), other)")
    wait = asyncio.create_task(told.run("try:\n    %fg --notify 2 3\nexcept KeyError: pass"))
    while told.session.core.requests is None:
        await asyncio.sleep(0)
    told.shell.user_ns["gate"].set()
    await told.session.registry.find("2")
    assert told.nothing_more()
    told.shell.user_ns["other"].set()
    await wait
    notice = await told.next()
    assert notice.title == "2 jobs: 1 finished, 1 failed"
    assert "[3] waits(KeyError('x'), other): KeyError: 'x'" in notice.body
    assert told.nothing_more()


async def test_fg_asks_for_a_job_that_it_launches(told: Told) -> None:
    """And `%%fg` does."""
    await told.run("%fg --notify asyncio.sleep(0, 'a')")
    assert (await told.next()).body.endswith("s  'a'")
    await told.run("%%fg --notify\nawait asyncio.sleep(0, 'b')")
    assert (await told.next()).body.endswith("s  'b'")


async def test_a_setting_asks_for_all_that_take_longer(told: Told) -> None:
    """Jobs that run already included; 0 ends it."""
    await told.run("%bg waits(1)")
    await told.run("%config BgTasks.notify_after = 0.4")
    await told.run("%bg asyncio.sleep(0)\nawait asyncio.sleep(0.45)\ngate.set()")
    assert (await told.next()).title == "job 1 finished: waits(1)"
    await told.run("%config BgTasks.notify_after = 0\n%fg asyncio.sleep(0.02)")
    await told.run("%fg --notify asyncio.sleep(0)")
    assert (await told.next()).title.startswith("job 4 ")
    assert told.nothing_more()


async def test_jobs_with_a_name_in_common_are_told_as_one(told: Told) -> None:
    """However many join in before the last has ended; each belongs to one name only."""
    await told.run("for i in range(3):\n    %bg --notify waits(i)")
    notices, registry = told.session.notices, told.session.registry
    notices.request([registry.find("1"), registry.find("2")], "group crawl")
    notices.request([registry.find("3")], "group crawl")
    await told.run("gate.set()\n%fg all")
    assert (await told.next()).title == "group crawl: 3 finished"
    assert told.nothing_more()


async def test_a_group_is_told_when_all_of_it_has_ended(told: Told) -> None:
    """With the errors of those that failed."""
    await told.run(
        "for i in range(3):\n    %bg --notify -q -g crawl:1 waits(KeyError(i) if i else 0)"
    )
    await told.run("gate.set()\ntry:\n    %fg @crawl\nexcept BaseException: pass")
    notice = await told.next()
    assert notice.title == "group crawl: 1 finished, 2 failed"
    assert notice.body.splitlines()[1:] == [
        "[2] waits(KeyError(1) if 1 else 0): KeyError: 1",
        "[3] waits(KeyError(2) if 2 else 0): KeyError: 2",
    ]
    assert told.nothing_more()


async def test_what_was_asked_for_can_be_taken_back(told: Told) -> None:
    """As the bell of a card does, pressed a second time."""
    await told.run("%bg --notify waits()\n%bg --notify waits()")
    requests, job = told.session.core.requests, told.session.registry.find("1")
    assert requests is not None
    assert job in requests
    requests.remove(job)
    assert job not in requests
    await told.run("gate.set()\n%fg all")
    assert (await told.next()).title.startswith("job 2 ")
    assert told.nothing_more()


async def test_it_outlives_a_reload(told: Told) -> None:
    """As jobs do."""
    await told.run("%bg --notify waits()")
    await told.run("%reload_ext ipy_bgtasks")
    again = Told(told.shell)
    await again.run("gate.set()\n%fg 1")
    assert (await again.next()).title == "job 1 finished: waits()"


async def test_addresses_are_told_and_never_shown(
    told: Told, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not by `%config`, not by a wrong one's error."""
    pytest.importorskip("apprise")
    with receiver() as server, caplog.at_level(logging.DEBUG):
        told.shell.user_ns["urls"] = [server.url]
        await told.run("%config BgTasks.notify = urls")
        assert repr(await told.run("%config BgTasks.notify")) == "[json://…]"
        await told.run("%config BgTasks\nprint(get_ipython().config)")
        await told.run("%fg --notify asyncio.sleep(0, 'done')")
        got = await asyncio.to_thread(server.next)
        assert got["title"].startswith("job 1 finished: asyncio.sleep")
        assert got["message"].endswith("s  'done'")
        told.shell.user_ns["urls"] = [server.url, "slak://wrong-secret"]
        await told.run("%config BgTasks.notify = urls")
        assert repr(await told.run("%config BgTasks.notify")) == "[json://…]"
    shown = "".join(capsys.readouterr())
    assert "Current: [json://…]" in shown
    assert "secret" not in shown + caplog.text
    assert "BgTasks.notify: entry 2, slak://…, is not a URL that Apprise knows" in caplog.text


@pytest.mark.parametrize("value", [3, [3], {"a": 1}, "slak://secret", ["only-a-secret"]])
async def test_a_wrong_address_is_one_line(
    told: Told, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    """Also where it is set from Python."""
    pytest.importorskip("apprise")
    told.shell.user_ns.update(value=value, settings=told.session.settings)
    capsys.readouterr()
    with pytest.raises(TraitError) as raised:
        await told.run("settings.notify = value")
    assert "secret" not in str(raised.value)
    shown = capsys.readouterr().out
    assert shown.strip() == f"TraitError: {raised.value}"
    assert told.session.settings.notify == []


async def test_without_apprise_it_is_one_line(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """That says what to install."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(TraitError) as raised:
        told.session.settings.notify = ["json://127.0.0.1"]
    assert str(raised.value) == ("BgTasks.notify needs Apprise: pip install 'ipy_bgtasks[notify]'")


async def test_what_is_not_delivered_is_one_line_for_its_job(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, whatever the number of addresses."""
    pytest.importorskip("apprise")
    lines: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(told.session.front_end, "print_at", lambda _job, line: lines.put(line))
    with receiver(status=500) as server:
        told.session.settings.notify = [server.url, server.url + "/2"]
        await told.run("%fg --notify asyncio.sleep(0)")
        line = await asyncio.to_thread(lines.get, timeout=BOUND)
    assert line == (
        "job 1: notice not delivered: json://… could not be reached, or refused it; "
        "json://… could not be reached, or refused it"
    )
    assert lines.empty()


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's own."""
    module = ModuleType("mine")
    module.calls = []  # type: ignore[attr-defined]
    module.note = lambda job: module.calls.append((job.number, str(job.state)))  # type: ignore[attr-defined]
    module.breaks = lambda job: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


async def test_a_function_is_called_with_every_job(told: Told, mine: ModuleType) -> None:
    """However it ends."""
    await told.run("%config BgTasks.on_end = 'mine.note'")
    await told.run("%bg asyncio.sleep(0)\n%bg -q waits(ValueError())\n%bg waits()\n%cancel 3")
    await told.run("gate.set()\ntry:\n    %fg all\nexcept BaseException: pass")
    assert sorted(mine.calls) == [(1, "finished"), (2, "failed"), (3, "cancelled")]
    await told.run("%config BgTasks.on_end = ''\n%fg asyncio.sleep(0)")
    assert len(mine.calls) == 3
    assert told.nothing_more()


async def test_what_it_raises_is_one_line(
    told: Told, mine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hurts no job."""
    lines: list[str] = []
    monkeypatch.setattr(told.session.front_end, "print_at", lambda _job, line: lines.append(line))
    await told.run("%config BgTasks.on_end = 'mine.breaks'")
    assert await told.run("%fg asyncio.sleep(0, 7)") == 7
    assert lines == ["BgTasks.on_end, mine.breaks: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("note", "BgTasks.on_end, 'note': ValueError: "),
        ("mine.nothing", "BgTasks.on_end, 'mine.nothing': AttributeError: "),
        ("no_such_module.f", "BgTasks.on_end, 'no_such_module.f': ModuleNotFoundError: "),
        ("mine.calls", "BgTasks.on_end: mine.calls cannot be called: it is of type list"),
    ],
)
async def test_a_function_that_is_not_there_is_one_line(
    told: Told, mine: ModuleType, path: str, message: str
) -> None:
    """When it is set."""
    with pytest.raises(TraitError) as raised:
        told.session.settings.on_end = path
    assert str(raised.value).startswith(message)
    assert told.session.settings.on_end == ""


async def test_a_terminal_that_is_none_is_sent_nothing(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """As this one, whose output is captured."""
    session = session_of(loaded)
    assert session is not None
    session.front_end.alert(Notice("job 1 finished: f()", "1.0s", "finished"))
    assert "\a" not in "".join(capsys.readouterr())
