"""Shell commands as jobs in a real terminal IPython."""

from __future__ import annotations

import os
from pathlib import Path

from terminals import CTRL_C, Terminal


def test_ctrl_c_reaches_no_command(loaded: Terminal, tmp_path: Path) -> None:
    """At the prompt or in `%fg`; its output comes above the prompt, and so does its end."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    loaded.run(f"job = %bg -n copy !echo be''gun; read x < {gate}; echo $x; exit 3")
    loaded.run("while not job.log.text: pass")
    assert "begun" in loaded.text
    loaded.send(CTRL_C)
    loaded.run("print('still', job.state)")
    loaded.run("async def says(): print('wait' 'ing')")
    loaded.start("%bg says()\n%fg 1")  # its turn comes when the cell waits
    loaded.expect("waiting")
    loaded.send(CTRL_C)
    assert "job 1 goes on" in loaded.prompt()
    gate.write_text("through\n")
    loaded.expect("through")
    loaded.expect(r"\[1\]\+? +failed +copy +[\d.]+s  exit status 3\n")
    assert "Traceback" not in loaded.text
