"""What of IPython is private may go: everything else works, and one line says what does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from IPython.core import completer
from IPython.core.interactiveshell import InteractiveShell

import ipy_bgtasks
from ipy_bgtasks.frontends.installing import TOUCHES

EXTENSION = "ipy_bgtasks"


class _Renamed:
    """A compiler whose private table has another name."""

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler

    def __getattr__(self, name: str) -> Any:
        if name == "_filename_map":
            raise AttributeError(name)
        return getattr(self._compiler, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiler(*args, **kwargs)


def _without_cells(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "compile", _Renamed(shell.compile))


def _without_transformers(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(shell), "input_transformers_post", property(_gone), raising=False)


def _without_matchers(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(completer, "SimpleCompletion", raising=False)
    monkeypatch.delattr(completer, "context_matcher", raising=False)
    monkeypatch.delattr(shell.Completer, "magic_arg_matchers")  # the way before these


def _without_formatter(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = shell.display_formatter.ipython_display_formatter
    monkeypatch.setattr(formatter, "for_type_by_name", None, raising=False)


def _without_prompt_of_values(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(shell.displayhook), "write_output_prompt")


def _gone(_self: object) -> Any:
    raise AttributeError("gone")


#: What is taken away, and the step that is left out then; None where a step does without.
GONE = {
    "_filename_map": (_without_cells, None),
    "input_transformers_post": (_without_transformers, "rewriting"),
    "SimpleCompletion": (_without_matchers, "completion"),
    "ipython_display_formatter": (_without_formatter, "display"),
    "write_output_prompt": (_without_prompt_of_values, "partial lines"),
}


@pytest.mark.parametrize("name", GONE)
def test_without_it_jobs_run_all_the_same(
    shell: InteractiveShell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Launching, printing, waiting, listing and unloading."""
    take_away, step = GONE[name]
    take_away(shell, monkeypatch)
    shell.extension_manager.load_extension(EXTENSION)
    said = "".join(capsys.readouterr())
    assert (TOUCHES[step].without in said) if step else not said
    shell.user_ns["f"] = lambda: print("printed") or 6 * 7  # type: ignore[func-returns-value]
    job = shell.run_line_magic("bg", "f()")
    assert job.result(10) == 42
    assert job.log.stdout == "printed\n"
    shell.run_line_magic("jobs", "")
    assert "f()" in capsys.readouterr().out
    shell.extension_manager.unload_extension(EXTENSION)


def test_each_step_is_a_touch_with_a_name() -> None:
    """And each touch is installed by a step, or is used where it is needed."""
    package = Path(ipy_bgtasks.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    words = {word for text in texts for word in re.findall(r'\.step(?:_on_loop)?\("([^"]+)"', text)}
    assert words <= set(TOUCHES)
    assert len(words) > 15


def test_each_touch_says_what_it_is_for() -> None:
    """And what happens without it, as a line that can be shown."""
    for touch in TOUCHES.values():
        assert touch.owner in (
            "IPython",
            "ipykernel",
            "Python",
            "asyncio",
            "rich",
            "tqdm",
            "ipywidgets",
            "trio",
        )
        for text in (touch.names, touch.seen, touch.why, touch.without):
            assert text == text.strip(" .")
            assert "\n" not in text
