"""What the README shows is run as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kernels import Kernel
from reference import GUIDE, reference

README = Path(__file__).parents[2] / "README.md"
COMMANDS = [
    'python -m pip install ".[panel,process]" && ipython --ext ipy_bgtasks',
    'python -m pip install -e ".[test]" && python -m pytest',
]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_first_commands_are_how_to_run_and_how_to_test() -> None:
    """The first two fenced blocks are commands, to be pasted as they are."""
    first = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert [block.strip() for block in first] == COMMANDS
    assert README.read_text().index("```sh") == README.read_text().index("```")


def test_the_links_lead_somewhere() -> None:
    """Every relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_examples_run_in_a_kernel(bare_kernel: Kernel) -> None:
    """One after the other, as a reader would paste them; the outputs are those told of."""
    replies = [bare_kernel.ok(block) for block in _blocks("ipython")]
    shown = "".join(reply.stdout for reply in replies)
    for expected in (
        "maps: 4 of 4",
        "photos is here",
        "499500 True finished thread",
    ):
        assert expected in shown, bare_kernel.dump()


def test_the_reference_of_the_guide_is_up_to_date() -> None:
    """If not: ``python tests/kernel/reference.py``."""
    last = json.loads(GUIDE.read_text(encoding="utf-8"))["cells"][-1]
    assert "".join(last["source"]) == reference()
