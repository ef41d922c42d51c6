"""Commands that start as a copy of a process of the server."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import pytest
from embedded import PATIENCE_S, Embedded, wait_for

from policyctl.demo.background_server import policyctl

pytestmark = pytest.mark.server


def test_a_rollback_by_a_copy_moves_the_alias_and_leaves_no_process(server: Embedded, monkeypatch) -> None:
    """It says what the command says; the process that copies are made of ends with the server."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:  # a socket's path has at most 107 characters
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        server.publish("1.0.0", 1)
        server.publish("1.1.0", 2)
        server.start()
        server.run("promote", "walker", "1.0.0")
        server.run("promote", "walker", "1.1.0")
        wait_for(lambda: list(Path(folder).glob("*/*.sock")))
        back = policyctl(server.root, "rollback", "walker", timeout_s=PATIENCE_S)
        assert back.returncode == 0, back.stderr
        assert "1.1.0 -> 1.0.0" in back.stderr + back.stdout
        forward = policyctl(server.root, "rollback", "walker", "--to", "9.9.9", timeout_s=PATIENCE_S)
        assert forward.returncode == 2, forward.stderr
        assert server.json("status")["aliases"][0]["release"] == "1.0.0"
        keeper = [
            each for each in psutil.Process(server.process.pid).children() if "policyctl.cli.warmed" in each.cmdline()
        ]
        assert len(keeper) == 1
        server.stop()
        assert not keeper[0].is_running()
