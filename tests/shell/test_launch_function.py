"""`launch`: the magic for Python code."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from ipy_bgtasks import BadInput, BgTasksError, jobs, launch


def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


async def later(value: Any) -> Any:
    """Return *value* after a turn of the loop."""
    await asyncio.sleep(0)
    return value


async def test_functions_coroutines_and_awaitables_are_launched(shell: InteractiveShell) -> None:
    """Where `%bg` would run them, under a name that shows their arguments."""
    shell.extension_manager.load_extension("ipy_bgtasks")  # here, where the loop runs
    plain, awaited, made = launch(add, 2, b=3), launch(later, "x"), launch(later("y"))
    assert [await plain, await awaited, await made] == [5, "x", "y"]
    assert [job.where for job in (plain, awaited, made)] == ["thread", "loop", "loop"]
    assert [job.name for job in (plain, awaited, made)] == ["add(2, b=3)", "later('x')", "later()"]


async def test_the_options_are_those_of_the_magic(shell: InteractiveShell) -> None:
    """A name, a place, a group with a limit, jobs to wait for."""
    shell.extension_manager.load_extension("ipy_bgtasks")
    first = launch(add, 1, name="first", group="sums", limit=2, quiet=True)
    then = launch(add, 5, after=[first, "%first"], loop=True)
    with ThreadPoolExecutor(1) as pool:
        there = launch(add, 6, on=pool)
        assert await there == 7
    assert await then == 6
    assert (first.name, first.group) == ("first", "sums")
    assert (then.where, there.where) == ("loop", "executor")
    assert len(jobs("@sums")) == 1
    copied = launch(add, 3, process=True)
    assert await copied == 4
    assert copied.where == "process"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((42,), {}, "42 is nothing to run"),
        ((add, 1), {"process": True, "loop": True}, "a job runs in one place"),
        ((add, 1), {"timeout": 0}, "timeout takes a number of seconds"),
        ((add, 1), {"limit": 3}, "limit belongs to a group"),
        ((add, 1), {"group": "a b"}, "-g takes the name of a group"),
        ((add, 1), {"after": "9"}, "no job 9"),
        ((add, 1), {"on": 3}, "not an executor"),
        ((add, 1), {"on": "pool"}, "on takes an executor itself"),
        ((add, 1), {"on": 3, "keep": True}, "--keep needs a process of its own"),
        ((add, 1), {"on": 3, "memory": "1G"}, "--memory limits processes"),
        ((lambda: (yield),), {}, "only makes a generator"),
    ],
)
async def test_bad_input_launches_nothing(
    shell: InteractiveShell, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    """One clear error."""
    shell.extension_manager.load_extension("ipy_bgtasks")
    with pytest.raises(BadInput, match=message):
        launch(*arguments, **options)
    assert len(jobs()) == 0


def test_it_needs_a_session() -> None:
    """And says how to get one."""
    with pytest.raises(BgTasksError, match="%load_ext ipy_bgtasks"):
        launch(add, 1)
