"""The reference at the end of the guide: ``python tests/kernel/reference.py`` writes it anew.

It is made from the docstrings, the settings and what Tab offers, so that it cannot be out of date.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from enum import EnumMeta
from pathlib import Path

import ipy_bgtasks
from ipy_bgtasks.ipython import options
from ipy_bgtasks.session.settings import BgTasks

GUIDE = Path(__file__).parents[2] / "notebooks" / "guide.ipynb"
TITLE = "## Reference"


def reference() -> str:
    """Return the reference as Markdown."""
    return "\n".join([f"{TITLE}\n", *_options(), *_names(), *_job(), *_settings()])


def _options() -> Iterator[str]:
    yield "### Options\n\n| magic | options |\n|---|---|"
    tables = {
        "`%bg`, `%%bg`": options.BG,
        "`%fg`": options.FG,
        "`%%fg`": options.FG_CELL,
        "`%jobs`": options.JOBS,
        "`%cancel`": options.CANCEL,
    }
    for magic, table in tables.items():
        shown = [
            "`" + ", ".join(each.words) + (f" {each.takes}" if each.takes else "") + "`"
            for each in table
        ]
        yield f"| {magic} | {' · '.join(shown)} |"


def _names() -> Iterator[str]:
    yield "\n### In `ipy_bgtasks`\n\n| name | meaning |\n|---|---|"
    for name in sorted(set(ipy_bgtasks.__all__), key=lambda name: (name.lower(), name)):
        if "ipython_extension" not in name:
            yield f"| `{_call(name, getattr(ipy_bgtasks, name))}` | {_sentence(name)} |"


def _call(name: str, thing: object) -> str:
    if isinstance(thing, type) and (issubclass(thing, BaseException) or name in ("Job", "Jobs")):
        return name
    if isinstance(thing, EnumMeta) or not callable(thing):
        return name
    parameters = inspect.signature(thing).parameters.values()
    bare = [each.replace(annotation=each.empty) for each in parameters if each.name != "self"]
    return f"{name}{inspect.Signature(bare)}"


def _sentence(name: str) -> str:
    return _first(getattr(ipy_bgtasks, name).__doc__)


def _first(text: str | None) -> str:
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.sub(r"``(.+?)``", r"`\1`", paragraph).replace("|", "\\|")


def _job() -> Iterator[str]:
    yield "\n### A `Job`\n\n| member | meaning |\n|---|---|"
    for name in sorted(_members()):
        member = inspect.getattr_static(ipy_bgtasks.Job, name)
        called = inspect.isfunction(member)
        yield f"| `{_call(name, member) if called else name}` | {_first(member.__doc__)} |"


def _members() -> set[str]:
    """Return what `dir` of a job shows, without what belongs to whoever ends a future."""
    hidden = {"set_exception", "set_result", "set_running_or_notify_cancel", "remove_done_callback"}
    return {name for name in dir(ipy_bgtasks.Job) if not name.startswith("_")} - hidden


def _settings() -> Iterator[str]:
    yield "\n### Settings\n\n| `BgTasks.` | default | meaning |\n|---|---|---|"
    for name, trait in sorted(BgTasks.class_traits(config=True).items()):
        default = "cores" if name == "max_processes" else repr(trait.default())
        yield f"| `{name}` | `{default}` | {_first(trait.help)} |"


def main() -> None:
    """Write the guide's last cell."""
    notebook = json.loads(GUIDE.read_text(encoding="utf-8"))
    last = notebook["cells"][-1]
    if not "".join(last["source"]).startswith(TITLE):
        last = {"cell_type": "markdown", "id": "reference", "metadata": {}, "source": []}
        notebook["cells"].append(last)
    last["source"] = reference().splitlines(keepends=True)
    GUIDE.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
