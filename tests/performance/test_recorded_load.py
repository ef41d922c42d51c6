"""A recording of every request of eight clients that ask without pause."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from embedded import PATIENCE_S, Embedded, needs_guard, wait_for

from policyctl.demo.background_server import COMMAND
from policyctl.domain.recording import Recording

pytestmark = [pytest.mark.server, needs_guard]


def test_a_recording_under_load_does_not_crash_the_server(served: Embedded, tmp_path: Path) -> None:
    """Without its guard this Triton ends by a signal within seconds: docs/decisions/a-guard-inside-triton.md."""
    assert served.endpoint["triton_guard"] == "loaded"
    pid, output = served.endpoint["pid"], tmp_path / "walker.npz"
    asked = ["record", "walker", "-o", str(output), "--for", "30m", "--count", "1000000"]
    recorder = subprocess.Popen(
        [*COMMAND, *asked], env={**os.environ, "POLICYCTL_REPOSITORY": str(served.root)}, stdout=subprocess.DEVNULL
    )
    wait_for(lambda: "TENSORS" in _traced(served))
    done = served.run("bench", "walker", "-c", "8", "--interval-ms", "6000", "--time-limit", "300", check=False)
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(PATIENCE_S) == 0
    assert done.returncode == 0, done.stderr
    assert Recording.from_bytes(output.read_bytes()).requests > 1000
    assert served.endpoint["pid"] == pid
    assert "Signal (" not in served.log_text


def _traced(served: Embedded) -> tuple[str, ...]:
    """What of each request is recorded now."""
    with served.control.triton() as client:
        return client.trace("walker")["trace_level"]
