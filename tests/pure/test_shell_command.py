"""CODE that is a shell command: what is one, and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work.reading import command_in, command_work


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("!ls", "ls"),
        ("! ls -l ", "ls -l"),
        ("!make;", "make"),
        (r"!find . -exec ls {} \;", r"find . -exec ls {} \;"),
        ("!case x in x) echo y;;", "case x in x) echo y;;"),
        ("!echo a=!b", "echo a=!b"),
    ],
)
def test_a_line_that_begins_with_a_bang_is_a_command(code: str, command: str) -> None:
    """A `;` at its end is IPython's, unless the shell has use for it."""
    assert command_in(code) == command


@pytest.mark.parametrize(
    "code", ["f(x)", "x != y", "x = f('=!ls')", "print('a = !b')", "", "x = 1"]
)
def test_other_code_is_not_a_command(code: str) -> None:
    """Nor is a comparison, or a bang in a string."""
    assert command_in(code) is None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = !ls", "write job = %bg !ls, then job.log.stdout is its output"),
        ("a, b['k'] = ! ls -l", "cannot fill a, b['k']: write job = %bg !ls -l,"),
        ("!", "no command"),
        ("!;", "no command"),
        ("!!ls", "write %bg !ls"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(code: str, says: str) -> None:
    """The line says what to write instead."""
    with pytest.raises(BadInput) as refused:
        command_in(code)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_variables_and_the_directory_are_bound_at_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label shows the command as it runs, the code what was typed."""
    monkeypatch.chdir(tmp_path)
    work = command_work("echo {x}", "!echo {x}", lambda text: text.format(x=1))
    monkeypatch.chdir("/")
    assert (work.label, work.code, work.is_async) == ("!echo 1", "!echo {x}", False)
    process = work.call()
    with process:
        assert process.stdout.read() == b"1\n"
        assert os.path.samefile(work.call.directory, tmp_path)  # type: ignore[attr-defined]
