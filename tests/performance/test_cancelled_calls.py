"""Clients whose deadlines are below what an answer takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedded import PATIENCE_S, embedded, needs_guard

from policyctl.client import PolicyClient

pytestmark = [pytest.mark.server, needs_guard]

ASK = """
import random, sys, threading, time
from policyctl.client import DeadlineError, PolicyClient

late, end = [], time.monotonic() + 15

def ask():
    with PolicyClient("walker", url=sys.argv[1]) as client:
        client.act([0.0] * 4, deadline_s=300)
        while time.monotonic() < end:
            try:
                client.act([0.0] * 4, deadline_s=random.uniform(0.0003, 0.004))
            except DeadlineError:
                late.append(1)

threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(late))
"""


@pytest.mark.parametrize("native", ["off", "auto"])
def test_deadlines_that_pass_do_not_crash_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: str
) -> None:
    """Without its guard this Triton ends by signal 11 within seconds: docs/decisions/a-guard-inside-triton.md."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", native)
    with embedded(tmp_path, apart=True) as server:
        server.publish("1.0.0", 1)
        server.start()
        server.run("promote", "walker", "1.0.0")
        pid, url = server.endpoint["pid"], server.endpoint["grpc"]
        command = [sys.executable, "-c", ASK, url]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        late = [int(client.communicate(timeout=PATIENCE_S)[0] or 0) for client in clients]
        assert [client.returncode for client in clients] == [0, 0], server.log_text[-2000:]
        assert sum(late) > 500
        assert server.endpoint["pid"] == pid
        assert "Signal (" not in server.log_text
        with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client:
            assert np.isfinite(client.act([0.0] * 4).value).all()
