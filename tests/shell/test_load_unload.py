"""Loading and unloading: what the one does, the other undoes."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import getpass
import io
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from IPython.core.interactiveshell import InteractiveShell

EXTENSION = "ipy_bgtasks"
NAMES = {"line": ("bg", "fg", "jobs", "cancel"), "cell": ("bg", "fg")}


@pytest.fixture
def manager(shell: InteractiveShell) -> Any:
    """What loads extensions."""
    return shell.extension_manager


def everything(shell: InteractiveShell) -> dict[str, Any]:
    """All that loading might change, by name."""
    magics = shell.magics_manager
    running = asyncio._get_running_loop()
    return {
        "line magics": dict(magics.magics["line"]),
        "cell magics": dict(magics.magics["cell"]),
        "magics registry": set(magics.registry),
        "transformers": list(shell.input_transformers_post),
        "cleanup transformers": list(shell.input_transformers_cleanup),
        "ast transformers": list(shell.ast_transformers),
        "configurables": list(shell.configurables),
        "matchers": list(shell.Completer.custom_matchers),
        "events": {name: list(found) for name, found in shell.events.callbacks.items()},
        "attributes": {name for name in vars(shell) if not name.startswith("_ipy_bgtasks")},
        "publisher": dict(vars(shell.display_pub)),
        "loop runner": shell.loop_runner,
        "input": builtins.input,
        "get_ipython": vars(builtins).get("get_ipython"),
        "getpass": getpass.getpass,
        "breakpointhook": sys.breakpointhook,
        "displayhook": sys.displayhook,
        "excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "task factory": running and running.get_task_factory(),
        "exception handler": running and running.get_exception_handler(),
    }


@pytest.fixture
def snapshot(shell: InteractiveShell) -> dict[str, Any]:
    """Everything as it was before the test."""
    # What IPython makes lazily is made before.
    assert shell.Completer
    return everything(shell)


def test_unloading_puts_back_everything(
    shell: InteractiveShell, manager: Any, snapshot: dict[str, Any]
) -> None:
    """Also when it was loaded twice over, reloaded and loaded again."""
    assert manager.load_extension(EXTENSION) is None
    assert manager.load_extension(EXTENSION) == "already loaded"
    changed = everything(shell)
    assert changed["line magics"].keys() - snapshot["line magics"].keys() == {*NAMES["line"]}
    assert changed["cell magics"].keys() - snapshot["cell magics"].keys() == {*NAMES["cell"]}
    assert changed["stdout"] is not snapshot["stdout"]
    manager.unload_extension(EXTENSION)
    assert everything(shell) == snapshot
    manager.load_extension(EXTENSION)
    manager.reload_extension(EXTENSION)
    manager.unload_extension(EXTENSION)
    assert everything(shell) == snapshot


async def test_on_a_running_loop_too(
    shell: InteractiveShell, manager: Any, snapshot: dict[str, Any]
) -> None:
    """Its task factory included, after jobs of both kinds."""

    def factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    before = everything(shell)
    manager.load_extension(EXTENSION)
    shell.user_ns["asyncio"] = asyncio
    jobs = [shell.run_line_magic("bg", code) for code in ("asyncio.sleep(0)", "print()")]
    assert everything(shell)["task factory"] is not factory
    for job in jobs:
        await job
    manager.unload_extension(EXTENSION)
    assert everything(shell) == before
    asyncio.get_running_loop().set_task_factory(None)


def test_what_somebody_put_on_top_since_stays(
    shell: InteractiveShell, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unloading takes away what is ours, and nothing else."""
    manager.load_extension(EXTENSION)
    shell.run_line_magic("bg", "print()").result(10)

    def theirs(*_: Any) -> None:
        return None

    monkeypatch.setattr(builtins, "input", theirs)
    shell.input_transformers_post.append(list)
    shell.register_magic_function(theirs, magic_name="jobs")
    manager.unload_extension(EXTENSION)
    assert builtins.input is theirs
    assert list in shell.input_transformers_post
    assert shell.magics_manager.magics["line"]["jobs"] is theirs


