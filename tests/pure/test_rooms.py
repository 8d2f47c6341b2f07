"""The house: which room may know which, and how large things may grow."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipy_bgtasks

ROOT = Path(ipy_bgtasks.__file__).parent

#: The floors, from the top; a room may know its own floor's rooms only where it says so.
FLOORS = (
    ("ipython",),
    ("live",),
    ("session",),
    ("runners", "frontends"),
    ("views",),
    ("registry",),
    ("job",),
    ("log", "work"),
    ("ground",),
)
_FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

#: What looks up, or aside, all the same: the module, and what it needs there.
LAZY = {
    ("ipy_bgtasks.runners.child", "ipy_bgtasks.frontends.worker"): "a worker has its own front end",
    ("ipy_bgtasks", "ipy_bgtasks.ipython.extension"): "loading begins at the package",
    ("ipy_bgtasks.job.handle", "ipy_bgtasks.views.pictures"): "job.plot() is a picture",
    ("ipy_bgtasks.job.handle", "ipy_bgtasks.views.describe"): "job.describe() is a view, too",
}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """Return the room of a module: its folder, or the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in _FLOOR_OF else "ground"


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Return the modules of ours that a file imports; and whether only for annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package.split(".")[: len(package.split(".")) - node.level + 1]
        name = (
            ".".join([*base, *([node.module] if node.module else [])])
            if node.level
            else (node.module or "")
        )
        if name.partition(".")[0] != "ipy_bgtasks":
            continue
        for alias in node.names:
            inner = f"{name}.{alias.name}"
            yield (inner if inner in MODULES else name), id(node) in typing_only


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_room_knows_only_rooms_below(path: Path) -> None:
    """What runs, that is: annotations may look anywhere."""
    module = module_of(path)
    if module == "ipy_bgtasks":
        return
    level = _FLOOR_OF[room_of(module)]
    for other, annotates in imported(path):
        if annotates or (module, other) in LAZY or room_of(other) == room_of(module):
            continue
        assert _FLOOR_OF[room_of(other)] > level, f"{module} looks up, or aside, to {other}"


def test_no_import_goes_in_a_circle() -> None:
    """Annotations apart: they cannot, between rooms, and within a room they do no harm."""
    arrows = {
        module: {other for other, typing in imported(path) if other != module and not typing}
        for module, path in MODULES.items()
        if module != "ipy_bgtasks"
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(arrows.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(arrows):
        visit(module, ())


def test_only_the_front_ends_know_ipython() -> None:
    """And what faces its user: the extension, and what is displayed."""
    theirs = ("IPython", "ipykernel", "prompt_toolkit", "traitlets", "comm", "ipywidgets")
    allowed = ("ipython", "frontends", "live")
    exceptions = {"ipy_bgtasks.session.settings"}
    for path in FILES:
        module = module_of(path)
        if room_of(module) in allowed or module in exceptions:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.partition(".")[0] not in theirs, f"{module} imports {name}"


def test_frames_of_threads_are_asked_for_in_one_way() -> None:
    """Python 3.11 may wait for ever in any other."""
    for path in FILES:
        assert "_current_frames()" not in path.read_text(encoding="utf-8"), module_of(path)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_is_not_a_book(path: Path) -> None:
    """One concept a file; and no name stands twice in a path."""
    assert path.read_text(encoding="utf-8").count("\n") <= 800
    parts = path.relative_to(ROOT).with_suffix("").parts
    assert len(set(parts)) == len(parts)


def test_the_tab_of_an_editor_tells_files_apart() -> None:
    """No name of a file stands more than twice in the package."""
    names = Counter(path.stem for path in FILES if path.name != "__init__.py")
    assert [name for name, times in names.items() if times > 2] == []


def test_no_function_needs_scrolling() -> None:
    """Fifty lines are a screen."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                assert size <= 60, f"{module_of(path)}.{node.name} has {size} lines"
