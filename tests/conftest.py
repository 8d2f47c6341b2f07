"""For all rings."""

from __future__ import annotations

import os
import signal
import tempfile

# A shell that puts the tests in the background has their SIGINT ignored, and everything they
# start inherits that: no test of an interrupt would mean anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nor is what the tests keep to be found by the sessions of whoever runs them.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="ipy-bgtasks-state-")
