"""Builds a JupyterLite site that needs nothing from elsewhere: `lite_site.py PYODIDE FOLDER`.

PYODIDE is npm's package, which lacks the packages that its lock file names: those that IPython
needs are pure Python, and come from pip, as does what JupyterLite installs in the page. Needs
`jupyterlite-core` and `jupyterlite-pyodide-kernel`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).parents[2]
_NEEDED = ("ipython", "jedi", "micropip")
_PLUGIN = "@jupyterlite/pyodide-kernel-extension:kernel"


def build(pyodide: Path, folder: Path) -> Path:
    """Build it within *folder*, which is made; returns the site's own folder."""
    site, wheels = folder / "site", folder / "wheels"
    wheels.mkdir(parents=True)
    _pip("download", "--no-deps", "--dest", wheels, "comm")
    _pip("wheel", "--no-deps", "--wheel-dir", wheels, _PROJECT)
    settings = {
        "LiteBuildConfig": {"output_dir": str(site), "no_sourcemaps": True},
        "PipliteAddon": {"piplite_urls": [str(wheels)]},
    }
    (folder / "jupyter_lite_config.json").write_text(json.dumps(settings))
    plugin = {"pyodideUrl": "./pyodide/pyodide.mjs", "disablePyPIFallback": True}
    page = {"exposeAppInBrowser": True, "litePluginSettings": {_PLUGIN: plugin}}
    (folder / "jupyter-lite.json").write_text(
        json.dumps({"jupyter-lite-schema-version": 0, "jupyter-config-data": page})
    )
    subprocess.run([sys.executable, "-m", "jupyterlite_core", "build"], cwd=folder, check=True)
    shutil.copytree(pyodide, site / "pyodide")
    _add_packages(site / "pyodide")
    return site


def _add_packages(pyodide: Path) -> None:
    """Put the needed packages there, and no others into the lock file."""
    lock = pyodide / "pyodide-lock.json"
    content = json.loads(lock.read_text())
    needed: dict[str, dict[str, Any]] = {}
    names = list(_NEEDED)
    while names:
        name = names.pop().lower().replace("_", "-")
        if name not in needed:
            needed[name] = content["packages"][name]
            names += needed[name]["depends"]
    pins = [f"{package['name']}=={package['version']}" for package in needed.values()]
    version = ".".join(content["info"]["python"].split(".")[:2])
    choice = ("--python-version", version, "--only-binary", ":all:")
    _pip("download", "--no-deps", *choice, "--dest", pyodide, *pins)
    wheels = {_stem(path.name): path for path in pyodide.glob("*.whl")}
    for package in needed.values():
        wheel = wheels[_stem(package["file_name"])]
        package["file_name"] = wheel.name
        package["sha256"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock.write_text(json.dumps(content | {"packages": needed}))


def _stem(file_name: str) -> str:
    """Its name and version, however they are spelled."""
    return "-".join(file_name.split("-")[:2]).lower()


def _pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