def test_a_job_that_redirects_over_a_reload_harms_nobody(
    shell: InteractiveShell, manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It puts back a stream of a loading that is over; what jobs print then is still shown once."""
    gate, redirected = threading.Event(), threading.Event()

    def redirects() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            redirected.set()
            gate.wait(30)

    shell.user_ns.update(redirects=redirects)
    manager.load_extension(EXTENSION)
    job = shell.run_line_magic("bg", "-q redirects()")
    assert redirected.wait(30)
    manager.unload_extension(EXTENSION)
    gate.set()
    job.result(30)
    manager.load_extension(EXTENSION)
    capsys.readouterr()
    shell.run_line_magic("bg", "print('once')").result(30)
    print("foreground")
    assert capsys.readouterr().out.split() == ["once", "foreground"]
    assert type(sys) is not ModuleType
    assert pickle.loads(cloudpickle.dumps(lambda: sys))() is sys
    manager.unload_extension(EXTENSION)
    assert type(sys) is ModuleType


def _depth(function: Any) -> int:
    """How many wrappers stand around the original."""
    depth = 0
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function, depth = inner, depth + 1
    return depth


def test_the_ways_to_a_thread_are_wrapped_once(
    shell: InteractiveShell, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when somebody else wraps them between loading and unloading, again and again."""
    manager.load_extension(EXTENSION)
    shell.run_line_magic("bg", "-q max(1, 2)").result(30)  # with the first job they are
    manager.unload_extension(EXTENSION)
    ways = ((threading.Thread, "start"), (ThreadPoolExecutor, "submit"))
    ours = [_depth(getattr(owner, name)) for owner, name in ways]
    for rounds in range(1, 5):
        manager.load_extension(EXTENSION)
        for owner, name in ways:
            original = getattr(owner, name)

            @functools.wraps(original)
            def theirs(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
                return _original(*args, **kwargs)

            monkeypatch.setattr(owner, name, theirs)
        manager.unload_extension(EXTENSION)
        depths = [_depth(getattr(owner, name)) for owner, name in ways]
        assert depths == [depth + rounds for depth in ours]
    assert ours == [1, 1]
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    assert not thread.daemon


def test_the_class_of_sys_is_taken_for_that_of_all_modules(manager: Any) -> None:
    """Code names that class by `type(sys)`, to ask for modules and to make them."""
    manager.load_extension(EXTENSION)
    kind: Any = type(sys)
    assert isinstance(contextlib, kind)
    assert isinstance(sys, kind)
    assert not isinstance(1, kind)
    assert [kind, int].index(ModuleType) == [ModuleType].index(kind) == 0
    assert issubclass(ModuleType, kind)
    assert {ModuleType: 1}[kind] == 1
    made = kind("made", "its doc")
    assert type(made) is ModuleType
    assert (made.__name__, made.__doc__) == ("made", "its doc")
    lazy = type("Lazy", (kind,), {"answer": 42})("lazy")
    assert lazy.answer == 42
    assert not hasattr(lazy, "stdout")
    assert pickle.loads(cloudpickle.dumps(kind)) is ModuleType


def test_what_others_set_on_a_class_is_heard(
    shell: InteractiveShell, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put over a method of one object asks the class at each call."""
    manager.load_extension(EXTENSION)
    shell.run_line_magic("bg", "print()").result(10)
    seen: list[object] = []
    monkeypatch.setattr(
        InteractiveShell, "showtraceback", lambda *_args, **_options: seen.append("traceback")
    )
    monkeypatch.setattr(InteractiveShell, "system", lambda _shell, command: seen.append(command))
    shell.run_cell("1 / 0")
    shell.run_cell("!echo")
    assert seen == ["traceback", "echo"]
    with monkeypatch.context() as patch:
        patch.setattr(InteractiveShell, "showtraceback", None)
        for given in ((), ((ValueError, ValueError(), None),)):
            with pytest.raises(TypeError, match="'NoneType' object is not callable"):
                shell.showtraceback(*given)
    manager.unload_extension(EXTENSION)
    shell.run_cell("1 / 0")
    assert seen == ["traceback", "echo", "traceback"]


def test_code_that_wrapped_ours_finds_the_original_afterwards(
    shell: InteractiveShell, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays after unloading, and so does ours beneath it, doing nothing."""
    seen: list[object] = []
    manager.load_extension(EXTENSION)
    ours = shell.showtraceback
    monkeypatch.setattr(shell, "showtraceback", lambda *args, **options: ours(*args, **options))
    manager.unload_extension(EXTENSION)
    monkeypatch.setattr(
        InteractiveShell, "showtraceback", lambda _shell, exc_tuple=None: seen.append(exc_tuple)
    )
    shell.run_cell("1 / 0")
    assert seen == [None]


def test_a_job_closes_only_its_own_stream(
    shell: InteractiveShell, manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the job what comes after that fails, as in a script."""

    def closes() -> None:
        print("before")
        sys.stdout.close()
        assert sys.stdout.closed
        print("after")

    shell.user_ns.update(closes=closes)
    manager.load_extension(EXTENSION)
    job = shell.run_line_magic("bg", "-q closes()")
    with pytest.raises(ValueError, match="closed file"):
        job.result(10)
    assert job.log.stdout == "before\n"
    assert not sys.stdout.closed
    print("still open")
    assert "still open\n" in capsys.readouterr().out


def test_a_shell_that_loads_while_another_captures_keeps_nothing_of_that(
    manager: Any, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a program does that embeds IPython while its output is redirected."""
    manager.load_extension("ipy_bgtasks")
    second = InteractiveShell(config=shell.config)
    with contextlib.redirect_stdout(io.StringIO()) as captured:
        second.extension_manager.load_extension("ipy_bgtasks")
        print("inside")
        assert captured.getvalue() == "inside\n"
    captured.close()
    print("after", flush=True)
    second.extension_manager.unload_extension("ipy_bgtasks")
    print("at last", flush=True)
    assert capsys.readouterr().out == "after\nat last\n"


def test_magics_of_another_extension_are_given_back(
    shell: InteractiveShell, manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading says so in one line."""

    def theirs(line: str) -> str:
        return f"theirs: {line}"

    shell.register_magic_function(theirs, magic_name="bg")
    shell.register_magic_function(theirs, magic_kind="cell", magic_name="fg")
    manager.load_extension(EXTENSION)
    said = capsys.readouterr().out
    assert said == (
        "ipy_bgtasks: hides other magics of the same names: %bg, %%fg; "
        "%unload_ext ipy_bgtasks brings them back\n"
    )
    job = shell.run_line_magic("bg", "print()")
    assert job.number == 1
    manager.unload_extension(EXTENSION)
    assert shell.run_line_magic("bg", "x") == "theirs: x"
    assert shell.magics_manager.magics["cell"]["fg"] is theirs
    assert "jobs" not in shell.magics_manager.magics["line"]


def test_loading_says_nothing_otherwise(manager: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does loading again."""
    manager.load_extension(EXTENSION)
    manager.reload_extension(EXTENSION)
    manager.unload_extension(EXTENSION)
    manager.load_extension(EXTENSION)
    assert capsys.readouterr() == ("", "")


def test_a_reload_keeps_running_jobs_and_numbers(shell: InteractiveShell, manager: Any) -> None:
    """So do unloading and loading again; what was launched before goes on."""
    manager.load_extension(EXTENSION)
    gate = shell.user_ns["gate"] = threading.Event()
    job = shell.run_line_magic("bg", "gate.wait()")
    manager.reload_extension(EXTENSION)
    manager.unload_extension(EXTENSION)
    assert job.state == "running"
    manager.load_extension(EXTENSION)
    second = shell.run_line_magic("bg", "gate.wait()")
    assert second.number == 2
    gate.set()
    for number in (1, 2):
        assert shell.run_line_magic("fg", str(number)) is True


def test_settings_come_from_configuration_and_config_magic(
    shell: InteractiveShell, manager: Any
) -> None:
    """Both forms work, and they are kept over a reload."""
    shell.config.BgTasks.max_threads = 5
    manager.load_extension(EXTENSION)
    settings = next(c for c in shell.configurables if type(c).__name__ == "BgTasks")
    assert settings.max_threads == 5
    shell.run_line_magic("config", "BgTasks.max_threads = 7")
    assert settings.max_threads == 7
    manager.reload_extension(EXTENSION)
    settings = next(c for c in shell.configurables if type(c).__name__ == "BgTasks")
    assert settings.max_threads == 7


def test_a_failure_on_the_way_leaves_nothing(
    shell: InteractiveShell,
    manager: Any,
    snapshot: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was done before it is undone."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no magics today")

    monkeypatch.setattr("ipy_bgtasks.ipython.extension.JobMagics", fail)
    with pytest.raises(RuntimeError, match="no magics today"):
        manager.load_extension(EXTENSION)
    monkeypatch.undo()
    assert everything(shell) == snapshot
