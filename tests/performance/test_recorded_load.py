"""A recording of every request beside eight clients without pause."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from embedded import Embedded, needs_guard

from policyctl.domain.recording import Recording
from policyctl_benchmarks.background_server import COMMAND

pytestmark = [pytest.mark.server, needs_guard]


def test_a_recording_under_load_does_not_crash_the_server(served: Embedded, tmp_path: Path) -> None:
    """Without its guard this Triton ends by a signal within seconds: benchmarks/traced_load.py."""
    assert served.endpoint["triton_guard"] == "loaded"
    pid, output = served.endpoint["pid"], tmp_path / "walker.npz"
    asked = ["record", "walker", "-o", str(output), "--for", "25s", "--count", "1000000"]
    recorder = subprocess.Popen(
        [*COMMAND, *asked], env={**os.environ, "POLICYCTL_REPOSITORY": str(served.root)}, stdout=subprocess.DEVNULL
    )
    done = served.run("bench", "walker", "-c", "8", "--interval-ms", "6000", check=False)
    assert recorder.wait(60) == 0
    assert done.returncode == 0, done.stderr
    assert Recording.from_bytes(output.read_bytes()).requests > 10_000
    assert served.endpoint["pid"] == pid
    assert "Signal (" not in served.log_text
