"""Others' own test suites, with the extension loaded and without: which tests differ?

    python tests/peers/suites.py cpython [MODULE ...]
    python tests/peers/suites.py CHECKOUT [ARGUMENT ...]

The first runs modules of Python's package `test` in a terminal's shell in which a job has run, the
second pytest in a checkout (or an unpacked sdist) of ipykernel, nbclient or IPython, of the version
that is installed; with ``-o asyncio_default_fixture_loop_scope=function`` where a plugin wants it.
What differs is run once more, both ways: others' suites, too, have tests that fail now and then.
The exit status counts what still differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Of Python's own: what it replaces or patches, in about a minute.
MODULES = [
    "code",
    "contextlib",
    "copy",
    "faulthandler",
    "functools",
    "linecache",
    "module",
    "operator",
    "pprint",
    "print",
    "queue",
    "reprlib",
    "sys",
    "threading_local",
    "time",
    "traceback",
    "types",
    "warnings",
]

#: Runs them in a shell; the results are one line of JSON, by test.
CPYTHON = """
import io, json, os, sys, unittest
class Results(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        found[test.id()] = 'passed'
    def addError(self, test, error): found[test.id()] = 'failed'
    def addFailure(self, test, error): found[test.id()] = 'failed'
    def addSkip(self, test, reason): found[test.id()] = 'skipped'
    def addExpectedFailure(self, test, error): found[test.id()] = 'skipped'
    def addSubTest(self, test, subtest, error):
        if error is not None: found[test.id()] = 'failed'
found = {{}}
for name in {names!r}:
    try:
        suite = unittest.defaultTestLoader.loadTestsFromName('test.' + name)
        stdin, sys.stdin = sys.stdin, io.StringIO()
        try: suite.run(Results())
        finally: sys.stdin = stdin
    except BaseException as error:
        found[name] = repr(error)
with open({results!r}, 'w') as file: json.dump(found, file)
"""


def cpython(names: list[str], extension: bool, home: Path) -> dict[str, str]:
    """Run modules of Python's own tests in IPython's terminal shell."""
    results = home / "results.json"
    code = CPYTHON.format(names=[f"test_{name}" for name in names], results=str(results))
    (home / "peers.py").write_text(code)
    lines = ["%load_ext ipy_bgtasks", "%fg max(1, 2)"] if extension else []
    lines.append(f"exec(compile(open({str(home / 'peers.py')!r}).read(), 'peers', 'exec'))")
    (home / "peers.ipy").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "IPython", "--no-banner", "--quick", str(home / "peers.ipy")]
    run(command, home, extension=False)  # the script loads it
    found: dict[str, str] = json.loads(results.read_text())
    return found


def checkout(path: Path, arguments: list[str], extension: bool, home: Path) -> dict[str, str]:
    """Run a suite by pytest, with the extension in each shell and kernel that it makes."""
    report = home / "report.xml"
    plugin = ["-p", "loads_extension"] if extension else []
    options = ["-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *plugin, *arguments]
    run([sys.executable, "-m", "pytest", *options], home, extension, at=path)
    if not report.exists():
        raise SystemExit((home / "output.txt").read_text()[-2000:])
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "passed" if not kinds else "skipped" if kinds == {"skipped"} else "failed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def run(command: list[str], home: Path, extension: bool, at: Path | None = None) -> None:
    """Run a program with a profile of its own, quietly."""
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    line = "get_config().InteractiveShellApp.extensions = ['ipy_bgtasks']\n" * extension
    (profile / "ipython_config.py").write_text(line)
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"IPYTHONDIR": str(home / "ipython"), "PYTHONPATH": path.rstrip(os.pathsep)}
    with (home / "output.txt").open("wb") as output:
        streams: dict[str, Any] = {"stdout": output, "stderr": output}
        subprocess.run(command, env=env, cwd=at or home, stdin=subprocess.DEVNULL, **streams)


def both(suite: str, arguments: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the outcomes of a suite without and with the extension."""
    outcomes = []
    for extension in (False, True):
        with tempfile.TemporaryDirectory() as home:
            if suite == "cpython":
                outcomes.append(cpython(arguments or MODULES, extension, Path(home)))
            else:
                outcomes.append(checkout(Path(suite).resolve(), arguments, extension, Path(home)))
    return outcomes[0], outcomes[1]


def differing(without: dict[str, str], with_it: dict[str, str]) -> list[str]:
    """Return the tests that differ."""
    return sorted(t for t in without.keys() | with_it.keys() if without.get(t) != with_it.get(t))


def main(suite: str, *arguments: str) -> int:
    """Run a suite both ways and print the difference."""
    if suite == "cpython" and find_spec("test.test_queue") is None:
        print("this Python comes without its tests")  # as Debian's does
        return 0
    without, with_it = both(suite, list(arguments))
    if (differ := differing(without, with_it)) and suite == "cpython":
        names = sorted({".".join(name.split(".")[1:-2]).removeprefix("test_") for name in differ})
        without, with_it = without | (again := both(suite, names))[0], with_it | again[1]
        differ = differing(without, with_it)
    counts = [list(each.values()).count("passed") for each in (without, with_it)]
    print(f"{suite}: {len(without)} tests; passed without {counts[0]}, with {counts[1]}")
    for name in differ:
        print(
            f"  {name}: {without.get(name, 'not run')}, with the extension "
            f"{with_it.get(name, 'not run')}"
        )
    return len(differ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["cpython"]))
